"""The one port of a node: plain HTTP as if nothing stood before it, TLS told apart, the silent shown out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from swarm.gateway import listener as listener_module
from swarm.gateway.listener import SharedPort

WAIT_S = 10.0
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def port(tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    assert runner.server is not None
    listener = socket.create_server(("127.0.0.1", 0))
    number = int(listener.getsockname()[1])
    async with SharedPort(runner.server, listener, lambda: tls):
        yield number
    await runner.cleanup()


async def answer(number: int, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        with suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), WAIT_S)
        return b""
    finally:
        writer.transport.abort()


async def test_plain_http_is_answered_in_one_piece_or_byte_by_byte() -> None:
    async with port() as number:
        assert (await answer(number, REQUEST)).endswith(b"hello")
        assert (await answer(number, *(bytes([byte]) for byte in REQUEST))).endswith(b"hello")


async def test_two_hundred_at_once_are_all_answered() -> None:
    async with port() as number:
        answers = await asyncio.gather(*(answer(number, REQUEST) for _ in range(200)))
        assert all(text.endswith(b"hello") for text in answers)


@pytest.mark.parametrize("first", [b"\x16", b"\x16\x03\x01\x02\x00" + b"x" * 512, b"\x00", b"\xff" * 64])
async def test_rubbish_harms_nobody(first: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for tls in (None, context):
        async with port(tls) as number:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    assert b"hello" not in await answer(number, first)
            assert (await answer(number, REQUEST)).endswith(b"hello")


async def test_who_says_nothing_is_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "FIRST_BYTE_S", 0.05)
    async with port() as number:
        assert await answer(number) == b""


async def test_of_too_many_silent_ones_the_oldest_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MAX_UNDECIDED", 5)
    async with port() as number:
        silent = [await asyncio.open_connection("127.0.0.1", number) for _ in range(8)]
        assert (await answer(number, REQUEST)).endswith(b"hello")
        assert await asyncio.wait_for(silent[0][0].read(), WAIT_S) == b""
        silent[-1][1].write(REQUEST)
        assert (await asyncio.wait_for(silent[-1][0].read(), WAIT_S)).endswith(b"hello")
        for _, writer in silent:
            writer.transport.abort()


async def test_closing_the_port_leaves_nothing_waiting() -> None:
    async with port() as number:
        _, writer = await asyncio.open_connection("127.0.0.1", number)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)
    writer.transport.abort()
