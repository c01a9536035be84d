"""Two connections that are spliced: real sockets, real backpressure."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from federation.splice import SplicedEnd, spliced

LARGE_BYTES = 16 * 2**20  # more than all buffers on the way hold
SEEN_S = 60.0


class Way:
    """A client, both ends of this module, and whoever is behind them: `near` and `far` are the sockets outside."""

    def __init__(self) -> None:
        self.near, near = socket.socketpair()
        self.far, far = socket.socketpair()
        for one in (self.near, near, self.far, far):
            one.setblocking(False)
        self._inner = (near, far)
        self.lost: list[str] = []

    async def __aenter__(self) -> Way:
        self.ends = spliced(lambda: self.lost.append("near"), lambda: self.lost.append("far"))
        loop = asyncio.get_running_loop()
        for end, inner in zip(self.ends, self._inner, strict=True):
            await loop.create_connection(lambda end=end: end, sock=inner)
        return self

    async def __aexit__(self, *_: object) -> None:
        for end in self.ends:
            end.abort()
        self.near.close()
        self.far.close()
        async with asyncio.timeout(SEEN_S):
            while len(self.lost) < 2:  # noqa: ASYNC110 - the loop's own turns are what is waited for
                await asyncio.sleep(0)


async def read(connection: socket.socket, count: int) -> bytes:
    loop, read = asyncio.get_running_loop(), b""
    async with asyncio.timeout(SEEN_S):
        while len(read) < count and (piece := await loop.sock_recv(connection, 2**20)):
            read += piece
    return read


async def test_bytes_go_both_ways_in_order() -> None:
    loop = asyncio.get_running_loop()
    async with Way() as way:
        sent = os.urandom(LARGE_BYTES)
        writing = asyncio.create_task(loop.sock_sendall(way.near, sent))
        assert await read(way.far, LARGE_BYTES) == sent
        await writing
        await loop.sock_sendall(way.far, b"back")
        assert await read(way.near, 4) == b"back"


async def test_who_does_not_read_is_not_written_to() -> None:
    """Else a slow lender would have the host's memory fill with weights."""
    loop = asyncio.get_running_loop()
    async with Way() as way:
        writing = asyncio.create_task(loop.sock_sendall(way.near, bytes(LARGE_BYTES)))
        done, _ = await asyncio.wait({writing}, timeout=0.2)
        assert not done, "it waits for a reader, and no buffer takes it all"
        assert len(await read(way.far, LARGE_BYTES)) == LARGE_BYTES
        await writing


@pytest.mark.parametrize("first", ["near", "far"])
async def test_both_end_and_who_ended_first_is_told_first(first: str) -> None:
    async with Way() as way:
        outside, other = (way.near, way.far) if first == "near" else (way.far, way.near)
        outside.close()
        assert await read(other, 1) == b""
        assert way.lost[0] == first


async def test_an_end_that_comes_when_the_other_is_lost_is_closed() -> None:
    near, far = spliced(lambda: None, lambda: None)
    loop = asyncio.get_running_loop()
    outside, inner = socket.socketpair()
    other_outside, other_inner = socket.socketpair()
    for one in (inner, other_outside, other_inner):
        one.setblocking(False)
    await loop.create_connection(lambda: near, sock=inner)
    near.abort()
    await asyncio.sleep(0)
    await loop.create_connection(lambda: far, sock=other_inner)
    assert await read(other_outside, 1) == b""
    outside.close()
    other_outside.close()


async def test_an_end_alone_reads_nothing() -> None:
    end = SplicedEnd()
    outside, inner = socket.socketpair()
    inner.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: end, sock=inner)
    outside.send(b"early")
    await asyncio.sleep(0)
    assert not transport.is_reading()
    transport.abort()
    outside.close()
    await asyncio.sleep(0)
