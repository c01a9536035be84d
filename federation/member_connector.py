"""Outgoing connections of a paired node: to members only, checked again on every use, cut when a pin is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp

from federation.errors import PeerUntrusted
from federation.tls import member_of
from federation.trust import Trust

if TYPE_CHECKING:
    from aiohttp.connector import Connection


@dataclass(slots=True)
class Answering:
    """Which member a request went to; None over plain HTTP."""

    node_id: str | None = None


_answering: ContextVar[Answering | None] = ContextVar("answering", default=None)


@contextmanager
def noting_who_answers() -> Generator[Answering]:
    """Requests made inside note in the value whose connection they used."""
    noted = Answering()
    token = _answering.set(noted)
    try:
        yield noted
    finally:
        _answering.reset(token)


class MemberConnector(aiohttp.TCPConnector):
    """A connection pool that lends a TLS connection only while its other end is a member."""

    def __init__(self, trust: Trust, keepalive_s: float) -> None:
        # No connection limit: probes must not queue behind long generations, which routing's admission bounds.
        super().__init__(limit=0, keepalive_timeout=keepalive_s)  # pyright: ignore[reportUnknownMemberType]
        self._trust = trust
        self._lent: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the base class's
    ) -> Connection:
        """As the base class; raises PeerUntrusted for a TLS connection whose certificate is not pinned (any more)."""
        connection = await super().connect(req, traces, timeout)
        if not req.is_ssl():
            return connection
        transport = connection.transport
        node_id = member_of(transport)
        if transport is None or not self._trust.is_member(node_id):
            connection.close()
            itself = node_id == self._trust.node_id
            raise PeerUntrusted(
                f"{req.url.authority} is {'this node itself' if itself else 'no member of this swarm any more'}"
            )
        self._lent.add(transport)
        if (noted := _answering.get()) is not None:
            noted.node_id = node_id
        return connection

    def cut_strangers(self) -> None:
        """Close what leads to nodes that are no members any more, whatever it is carrying."""
        for transport in tuple(self._lent):
            if transport.is_closing():
                continue
            if not self._trust.is_member(member_of(transport)) and isinstance(transport, asyncio.Transport):
                transport.abort()
