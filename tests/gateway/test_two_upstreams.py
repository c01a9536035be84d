"""A node with two upstreams: each has its own key, room and models, and the second is asked what the first fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from swarm.engines.upstream.address import UpstreamMode, parse_upstream
from swarm.routing.upstream import Upstream, UpstreamPlan
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.upstream_house import PACE, content
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage
from tests.doubles.waiting import eventually

KEYS = ("sk-of-the-first", "sk-of-the-second")


def server(*models: str, says: str) -> UpstreamServer:
    """An upstream that lists `models`, and whose every answer is `says`."""
    listing = {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}
    return UpstreamServer(pieces=(text(says), ending(), usage(), DONE), listing=listing)


@asynccontextmanager
async def asking(mode: UpstreamMode, *servers: UpstreamServer, slots: int = 2) -> AsyncIterator[Client]:
    """A client of a node with no engine and these upstreams, in this order."""
    async with AsyncExitStack() as stack:
        for one in servers:
            await stack.enter_async_context(one)
        upstreams = [
            Upstream(UpstreamPlan(parse_upstream(one.url), mode, None, slots), key, lambda _: None, PACE)
            for one, key in zip(servers, KEYS, strict=True)
        ]
        node = await stack.enter_async_context(RunningNode("kitchen", options=NodeOptions(upstreams=upstreams)))
        client = await stack.enter_async_context(connect(node.url))
        for upstream in upstreams:
            await upstream.first_look()
        yield client


async def test_each_is_asked_for_its_models_with_its_own_key() -> None:
    nas, cloud = server("small", says="near"), server("big", says="far")
    async with asking("fallback", nas, cloud) as client:
        assert content(await client.chat(model="small")) == "near"
        assert content(await client.chat(model="big")) == "far"
        assert content(await client.chat(model="swarm")) == "near", "they are asked in their order"
        listed = {entry["id"] for entry in (await client.get("/v1/models")).json["data"]}
    assert listed == {"small", "big", "swarm"}
    assert [len(nas.asked), len(cloud.asked)] == [2, 1]
    for one, own, other in ((nas, *KEYS), (cloud, *reversed(KEYS))):
        seen = [*(asked.headers for asked in one.asked), *one.listed]
        assert {headers["Authorization"] for headers in seen} == {f"Bearer {own}"}
        assert other not in repr([dict(headers) for headers in seen] + [asked.body for asked in one.asked])


async def test_what_the_first_fails_is_asked_of_the_second() -> None:
    nas, cloud = server("big", says="near"), server("big", says="far")
    async with asking("fallback", nas, cloud) as client:
        nas.status, nas.refusal = 500, {"error": {"message": "out of memory"}}
        reply = await client.chat(model="big", swarm={"strategy": "single"})
    assert content(reply) == "far"
    assert [len(nas.asked), len(cloud.asked)] == [1, 1]
    assert len(reply.json["swarm"]["routed"]["tried"]) == 1


async def test_each_has_slots_of_its_own() -> None:
    """The first is full of requests that do not end; whoever asks next is not in its queue."""
    gate = asyncio.Event()
    nas, cloud = server("big", "small", says="near"), server("big", says="far")
    nas.pieces = (gate, *nas.pieces)
    async with asking("only", nas, cloud, slots=1) as client, asyncio.TaskGroup() as group:
        held = group.create_task(client.chat(model="small"))
        await eventually(lambda: nas.running == 1)
        assert content(await client.chat(model="big", swarm={"strategy": "single"})) == "far"
        gate.set()
        assert content(await held) == "near"
