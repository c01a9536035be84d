"""Peers that tell hostile states to whoever opens a page: over real sockets, several in one swarm with an honest one.

Each is bounded in bytes and time, named once in the log, and shown as what this node knows of it. The honest one is
shown as before, and whatever reaches a page is JSON of clean lines.
"""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import aiohttp
import pytest
from aiohttp import web

from swarm.gateway.observing.board import BOARD
from swarm.gateway.observing.node_states import MAX_STATE_BYTES, NODE_STATES
from tests.doubles.fake_peer import FakePeer, Handler
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

MODEL = {"id": "m", "engine": "e", "slots": 1, "slots_free": 1, "waiting": 0, "problem": None}
Cases = Mapping[str, tuple[Handler, str | None]]  # by what they do: how, and a part of the words in the log, if any

GOOD = {"status": "ok", "hardware": {"cpu": "an old one"}, "models": [MODEL]}
EVIL = "<img src=x onerror=alert(1)> \x1b[31mred\x1b]0;title\x07 \u202eltr\u2066 two\nlines \ufeff"


def told(body: bytes, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": "application/json", **headers})

    return answer


def with_number(number: str) -> Handler:
    return told(
        json.dumps({**GOOD, "tokens_per_s": 0}).replace('"tokens_per_s": 0', f'"tokens_per_s": {number}').encode()
    )


def with_model(**said: object) -> Handler:
    return told(json.dumps({**GOOD, "models": [{**MODEL, **said}]}).encode())


async def ten_megabytes(request: web.Request) -> web.StreamResponse:
    """As many as are taken."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(160):
        await response.write(b" " * 2**16)
    return response


async def drip(request: web.Request) -> NoReturn:
    """A byte now and then, without end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def redirect(request: web.Request) -> NoReturn:
    raise web.HTTPFound("http://127.0.0.1:9/federation/v1/state")


async def silence(request: web.Request) -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


SLOW: Cases = {"a drip": (drip, "in time"), "silence": (silence, "in time")}
SHOWN_AS_KNOWN: Cases = {
    "ten megabytes": (ten_megabytes, "more than"),
    "ten megabytes announced": (told(b" " * 10**7), "more than"),
    "a bomb": (told(zlib.compress(b" " * 10**8), **{"Content-Encoding": "deflate"}), "cannot be read"),
    "deep": (told(b'{"status":' + b"[" * 100_000), "cannot be read"),
    "deep in a field nobody reads": (told(b'{"more":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "cannot be read"),
    "no object": (told(b"[]"), "cannot be read"),
    "nothing": (told(b""), "cannot be read"),
    "no JSON": (told(b"\xff\xfe\x00"), "cannot be read"),
    "HTML": (told(b"<html>", **{"Content-Type": "text/html"}), "something else than JSON"),
    "a list of models as a text": (told(json.dumps({**GOOD, "models": "all"}).encode()), "models"),
    "10,000 models": (told(json.dumps({**GOOD, "models": [{}] * 10_000}).encode()), "models"),
    "10,000 peers": (told(json.dumps({**GOOD, "peers": [{}] * 10_000}).encode()), "peers"),
    "not a number": (with_number("NaN"), "tokens_per_s"),
    "1e999": (with_number("1e999"), "tokens_per_s"),
    "10,000 digits": (with_number("1" * 10_000), "cannot be read"),
    "a model of 5,000 digits": (with_model(size_bytes=10**4000), "beyond all measure"),
    "a load of 1e999": (with_model(loading={"share": float("inf"), "left_s": 1}), "loading.share"),
    "a load that is no number": (with_model(loading={"share": float("nan"), "left_s": 1}), "loading.share"),
    "less than nothing": (with_number("-1"), "tokens_per_s"),
    "elsewhere": (redirect, None),  # an answer that is not 200 is that of an earlier version: nothing to warn of
}


async def read_event(lines: aiohttp.StreamReader) -> Mapping[str, Any]:
    """The next one with data, read as strictly as browsers do."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is no JSON")

    async for line in lines:
        if line.startswith(b"data: "):
            return json.loads(line[6:], parse_constant=refuse)
    raise AssertionError("the stream ended")


class Look:
    """A page that looks: all that it has been told of each node."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    async def until(self, url: str, holds: Callable[[Mapping[str, Any]], bool]) -> None:
        async with (
            aiohttp.ClientSession(read_bufsize=2**23) as session,
            session.get(f"{url}/v1/events?parts=node,view") as response,
        ):
            assert response.status == 200
            while not holds(self.nodes):
                self.nodes |= (await read_event(response.content)).get("node", {})


def warnings(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.getMessage().startswith(f"{name} ")
    ]


async def swarm_of(stack: AsyncExitStack, *fakes: FakePeer) -> tuple[RunningNode, RunningNode]:
    """A node that looks at an honest peer and at these."""
    for fake in fakes:
        await stack.enter_async_context(fake)
    engines = [ready(ScriptedEngine(saying("a word"))) for _ in range(2)]
    honest = await stack.enter_async_context(RunningNode("honest", engines[0]))
    peers = (honest.address, *(fake.address for fake in fakes))
    looks = await stack.enter_async_context(RunningNode("looks", engines[1], options=NodeOptions(peers=peers)))
    looks.app[NODE_STATES].look_s = 0.05
    return looks, honest


def counted(name: str, handler: Handler, asked: Counter[str]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked[name] += 1
        return await handler(request)

    return answer


@pytest.mark.parametrize(("cases", "answer_s"), [(SHOWN_AS_KNOWN, None), (SLOW, 0.3)], ids=["at once", "slowly"])
async def test_hostile_states_are_bounded_named_once_and_harm_nobody(
    cases: Cases, answer_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    names = {f"peer{number}": case for number, case in enumerate(cases)}
    asked = Counter[str]()
    fakes = [FakePeer(name, state=counted(name, cases[case][0], asked)) for name, case in names.items()]
    async with AsyncExitStack() as stack:
        looks, honest = await swarm_of(stack, *fakes)
        page, states = Look(), looks.app[NODE_STATES]
        states.answer_s = answer_s or states.answer_s
        with looks.app[BOARD].watching(("node",)):
            await eventually(lambda: all(asked[name] >= 3 for name in names))  # the third comes after two answers
            await page.until(looks.url, lambda nodes: nodes.get(honest.id, {}).get("source") == "peer")
    for name, case in names.items():
        assert page.nodes[f"id-{name}"]["source"] == "unknown", case
        assert [model["id"] for model in page.nodes[f"id-{name}"]["models"]] == ["m"], case
        reason, said = cases[case][1], warnings(caplog, name)
        assert len(said) == (reason is not None), (case, said)
        assert reason is None or (reason in said[0] and len(said[0]) < 400 and said[0].isprintable()), (case, said)


async def test_what_hostile_words_become_is_clean_lines_under_the_one_who_said_them() -> None:
    lies = {
        **GOOD, "status": EVIL, "hardware": {"cpu": EVIL}, "models": [{**MODEL, "id": EVIL, "problem": EVIL}],
        "id": "id-honest", "name": "honest", "state": "dead", "url": "http://127.0.0.1:9/",
        "peers": [{"id": "id-honest", "name": EVIL[:40], "state": "dead"}] * 2,
    }  # fmt: skip
    huge = json.dumps({**GOOD, "more": "x" * (MAX_STATE_BYTES - 200)}).encode()
    fakes = FakePeer("liar", state=told(json.dumps(lies).encode())), FakePeer("large", state=told(huge))
    async with AsyncExitStack() as stack:
        looks, _ = await swarm_of(stack, *fakes)
        page = Look()
        await page.until(looks.url, lambda nodes: [node["source"] for node in nodes.values()].count("peer") == 3)
    liar, honest = page.nodes["id-liar"], page.nodes["id-honest"]
    words = [liar["status"], liar["hardware"]["cpu"], liar["models"][0]["id"], liar["peers"][0]["name"]]
    for text in words:
        assert text.isprintable(), text
        assert not set(text) & set("\u202e\u2066\x1b\ufeff"), text
    assert "<img src=x onerror=alert(1)>" in liar["status"], "the page shows it as text"
    assert (liar["id"], liar["name"], liar["state"], liar["url"]) == ("id-liar", "liar", "alive", fakes[0].address.url)
    assert (honest["name"], honest["state"], honest["source"]) == ("honest", "alive", "peer")


async def test_one_that_is_slow_or_hostile_now_and_honest_later_is_shown_as_it_tells() -> None:
    answers: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = [
        told(b"[]"), silence, told(json.dumps(GOOD).encode())
    ]  # fmt: skip

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (answers.pop(0) if len(answers) > 1 else answers[0])(request)

    async with AsyncExitStack() as stack:
        looks, _ = await swarm_of(stack, FakePeer("moody", state=answer))
        looks.app[NODE_STATES].answer_s = 0.3
        page = Look()
        await page.until(looks.url, lambda nodes: nodes.get("id-moody", {}).get("source") == "peer")
    assert page.nodes["id-moody"]["hardware"]["cpu"] == "an old one"
