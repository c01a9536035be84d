"""The access rules at work: every request is judged before its handler sees it, and every answer names allowed origins.

`PeerGate` decides who may use the endpoints between nodes: anybody while this node is open, members over mutual TLS
once it is paired. The TLS handshake has let only pinned certificates in. Here the certificate is looked at again with
every request, since connections outlive what was true when they were made, and what it proves is held against what the
request claims.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from federation import wire
from federation.tls import member_of
from federation.trust import Trust
from swarm.errors import Forbidden
from swarm.gateway.http.access import (
    OWN_ORIGIN_ONLY,
    OWNER_HEADER,
    PAGE_HEADER,
    AccessRules,
    Caller,
    KeyHolder,
    RouteKind,
    check_caller,
    check_host,
    check_member,
    check_origin,
    comes_from_loopback,
    given_keys,
    holder_place,
    is_between_nodes,
    kind_of,
    preflight_headers,
)
from swarm.gateway.http.page_access import PageAccess

MEMBER: Final = web.RequestKey("member", str)  # the node id that a caller's certificate proved
ACCESS = web.AppKey("access", AccessRules)
PAGE_ACCESS = web.AppKey("page_access", PageAccess)
CORS_ORIGIN = web.RequestKey("cors_origin", str)  # the allow-listed origin of a request, for its answer's headers
KEY_HOLDER = web.RequestKey("key_holder", KeyHolder)  # whose key a request that asks for work carries, if any
COUNTED = web.RequestKey("counted", bool)  # on a request that asks for work in a client's name
EXPOSED_HEADERS = (
    "X-Request-Id, X-Swarm-Node, X-Swarm-Votes, X-Swarm-Agreement, Retry-After, WWW-Authenticate, "
    "X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests, "
    "X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens"
)


class PeerGate:
    """Goes inside the middleware that shapes errors, and outside the access rules, which do not concern members."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = request.path if resource is None else resource.canonical
        if request.secure:
            node_id = member_of(request.transport)
            check_membership(path, node_id, self._trust.is_member(node_id), request.headers.get(wire.FROM_HEADER))
            request[MEMBER] = node_id or ""
        elif self._trust.mode == "paired":
            check_stranger(path)
        return await handler(request)


def check_membership(path: str, node_id: str | None, is_member: bool, claimed: str | None) -> None:
    """Raises Forbidden for what came over TLS and is not a member's, not between nodes, or in another node's name."""
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


class Gatekeeper:
    """Holds one node's rules. `middleware` goes inside the one that shapes errors; `name_origin` onto the signal."""

    def __init__(self, rules: AccessRules) -> None:
        self._rules = rules
        self._holders = rules.holders()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = caller_of(request)
        if MEMBER in request:  # its certificate says more than any header, and no browser has one
            check_member(self._rules, caller)
            return await handler(request)
        check_host(self._rules, caller.hosts)
        origin = check_origin(self._rules, caller)
        if origin is not None:
            request[CORS_ORIGIN] = origin
        methods = allowed_methods(request)
        if request.method == "OPTIONS" and methods is not None:
            return options(request, origin, methods)
        check_caller(self._rules, caller)
        if asks_for_work(self._rules, caller):
            request[COUNTED] = True
            place = holder_place(self._rules, caller.keys) if self._holders else None
            if place is not None:
                request[KEY_HOLDER] = self._holders[place]
        return await handler(request)

    async def name_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """For every answer, streams and errors too, just before its headers go out."""
        if not self._rules.origins:
            return
        response.headers["Vary"] = ", ".join(filter(None, (response.headers.get("Vary"), "Origin")))
        origin = request.get(CORS_ORIGIN)
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS


def guard(app: web.Application, rules: AccessRules, page_access: PageAccess) -> None:
    """Put `app` under `rules`. Call it after the middlewares that count requests and shape errors are in place."""
    app[ACCESS] = rules
    app[PAGE_ACCESS] = page_access
    gatekeeper = Gatekeeper(rules)
    app.middlewares.append(gatekeeper.middleware)
    app.on_response_prepare.append(gatekeeper.name_origin)


def caller_of(request: web.Request, manages: bool = False) -> Caller:
    """What the rules look at in `request`. `manages`: whatever its route, something of it is for managers only."""
    headers = request.headers
    resource = request.match_info.route.resource
    path = request.path if resource is None else resource.canonical
    session = headers.get(OWNER_HEADER, "")
    # Only for these it matters where somebody is.
    manages = manages or bool(session) or kind_of(request.method, path) in OWN_ORIGIN_ONLY
    from_loopback = manages and comes_from_loopback(request.remote, headers)
    token, page_access = headers.get(PAGE_HEADER, ""), request.app[PAGE_ACCESS]
    return Caller(
        method=request.method,
        path=path,
        hosts=headers.getall("Host", ()),
        origins=headers.getall("Origin", ()),
        fetch_site=headers.get("Sec-Fetch-Site", ""),
        fetch_mode=headers.get("Sec-Fetch-Mode", ""),
        keys=given_keys(headers.getall("Authorization", ()), headers.getall("x-api-key", ())),
        from_loopback=from_loopback,
        is_node=MEMBER in request or wire.FROM_HEADER in headers,
        has_session=bool(session) and page_access.is_session(session, from_loopback),
        has_token=bool(token) and page_access.is_token(token),
    )


def asks_for_work(rules: AccessRules, caller: Caller) -> bool:
    """Whether this is a client's request for work, by whichever of a node's paths: those are counted by key.

    Where a node is in no federation, what nodes ask is open to whoever has a key, and is work all the same.
    """
    kind = kind_of(caller.method, caller.path)
    works = kind in (RouteKind.API, RouteKind.TOOLS) or (kind is RouteKind.NODES and not rules.federated)
    return caller.method == "POST" and works


def every_route_has_a_kind(app: web.Application) -> None:
    """Raises LookupError for a route without a kind: who may ask it would be an accident."""
    for route in app.router.routes():
        if route.resource is not None and kind_of(route.method, route.resource.canonical) is None:
            raise LookupError(f"{route.method} {route.resource.canonical} has no kind: name it in `http/access.py`")


def allowed_methods(request: web.Request) -> list[str] | None:
    """What the path of an OPTIONS request takes; None where there is no such path, or it answers OPTIONS itself."""
    refusal = request.match_info.http_exception
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        return sorted({*refusal.allowed_methods, "OPTIONS"})
    return None


def options(request: web.Request, origin: str | None, methods: list[str]) -> web.Response:
    """An OPTIONS request needs no key: browsers send none with a preflight."""
    headers = {"Allow": ", ".join(methods)}
    if origin is not None and "Access-Control-Request-Method" in request.headers:
        headers |= preflight_headers(methods, request.headers)
    return web.Response(status=204, headers=headers)
