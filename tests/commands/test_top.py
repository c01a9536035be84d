"""`swarm top`: at a terminal, in a pipe, as JSON, and against nodes that go, come back, or want a key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import main
from swarm.commands.node_client import NodeApi, NodeEvent, NodeUnreachable, NotForYou, get_events
from swarm.errors import SetupError, SwarmError
from tests.commands.swarms import OWN, node_id, parts_of
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.typist import at_a_terminal

TOP_S = 60.0


class EventNode:
    """Tells what it is given, as a node's event stream does; `refused` has a status for parts that it tells nobody."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts
        self.asked: list[tuple[str, str | None]] = []
        self.refused: dict[str, int] = {}
        self.changes: list[dict[str, Any]] = []
        self.end = threading.Event()
        self.more = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append((handler.path, handler.headers.get("Last-Event-ID")))
        wanted = handler.path.partition("parts=")[2].split(",")
        if (status := next((self.refused[part] for part in wanted if part in self.refused), None)) is not None:
            handler.send_response(status)
            handler.end_headers()
            handler.wfile.write(json.dumps({"error": {"message": f"refused with {status}"}}).encode())
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        told = {part: entries for part, entries in self.parts.items() if part in wanted}
        handler.wfile.write(f": hello\n\nevent: snapshot\nid: x-1\ndata: {json.dumps(told)}\n\n".encode())
        number = 1
        while not self.end.is_set():
            with self.more:
                self.more.wait_for(lambda: self.end.is_set() or self.changes, TOP_S)
                new, self.changes = self.changes, []
            for change in new:
                number += 1
                handler.wfile.write(f"event: changes\nid: x-{number}\ndata: {json.dumps(change)}\n\n".encode())

    def change(self, **parts: Any) -> None:
        with self.more:
            self.changes.append(parts)
            self.more.notify_all()

    def end_streams(self) -> None:
        with self.more:
            self.end.set()
            self.more.notify_all()


@contextmanager
def event_node(parts: dict[str, Any] | None = None) -> Generator[EventNode]:
    node = EventNode(parts_of(3, 2) if parts is None else parts)
    thread = threading.Thread(target=node.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield node
    finally:
        node.end_streams()
        node.server.shutdown()
        thread.join()
        node.server.server_close()


# The stream


def test_events_are_read_as_they_come() -> None:
    with event_node({"node": {}}) as node:
        node.change(node={"a": None})
        events = get_events(NodeApi(node.url), ["node"], "x-7")
        assert [next(events) for _ in range(3)] == [
            NodeEvent("alive"),
            NodeEvent("snapshot", "x-1", {"node": {}}),
            NodeEvent("changes", "x-2", {"node": {"a": None}}),
        ]
        node.end_streams()
        assert list(events) == []
        assert node.asked == [("/v1/events?parts=node", "x-7")]


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, NotForYou, "--api-key KEY"),
        (403, NotForYou, "refused with 403"),
        (404, SetupError, "earlier version"),
        (503, SwarmError, "refused with 503"),
    ],
)
def test_what_a_node_refuses_is_said(status: int, error: type[SwarmError], said: str) -> None:
    with event_node({}) as node:
        node.refused["node"] = status
        with pytest.raises(error, match=said):
            next(get_events(NodeApi(node.url), ["node"]))


def test_nobody_there() -> None:
    with pytest.raises(NodeUnreachable, match="start one with `swarm`") as caught:
        next(get_events(NodeApi("http://127.0.0.1:9"), ["node"]))
    assert "refused" in caught.value.reason


# Once


def test_a_pipe_gets_one_picture(capsys: pytest.CaptureFixture[str]) -> None:
    with event_node() as node:
        assert main(["top", "--url", node.url]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "q ends" not in text
    for words in (
        "the swarm as node-0 sees it",
        "node-1    dead  since",
        "qwen3:4b",
        "4 of 5 agree",
        "anna",
        "→ install",
    ):
        assert words in text


def test_a_node_that_is_not_ready_is_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    parts = parts_of(1, 0)
    parts["view"][""]["status"] = "loading the model"
    with event_node(parts) as node:
        assert main(["top", "--once", "--url", node.url]) == 1
    assert "loading the model" in capsys.readouterr().out


def test_json_is_what_was_told(capsys: pytest.CaptureFixture[str]) -> None:
    with event_node() as node:
        assert main(["top", "--json", "--url", node.url]) == 0
        assert json.loads(capsys.readouterr().out) == node.parts


def test_who_does_not_manage_the_node_sees_no_requests(capsys: pytest.CaptureFixture[str]) -> None:
    with event_node() as node:
        node.refused["request"] = 403
        assert main(["top", "--once", "--url", node.url]) == 0
    assert "REQUESTS" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("refused", "code", "said"),
    [
        ({"view": 401}, 1, "refused with 401 (here: --api-key KEY, or SWARM_API_KEY in the environment)"),
        ({"view": 404}, 2, "is of an earlier version, which does not do this: update it"),
        ({"view": 503}, 1, "refused with 503"),
    ],
)
def test_a_node_that_refuses(refused: dict[str, int], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with event_node() as node:
        node.refused.update(refused)
        assert main(["top", "--url", node.url]) == code
    assert said in capsys.readouterr().err


def test_a_real_node(capsys: pytest.CaptureFixture[str]) -> None:
    """What a node tells today is read today."""

    async def shown() -> None:
        async with RunningNode("kitchen", ready(ScriptedEngine(saying("4")))) as node:
            assert await asyncio.to_thread(main, ["top", "--once", "--url", node.url]) == 0

    asyncio.run(shown())
    text = capsys.readouterr().out
    assert "1 node · 1 model" in text
    assert "in a form" not in text


# Live


async def test_at_a_terminal(tmp_path: Path) -> None:
    with event_node() as node:
        async with at_a_terminal(tmp_path, "top", "--url", node.url) as typist:
            await typist.shows(lambda lines: "node-1    dead  since" in lines[4] and lines[-1].startswith("q ends"))
            assert not typist.echoes
            assert typist.picture.cursor.hidden
            node.change(node={node_id(1): None}, request={"r0": None})
            await typist.shows(lambda lines: lines[1].startswith("2 nodes ·") and "anna" not in "\n".join(lines))
            typist.type(b"m")
            await typist.shows(lambda lines: lines[2].startswith("MODELS (4)"))
            typist.type(b"ms")
            await typist.shows(lambda lines: "sorted what is wrong first" in lines[-1])
            typist.resize(120, 40)
            await typist.shows(lambda lines: len(lines) == 40 and "HARDWARE" in lines[2] and lines[39].startswith("q"))
            typist.resize(40, 10)
            await typist.shows(lambda lines: len(lines) == 10 and "MEMORY" not in lines[2] and lines[9].startswith("q"))
            typist.type(b"q")
            assert await typist.left() == 0
            assert "\x1b[?1049l" in typist.screen
            assert typist.echoes
            assert not typist.picture.cursor.hidden


@pytest.mark.parametrize(
    ("end", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)]
)
async def test_whatever_ends_it_the_terminal_is_as_it_was(end: signal.Signals, code: int, tmp_path: Path) -> None:
    with event_node() as node:
        async with at_a_terminal(tmp_path, "top", "--url", node.url) as typist:
            await typist.shows(lambda lines: lines[-1].startswith("q ends"))
            typist.process.send_signal(end)
            assert await typist.left() == code
            assert "\x1b[?1049l" in typist.screen
            assert typist.echoes
            assert not typist.picture.cursor.hidden


async def test_a_node_that_goes_and_comes_back(tmp_path: Path) -> None:
    with event_node() as node:
        async with at_a_terminal(tmp_path, "top", "--url", node.url) as typist:
            await typist.shows(lambda lines: lines[1].startswith("3 nodes"))
            node.refused["view"] = 503
            node.end_streams()
            await typist.shows(lambda lines: lines[2].startswith("! it does not answer since"))
            assert typist.lines[1].startswith("3 nodes")  # what was known still stands there
            node.end.clear()
            node.refused.clear()
            await typist.shows(lambda lines: lines[2].startswith("NODE"))
            assert node.asked[-1][1] == "x-1"
            node.refused["view"] = 401
            node.end_streams()
            assert await typist.left() == 1  # the key is good no longer
            await typist.sees("--api-key")


async def test_what_can_never_work_is_said_on_the_screen_that_was_there(tmp_path: Path) -> None:
    async with at_a_terminal(tmp_path, "top", "--url", "http://127.0.0.1:9") as typist:
        assert await typist.left() == 1
        await typist.sees("start one with `swarm`")
        assert "\x1b[?1049h" not in typist.screen


async def test_ctrl_z_gives_the_terminal_back_for_a_while(tmp_path: Path) -> None:
    with event_node() as node:
        async with at_a_terminal(tmp_path, "top", "--url", node.url) as typist:
            await typist.shows(lambda lines: lines[-1].startswith("q ends"))
            typist.process.send_signal(signal.SIGTSTP)
            await asyncio.to_thread(os.waitpid, typist.process.pid, os.WUNTRACED)
            await typist.shows(lambda _: "\x1b[?1049l" in typist.screen)
            assert typist.echoes
            before = len(typist.screen)
            typist.process.send_signal(signal.SIGCONT)
            await typist.shows(lambda _: "\x1b[?1049h" in typist.screen[before:] and not typist.echoes)
            assert OWN not in typist.screen
            typist.type(b"q")
            assert await typist.left() == 0
