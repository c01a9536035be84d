"""Where joiners connect: a port of its own, open only while an invitation is live, for one line each way.

It shows this node's certificate and asks for none, so it is kept apart from everything else this node serves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from pydantic import ValidationError

from federation.accepting import Acceptor, connected
from federation.invitation import MAX_REQUEST_BYTES, JoinReply, JoinRequest, PairingTiming
from federation.tasks import cancel_and_wait
from federation.wire import first_problem

MAX_CONNECTIONS: Final = 16  # one joiner needs one
MAX_JOINING: Final = 64  # beside those, some are in their handshake; whoever floods the port keeps joiners out anyway
HANDSHAKE_S: Final = 5.0

Redeem = Callable[[JoinRequest, str], Awaitable[JoinReply]]
"""Answers the request of a joiner at the IP address given."""
Bind = Callable[[Sequence[str], int], list[socket.socket]]
"""Listeners on these hosts, at the port given where it is free."""

log = logging.getLogger(__name__)


class PairingListener:
    """Listens between `open` and `close`; both may be called in any state. `hosts` are what the node listens on."""

    def __init__(
        self,
        hosts: Sequence[str],
        preferred_port: int,
        context: ssl.SSLContext,
        redeem: Redeem,
        *,
        exchange_s: float = PairingTiming().exchange_s,
        most_joining: int = MAX_JOINING,
        bind: Bind | None = None,
    ) -> None:
        self._hosts = tuple(hosts)
        self._preferred_port = preferred_port
        self._exchange_s = exchange_s
        self._most_joining = most_joining
        self._bind = bind or bind_all
        self._context = context
        self._redeem = redeem
        self._acceptors: list[Acceptor] = []
        self._port: int | None = None
        self._joining: set[asyncio.Task[None]] = set()
        self._exchanges = 0

    @property
    def port(self) -> int | None:
        """Where it listens now."""
        return self._port

    async def open(self) -> int:
        """Listen, if it does not yet; the port. Raises OSError."""
        if self._port is None:
            listeners = self._bind(self._hosts, self._preferred_port)
            self._acceptors = [Acceptor(listener, self._take) for listener in listeners]
            self._port = int(listeners[0].getsockname()[1])
            for acceptor in self._acceptors:
                acceptor.start()
        return self._port

    async def close(self, *, at_once: bool = False) -> None:
        """Stop listening; what is being answered gets its time, unless `at_once`."""
        self._port = None
        acceptors, self._acceptors = self._acceptors, []
        for acceptor in acceptors:
            acceptor.stop(leave_waiting=True)
        if at_once:
            await cancel_and_wait(*self._joining)
        elif self._joining:
            await asyncio.wait(tuple(self._joining))

    def _take(self, connection: socket.socket, host: str) -> None:
        if len(self._joining) >= self._most_joining:
            connection.close()
            return
        connection.setblocking(False)
        task = asyncio.create_task(self._serve(connection, host))
        self._joining.add(task)
        task.add_done_callback(partial(self._served, connection))

    def _served(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._joining.discard(task)
        if task.cancelled():  # perhaps before it began, when nobody else would close it
            connection.close()

    async def _serve(self, connection: socket.socket, host: str) -> None:
        reader = asyncio.StreamReader(limit=MAX_REQUEST_BYTES)
        try:
            transport, protocol = await connected(
                lambda: asyncio.StreamReaderProtocol(reader), connection, self._context, HANDSHAKE_S
            )
        except OSError as error:
            log.debug("a connection from %s to the pairing port came to nothing: %s", host, error)
            return
        try:
            if self._exchanges < MAX_CONNECTIONS:
                writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
                await self._exchange(reader, writer, host)
        finally:
            transport.abort()
            await asyncio.sleep(0)  # it closes its socket on the loop's next turn

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._exchanges += 1
        try:
            async with asyncio.timeout(self._exchange_s):
                reply = await self._reply(reader, host)
                writer.write(reply.model_dump_json().encode() + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except OSError as error:  # it left, or took too long
            log.debug("an exchange at the pairing port came to nothing: %s", error)
        finally:
            self._exchanges -= 1

    async def _reply(self, reader: asyncio.StreamReader, host: str) -> JoinReply:
        try:
            request = JoinRequest.model_validate_json(await reader.readuntil(b"\n"))
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            return JoinReply(refusal=f"a request is one line of at most {MAX_REQUEST_BYTES} bytes")
        except ValidationError as error:
            return JoinReply(refusal=f"not a request to join: {first_problem(error)}")
        return await self._redeem(request, host)


def bind_all(hosts: Sequence[str], preferred_port: int) -> list[socket.socket]:
    """Sockets on one port: the one next to the node's, which a person may have told a firewall of, else any.

    Raises OSError where the first host cannot be had.
    """
    try:
        first = _bind(hosts[0], preferred_port)
    except (OSError, OverflowError):
        first = _bind(hosts[0], 0)
    listeners = [first]
    for host in hosts[1:]:
        with suppress(OSError):  # one family is enough: the code names an address of each
            listeners.append(_bind(host, int(first.getsockname()[1])))
    return listeners


def _bind(host: str, port: int) -> socket.socket:
    is_ipv6 = ":" in host
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would take the port from whoever has it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(MAX_CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    return listener
