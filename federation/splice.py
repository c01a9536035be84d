"""Two connections as one: what either receives the other writes, no faster than it can, and they end together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

HIGH_WATER_BYTES = 2**20  # written and not sent, before the other end is read no further: some milliseconds of a LAN


class SplicedEnd(asyncio.Protocol):
    """One of the two, made with `spliced`. `on_lost` is called when this end is lost, before the other is closed, and
    so is whatever was given to `when_lost`.

    It takes a transport by `connection_made`, from asyncio or from whoever has one (`take`). Until the other end has
    its own nothing is read.
    """

    def __init__(self, on_lost: Callable[[], None] = lambda: None) -> None:
        self._on_lost = [on_lost]
        self._other: SplicedEnd = self
        self._transport: asyncio.Transport | None = None
        self._is_lost = False

    def join(self, other: SplicedEnd) -> None:
        """Splice both; for one of them that is enough."""
        self._other, other._other = other, self

    def when_lost(self, tell: Callable[[], None]) -> None:
        self._on_lost.append(tell)

    def take(self, transport: asyncio.Transport) -> None:
        """Go on with a connection that another protocol began."""
        transport.set_protocol(self)
        self.connection_made(transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast("asyncio.Transport", transport)
        made.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if (connection := made.get_extra_info("socket")) is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a token is a dozen small messages
        if self._other._is_lost:
            made.close()
        elif self._other._transport is None or self._other is self:
            made.pause_reading()
        else:
            self._other._transport.resume_reading()
            made.resume_reading()

    def data_received(self, data: bytes) -> None:
        other = self._other._transport
        if other is not None:
            other.write(data)

    def eof_received(self) -> bool:
        return False  # neither end says more to one that has nothing to say

    def pause_writing(self) -> None:
        if self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other._transport is not None:
            self._other._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        for tell in self._on_lost:
            tell()
        self._other.close()

    def close(self) -> None:
        """What was received for this end is sent first, if whoever reads it takes it."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once. The other end follows."""
        if self._transport is not None:
            self._transport.abort()


def spliced(on_first_lost: Callable[[], None], on_second_lost: Callable[[], None]) -> tuple[SplicedEnd, SplicedEnd]:
    """Two ends that are joined."""
    first, second = SplicedEnd(on_first_lost), SplicedEnd(on_second_lost)
    first.join(second)
    return first, second
