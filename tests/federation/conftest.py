"""A node reduced to its federation endpoints, on a real loopback socket, that can be frozen, closed and made to lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Self

import pytest
from aiohttp import web

from federation import wire
from federation.advertisement import NodeDescription, PeerHints
from federation.client import PeerClient
from federation.hostport import Address
from federation.membership import Membership
from federation.timing import Timing
from tests.doubles.timing import FAST

WAIT_S = 10.0  # far above what any condition here takes; only a defect reaches it
SHUTDOWN_S = 0.01  # frozen handlers are cut off at once

FROZEN_IS_SEEN_SOON = replace(FAST, probe_timeout_s=0.25, retransmit_min_s=0.1, suspect_after_s=0.25, give_up_s=0.75)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeNode:
    """Without a membership one of an older version, which knows no tags.

    Serves from `async with` on; `stop` and `start` keep the port. `answers` overrides the handler of a path."""

    def __init__(self, name: str, **description: object) -> None:
        self.name = name
        self.claims = {"id": f"id-{name}", "instance": f"run-1-of-{name}", **description}
        self.membership: Membership | None = None
        self.answers: dict[str, Handler] = {}
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.requests: list[tuple[str, dict[str, str], Mapping[str, str]]] = []
        self.address = Address("127.0.0.1", 0)
        self._runner: web.AppRunner | None = None

    @property
    def description(self) -> NodeDescription:
        return NodeDescription.model_validate(
            {"name": self.name, "version": "0.1.0", "url": "http://127.0.0.1:1", **self.claims}
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application(middlewares=[self._observe])
        app.router.add_get(wire.NODE_PATH, self._node)
        app.router.add_get(wire.PEERS_PATH, self._peers)
        app.router.add_post(wire.GOODBYE_PATH, self._goodbye)
        app.router.add_post(wire.CANDIDATES_PATH, self._unanswered)
        app.router.add_post(wire.GENERATE_PATH, self._unanswered)
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address.host, self.address.port, reuse_address=True)
        await site.start()
        self.address = Address("127.0.0.1", self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _observe(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.query), request.headers))
        await self.thawed.wait()
        return await self.answers.get(request.path, handler)(request)

    async def _node(self, request: web.Request) -> web.Response:
        if self.membership is not None:
            reply = self.membership.reply_to_probe(
                self.description, request.remote or "", request.query, request.headers
            )
            return web.Response(
                status=reply.status, body=reply.body, content_type="application/json", headers={"ETag": reply.tag}
            )
        return web.Response(body=self.description.model_dump_json(), content_type="application/json")

    async def _peers(self, _: web.Request) -> web.Response:
        hints = self.membership.hints() if self.membership else ()
        return web.Response(body=PeerHints(peers=hints).model_dump_json(), content_type="application/json")

    async def _goodbye(self, request: web.Request) -> web.Response:
        if self.membership is not None:
            self.membership.goodbye_received(json.loads(await request.read())["id"])
        return web.json_response({})

    async def _unanswered(self, _: web.Request) -> web.Response:
        return web.json_response({"error": "not served"}, status=404)


def replying(body: bytes, *, status: int = 200, content_type: str = "application/json") -> Handler:
    """A handler that gives the same answer to everything."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers={"Content-Type": content_type})

    return handler


@asynccontextmanager
async def join(
    node: FakeNode, peers: tuple[Address, ...] = (), timing: Timing = FROZEN_IS_SEEN_SOON
) -> AsyncIterator[Membership]:
    """The node with a client and a membership of its own, as in production."""
    async with (
        node,
        PeerClient(node.description.id, node.address) as client,
        Membership(node.description, client, static_peers=peers, timing=timing) as membership,
    ):
        node.membership = membership
        try:
            yield membership
        finally:
            node.membership = None


async def wait_for(membership: Membership, condition: Callable[[], bool]) -> None:
    """Return when the condition holds, looking again after each change; fail after WAIT_S."""
    changed = asyncio.Event()
    unsubscribe = membership.subscribe(lambda _: changed.set())
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                changed.clear()
                await changed.wait()
    finally:
        unsubscribe()


@pytest.fixture
def fake_node() -> type[FakeNode]:
    return FakeNode


@pytest.fixture
def reply() -> Callable[..., Handler]:
    return replying


@pytest.fixture
def joined() -> Callable[..., AbstractAsyncContextManager[Membership]]:
    return join


@pytest.fixture
def until() -> Callable[[Membership, Callable[[], bool]], Awaitable[None]]:
    return wait_for
