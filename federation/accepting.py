"""Taking connections in so that each socket has one owner, at every moment, until it is closed.

asyncio's own ways lose some: `sock_accept` the one it has in hand when it is cancelled, a closed server those whose
handshake is under way.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

ACCEPTS_IN_A_ROW: Final = 64  # then the event loop gets its turn
RETRY_ACCEPT_S: Final = 1.0  # when file descriptors or memory are short, as asyncio does

_AnyProtocol = TypeVar("_AnyProtocol", bound=asyncio.BaseProtocol)

log = logging.getLogger(__name__)


class Acceptor:
    """Gives each connection to `take`, which owns it, with the host at the other end; from `start` to `stop`."""

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket, str], None]) -> None:
        self._listener = listener
        self._take = take
        self._is_open = False
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._listener.setblocking(False)
        self._is_open = True
        self._listen()

    def stop(self, leave_waiting: bool) -> None:
        """Close the listener. Those that wait are accepted, or left to the next process that listens there."""
        if not self._is_open:
            return
        self._is_open = False
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
        while not leave_waiting:
            try:
                connection, address = self._listener.accept()
            except OSError:  # nobody waits, or there are no descriptors left for them
                break
            self._take(connection, str(address[0]))
        self._listener.close()

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_IN_A_ROW):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it left before its turn
                continue
            except OSError as error:
                log.error("cannot accept connections for a moment: %s", error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                self._retry = loop.call_later(RETRY_ACCEPT_S, self._listen)
                return
            self._take(connection, str(address[0]))


async def connected(
    protocol: Callable[[], _AnyProtocol],
    connection: socket.socket,
    context: ssl.SSLContext | None,
    handshake_s: float,
) -> tuple[asyncio.Transport, _AnyProtocol]:
    """The transport that owns the connection from now on. Where it raises, cancelled or not, the connection is closed.

    Raises OSError, of which ssl.SSLError is one.
    """
    connecting = asyncio.create_task(
        asyncio.get_running_loop().connect_accepted_socket(
            protocol, connection, ssl=context, ssl_handshake_timeout=None if context is None else handshake_s
        )
    )
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        # Were `connecting` cancelled when the handshake is just done, asyncio would wait for the other end to agree to
        # the end of the encryption, and nobody would hold the transport. So it ends as if the other end had left.
        connecting.add_done_callback(_abort)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        await asyncio.wait([connecting])
        raise


def _abort(connecting: asyncio.Task[tuple[asyncio.Transport, _AnyProtocol]]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()
