"""Memory that this node lends to members of its swarm, at `/federation/v1/lend`.

A lease is one answer that does not end: first what was granted, then heartbeats, and news where there are any. Its
connection is the lease, so that a host that is gone, cut off or revoked gives the memory back by that alone. For each
connection that the host's llama.cpp makes, it opens one here that becomes a stream of bytes (`Connection: Upgrade`).
Who decides, and what runs, is the `Lender`'s.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, suppress
from functools import partial
from typing import Final, Protocol

from aiohttp import web
from pydantic import RootModel

from federation import wire
from federation.lending import (
    MAX_REASON_CHARS,
    NOT_LENDING,
    SERVER_ENDED,
    UPGRADE,
    LendGrant,
    LendNews,
    LendRequest,
    MeasureRequest,
)
from federation.splice import spliced
from federation.wire import WireModel
from swarm.errors import BadRequest, EngineFailed, Forbidden
from swarm.gateway.answers.answer_form import NDJSON, PACING, open_stream
from swarm.gateway.http.access_middleware import MEMBER
from swarm.gateway.http.bodies import read_body
from swarm.gateway.peers.management import takes_work

UNACKNOWLEDGED_MS: Final = 10_000  # that what was sent to a host may stay unanswered before it counts as cut off
_TCP_USER_TIMEOUT: Final = 18  # of Linux, <linux/tcp.h>; Python has a name for it there only
CHUNK_BYTES: Final = 1 << 20
LAST_BYTES_S: Final = 5.0  # for a host to take the last of what its server said


class RunningLease(Protocol):
    """A lease whose RPC server runs."""

    @property
    def grant(self) -> LendGrant: ...

    def news(self) -> AsyncGenerator[LendNews]:
        """What the host is to hear, until the lease is over."""
        ...


class ReservedLease(Protocol):
    """A lease whose memory is counted."""

    def running(self) -> AbstractAsyncContextManager[RunningLease]:
        """Its server, while the block runs. Raises EngineFailed."""
        ...


class Lender(Protocol):
    """Lends this node's memory."""

    def lend(self, guest: str, request: LendRequest) -> AbstractContextManager[ReservedLease]:
        """A lease for the member `guest`, counted while the block runs.

        Raises Forbidden with a code of `federation/lending.py` where there is none.
        """
        ...

    def connected(self, guest: str, lease: str) -> AbstractAsyncContextManager[socket.socket]:
        """A connection to the server of that lease, which the block takes over, and is counted as long as it runs.

        Raises Forbidden for another's lease, for none, and for more connections than one has; EngineFailed.
        """
        ...


LENDER: web.AppKey[Callable[[], Lender | None]] = web.AppKey("lender")  # None: this node lends nothing


class PeerLendBody(RootModel[LendRequest | MeasureRequest]):
    """`POST /federation/v1/lend`."""


async def lend(request: web.Request) -> web.StreamResponse:
    """A lease, a stream of bytes for one, or bytes to measure the way here by."""
    lender, guest = request.app[LENDER](), request.get(MEMBER)
    if guest is None:
        raise Forbidden("memory is lent to members of a paired swarm only", "not_a_member")
    if lender is None:
        raise Forbidden("this node lends no memory: start it with --lend", NOT_LENDING)
    takes_work(request.app)
    if "Upgrade" in request.headers:
        return await stream_of_bytes(request, lender, guest)
    asked = (await read_body(request, PeerLendBody)).root
    if isinstance(asked, MeasureRequest):
        return await measured(request, asked.measure)
    return await lease(request, lender, guest, asked)


async def lease(request: web.Request, lender: Lender, guest: str, asked: LendRequest) -> web.StreamResponse:
    """Everything that this lease is, as lines, until either end ends it."""
    pacing = request.app[PACING]
    with lender.lend(guest, asked) as reserved:  # refused here, while there is still a status for it
        _give_up_on_silence(request.transport)
        async with open_stream(request, NDJSON, {}, pacing.peer_beat_s, pacing.stalled_s) as out:
            await out.beat()  # an RPC server takes seconds where a GPU wakes up
            try:
                async with reserved.running() as running:
                    await out.write(line_of(running.grant))
                    async with aclosing(running.news()) as told:
                        async for news in told:
                            await out.write(line_of(news))
            except EngineFailed as error:
                await out.write(line_of(LendNews(ended=str(error)[:MAX_REASON_CHARS], code=SERVER_ENDED)))
    return out.response


def line_of(message: WireModel) -> bytes:
    """As JSON, with its end."""
    return message.model_dump_json(exclude_none=True).encode() + b"\n"


class _Switched(web.StreamResponse):
    """The answer after which the connection is no HTTP any more."""

    def __init__(self) -> None:
        super().__init__(status=101, headers={"Connection": "Upgrade", "Upgrade": UPGRADE})
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing ends a stream of bytes but its connection."""
        del data
        self._eof_sent = True


async def stream_of_bytes(request: web.Request, lender: Lender, guest: str) -> web.StreamResponse:
    """Join the request's connection with one to the lease's RPC server, until either ends."""
    if request.headers["Upgrade"].lower() != UPGRADE:
        raise BadRequest(f"Upgrade is {request.headers['Upgrade'][:40]!r}: what is served here is {UPGRADE}")
    transport = request.transport
    if not isinstance(transport, asyncio.Transport):
        raise ConnectionResetError("it left before its turn")
    async with lender.connected(guest, request.headers.get(wire.LEASE_HEADER, "")) as connection:
        return await joined(request, transport, connection)


async def joined(request: web.Request, transport: asyncio.Transport, connection: socket.socket) -> web.StreamResponse:
    """The request's connection and that to the RPC server as one, until either ends."""
    _give_up_on_silence(transport)
    server_lost = asyncio.Event()
    host, server = spliced(lambda: None, server_lost.set)
    # The server of HTTP hears of its connection from here on by this alone, and ends this request then.
    host.when_lost(partial(request.protocol.connection_lost, None))
    host.take(transport)
    response = _Switched()
    try:
        try:
            await response.prepare(request)
            await asyncio.get_running_loop().create_connection(lambda: server, sock=connection)
        except BaseException:
            connection.close()
            raise
        await server_lost.wait()
        await asyncio.sleep(LAST_BYTES_S)  # until the host has taken what had come, which cancels this
    finally:
        host.abort()
        server.abort()
    return response


async def measured(request: web.Request, size_bytes: int) -> web.StreamResponse:
    """So many bytes that nothing on the way can make fewer of, after a moment of HTTP."""
    response = web.StreamResponse()
    response.content_type = "application/octet-stream"
    response.content_length = size_bytes
    await response.prepare(request)
    chunk = bytes(min(CHUNK_BYTES, size_bytes))  # TLS encrypts them, so that zeros are as good as any
    for sent in range(0, size_bytes, len(chunk)):
        await response.write(chunk[: size_bytes - sent])
    await response.write_eof()
    return response


def _give_up_on_silence(transport: asyncio.BaseTransport | None) -> None:
    """Have the system end a connection whose other end takes nothing any more, rather than in a quarter of an hour."""
    if sys.platform != "linux" or transport is None:
        return
    connection = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def routes() -> list[web.RouteDef]:
    """What members ask of lent memory."""
    return [web.post(wire.LEND_PATH, lend)]
