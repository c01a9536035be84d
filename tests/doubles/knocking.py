"""Clients that stop at any moment of their connection, and a listener that tells what became of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress


class RecordingListener(socket.socket):
    """A listening socket that keeps what it accepted, so that no garbage collector closes it."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.accepted: list[socket.socket] = []
        self.bind(("127.0.0.1", 0))
        self.listen(64)

    def accept(self) -> tuple[socket.socket, object]:
        connection, address = super().accept()
        self.accepted.append(connection)
        return connection, address

    def left_open(self) -> list[socket.socket]:
        return [connection for connection in self.accepted if connection.fileno() != -1]


def knock(number: int, said: bytes) -> socket.socket:
    """A connection that has said this before the event loop gets a turn."""
    connection = socket.create_connection(("127.0.0.1", number))
    connection.sendall(said)
    return connection


async def turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


class Handshake:
    """A TLS client step by step, which answers nothing after it."""

    def __init__(self, context: ssl.SSLContext, number: int) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.socket = knock(number, self._outgoing.read())
        self.socket.setblocking(False)

    async def finish(self) -> None:
        """Everything that the server needs is sent."""
        while True:
            self._incoming.write(await asyncio.get_running_loop().sock_recv(self.socket, 65536))
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                break
        self.socket.sendall(self._outgoing.read())
