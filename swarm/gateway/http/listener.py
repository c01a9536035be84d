"""One port for clients and nodes: what begins like TLS goes to a TLS server, everything else is plain HTTP.

The first byte tells them apart: a TLS connection begins with 22, the record type of a handshake, which no HTTP method
does. So a node has one address whether it is open or paired, for `--peer`, mDNS and firewalls alike.

What the HTTP server logs of strangers' mistakes: a line for whoever debugs, and no traceback for everybody.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from federation.accepting import Acceptor, connected
from federation.tls import member_of
from federation.trust import Trust
from swarm.gateway.http.connections import MAX_CONNECTIONS, ConnectionCap, cut, flushed

TLS_HANDSHAKE: Final = b"\x16"
HANDSHAKE_S: Final = 5.0  # two round trips
MAX_REFUSED_HOSTS: Final = 256  # whose refusal is remembered, so that it is logged once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLimits:
    """What a port bears of its clients; beyond `undecided` and `connections` the oldest makes way."""

    first_byte_s: float = 15.0  # clients that connect early speak within seconds; the same as an idle connection gets
    undecided: int = 1024  # connections that have said nothing yet
    connections: int = MAX_CONNECTIONS


@asynccontextmanager
async def shared_port(
    runner: web.AppRunner,
    listeners: Iterable[socket.socket],
    trust: Trust,
    flush_s: float = 0.0,
    limits: PortLimits | None = None,
) -> AsyncGenerator[tuple[SharedPort, ...]]:
    """Serve the runner's application on `listeners`, to members over TLS too; when trust changes, cut who is out.

    At the end readers get `flush_s` to take what was written, the runner is cleaned up and no connection is left.
    """
    ports: tuple[SharedPort, ...] = ()
    try:
        await runner.setup()
        server = runner.server
        assert server is not None, "setup makes it"
        trust.subscribe(lambda _: cut(server, trust.is_member))
        ports = tuple(
            SharedPort(server, listener, lambda: trust.server_context, trust.is_member, limits)
            for listener in listeners
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(flushed, server, flush_s)
            for port in ports:
                await stack.enter_async_context(port)
            yield ports
    finally:
        await runner.cleanup()
        for port in ports:
            await port.cut()


class SharedPort:
    """Accepts on `listener` from `__aenter__` to `__aexit__`, which leaves established connections to the server.

    `tls` gives the context for TLS connections at that moment; None hands them to HTTP, which does not understand them.
    Whoever `is_member` does not know when the handshake is over is shown out: it began with the pins of before.
    """

    def __init__(
        self,
        server: web.Server,
        listener: socket.socket,
        tls: Callable[[], ssl.SSLContext | None],
        is_member: Callable[[str | None], bool] = lambda _: True,
        limits: PortLimits | None = None,
    ) -> None:
        self._limits = limits or PortLimits()
        self.server = server
        self._acceptor = Acceptor(listener, self._take)
        self._tls = tls
        self._is_member = is_member
        self._undecided: dict[asyncio.Task[None], None] = {}  # in order of arrival
        self._leaving: set[asyncio.Task[None]] = set()  # those of them that made way
        self._served: WeakSet[asyncio.Transport] = WeakSet()
        self._refused: set[str] = set()
        self._cap = ConnectionCap(server, self._limits.connections)

    async def __aenter__(self) -> Self:
        self._acceptor.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(leave_waiting=True)
        await _end(*self._undecided, *self._leaving)
        await self._cap.stop()

    async def cut(self) -> None:
        """Close every connection that is left, where the server has closed them and the other end is in no hurry.

        It may take its time to read the last words, or to agree that the encryption ends.
        """
        for transport in tuple(self._served):
            transport.abort()
        await asyncio.sleep(0)  # transports close their sockets on the loop's next turn

    async def stop(self, leave_waiting: bool = False) -> None:
        """Accept no more; those who are connected are served on.

        Closing the socket refuses those whom the system let wait, so they are taken in first. They are left waiting for
        an heir, where the socket outlives this process.
        """
        self._acceptor.stop(leave_waiting)

    def _take(self, connection: socket.socket, host: str) -> None:
        if len(self._undecided) >= self._limits.undecided:
            oldest = next(iter(self._undecided))
            del self._undecided[oldest]  # or the next of a row of newcomers would find it again
            self._leaving.add(oldest)
            oldest.cancel()
        task = asyncio.create_task(self._hand_over(connection, host))
        self._undecided[task] = None
        task.add_done_callback(partial(self._decided, connection))

    def _decided(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._undecided.pop(task, None)
        self._leaving.discard(task)
        if task.cancelled():  # perhaps before it began, when nobody else would close it
            connection.close()

    async def _hand_over(self, connection: socket.socket, host: str) -> None:
        connection.setblocking(False)
        try:
            async with asyncio.timeout(self._limits.first_byte_s):
                first = await _first_byte(connection)
            if not first:
                raise ConnectionResetError("closed before it said anything")
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):  # a timeout, or a client that left
                log.debug("a connection came to nothing: %s", error)
                return
            raise
        await self._serve(connection, host, self._tls() if first == TLS_HANDSHAKE else None)

    async def _serve(self, connection: socket.socket, host: str, context: ssl.SSLContext | None) -> None:
        """Give the connection to the server; a transport that cannot be made has closed it."""
        self._cap.make_room()
        try:
            transport, _ = await connected(self.server, connection, context, HANDSHAKE_S)
            self._served.add(transport)
            if context is not None and not self._is_member(member_of(transport)):
                transport.abort()
        except ssl.SSLError as error:
            self._note_refused(host, error)
        except OSError as error:
            log.debug("a connection from %s came to nothing: %s", host, error)

    def _note_refused(self, host: str, error: ssl.SSLError) -> None:
        """Say it once for each host: whoever is refused tries again for ever."""
        known = host in self._refused or len(self._refused) >= MAX_REFUSED_HOSTS
        if not known:
            self._refused.add(host)
        level = logging.DEBUG if known else logging.INFO
        log.log(level, "refused a connection from %s, which is no member of this swarm (%s)", host, error.reason)


async def _first_byte(connection: socket.socket) -> bytes:
    """The first byte, left where it is; b"" when the other end closed without one."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        readable = loop.create_future()
        loop.add_reader(connection, _set, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        if not task.cancelling():  # once is enough, and a second time would keep it from cleaning up
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class QuietAboutBadRequests(logging.Filter):
    """Anybody can send what is no HTTP, and leave in mid-request: as errors these would fill the log and its disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionResetError):
            return True
        if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return False
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return True


_QUIET = QuietAboutBadRequests()


def quiet_about_bad_requests() -> None:
    """For every HTTP server of this process; once is enough, and more does no harm."""
    server_logger.addFilter(_QUIET)
