"""The one port of a node: plain HTTP as if nothing stood before it, TLS told apart, the silent shown out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress

import pytest
from aiohttp import web

from swarm.gateway.http.listener import ConnectionCap, PortLimits, SharedPort, flushed

WAIT_S = 10.0
SHORT_S = 0.1  # for what cannot be
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def port(tls: ssl.SSLContext | None = None, limits: PortLimits | None = None) -> AsyncIterator[int]:
    async with running_port(tls=tls, limits=limits) as (_, number):
        yield number


@asynccontextmanager
async def running_port(
    listener: socket.socket | None = None,
    says: bytes = b"hello",
    tls: ssl.SSLContext | None = None,
    limits: PortLimits | None = None,
) -> AsyncIterator[tuple[SharedPort, int]]:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(body=says)

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    assert runner.server is not None
    listener = listener or socket.create_server(("127.0.0.1", 0))
    number = int(listener.getsockname()[1])
    async with SharedPort(runner.server, listener, lambda: tls, limits=limits) as shared:
        yield shared, number
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


async def test_who_says_nothing_is_shown_out() -> None:
    async with port(limits=PortLimits(first_byte_s=0.05)) as number:
        assert await answer(number) == b""


async def test_of_too_many_silent_ones_the_oldest_makes_way() -> None:
    async with port(limits=PortLimits(undecided=5)) as number:
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


async def test_those_whom_the_system_let_wait_are_taken_in_before_the_port_closes() -> None:
    async with running_port() as (shared, number):
        waiting = [socket.create_connection(("127.0.0.1", number)) for _ in range(5)]  # the loop had no turn yet
        await shared.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", number)).close()
        for connection in waiting:
            reader, writer = await asyncio.open_connection(sock=connection)
            writer.write(REQUEST)
            assert (await asyncio.wait_for(reader.read(), WAIT_S)).endswith(b"hello")
            writer.close()
            await writer.wait_closed()
        await shared.stop()  # once is enough


async def test_those_who_wait_are_left_to_an_heir() -> None:
    heir = socket.create_server(("127.0.0.1", 0))
    with closing(heir):
        async with running_port(heir.dup()) as (shared, number):
            await shared.stop(leave_waiting=True)
            with closing(socket.create_connection(("127.0.0.1", number))) as waiting:
                heir.settimeout(WAIT_S)
                taken, _ = heir.accept()
                taken.sendall(b"at last")
                taken.close()
                assert waiting.recv(100) == b"at last"


async def test_what_a_slow_reader_has_not_taken_is_waited_for() -> None:
    big = b"x" * 20_000_000
    async with running_port(says=big) as (shared, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=2**10)
        writer.write(REQUEST.replace(b"Connection: close", b"Connection: keep-alive"))
        await reader.readuntil(b"\r\n\r\n")
        assert not await flushed(shared.server, SHORT_S)
        rest = asyncio.create_task(reader.readexactly(len(big)))
        assert await flushed(shared.server, WAIT_S)
        assert await rest == big
        writer.close()
        await writer.wait_closed()


async def test_the_most_connections_are_counted_over_all_addresses() -> None:
    """A node has a listener for IPv4 and one for IPv6, and one bound for both."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(body=b"hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    assert runner.server is not None
    cap = ConnectionCap(runner.server, most=4)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    kept = REQUEST.replace(b"close", b"keep-alive")
    async with AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(SharedPort(runner.server, listener, lambda: None, cap=cap))
        writers: list[asyncio.StreamWriter] = []
        readers: list[asyncio.StreamReader] = []
        for number in range(8):
            reader, writer = await asyncio.open_connection(*listeners[number % 2].getsockname())
            writer.write(kept)
            assert (await asyncio.wait_for(reader.readuntil(b"hello"), WAIT_S)).startswith(b"HTTP/1.1 200")
            readers.append(reader)
            writers.append(writer)
        for reader in readers[:4]:
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b"", "the oldest made way, wherever they came to"
        for reader, writer in zip(readers[4:], writers[4:], strict=True):
            writer.write(REQUEST)
            assert (await asyncio.wait_for(reader.read(), WAIT_S)).endswith(b"hello"), "and nobody else"
        for writer in writers:
            writer.transport.abort()
    await runner.cleanup()
