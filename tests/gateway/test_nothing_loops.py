"""Nodes that name each other, as upstreams and as peers: every one is asked once, and then the client is told."""

from __future__ import annotations

import io
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from swarm.engines.upstream.address import parse_upstream
from swarm.errors import EngineFailed
from swarm.routing.upstream import Upstream, UpstreamPlan
from tests.doubles.clients import connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.upstream_house import PACE


class Relay:
    """An address that is there before the node behind it: passes everything on to `target`, and notes the POSTs."""

    def __init__(self) -> None:
        self.target = ""
        self.asked: list[str] = []
        self.url = ""

    async def __aenter__(self) -> Relay:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.asked.append(request.path)
        if not self.target:
            return web.Response(status=503)
        sent = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
        body = io.BytesIO(await request.read())
        async with self._session.request(request.method, self.target + request.path, data=body, headers=sent) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"Content-Type": answer.content_type}
            )


@pytest.mark.parametrize(("model", "engines"), [("big", False), ("swarm", False), ("swarm", True)])
async def test_two_nodes_that_are_each_others_upstream(model: str, engines: bool) -> None:
    """Each believes that the other has "big"; with engines, those fail."""
    asked = [ScriptedEngine(lambda _, __: [EngineFailed("broken")], model_id="m") for _ in range(2)]
    async with AsyncExitStack() as stack:
        relays = [await stack.enter_async_context(Relay()) for _ in range(2)]
        nodes: list[RunningNode] = []
        for name, engine, other in zip(("attic", "kitchen"), asked, reversed(relays), strict=True):
            upstream = Upstream(UpstreamPlan(parse_upstream(f"{other.url}/v1"), "fallback", "big"), None, pace=PACE)
            loaders = [ready(engine)] if engines else []
            nodes.append(RunningNode(name, *loaders, options=NodeOptions(upstreams=[upstream])))
        for node, relay in zip(nodes, relays, strict=True):
            await stack.enter_async_context(node)
            relay.target = node.url
        client = await stack.enter_async_context(connect(nodes[0].url))
        reply = await client.chat(model=model, swarm={"strategy": "single"})
        assert reply.status in (404, 500, 502, 503)
        assert reply.error["message"]
        assert [len(relay.asked) for relay in relays] == [0, 1], "the second passes nothing back"
        assert [len(engine.requests) for engine in asked] == ([1, 0] if engines else [0, 0])


@pytest.mark.parametrize(("options", "calls"), [({"strategy": "single"}, [1, 1]), ({"votes": 2}, [2, 1])])
async def test_peers_that_know_each_other_pass_nothing_back(options: dict[str, object], calls: list[int]) -> None:
    """A vote asks once more instead of the one that is lost first: elsewhere, and by itself."""
    engines = [ScriptedEngine(lambda _, __: [EngineFailed("broken")], model_id="m", slots=1) for _ in range(2)]
    async with AsyncExitStack() as stack:
        attic = await stack.enter_async_context(RunningNode("attic", ready(engines[0])))
        await stack.enter_async_context(attic.membership)
        knows = NodeOptions(peers=[attic.address])
        kitchen = await stack.enter_async_context(RunningNode("kitchen", ready(engines[1]), options=knows))
        attic.membership.endpoint_reported("127.0.0.1", kitchen.address.port)
        await attic.until(lambda: bool(attic.membership.alive()))
        client = await stack.enter_async_context(connect(kitchen.url))
        reply = await client.chat(swarm=options)
        assert reply.status >= 500
        assert [len(engine.requests) for engine in engines] == calls
