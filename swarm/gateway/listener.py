"""One port for clients and nodes: what begins like TLS goes to a TLS server, everything else is plain HTTP.

The first byte tells them apart: a TLS connection begins with 22, the record type of a handshake, which no HTTP method
does. So a node has one address whether it is open or paired, for `--peer`, mDNS and firewalls alike.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.tls import is_encrypted, member_of
from federation.trust import Trust

TLS_HANDSHAKE: Final = b"\x16"
FIRST_BYTE_S: Final = 15.0  # clients that connect early speak within seconds; the same as an idle connection gets
HANDSHAKE_S: Final = 5.0  # two round trips
MAX_UNDECIDED: Final = 1024  # connections that have said nothing yet; beyond that the oldest makes way
MAX_CONNECTIONS: Final = 4096  # of HTTP, idle ones too: half of the open files that a node asks for, ten KB each
ACCEPTS_IN_A_ROW: Final = 64  # then the event loop gets its turn
RETRY_ACCEPT_S: Final = 1.0  # when file descriptors or memory are short, as asyncio does
MAX_REFUSED_HOSTS: Final = 256  # whose refusal is remembered, so that it is logged once

log = logging.getLogger(__name__)


@asynccontextmanager
async def shared_port(runner: web.AppRunner, listeners: Iterable[socket.socket], trust: Trust) -> AsyncGenerator[None]:
    """Serve the runner's application on `listeners`, to members over TLS too; when trust changes, cut who is out."""
    await runner.setup()
    server = runner.server
    assert server is not None, "setup makes it"
    trust.subscribe(lambda _: cut(server, trust.is_member))
    async with AsyncExitStack() as stack:
        for listener in listeners:
            port = SharedPort(server, listener, lambda: trust.server_context, trust.is_member)
            await stack.enter_async_context(port)
        yield


def cut(server: web.Server, is_member: Callable[[str | None], bool]) -> None:
    """Close every TLS connection of `server` whose other end is no member any more, whatever it is carrying."""
    for connection in server.connections:
        transport = connection.transport
        if transport is None or transport.is_closing():
            continue
        if is_encrypted(transport) and not is_member(member_of(transport)):
            transport.abort()


class ConnectionCap:
    """Keeps a server to MAX_CONNECTIONS by closing the oldest ones: idle ones now, busy ones after their answer.

    So whoever opens connections by the thousand crowds out itself first, and a newcomer is always served.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._leaving: dict[RequestHandler, asyncio.Task[None]] = {}

    def make_room(self) -> None:
        """For one more."""
        connections = self._server.connections  # in order of arrival
        excess = len(connections) - len(self._leaving) - MAX_CONNECTIONS + 1
        if excess > 0:  # several where many were accepted in a row
            for oldest in islice((known for known in connections if known not in self._leaving), excess):
                oldest.close()  # wakes an idle one up, for which `shutdown` would wait
                self._leaving[oldest] = leaving = asyncio.create_task(oldest.shutdown(None))
                leaving.add_done_callback(lambda _, left=oldest: self._leaving.pop(left, None))

    async def stop(self) -> None:
        """Leave all connections to the server's own end."""
        leaving = tuple(self._leaving.values())
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)


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
    ) -> None:
        self._server = server
        self._listener = listener
        self._tls = tls
        self._is_member = is_member
        self._undecided: dict[asyncio.Task[None], None] = {}  # in order of arrival
        self._refused: set[str] = set()
        self._cap = ConnectionCap(server)
        self._accepting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(), name="accept")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._accepting, *self._undecided) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cap.stop()
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        accepted = 0
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except ConnectionError:  # it left before its turn
                continue
            except OSError as error:
                log.error("cannot accept connections for a moment: %s", error.strerror)
                await asyncio.sleep(RETRY_ACCEPT_S)
                continue
            if len(self._undecided) >= MAX_UNDECIDED:
                oldest = next(iter(self._undecided))
                del self._undecided[oldest]  # or the next of a row of newcomers would find it again
                oldest.cancel()
            task = asyncio.create_task(self._hand_over(connection, str(address[0])))
            self._undecided[task] = None
            task.add_done_callback(partial(self._decided, connection))
            accepted += 1
            if accepted % ACCEPTS_IN_A_ROW == 0:
                await asyncio.sleep(0)

    def _decided(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._undecided.pop(task, None)
        if task.cancelled():  # perhaps before it began, when nobody else would close it
            connection.close()

    async def _hand_over(self, connection: socket.socket, host: str) -> None:
        connection.setblocking(False)
        try:
            async with asyncio.timeout(FIRST_BYTE_S):
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
        loop = asyncio.get_running_loop()
        timeout_s = None if context is None else HANDSHAKE_S
        try:
            transport, _ = await loop.connect_accepted_socket(
                self._server, connection, ssl=context, ssl_handshake_timeout=timeout_s
            )
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
