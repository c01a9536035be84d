"""One port for clients and nodes: what begins like TLS goes to a TLS server, everything else is plain HTTP.

The first byte tells them apart: a TLS connection begins with 22, the record type of a handshake, which no HTTP method
does. So a node has one address whether it is open or paired, for `--peer`, mDNS, invitations and firewalls alike.

`shared_port` serves an application so. `ConnectionCap` bounds how many connections there may be; what the server logs
of bad requests, and sends of itself, is at the end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.log import server_logger
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from federation.accepting import Acceptor, connected
from federation.pairing_server import PairingServer
from federation.printable_text import clean_line
from federation.tasks import cancel_and_wait
from federation.tls import is_encrypted, member_of
from federation.trust import Trust
from federation.wire import MEMBERS_IDLE_S
from swarm.gateway.http.errors import EXPECTED, response_to_no_request

TLS_HANDSHAKE: Final = b"\x16"
HANDSHAKE_S: Final = 5.0  # two round trips
MAX_CONNECTIONS: Final = 4096  # of HTTP, idle ones too: half of the open files that a node asks for, ten KB each
MAX_TARGET_BYTES: Final = 8190  # of a request's address, query included
MAX_HEADER_BYTES: Final = 65_536  # of one: browsers send the cookies of everything that ever ran on localhost
MAX_HEADERS: Final = 64  # clients send up to 30
MAX_SHOWN_CHARS: Final = 200  # of what the parser says
FLUSH_LOOK_S: Final = 0.01  # between two looks at what slow readers have not taken yet
MAX_REFUSED_HOSTS: Final = 256  # whose refusal is remembered, so that it is logged once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLimits:
    """What a port bears of its clients; beyond `undecided` and `connections` the oldest makes way."""

    first_byte_s: float = 15.0  # clients that connect early speak within seconds; the same as an idle connection gets
    undecided: int = 1024  # connections that have sent nothing yet
    connections: int = MAX_CONNECTIONS


@asynccontextmanager
async def shared_port(
    runner: web.AppRunner,
    listeners: Iterable[socket.socket],
    trust: Trust,
    flush_s: float = 0.0,
    limits: PortLimits | None = None,
    pairing: PairingServer | None = None,
    plain: Iterable[socket.socket] = (),
) -> AsyncGenerator[tuple[SharedPort, ...]]:
    """Serve the runner's application on `listeners`, to members over TLS too; when trust changes, cut who is out.

    Whoever shows no certificate over TLS is given to `pairing` while that is open, and gets nothing else.
    On `plain` there is no TLS, neither for members nor for joiners, and who waits there waits for no other process.
    At the end readers get `flush_s` to take what was written, the runner is cleaned up and no connection is left.
    """
    ports: tuple[SharedPort, ...] = ()
    try:
        await runner.setup()
        server = runner.server
        assert server is not None, "setup makes it"
        trust.subscribe(lambda _: cut(server, trust.is_member))
        joiners = None if pairing is None else Joiners(pairing, lambda: trust.joining_context)
        cap = ConnectionCap(server, (limits or PortLimits()).connections)  # one, whatever address clients come to
        ports = tuple(
            SharedPort(server, listener, lambda: trust.server_context, trust.is_member, limits, joiners, cap)
            for listener in listeners
        ) + tuple(SharedPort(server, listener, None, limits=limits, cap=cap) for listener in plain)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(flushed, server, flush_s)
            for port in ports:
                await stack.enter_async_context(port)
            yield ports
    finally:
        await runner.cleanup()
        for port in ports:
            await port.cut()


@dataclass(frozen=True, slots=True)
class Joiners:
    """Who takes joiners while it is open, and the context for TLS connections then."""

    pairing: PairingServer
    tls: Callable[[], ssl.SSLContext | None]


class _Chosen(asyncio.Protocol):
    """Until the handshake is over nobody knows whose connection it is: then `choose` gives the protocol for it."""

    def __init__(self, choose: Callable[[asyncio.Transport], asyncio.BaseProtocol]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        protocol = self._choose(transport)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class SharedPort:
    """Accepts on `listener` from `__aenter__` to `__aexit__`, which leaves established connections to the server.

    `tls` gives the context for TLS connections at that moment; None hands them to HTTP, which does not understand them.
    Where `tls` itself is None, none is ever taken, and nobody is left waiting for a process that comes after this one.
    Whoever `is_member` does not know when the handshake is over is cut off: it began with the pins of before.
    """

    def __init__(
        self,
        server: web.Server,
        listener: socket.socket,
        tls: Callable[[], ssl.SSLContext | None] | None,
        is_member: Callable[[str | None], bool] = lambda _: True,
        limits: PortLimits | None = None,
        joiners: Joiners | None = None,
        cap: ConnectionCap | None = None,
    ) -> None:
        self._limits = limits or PortLimits()
        self._joiners = joiners
        self.server = server
        if not isinstance(server.request_factory, PutRight):  # several listeners may have one server
            server.request_factory = PutRight(server.request_factory)
        self._connection = partial(connection_of, server)
        self._of_member = partial(connection_of, server, MEMBERS_IDLE_S)
        self._acceptor = Acceptor(listener, self._take)
        self._tls = tls
        self._is_member = is_member
        self._undecided: dict[asyncio.Task[None], None] = {}  # in order of arrival
        self._leaving: set[asyncio.Task[None]] = set()  # those of them that made way
        self._served: WeakSet[asyncio.Transport] = WeakSet()
        self._refused: set[str] = set()
        self._cap = cap or ConnectionCap(server, self._limits.connections)

    async def __aenter__(self) -> Self:
        self._acceptor.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(leave_waiting=True)
        await cancel_and_wait(*self._undecided, *self._leaving)
        await self._cap.stop()

    async def cut(self) -> None:
        """Close every connection that is left, where the server has closed them and the other end is in no hurry.

        It may take its time to read the last words, or to agree that the encryption ends.
        """
        for transport in tuple(self._served):
            with suppress(AttributeError):  # asyncio's, where it has flushed what it had and closed by itself
                transport.abort()
        await asyncio.sleep(0)  # transports close their sockets on the loop's next turn

    async def stop(self, leave_waiting: bool = False) -> None:
        """Accept no more; those who are connected are served on.

        Closing the socket refuses those whom the system let wait, so they are taken in first. They are left waiting for
        a successor, where the socket outlives this process.
        """
        self._acceptor.stop(leave_waiting and self._tls is not None)

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
                raise ConnectionResetError("closed before it sent anything")
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):  # a timeout, or a client that left
                log.debug("a connection came to nothing: %s", error)
                return
            raise
        joiners = self._joiners if first == TLS_HANDSHAKE else None
        for_joiners = joiners.tls() if joiners is not None and joiners.pairing.is_open else None
        if joiners is not None and for_joiners is not None:
            choose = partial(self._member_or_joiner, joiners.pairing, host)
            await self._serve(connection, host, for_joiners, lambda: _Chosen(choose), self._is_known)
        else:
            context = self._tls() if self._tls is not None and first == TLS_HANDSHAKE else None
            protocol = self._connection if context is None else self._of_member
            await self._serve(connection, host, context, protocol, self._is_member)

    def _member_or_joiner(
        self, pairing: PairingServer, host: str, transport: asyncio.Transport
    ) -> asyncio.BaseProtocol:
        return pairing.take(transport, host) if member_of(transport) is None else self._of_member()

    def _is_known(self, node_id: str | None) -> bool:
        """Whether it is a member, or has been given to who takes joiners."""
        return node_id is None or self._is_member(node_id)

    async def _serve(
        self,
        connection: socket.socket,
        host: str,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.BaseProtocol],
        is_known: Callable[[str | None], bool],
    ) -> None:
        """Give the connection to `protocol`; a transport that cannot be made has closed it."""
        self._cap.make_room()
        try:
            transport, _ = await connected(protocol, connection, context, HANDSHAKE_S)
            self._served.add(transport)
            if context is not None and not is_known(member_of(transport)):
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
        log.log(level, "refused a connection from %s, which is not a member of this swarm (%s)", host, error.reason)


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


# The connections of the server


async def flushed(server: web.Server, timeout_s: float) -> bool:
    """Whether everything that was written to clients has left this process, which is waited for."""
    deadline = time.monotonic() + timeout_s
    while any(map(_holds_data, server.connections)):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(FLUSH_LOOK_S)
    return True


def _holds_data(connection: RequestHandler) -> bool:
    transport = connection.transport
    return isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size() > 0


def cut(server: web.Server, is_member: Callable[[str | None], bool]) -> None:
    """Close every TLS connection of `server` whose other end is not a member any more, whatever it is carrying."""
    for connection in server.connections:
        transport = connection.transport
        if transport is None or transport.is_closing():
            continue
        if is_encrypted(transport) and not is_member(member_of(transport)):
            transport.abort()


class ConnectionCap:
    """Keeps a server to `most` connections by closing the oldest ones: idle ones now, busy ones after their answer.

    So whoever opens connections by the thousand crowds out itself first, and a newcomer is always served.
    """

    def __init__(self, server: web.Server, most: int = MAX_CONNECTIONS) -> None:
        self._most = most
        self._server = server
        self._leaving: dict[RequestHandler, asyncio.Task[None]] = {}

    def make_room(self) -> None:
        """For one more."""
        connections = self._server.connections  # in order of arrival
        excess = len(connections) - len(self._leaving) - self._most + 1
        if excess > 0:  # several where many were accepted in a row
            for oldest in islice((known for known in connections if known not in self._leaving), excess):
                oldest.close()  # wakes an idle one up, for which `shutdown` would wait
                self._leaving[oldest] = leaving = asyncio.create_task(oldest.shutdown(None))
                leaving.add_done_callback(lambda _, left=oldest: self._leaving.pop(left, None))

    async def stop(self) -> None:
        """Leave all connections to the server's own end."""
        await cancel_and_wait(*self._leaving.values())


# Requests as they arrive, before any middleware


class ClientConnection(RequestHandler):
    """A connection of the server whose errors are ours, those below every middleware too."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is answered to what is no HTTP, or is more of it than is read; the connection ends with it."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        server_logger.debug("a request from %s that is none", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = response_to_no_request(*refusal_of(exc))
        response.force_close()
        return response


def refusal_of(error: HttpProcessingError) -> tuple[int, str, str]:
    """The status, code and words for what the parser of HTTP refuses."""
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_TARGET_BYTES:
            return 414, "uri_too_long", f"the request's address has more than {MAX_TARGET_BYTES} bytes"
        return 431, "headers_too_large", f"a header has more than {MAX_HEADER_BYTES} bytes: send fewer cookies"
    if "headers" in error.message and "many" in error.message.lower():
        return 431, "headers_too_large", f"the request has more than {MAX_HEADERS} headers"
    what = clean_line(error.message or type(error).__name__).rstrip(" ^")  # the parser points at the place
    return 400, "bad_http", f"this is no HTTP request that is understood here: {what[:MAX_SHOWN_CHARS]}"


def connection_of(server: web.Server, idle_s: float | None = None) -> ClientConnection:
    """A new connection of `server`: bodies are decoded by who reads them, where a failure has the API's shape.

    It is closed where no request comes for `idle_s`, None: for as long as the server says.
    """
    options: dict[str, Any] = {
        **server._kwargs,  # pyright: ignore[reportPrivateUsage] # what `AppRunner` was given for it
        **({} if idle_s is None else {"keepalive_timeout": idle_s}),
        "max_line_size": MAX_TARGET_BYTES,
        "max_field_size": MAX_HEADER_BYTES,
        "max_headers": MAX_HEADERS,
        "auto_decompress": False,
    }
    return ClientConnection(server, loop=asyncio.get_running_loop(), **options)


class PutRight:
    """Makes requests as `make` does, of messages whose path has no needless slashes and no Expect that nobody knows.

    Before anything looks at them: who may ask follows from the path, and so does the route.
    """

    def __init__(self, make: Callable[..., web.BaseRequest]) -> None:
        self._make = make

    def __call__(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        path = plain_path(message.path)
        if path != message.path:
            message = message._replace(path=path, url=URL(path, encoded=True))
        expected = message.headers.get("Expect", "")
        if not expected or expected.lower() == "100-continue":
            return self._make(message, *rest)
        headers = CIMultiDict(message.headers)
        headers.popall("Expect")
        request = self._make(message._replace(headers=CIMultiDictProxy(headers)), *rest)
        if isinstance(request, web.Request):
            request[EXPECTED] = expected
        return request


def plain_path(target: str) -> str:
    """A request's target without slashes that say nothing: `//v1/models/?a=b` is `/v1/models?a=b`."""
    path, mark, query = target.partition("?")
    if not path.startswith("/") or ("//" not in path and not path.endswith("/")):
        return target
    plain = "/" + "/".join(part for part in path.split("/") if part)
    return plain + mark + query


# What is sent to strangers, and what is logged of them


async def without_server_header(_: web.Request, response: web.StreamResponse) -> None:
    """A signal: no answer has a `Server` header. It tells strangers versions, and is a tenth of a probe's traffic."""
    response.headers.popall("Server", None)


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
