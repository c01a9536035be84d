"""Where joiners knock: a port of its own, open only while an invitation is live, for one exchange of one line each way.

It shows this node's certificate and asks for none, so it is kept apart from everything else this node serves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic import ValidationError

from federation.advertisement import first_problem
from federation.pairing import MAX_REQUEST_BYTES, JoinReply, JoinRequest

MAX_CONNECTIONS: Final = 16  # one joiner needs one
EXCHANGE_S: Final = 10.0  # for one connection, from the end of the handshake to the end of the answer
HANDSHAKE_S: Final = 5.0

Redeem = Callable[[JoinRequest, str], Awaitable[JoinReply]]
"""Answers the request of a joiner at the IP address given."""

log = logging.getLogger(__name__)


class PairingListener:
    """Listens between `open` and `close`; both may be called in any state. `host` is what the node listens on."""

    def __init__(self, host: str, preferred_port: int, context: ssl.SSLContext, redeem: Redeem) -> None:
        self._host = host
        self._preferred_port = preferred_port
        self._context = context
        self._redeem = redeem
        self._server: asyncio.Server | None = None
        self._exchanges: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int | None:
        """Where it listens now."""
        return None if self._server is None else int(self._server.sockets[0].getsockname()[1])

    async def open(self) -> int:
        """Listen, if it does not yet; the port. Raises OSError."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve,
                sock=_bind(self._host, self._preferred_port),
                backlog=MAX_CONNECTIONS,
                limit=MAX_REQUEST_BYTES,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self, *, at_once: bool = False) -> None:
        """Stop listening; what is being answered gets its time, unless `at_once`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._exchanges if at_once else ():
            task.cancel()
        if self._exchanges:
            await asyncio.wait(tuple(self._exchanges))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._exchanges) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._exchanges.add(task)
        try:
            async with asyncio.timeout(EXCHANGE_S):
                reply = await self._reply(reader, str(writer.get_extra_info("peername")[0]))
                writer.write(reply.model_dump_json().encode() + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except OSError as error:  # it left, or took too long
            log.debug("an exchange at the pairing port came to nothing: %s", error)
        finally:
            writer.transport.abort()
            self._exchanges.discard(task)

    async def _reply(self, reader: asyncio.StreamReader, host: str) -> JoinReply:
        try:
            request = JoinRequest.model_validate_json(await reader.readuntil(b"\n"))
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            return JoinReply(refusal=f"a request is one line of at most {MAX_REQUEST_BYTES} bytes")
        except ValidationError as error:
            return JoinReply(refusal=f"not a request to join: {first_problem(error)}")
        return await self._redeem(request, host)


def _bind(host: str, preferred_port: int) -> socket.socket:
    """On the port next to the node's, which a person may have told a firewall of; else on any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (preferred_port, 0):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except (OSError, OverflowError):
            listener.close()
            if port == 0:
                raise
        else:
            return listener
    raise AssertionError("port 0 is bound or raises")
