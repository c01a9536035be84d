"""What clients, peers and balancers see of a node whose engine makes no progress, or is being loaded again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from swarm.engines.engine import Engine
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

STALL = "the engine has made no step for 6 s"
BROKE = "the engine host (pid 7) made no step for 21 s (its limit is 20 s) and was ended"
UTILITIES = (("/tokenize", {"content": "a"}), ("/v1/embeddings", {"model": "m", "input": "a"}))
ASKED = (
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/chat/completions", {"model": "swarm", "messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/chat/completions", {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/completions", {"model": "m", "prompt": "hi"}),
    ("/v1/responses", {"model": "m", "input": "hi"}),
    ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
    *UTILITIES,
)


@dataclass
class House:
    """A node that serves "m" with an engine to break, and cannot load it again before `mended` is set."""

    node: RunningNode
    client: Client
    engine: ScriptedEngine
    mended: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def a_house(*, peer: bool = False) -> AsyncIterator[House]:
    first, second = (ScriptedEngine(saying("here"), model_id="m") for _ in range(2))
    mended = asyncio.Event()

    async def load() -> Engine:
        if not first.failed.done():
            return first
        await mended.wait()
        return second

    async with RunningNode("attic", ready(ScriptedEngine(saying("there"), model_id="m"))) as attic:
        options = NodeOptions(peers=[attic.address] if peer else [])
        async with RunningNode("kitchen", load, options=options) as node, connect(node.url) as client:
            yield House(node, client, first, mended)


async def test_a_stalled_engine_is_no_place_to_go_and_its_node_is_not_ready() -> None:
    async with a_house() as house:
        assert (await house.client.get("/readyz")).status == 200
        house.engine.stalled = STALL
        told = await house.client.get("/readyz")
        assert (told.status, told.json["reason"]) == (503, f"model 'm': {STALL}")
        assert (await house.client.get("/livez")).status == 200
        described = house.node.describe()
        assert (described.slots_free, [model.id for model in described.models]) == (0, ["m"])
        house.engine.stalled = None
        assert (await house.client.get("/readyz")).status == 200
        assert house.node.describe().slots_free == 4


async def test_a_peer_is_asked_while_the_engine_here_is_doubted_or_gone() -> None:
    async with a_house(peer=True) as house:
        house.engine.stalled = STALL
        single = {"strategy": "single"}
        assert (await house.client.chat("hi", swarm=single)).json["choices"][0]["message"]["content"] == "there"
        assert (await house.client.chat("hi")).json["choices"][0]["message"]["content"] == "there"
        house.engine.failed.set_result(BROKE)
        await eventually(lambda: house.node.pool.states()[0].problem is not None)
        for path, body in ASKED:
            reply = await house.client.post(path, body)
            assert reply.status == 200, (path, reply.text)
        assert (await house.client.get("/readyz")).status == 503, "a balancer asks the other one itself"


@pytest.mark.parametrize(("path", "body"), ASKED, ids=lambda value: value if isinstance(value, str) else "")
async def test_who_asks_while_the_engine_is_gone_is_told_when_to_come_back(path: str, body: dict[str, object]) -> None:
    async with a_house() as house:
        house.engine.failed.set_result(BROKE)
        await eventually(lambda: house.node.pool.states()[0].problem is not None)
        reply = await house.client.post(path, body)
        assert reply.status == 503, reply.text
        assert 1 <= int(reply.headers["Retry-After"]) <= 5
        assert "is not running: the engine host" in reply.text
        house.mended.set()
        await eventually(lambda: house.node.pool.states()[0].problem is None)
        assert (await house.client.post(path, body)).status == 200


async def test_a_model_that_is_loaded_again_stays_in_the_list_and_leaves_what_peers_are_told() -> None:
    async with a_house() as house:
        house.engine.failed.set_result(BROKE)
        await eventually(lambda: house.node.pool.states()[0].problem is not None)
        assert [model["id"] for model in (await house.client.get("/v1/models")).json["data"]] == ["swarm", "m"]
        assert (await house.client.get("/v1/models/m")).status == 200
        assert house.node.describe().models == ()
        told = await house.client.get("/readyz")
        assert (told.status, told.json["reason"]) == (503, f"model 'm': {BROKE}")
        unknown = await house.client.post("/v1/completions", {"model": "other", "prompt": "hi"})
        assert unknown.status == 404, "what nobody has is unknown all the same"
