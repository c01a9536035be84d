"""Answers in one piece that take long: white space keeps their clients, and what fails after that is cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from swarm.errors import EngineFailed
from swarm.gateway.answers.answer_form import Pacing, in_one_piece
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import Script, ScriptedEngine, Step
from tests.doubles.waiting import eventually

# Silence is counted in beats: no clock decides.
PACING = Pacing(client_beat_s=1 / 64, whole_patience_s=4 / 64)
CHAT = "/v1/chat/completions"
SINGLE = {"strategy": "single"}
SAID = [{"role": "user", "content": "hello"}]
SOON_S = 10.0  # far above what anything here takes; only a defect reaches it


@dataclass(frozen=True)
class Stage:
    """A node whose engine says nothing until `gate` is set, and a client of it."""

    client: Client
    engine: ScriptedEngine
    gate: asyncio.Event
    node: RunningNode


def playing(*steps: Step) -> Script:
    """Every answer's steps."""
    return lambda _, __: steps


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    gate = asyncio.Event()
    engine = ScriptedEngine(playing(gate, "yes"))
    options = NodeOptions(pacing=PACING)
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        yield Stage(client, engine, gate, node)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body(swarm=SINGLE)),
        ("/v1/completions", {"model": "swarm", "prompt": "hello"}),
        ("/v1/completions", {"model": "swarm", "prompt": ["hello", "you"]}),
        ("/v1/messages", {"model": "swarm", "messages": SAID, "max_tokens": 9, "swarm": SINGLE}),
        ("/v1/responses", {"model": "swarm", "input": "hello", "swarm": SINGLE}),
        ("/api/chat", {"model": "scripted", "messages": SAID, "stream": False, "swarm": SINGLE}),
        ("/completion", {"prompt": "hello"}),
        ("/completion", {"prompt": ["hello", "you"]}),
    ],
)
async def test_white_space_comes_before_an_answer_that_is_long_in_coming(
    stage: Stage, path: str, body: Mapping[str, Any]
) -> None:
    async with stage.client.open(path, body) as response, asyncio.timeout(SOON_S):
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.content.readexactly(3) == b"   "
        stage.gate.set()
        rest = await response.content.read()
    stage.gate.clear()
    assert "yes" in json.dumps(json.loads(rest))


async def test_what_comes_soon_is_told_as_ever(stage: Stage) -> None:
    stage.gate.set()
    reply = await stage.client.chat(swarm=SINGLE)
    assert (reply.status, reply.text[0]) == (200, "{")
    assert "Content-Length" in reply.headers


async def test_a_vote_that_is_long_in_coming_is_kept_alive_too(stage: Stage) -> None:
    async with stage.client.open(CHAT, chat_body(swarm={"votes": 3})) as response, asyncio.timeout(SOON_S):
        assert await response.content.readexactly(2) == b"  "
        stage.gate.set()
        assert json.loads(await response.content.read())["swarm"]["votes"]


async def test_a_failure_before_any_white_space_has_its_status(stage: Stage) -> None:
    stage.engine.script = playing(EngineFailed("out of order"))
    assert (await stage.client.chat(swarm=SINGLE)).status >= 500


async def test_a_failure_after_white_space_is_told_and_cut_off_so_that_nobody_takes_it_for_an_answer(
    stage: Stage,
) -> None:
    stage.engine.script = playing(stage.gate, EngineFailed("out of order"))
    got = bytearray()

    async def read(response: aiohttp.ClientResponse) -> None:
        async for part in response.content.iter_any():
            got.extend(part)
            stage.gate.set()

    async with stage.client.open(CHAT, chat_body(swarm=SINGLE)) as response, asyncio.timeout(SOON_S):
        with pytest.raises(aiohttp.ClientPayloadError):
            await read(response)
    assert "out of order" in json.loads(got)["error"]["message"]
    await eventually(lambda: stage.node.pool.states()[0].slots_free == 4)


async def test_a_reader_for_whom_a_close_is_the_end_has_its_connection_reset(stage: Stage) -> None:
    """As nginx asks by itself, which would pass the failure on as a whole answer."""
    stage.engine.script = playing(stage.gate, EngineFailed("out of order"))
    body = json.dumps(chat_body(swarm=SINGLE)).encode()
    address = urlsplit(stage.node.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {CHAT} HTTP/1.0\r\nHost: {address.netloc}\r\nContent-Type: application/json"
    writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(SOON_S):
        assert (await reader.readuntil(b"\r\n\r\n  ")).startswith(b"HTTP/1.0 200")
        stage.gate.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()


async def test_an_answer_that_comes_while_the_status_is_being_sent_follows_it() -> None:
    """Never a second response after the first one's head."""
    sending = asyncio.Event()

    async def slowly(*_: object) -> None:
        sending.set()
        for _turn in range(9):
            await asyncio.sleep(0)

    async def answer() -> web.Response:
        await sending.wait()
        return web.Response(text='{"said": "yes"}', content_type="application/json")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await in_one_piece(request, {}, PACING, answer())

    app = web.Application()
    app.on_response_prepare.append(slowly)
    app.add_routes([web.get("/", handler)])
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/")) as reply,
    ):
        assert (await reply.text()).strip() == '{"said": "yes"}'


async def test_a_client_that_leaves_after_white_space_frees_its_worker(stage: Stage) -> None:
    async with stage.client.open(CHAT, chat_body(swarm=SINGLE)) as response, asyncio.timeout(SOON_S):
        await response.content.readexactly(2)
        response.close()
    await eventually(lambda: stage.node.pool.states()[0].slots_free == 4)
    assert stage.engine.cancelled == 1
