"""The connections of the node's server: how many there may be, which are cut, and whether readers have all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from federation.tls import is_encrypted, member_of

MAX_CONNECTIONS: Final = 4096  # of HTTP, idle ones too: half of the open files that a node asks for, ten KB each
FLUSH_LOOK_S: Final = 0.01  # between two looks at what slow readers have not taken yet


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
    """Close every TLS connection of `server` whose other end is no member any more, whatever it is carrying."""
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
        leaving = tuple(self._leaving.values())
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
