"""The live part of a node on its terminal: what it says, where it stands, and that the node never waits for it."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swarm.commands import live_part, output
from swarm.commands.live_lines import live_lines, shared
from swarm.commands.live_part import LivePart
from swarm.gateway.observing.view import NodeView, RequestEntry, parse_view
from swarm.node.console import NodeNow
from tests.commands.swarms import model_entry, peer_entry, view_entry
from tests.doubles.typist import CTRL_C, Typist, at_a_terminal

START_S = 60.0
DEMO = ("--model", "demo", "--threads", "1", "--port", "0")


def now_of(
    *models: dict[str, Any], peers: int = 0, requests: int = 0, speeds: dict[str, float] | None = None, **view: Any
) -> NodeNow:
    told = view_entry(
        [peer_entry(number, models=["demo"]) for number in range(1, peers + 1)], own_models=models, **view
    )
    entry = RequestEntry(
        id="r",
        path="/v1/chat/completions",
        from_="client",
        key="anna",
        model="qwen3:4b",
        state="running",
        tokens=96,
        running_s=12.4,
    )
    return NodeNow(
        NodeView(
            federation=parse_view(told), loading=False, draining=False, requests=requests, file_transfers=None,
            peers_by_state={}, changes_to_state={},
        ),
        tuple(replace(entry, id=f"r{number}") for number in range(requests)),
        speeds or {},
    )  # fmt: skip


def lines(now: NodeNow, columns: int = 79, rows: int = 8) -> list[str]:
    return [line.plain for line in live_lines(now, columns, rows)]


# Pure


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (now_of(), ["── node-0 · ok · 0 running ──"]),
        (
            now_of(model_entry("qwen3:4b", slots_free=2), peers=1, requests=2, speeds={"qwen3:4b": 31.5}),
            [
                "── node-0 · ok · 1 peer · 2 running · 31.5 tok/s ──",
                "  model      qwen3:4b · ready · 2 of 4 slots free · 31.5 tok/s",
                "  request    qwen3:4b · running 12 s · 96 tokens · anna · /v1/chat/completions",
                "  request    qwen3:4b · running 12 s · 96 tokens · anna · /v1/chat/completions",
                "  peer       node-1 · alive · 2.2 ms · demo",
            ],
        ),
        (
            now_of(*[model_entry(f"m{number}") for number in range(9)], peers=9, requests=9),
            [
                "── node-0 · ok · 9 peers · 9 running ──",
                "  model      m0 · ready · 4 of 4 slots free",
                "  model      m1 · ready · 4 of 4 slots free",
                "  model      … and 7 more",
                "  request    qwen3:4b · running 12 s · 96 tokens · anna · /v1/chat/completions",
                "  request    … and 8 more",
                "  peer       node-1 · alive · 2.2 ms · demo",
                "  peer       … and 8 more",
            ],
        ),
        (
            now_of(
                model_entry("m", state="loading", loading={"share": 0.4, "left_s": 3}, slots=0), status="loading it"
            ),
            ["── node-0 · loading it · 0 running ──", "  model      m · loading 40%, 3 s left"],
        ),
    ],
)
def test_what_it_says(now: NodeNow, said: list[str]) -> None:
    assert lines(now) == said


@pytest.mark.parametrize(("columns", "rows"), [(79, 8), (39, 3), (20, 2), (5, 1), (200, 8)])
def test_it_fits(columns: int, rows: int) -> None:
    models = [model_entry(f"厨房\x1b[31m{number}") for number in range(30)]
    drawn = live_lines(now_of(*models, peers=30, requests=30), columns, rows)
    assert len(drawn) <= rows
    assert all(line.cell_len <= columns and "\x1b" not in line.plain for line in drawn)


def test_a_dead_peer_says_since_when_and_why() -> None:
    change = {
        "at": "2026-11-30T12:03:00Z",
        "peer": "node-1",
        "id": f"{1:064x}",
        "state": "dead",
        "reason": "refused",
        "times": 1,
    }
    told = view_entry([peer_entry(1, state="dead")], changes=[change])
    now = replace(now_of(), view=replace(now_of().view, federation=parse_view(told)))
    assert re.fullmatch(r"  peer       node-1 · dead · since \d\d:\d\d:00: refused", lines(now)[1])
    assert lines(now)[0] == "── node-0 · ok · 1 peer (1 dead) · 0 running ──"


@pytest.mark.parametrize(
    ("counts", "rows", "given"),
    [([1, 1, 1], 9, [1, 1, 1]), ([9, 0, 9], 5, [3, 0, 2]), ([9, 9], 0, [0, 0]), ([], 5, [])],
)
def test_rows_are_shared(counts: list[int], rows: int, given: list[int]) -> None:
    assert shared(counts, rows) == given


@pytest.mark.parametrize(
    ("now", "busy"),
    [
        (now_of(model_entry("m")), False),
        (now_of(requests=1), True),
        (now_of(speeds={"m": 0.1}), True),
        (now_of(model_entry("m", state="loading")), True),
    ],
)
def test_a_busy_node_is_looked_at_without_a_change(now: NodeNow, busy: bool) -> None:
    assert now.is_busy is busy


# The terminal, without one


class Lines:
    """A live part of given lines on a made terminal of 40 columns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines = ["one", "two"]
        self.foreground = True
        self.size = os.terminal_size((40, 24))
        monkeypatch.setattr(live_part, "has_terminal", lambda _: self.foreground)
        monkeypatch.setattr(live_part, "terminal_size", lambda _: self.size)
        self.part = LivePart(io.StringIO(), lambda *_: self.lines)
        self.part._now = now_of()

    def again(self, text: str = "") -> str:
        self.part._painted_for = None
        return self.part.around(text)


def test_texts_stand_above_and_what_is_the_same_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Lines(monkeypatch)
    assert drawn.again() == "one\x1b[K\ntwo\x1b[K\n\x1b[J"
    assert drawn.again() == ""
    assert drawn.again("news\n") == "\x1b[2F\x1b[Jnews\none\x1b[K\ntwo\x1b[K\n\x1b[J"
    assert drawn.again("without an end") == "\x1b[2F\x1b[Jwithout an end\none\x1b[K\ntwo\x1b[K\n\x1b[J"
    drawn.lines = ["one"]
    assert drawn.again() == "\x1b[2Fone\x1b[K\n\x1b[J"
    assert drawn.part.erased() == "\x1b[1F\x1b[J"
    assert drawn.part.erased() == "\r\x1b[J"


def test_lines_that_a_narrower_terminal_wrapped_are_taken_away_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Lines(monkeypatch)
    drawn.lines = ["\x1b[1m" + "x" * 30 + "\x1b[0m", "y"]
    drawn.again()
    drawn.size = os.terminal_size((20, 24))
    drawn.lines = ["z"]
    assert drawn.again() == "\x1b[3Fz\x1b[K\n\x1b[J"


def test_a_terminal_without_room_or_of_somebody_else_has_the_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Lines(monkeypatch)
    drawn.again()
    drawn.foreground = False
    assert drawn.again("news\n") == "news\n"
    assert drawn.part.erased() == ""
    drawn.foreground = True
    assert drawn.again().startswith("one")
    drawn.size = os.terminal_size((40, 5))
    assert drawn.again("news\n") == "\x1b[2F\x1b[Jnews\n\x1b[J"


def test_what_cannot_be_drawn_costs_no_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A failing live part is logged once, and the node's lines go on."""

    class Broken:
        out = io.StringIO()

        def around(self, text: str) -> str:
            raise ValueError(text)

        def erased(self) -> str:
            return ""

    monkeypatch.setattr(output, "same_terminal", lambda *_: True)
    broken = Broken()
    with output.in_background():
        output.stand_below(broken)
        output.write(broken.out, "news\n")
        output.write(broken.out, "more\n")
    assert broken.out.getvalue() == "news\nmore\n"
    assert [record.message for record in caplog.records] == ["what stands below the lines of this node cannot be drawn"]


# A real node in a real terminal


async def started(typist: Typist) -> str:
    """The node's URL, once its live part stands."""
    await typist.sees("http://127.0.0.1:")
    await typist.shows(lambda shown: any(line.startswith("── ") for line in shown))
    found = re.search(r"API +(http://127\.0\.0\.1:[0-9]+/v1)", typist.screen)
    assert found is not None
    return found[1]


def parts(shown: list[str]) -> int:
    return sum(line.startswith("── ") for line in shown)


async def test_a_node_at_a_terminal(tmp_path: Path) -> None:
    async with at_a_terminal(tmp_path, *DEMO, "--log-level", "info", columns=100, rows=30) as typist:
        url = await started(typist)
        shown = await typist.shows(lambda shown: any("4 of 4 slots free" in line for line in shown))
        at = next(at for at, line in enumerate(shown) if line.startswith("── "))
        assert shown[at - 1] == "ready: 4 workers; press Ctrl-C to stop"
        assert shown[at + 1].startswith("  model      demo · ready, pinned")
        assert not typist.echoes
        assert not typist.picture.cursor.hidden
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            asks = [group.create_task(ask_again_and_again(session, url, seed)) for seed in range(3)]
            running = await typist.shows(lambda shown: has(shown, "request    demo · running") and has(shown, "tok/s"))
            assert parts(running) == 1
            for task in asks:
                task.cancel()
        await typist.shows(lambda shown: not has(shown, "request") and has(shown, "4 of 4"))
        assert parts(typist.lines) == 1
        told = [line for line in typist.screen.split("\n") if "answers with demo" in line]
        whole = re.compile(r"(?:\x1b\[(?:J|[0-9]F))*2[0-9]{3}-\S+ \S+ INFO \S+ \[\S+\] \S+ answers with demo: only one")
        assert len(told) > 3
        assert [line for line in told if not whole.fullmatch(line)] == []
        typist.type(b"\r\r\r")  # keys that are not shown move nothing
        typist.resize(70, 30)  # not lower: the emulator loses its cursor's row there
        await typist.shows(lambda shown: parts(shown) == 1)
        typist.type(CTRL_C)
        assert await typist.left() == 0
        await typist.shows(lambda shown: parts(shown) == 0)
        assert "^C" not in typist.screen
        assert typist.echoes
        assert not typist.picture.cursor.hidden


def has(shown: list[str], words: str) -> bool:
    return any(words in line for line in shown)


async def ask(session: aiohttp.ClientSession, url: str, seed: int, tokens: int) -> None:
    turns = [{"role": "user", "content": "tell me a story"}]
    body = {"model": "demo", "messages": turns, "max_tokens": tokens, "seed": seed, "temperature": 1}
    async with session.post(f"{url}/chat/completions", json=body) as answer:
        assert answer.status == 200
        await answer.read()


async def ask_again_and_again(session: aiohttp.ClientSession, url: str, seed: int) -> None:
    while True:
        await ask(session, url, seed, 500)


@pytest.mark.parametrize(("words", "term"), [(("--plain",), "xterm"), ((), "dumb")])
async def test_plain_is_lines_only(words: tuple[str, ...], term: str, tmp_path: Path) -> None:
    async with at_a_terminal(tmp_path, *DEMO, *words, term=term) as typist:
        await typist.sees("press Ctrl-C to stop")
        typist.type(CTRL_C)
        assert await typist.left() == 0
        assert typist.echoes
    assert "── " not in typist.screen
    assert "\x1b[J" not in typist.screen


async def test_ctrl_z_and_a_terminal_that_takes_nothing(tmp_path: Path) -> None:
    async with at_a_terminal(tmp_path, *DEMO) as typist:
        url = await started(typist)
        typist.process.send_signal(signal.SIGTSTP)
        await asyncio.to_thread(os.waitpid, typist.process.pid, os.WUNTRACED)
        assert typist.echoes
        before = len(typist.screen)
        typist.process.send_signal(signal.SIGCONT)
        await typist.shows(lambda _: "── " in typist.screen[before:])
        assert not typist.echoes
        assert "\x1b[" not in typist.screen[before:].partition("── ")[0].replace(
            "\x1b[2m", ""
        )  # it goes up over nothing
        typist.type(b"\x13")  # Ctrl-S
        async with aiohttp.ClientSession() as session:
            for seed in range(3):
                await ask(session, url, seed, 3)
        typist.process.send_signal(signal.SIGTERM)
        assert await typist.left() in (0, 1)
        assert typist.echoes
