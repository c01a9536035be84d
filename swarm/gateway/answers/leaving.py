"""Whether a request may leave this node for its upstream."""

from __future__ import annotations

from aiohttp import web

from swarm.engines.upstream.client import VIA_HEADER
from swarm.routing.policy import VoteOptions


def may_leave(http: web.Request, options: VoteOptions | None = None) -> bool:
    """Not where its sender says so, nor where this node is itself another's upstream: it could go round for ever."""
    return VIA_HEADER not in http.headers and (options is None or options.upstream)
