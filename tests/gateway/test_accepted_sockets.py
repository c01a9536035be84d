"""Whoever is accepted has one owner until its socket is closed, at whatever moment the port or the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.tls import client_context, server_context
from swarm.gateway.http.listener import PortLimits, SharedPort
from tests.doubles.knocking import Handshake, RecordingListener, knock, turn
from tests.doubles.paired import paired_trusts
from tests.doubles.waiting import eventually

TURNS = range(24)  # of the event loop, after which a TLS connection is served; the end comes after each of them
Handler = Callable[[web.Request], Awaitable[web.Response]]
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Door:
    """A port of its own; `ended` tells which sockets it accepted are still open when all is over."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, answer: Handler | None = None, limits: PortLimits | None = None
    ) -> None:
        self._limits = limits
        self._answer = answer or _never
        self._listener = RecordingListener()
        self.accepted = self._listener.accepted
        self.left_open = self._listener.left_open
        self.number = int(self._listener.getsockname()[1])
        self._tls = tls

    async def __aenter__(self) -> Door:
        app = web.Application()
        app.router.add_get("/", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        assert self._runner.server is not None
        self.port = SharedPort(self._runner.server, self._listener, lambda: self._tls, limits=self._limits)
        await self.port.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.port.__aexit__(None, None, None)
        await self._runner.cleanup()
        await self.port.cut()


def _holds_data(connection: RequestHandler) -> bool:
    return connection.transport is not None and connection.transport.get_write_buffer_size() > 0


async def _never(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("never")


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    kitchen, study = (trust.identity for trust in paired_trusts(tmp_path, "kitchen", "study"))
    return server_context(kitchen.pem, [study.certificate]), client_context(study.pem, [kitchen.certificate])


@pytest.mark.parametrize("said", [b"", REQUEST, b"\x16"], ids=["nothing", "http", "like tls"])
async def test_the_end_finds_no_accepted_socket_without_an_owner(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], said: bytes
) -> None:
    for turns in TURNS:
        async with Door(contexts[0]) as door:
            await turn(3)
            clients = [knock(door.number, said) for _ in range(3)]
            await turn(turns)
        assert not door.left_open(), f"after {turns} turns"
        for client in clients:
            client.close()


@pytest.mark.parametrize("finished", [False, True])
async def test_the_end_finds_no_handshake_without_an_owner(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], finished: bool
) -> None:
    """Half done, or just done: then asyncio would wait for the other end to agree, with nobody to stop it."""
    server, client = contexts
    for turns in TURNS:
        async with Door(server) as door:
            await turn(3)
            shaking = Handshake(client, door.number)
            if finished:
                await shaking.finish()
            await turn(turns)
        assert not door.left_open(), f"after {turns} turns"
        shaking.socket.close()


async def test_a_client_that_leaves_at_any_moment_of_its_handshake_leaves_nothing_open(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = contexts
    async with Door(server) as door:
        for turns in TURNS:
            leaving = Handshake(client, door.number).socket
            await turn(turns)
            leaving.close()
        await eventually(lambda: len(door.accepted) == len(TURNS) and not door.left_open())


@pytest.mark.parametrize("asks", [REQUEST, b""], ids=["asking", "idle"])
async def test_a_client_that_never_agrees_to_the_end_of_the_encryption_is_not_waited_for(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], asks: bytes
) -> None:
    server, client = contexts
    async with Door(server) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.number, ssl=client)
        writer.write(asks)
        await turn(10)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    assert not door.left_open()
    writer.transport.abort()
    assert not reader.at_eof()


async def test_a_client_that_reads_nothing_is_not_waited_for() -> None:
    async def more_than_fits(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 20_000_000)

    door = Door(answer=more_than_fits)
    with contextlib.ExitStack() as stack:
        async with door:
            stack.enter_context(closing(knock(door.number, REQUEST)))
            await eventually(lambda: any(map(_holds_data, door.port.server.connections)))
        assert not door.left_open()


async def test_those_who_make_way_are_closed_too(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    for turns in TURNS:
        async with Door(server, limits=PortLimits(undecided=2)) as door:
            clients = [Handshake(client, door.number).socket for _ in range(4)]
            await turn(turns)
            clients += [knock(door.number, b"") for _ in range(4)]
            await turn(2)
        assert not door.left_open(), f"after {turns} turns"
        for known in clients:
            known.close()
