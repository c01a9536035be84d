"""The last log lines: which are kept and asked for, how they are written, and what is never in them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import BadRequest, EngineFailed
from swarm.gateway.http.access import AccessRules, KeyHolder, digest
from swarm.gateway.http.errors import error_middleware
from swarm.gateway.observing.board import BOARD
from swarm.gateway.observing.log_lines import LogFilter, LogPart, chosen, look_at, wanted_lines
from swarm.logs import (
    MAX_KEPT_CHARS,
    OWN_LOGGERS,
    LogLine,
    LogRing,
    current_request_id,
    kept_as,
    kept_lines,
    set_up_logging,
)
from tests.doubles.clients import chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

LOGS = "/swarm/v1/logs"


@pytest.fixture(autouse=True)
def logging_left_as_it_was() -> Iterator[None]:
    root = logging.root
    handlers, level = root.handlers[:], root.level
    own = {name: logging.getLogger(name).level for name in OWN_LOGGERS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in own.items():
        logging.getLogger(name).setLevel(was)


def set_up(level: str = "warning", form: str = "text") -> tuple[list[str], LogRing]:
    """What the console shows, and what is kept."""
    written: list[str] = []
    set_up_logging(level, written.append, form)
    ring = kept_lines()
    assert ring is not None
    return written, ring


def test_news_is_kept_where_the_console_shows_warnings_only_and_other_libraries_are_not_asked_for_more() -> None:
    written, ring = set_up()
    logging.getLogger("swarm.x").debug("nobody")
    logging.getLogger("swarm.x").info("kept %s", "this")
    logging.getLogger("federation.y").warning("both")
    logging.getLogger("aiohttp.server").info("a library's")
    logging.getLogger("aiohttp.server").error("its trouble")
    assert [(line.number, line.level, line.logger, line.text) for line in ring.lines()] == [
        (1, "info", "swarm.x", "kept this"),
        (2, "warning", "federation.y", "both"),
        (3, "error", "aiohttp.server", "its trouble"),
    ]
    assert [line.rpartition("] ")[2] for line in written] == ["both", "its trouble"]


@pytest.mark.parametrize(("level", "shown"), [("debug", 3), ("info", 2), ("error", 0)])
def test_the_level_is_the_consoles_and_details_are_kept_nowhere(level: str, shown: int) -> None:
    written, ring = set_up(level)
    log = logging.getLogger("swarm.x")
    log.debug("a detail")
    log.info("news")
    log.warning("trouble")
    assert len(written) == shown
    assert [line.text for line in ring.lines()] == ["news", "trouble"]


def test_a_line_has_its_request_and_is_clean_and_bounded() -> None:
    _, ring = set_up()
    token = current_request_id.set("req-7")
    logging.getLogger("swarm.x").info("a\nb \x1b[31mred \u202e %s", "y" * 5000)
    current_request_id.reset(token)
    (line,) = ring.lines()
    assert line.request_id == "req-7"
    assert "\n" not in line.text
    assert "\x1b" not in line.text
    assert "\u202e" not in line.text
    assert len(line.text) == MAX_KEPT_CHARS


def test_of_a_failure_its_kind_and_place_are_kept_and_not_what_it_says() -> None:
    written, ring = set_up()
    try:
        raise ValueError("a private question")
    except ValueError:
        logging.getLogger("swarm.x").exception("%s failed", "a private path", extra=kept_as("a request failed"))
    (line,) = ring.lines()
    assert line.text.startswith("a request failed (ValueError in test_of_a_failure")
    assert "private" not in line.text
    assert "a private question" in written[0], "the console has it, as before"


def test_an_error_that_is_named_is_kept_by_its_kind() -> None:
    written, ring = set_up()
    logging.getLogger("swarm.x").warning("failing over from %s: %s", "attic", EngineFailed("a private question"))
    logging.getLogger("swarm.x").warning("%s: %s", "x", FileNotFoundError(2, "No such file", "/a/file"))
    assert [line.text for line in ring.lines()] == [
        "failing over from attic: EngineFailed", "x: [Errno 2] No such file: '/a/file'",
    ]  # fmt: skip
    assert "a private question" in written[0]


def test_what_cannot_be_said_breaks_nothing() -> None:
    _, ring = set_up()
    logging.getLogger("swarm.x").warning("%d", "no number")
    logging.getLogger("swarm.x").warning("next")
    assert [line.text for line in ring.lines()][-1] == "next"


@given(st.integers(1, 6), st.integers(0, 15), st.integers(-2, 20))
def test_the_ring_has_the_newest_and_after_means_newer(most: int, made: int, after: int) -> None:
    ring = LogRing(most)
    for number in range(made):
        ring.handle(logging.LogRecord("swarm", logging.INFO, "", 1, str(number), None, None))
    expected = [number for number in range(1, made + 1) if number > after][-most:]
    assert [line.number for line in ring.lines(after)] == expected
    assert set(LogPart(ring).entries()) == {str(number) for number in range(1, made + 1)[-most:]}


def line(number: int, level: Any = "info", text: str = "x", request_id: str | None = None) -> LogLine:
    return LogLine(number=number, at="", level=level, logger="swarm.a", request_id=request_id, text=text)


def test_lines_are_chosen_by_level_and_words() -> None:
    lines = [
        line(1),
        line(2, "warning", "Kitchen gone"),
        line(3, "error", "b", "req-9"),
        line(4, "critical", "kitchen"),
    ]
    for wanted, numbers in (
        (LogFilter(), [1, 2, 3, 4]),
        (LogFilter(level="warning"), [2, 3, 4]),
        (LogFilter(text="kitchen"), [2, 4]),
        (LogFilter(text="req-9"), [3]),
        (LogFilter(limit=1), [4]),
        (LogFilter(level="critical", text="gone"), []),
    ):
        assert [found.number for found in chosen(lines, wanted)] == numbers


@pytest.mark.parametrize(
    "query",
    [
        {"level": "loud"}, {"after": "-1"}, {"after": "x"}, {"limit": "0"}, {"limit": "1001"}, {"text": "x" * 257},
        {"lines": "5"}, {"after": "9" * 5000}, {"limit": "²"},
    ],
)  # fmt: skip
def test_a_filter_that_means_nothing_is_refused_by_its_name(query: dict[str, str]) -> None:
    (name,) = query
    with pytest.raises(BadRequest, match=name) as caught:
        wanted_lines(query)
    assert caught.value.param == name
    assert len(str(caught.value)) < 400


def test_empty_filters_are_none() -> None:
    assert wanted_lines({"level": "", "after": "", "limit": "", "text": ""}) == LogFilter()
    assert look_at(LogRing(), LogFilter()).last == 0


def test_json_is_one_object_a_line() -> None:
    written, _ = set_up("info", "json")
    token = current_request_id.set("req-7")
    logging.getLogger("swarm.x").info("a\n%s\x1b[2J\u2028", "b")
    current_request_id.reset(token)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("swarm.x").exception("no request")
    for text in written:
        assert "\n" not in text
        assert text.isascii()
    first, second = (json.loads(text) for text in written)
    assert list(first) == ["at", "level", "logger", "request_id", "message"]
    assert (first["level"], first["logger"], first["request_id"]) == ("info", "swarm.x", "req-7")
    assert first["message"].startswith("a\nb")
    assert "\x1b" not in first["message"]
    assert first["at"].endswith("Z")
    assert (second["level"], second["request_id"]) == ("error", None)
    assert "ValueError: why" in second["exception"]


async def test_a_node_tells_its_lines_and_none_has_a_key_or_a_word_of_a_request() -> None:
    """Every kind of answer and failure, with the same words in each of its fields that a client fills."""
    _, ring = set_up("debug")
    secret, key, admin = "hedgehog", "sk-client-9", "sk-admin-9"
    access = AccessRules(
        key_digests=(digest(key),), admin_digests=(digest(admin),), key_holders=(KeyHolder("anna"),),
        open_federation=True,
    )  # fmt: skip
    engine = ScriptedEngine(saying(f"the answer is {secret}"))
    options = NodeOptions(access=access, log_ring=ring)
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        words = chat_body(secret)
        for path, body in (
            ("/v1/chat/completions", words), ("/v1/chat/completions", {**words, "stream": True}),
            ("/v1/chat/completions", {**words, "swarm": {"strategy": "majority", "votes": 3}}),
            ("/v1/chat/completions", {**words, "model": secret}), ("/v1/chat/completions", {**words, "n": secret}),
            ("/v1/chat/completions", {**words, "swarm": {"strategy": secret}}),
            ("/v1/chat/completions", {"model": "swarm", "messages": secret}),
            ("/v1/chat/completions", {**words, "tools": [{"type": secret}]}),
            ("/v1/chat/completions", {**words, "response_format": {"type": secret}}),
            ("/v1/completions", {"model": "swarm", "prompt": secret}),
            ("/v1/responses", {"model": "swarm", "input": secret}),
            ("/v1/responses", {"model": "swarm", "input": [{"type": secret}]}),
            ("/v1/messages", {**words, "max_tokens": 5}), ("/v1/messages", {**words, "max_tokens": secret}),
            ("/v1/embeddings", {"model": "swarm", "input": secret}), ("/tokenize", {"content": secret}),
            ("/v1/rerank", {"query": secret, "documents": [secret]}), (f"/{secret}", {}), (f"/v1/models/{secret}", {}),
            ("/v1/models/load", {"model": secret}),
        ):  # fmt: skip
            for sent in (key, "sk-wrong-9", admin):
                await client.post(path, body, x_api_key=sent, Authorization=f"Bearer {sent}")
        await client.get(f"/v1/models/{secret}", x_api_key=key)
        await client.get(f"{LOGS}?level={secret}", x_api_key=admin)
        for failure in (EngineFailed(f"broke over {secret}"), RuntimeError(f"broke over {secret}")):
            engine.script = lambda _, __, failure=failure: [failure]
            await client.post("/v1/chat/completions", words, x_api_key=key)
        reply = await client.get(LOGS, x_api_key=admin)
        assert reply.status == 200
        assert len(reply.json["data"]) > 20
        assert reply.json["last"] == reply.json["data"][-1]["number"]
        for line in reply.json["data"]:
            for private in (secret, key, admin, "sk-wrong-9"):
                assert private not in json.dumps(line), line
        newest = reply.json["last"]
        assert (await client.get(f"{LOGS}?after={newest}&text=nothing-like-it", x_api_key=admin)).json["data"] == []
        assert (await client.get(LOGS, x_api_key=key, X_Forwarded_For="192.0.2.1")).status == 403
        await told_while_watched(node)


async def told_while_watched(node: RunningNode) -> None:
    board = node.app[BOARD]
    assert board.since(0, ["log"]) is None
    with board.watching(["log"]):
        logging.getLogger("swarm.x").info("the newest")
        async with asyncio.timeout(10):
            await eventually(lambda: "the newest" in (board.since(0, ["log"]) or ""))


async def test_a_client_that_leaves_in_mid_answer_is_no_failure_of_the_node(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is written then raises, in whichever handler."""
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            ended.set()

    app = web.Application(middlewares=[error_middleware])
    app.router.add_get("/", endless)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readexactly(1000)
        writer.transport.abort()
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        await runner.cleanup()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
