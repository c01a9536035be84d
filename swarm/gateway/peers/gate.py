"""Who may use the endpoints between nodes: anybody while this node is open, members over mutual TLS once it is paired.

The TLS handshake has let only pinned certificates in. Here the certificate is looked at again with every request, since
connections outlive what was true when they were made, and what it proves is held against what the request claims.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from federation import wire
from federation.tls import is_encrypted, member_of
from federation.trust import Trust
from swarm.errors import Forbidden
from swarm.gateway.http.errors import Handler
from swarm.gateway.http.route_kinds import is_between_nodes

MEMBER: Final = web.RequestKey("member", str)  # the node id that a caller's certificate proved


class PeerGate:
    """Goes inside the middleware that shapes errors, and outside the access rules, which do not concern members."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = request.path if resource is None else resource.canonical
        if is_encrypted(request.transport):
            node_id = member_of(request.transport)
            check_member(path, node_id, self._trust.is_member(node_id), request.headers.get(wire.FROM_HEADER))
            request[MEMBER] = node_id or ""
        elif self._trust.mode == "paired":
            check_stranger(path)
        return await handler(request)


def check_member(path: str, node_id: str | None, is_member: bool, claimed: str | None) -> None:
    """Raises Forbidden for what came over TLS and is no member's, not between nodes, or in another node's name."""
    if not is_member:
        raise Forbidden("this certificate is not, or no longer, that of a member of this swarm", "not_a_member")
    if not is_between_nodes(path):
        raise Forbidden(f"members ask for {wire.PREFIX} here; clients use plain HTTP", "not_for_members")
    if claimed is not None and claimed != node_id:
        raise Forbidden(f"{wire.FROM_HEADER} names another node than the certificate", "not_yourself")


def check_stranger(path: str) -> None:
    """Raises Forbidden for what came over plain HTTP and is between nodes. For a paired node only."""
    if is_between_nodes(path):
        raise Forbidden(
            "that node belongs to a paired swarm and talks to its members only: "
            "`swarm invite` there, then `swarm join CODE` here, makes this node one",
            wire.MEMBERS_ONLY,
        )
