"""Who may ask this node what: plain decisions over a request's Host, Origin, key and where it comes from. No I/O.

What a request is after is the kind of its route: `ROUTES` has one entry each, a route that is in none keeps the node
from starting, and who may ask follows from the kind alone. `docs/trust.md` has who may do what in one table, which a
test makes by asking every route of running nodes.

**Host.** A web page may have its own name resolve to this machine (DNS rebinding) and would then be of the same origin
as the node. Its requests still carry that name in Host, so a node answers to no names but its own. An IP literal is
always fine: no name was resolved, so nothing was rebound; and behind a container's port or a router the literal that a
client used is none of this machine's.

**Origin.** Pages of other origins get nothing unless they are on the allow-list: no answer, and no work done either.

**Keys.** Once a key is configured every path needs one, but for health checks (supervisors have none) and the
documentation (a browser that opens it cannot send one, and it says the same on every node).

**Peers have no client key.** A key that all nodes shared would be one secret for two purposes: whoever may use the API
could pose as a node, and every node could use the API of all others. So nodes prove that they are members
(`PeerGate`) or nothing at all, and a node with a key takes the latter only where `--open-federation` says so: else
whoever reaches its port would have answers made at `/federation/v1` without the key. A page in a browser has no
business there, so any Origin is refused. What people read of the swarm, `/v1/federation/health` and `/metrics`, needs
the key. A node that is in no federation has no peers, so there the key guards the peers' paths too.

**Management** changes what the node does for everybody, so a client's key alone is not enough: it takes this machine
itself (and a key, where clients need one: a reverse proxy on this machine makes everybody come from it), or an admin
key. Never a page of another origin, allow-listed or not, and never another node: what members of a paired swarm may
change has routes of its own between nodes, and they do only where this node's owner lets them (`[peers] manage`).

**Tools** run programs on this machine, which no key of a swarm is for: without an API key they are for this machine
itself, with one for whoever has it. Never for a page of another origin, on the list or not, and never for another node.

**The owner** is whoever has the secret in the data directory: at the control endpoint, or by a session that a link of
`swarm page` opened (`page_access.py`). A session manages like an admin key, and alone may invite, join and revoke. It
counts from the node's own page and from programs; not from a page of another origin, nor from a node. What a browser
has changed of this carries the page's token, too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from federation import wire
from federation.hostport import unmapped
from swarm.errors import BadRequest, Forbidden, SetupError, Unauthorized

# Suffixes that nobody can register in the public DNS: what home routers, mDNS and private networks add to a host name.
PRIVATE_SUFFIXES = ("", ".local", ".lan", ".home", ".home.arpa", ".internal", ".localdomain")
# How containers and virtual machines call the machine they run on; nobody can register these either.
CONTAINER_HOST_NAMES = frozenset({"host.docker.internal", "host.containers.internal", "host.lima.internal"})
MAX_KEY_CHARS = 512  # API keys have 20 to 200
MAX_SHOWN_CHARS = 80  # of a refused Host or Origin, in the error: enough to recognise it
MAX_ALLOWED_HEADERS = 48  # named by one preflight; the OpenAI SDK sends 12
# What proxies add. Who comes through one comes from somewhere else, whatever the address of the proxy is.
PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"})
PROXY_PREFIX = "x-forwarded-"
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[0-9A-Za-z._-]{1,32})?\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#\s@,*]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY_CHARS}}}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")


class RouteKind(StrEnum):
    """In the order of the table in `docs/trust.md`."""

    HEALTH = "health"
    DOCUMENTATION = "documentation"
    PAGE = "the page's rights"
    API = "API"
    STATUS = "status"
    TOOLS = "tools"
    NODES = "what nodes ask"
    FILES = "model files"
    LENDING = "lent memory"
    MEMBERS = "what members manage"
    MANAGEMENT = "management"
    TRUST = "trust"


BETWEEN_NODES: Final = frozenset({RouteKind.NODES, RouteKind.FILES, RouteKind.LENDING, RouteKind.MEMBERS})
VOTES_PATH: Final = "/swarm/v1/votes"
PERFORMANCE_PATH: Final = "/swarm/v1/performance"
USAGE_PATH: Final = "/swarm/v1/usage"
LOGS_PATH: Final = "/swarm/v1/logs"
REQUESTS_PATH: Final = "/swarm/v1/requests"  # a prefix of our own, for what no other server has a name for
PAGE_PATH: Final = "/swarm/v1/page"
TRUST_PATH: Final = "/swarm/v1/trust"
STORED_PATH: Final = "/swarm/v1/models"
PULLS_PATH: Final = "/swarm/v1/pulls"
TOOLS_PATH: Final = "/v1/tools"
MCP_PATH: Final = "/mcp"  # where clients of the Model Context Protocol expect a server of its
PAGE_HEADER: Final = "X-Swarm-Page"  # the page's token
OWNER_HEADER: Final = "X-Swarm-Owner"  # a session of the owner's
_WITHOUT_VERSION: Final = "/v1"  # each path under it is served without it, too

ROUTES: Final[Mapping[RouteKind, tuple[str, ...]]] = {
    RouteKind.HEALTH: ("GET /livez", "GET /readyz", "GET /health", "GET /v1/health"),
    RouteKind.DOCUMENTATION: ("GET /", "GET /openapi.json", "GET /docs", "GET /docs/{name}", "GET /page/{path}"),
    RouteKind.PAGE: (f"GET {PAGE_PATH}", f"POST {PAGE_PATH}/owner", f"POST {PAGE_PATH}/owner/end"),
    RouteKind.API: (
        "POST /v1/chat/completions", "POST /v1/chat/completions/input_tokens", "POST /v1/completions",
        "POST /v1/completion", "POST /v1/embedding", "POST /v1/responses", "POST /v1/messages",
        "POST /v1/messages/count_tokens", "POST /v1/embeddings", "POST /v1/infill", "POST /v1/tokenize",
        "POST /v1/detokenize", "POST /v1/apply-template", "POST /v1/rerank", "POST /v1/reranking",
        "GET /v1/models", "GET /v1/models/{id}", "GET /v1/props", "POST /v1/props",
        "POST /api/chat", "POST /api/generate", "POST /api/embed", "POST /api/embeddings", "GET /api/tags",
        "POST /api/show", "GET /api/ps", "GET /api/version", "POST /api/create", "POST /api/push",
        "POST /api/blobs/{digest}", "GET /api/blobs/{digest}",
        "GET /v1/lora-adapters", "POST /v1/lora-adapters", "POST /v1/slots/{slot}", "GET /api/v0/{path}",
        "POST /api/v0/{path}", "POST /v1/audio/{path}", "POST /v1/images/{path}",
    ),
    RouteKind.STATUS: (
        "GET /metrics", "GET /v1/federation/health", "GET /v1/events", "GET /v1/slots",
        f"GET {VOTES_PATH}", f"GET {VOTES_PATH}/{{id}}", f"GET {PERFORMANCE_PATH}",
    ),
    RouteKind.TOOLS: (f"GET {TOOLS_PATH}", f"POST {TOOLS_PATH}/execute", f"POST {MCP_PATH}"),
    RouteKind.NODES: (
        f"GET {wire.NODE_PATH}", f"GET {wire.PEERS_PATH}", f"POST {wire.GOODBYE_PATH}", f"POST {wire.ROSTER_PATH}",
        f"POST {wire.CANDIDATES_PATH}", f"POST {wire.GENERATE_PATH}", f"POST {wire.UTILITIES_PATH}/{{name}}",
        f"GET {wire.LOADABLE_PATH}", f"GET {wire.STATE_PATH}", f"POST {wire.LOAD_PATH}",
    ),
    RouteKind.FILES: (
        f"GET {wire.MODELS_PATH}", f"GET {wire.MODELS_PATH}/{{sha256}}",
        f"GET {wire.MODELS_PATH}/{{sha256}}{wire.PIECES_SUFFIX}",
    ),
    RouteKind.LENDING: (f"POST {wire.LEND_PATH}",),
    RouteKind.MEMBERS: (f"POST {wire.UNLOAD_PATH}", f"POST {wire.PIN_PATH}", f"POST {wire.PULL_PATH}"),
    RouteKind.MANAGEMENT: (
        f"GET {REQUESTS_PATH}", f"POST {REQUESTS_PATH}/{{id}}/cancel", f"GET {USAGE_PATH}", f"GET {LOGS_PATH}",
        "POST /v1/models/load", "POST /v1/models/unload", "POST /v1/models/pin",
        f"GET {STORED_PATH}", f"GET {PULLS_PATH}", f"POST {PULLS_PATH}", f"POST {PULLS_PATH}/{{id}}/cancel",
        "POST /api/pull", "POST /api/copy", "DELETE /api/delete",
    ),
    RouteKind.TRUST: (
        f"GET {TRUST_PATH}/peers", f"POST {TRUST_PATH}/invite", f"POST {TRUST_PATH}/join",
        f"POST {TRUST_PATH}/revoke", f"POST {TRUST_PATH}/withdraw",
    ),
}  # fmt: skip

_KINDS: Final = {route: kind for kind, routes in ROUTES.items() for route in routes}


ABOUT_THE_NODE: Final = frozenset({RouteKind.PAGE, RouteKind.MANAGEMENT, RouteKind.TRUST})
"""What is asked of the node itself, not of what it serves: never turned away for want of room, and not in progress."""
OWN_ORIGIN_ONLY: Final = ABOUT_THE_NODE | {RouteKind.TOOLS}
"""What no page of another origin may ask, on the allow-list or not."""


def kind_of(method: str, path: str) -> RouteKind | None:
    """The kind of the route with this pattern; None where it is in no row. HEAD is as good as GET."""
    asked = "GET" if method == "HEAD" else method
    return _KINDS.get(f"{asked} {path}") or _KINDS.get(f"{asked} {_WITHOUT_VERSION}{path}")


def is_between_nodes(path: str) -> bool:
    """Whether only nodes have business there, route or no route."""
    return path == wire.PREFIX or path.startswith(wire.PREFIX + "/")


PeersAccess = Literal["none", "members", "anyone", "nobody"]
"""Who may ask as a node. `none`: this node is in no federation; `nobody`: it has a key, and no members."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use on this node; None: as much as it likes. A day is one of UTC."""

    requests_a_minute: int | None = None
    tokens_a_day: int | None = None


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Who a key was given to: the name, which may be shown, and what the key may use."""

    name: str
    limits: KeyLimits = field(default_factory=KeyLimits)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What a node allows beyond the defaults. Of keys only digests are kept, and no log and no traceback shows them.

    `key_holders` and `admin_holders` are those of the digests, in the same order; whoever is not named there is called
    by the key's place.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    key_digests: tuple[bytes, ...] = field(default=(), repr=False)  # a short key can be guessed from its digest
    admin_digests: tuple[bytes, ...] = field(default=(), repr=False)  # as good as a client's key, too
    key_holders: tuple[KeyHolder, ...] = ()
    admin_holders: tuple[KeyHolder, ...] = ()
    federated: bool = True
    open_federation: bool = False  # with a key: nodes that are not members may ask all the same
    members_manage: bool = False  # members of the paired swarm may have models unloaded, pinned and copied here

    @property
    def wants_key(self) -> bool:
        return bool(self.key_digests)

    def holders(self) -> tuple[KeyHolder, ...]:
        """Those of all keys: clients' first, then those who manage the node."""
        clients = [*self.key_holders[: len(self.key_digests)]]
        clients += [KeyHolder(key_name(place)) for place in range(len(clients) + 1, len(self.key_digests) + 1)]
        admins = [*self.admin_holders[: len(self.admin_digests)]]
        admins += [KeyHolder(admin_name(place)) for place in range(len(admins) + 1, len(self.admin_digests) + 1)]
        return (*clients, *admins)

    @property
    def members_only(self) -> bool:
        """Whether nobody may ask as a node without being a member, not even where this node has no members."""
        return self.federated and self.wants_key and not self.open_federation

    def peers(self, mode: Literal["open", "paired"]) -> PeersAccess:
        """Who may ask as a node while this one is open, or paired."""
        if not self.federated:
            return "none"
        if mode == "paired":
            return "members"
        return "nobody" if self.members_only else "anyone"


@dataclass(frozen=True, slots=True)
class Caller:
    """What the rules look at in one request. `path` is that of the route, or as asked where there is no route.

    `from_loopback`: from this machine itself, and through no proxy. `is_node`: it says that it is, or is proved to be.
    `has_session`: it sends a session of the owner's that is good where it comes from; `has_token`: the page's token.
    """

    method: str
    path: str
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    fetch_site: str = ""
    fetch_mode: str = ""
    keys: Sequence[str] = ()
    from_loopback: bool = False
    is_node: bool = False
    has_session: bool = False
    has_token: bool = False

    @property
    def own_origin(self) -> bool:
        """Whether it is no page's request, or one of the node's own page, directly or behind a proxy that adds TLS."""
        if not self.origins:
            return True
        match = _ORIGIN.fullmatch(self.origins[0].lower())
        return (
            len(self.origins) == 1
            and match is not None
            and match["scheme"] in _DEFAULT_PORTS
            and [match["authority"]] == [*map(str.lower, self.hosts)]
        )

    @property
    def is_owner(self) -> bool:
        """Whether its session counts: from another origin and from a node none does."""
        return self.has_session and self.own_origin and not self.is_node

    @property
    def from_browser(self) -> bool:
        """Whether a browser sent it: those say from where."""
        return bool(self.origins or self.fetch_site)

    @property
    def kind(self) -> RouteKind:
        """What is asked for. Where there is no such route, only those who may use the API are told so."""
        return kind_of(self.method, self.path) or (RouteKind.NODES if is_between_nodes(self.path) else RouteKind.API)


# Making rules from settings


def machine_names(host_name: str, node_name: str) -> frozenset[str]:
    """How this machine is called: its host name, whole and short, and the node's, also with private suffixes."""
    labels = {host_name.lower(), host_name.lower().partition(".")[0], node_name.lower(), in_dns(node_name)} - {""}
    return frozenset(label + suffix for label in labels for suffix in PRIVATE_SUFFIXES)


def in_dns(name: str) -> str:
    """The name as browsers send it where it has other letters than ASCII's (`xn--...`); "" for what DNS cannot have."""
    try:
        return name.lower().encode("idna").decode()
    except UnicodeError:
        return ""


def allowed_host(text: str) -> str:
    """A name from --allow-host. Raises SetupError for what no Host header can be."""
    name = text.strip().lower().rstrip(".")
    if not _NAME.fullmatch(name):
        raise SetupError(f"--allow-host {text!r} is not a host name: give it without scheme, port or wildcard")
    return name


def allowed_origin(text: str) -> str:
    """An origin from --allow-origin, as browsers write it. Raises SetupError for what matches none, or all."""
    origin = text.strip().lower().rstrip("/")
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        why = "name each origin" if origin == "*" else "give SCHEME://HOST[:PORT]"
        raise SetupError(f"--allow-origin {text!r}: {why}, such as http://localhost:3000 or app://obsidian.md")
    return origin.removesuffix(_DEFAULT_PORTS.get(match["scheme"], "/"))


def key_name(place: int) -> str:
    """What a client's key is called that was given no name. No name in a file has a space, so this is nobody else's."""
    return f"key {place}"


def admin_name(place: int) -> str:
    """What an admin key without a name is called."""
    return f"admin key {place}"


def is_key(text: str) -> bool:
    """Whether `text` can be sent as a key in a header: printable ASCII without spaces, not too long."""
    return _KEY.fullmatch(text) is not None


def digest(key: str) -> bytes:
    """What is kept of a key, and compared: of one length for all, so that comparing tells nothing of the key's."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


# Judging requests


def check_host(rules: AccessRules, hosts: Sequence[str]) -> None:
    """Raises Forbidden where the Host names another machine, BadRequest where it is none or several.

    None at all is no browser's request (HTTP/1.0 health checks), so nothing can be rebound.
    """
    if not hosts:
        return
    if len(hosts) > 1:
        raise BadRequest("the request has several Host headers: send one")
    match = _HOST.fullmatch(hosts[0])
    if match is None:
        raise BadRequest(f"the Host header {_shown(hosts[0])} is no host name or address")
    name = match["host"].lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or _is_ip(name.strip("[]")):
        return
    if name in rules.hosts or name in CONTAINER_HOST_NAMES:
        return
    raise Forbidden(
        f"this node does not go by the name {_shown(name)} (a guard against DNS rebinding): "
        f"use its IP address, or start it with --allow-host {_shown(name)}",
        "host_not_allowed",
    )


def check_origin(rules: AccessRules, caller: Caller) -> str | None:
    """The allow-listed origin that the request comes from, to be named in its answer; None for no or the node's own.

    Raises Forbidden for pages of other origins, and for any page that asks what only peers ask.
    """
    if not caller.origins:
        _check_fetch_site(caller)
        return None
    origin = caller.origins[0].lower()
    if len(caller.origins) > 1:
        raise BadRequest("the request has several Origin headers: send one")
    if caller.kind in BETWEEN_NODES:
        raise Forbidden("only nodes may ask this, no web page", "origin_not_allowed")
    if origin in rules.origins and caller.kind not in OWN_ORIGIN_ONLY:
        return origin
    if caller.own_origin:
        return None
    if caller.kind in OWN_ORIGIN_ONLY:
        what = "use its tools" if caller.kind is RouteKind.TOOLS else "manage it"
        raise _foreign(_shown(origin), f"none but its own may {what}")
    raise _foreign(_shown(origin), f"start it with --allow-origin {_shown(origin)} if they may")


def check_caller(rules: AccessRules, caller: Caller) -> None:
    """Raises Forbidden or Unauthorized for who may not ask for what is of that kind. Members are judged elsewhere."""
    match caller.kind:
        case RouteKind.HEALTH | RouteKind.DOCUMENTATION | RouteKind.PAGE:
            return
        case RouteKind.NODES | RouteKind.FILES if rules.federated:
            check_node(rules)
        case RouteKind.LENDING:
            raise Forbidden(
                "memory is lent to members of a paired swarm only: `swarm invite` on one of the two and "
                "`swarm join CODE` on the other make them members",
                "not_a_member",
            )
        case RouteKind.MEMBERS:
            raise Forbidden(
                "a node's models are managed by members of its paired swarm only, where it has `[peers] manage = true`",
                "management_not_allowed",
            )
        case RouteKind.MANAGEMENT:
            check_management(rules, caller)
            check_token(caller)
        case RouteKind.TRUST:
            check_trust(caller)
            check_token(caller)
        case RouteKind.TOOLS:
            check_tools(rules, caller)
        case _:
            check_key(rules, caller)


def check_node(rules: AccessRules) -> None:
    """Whether one that is not a member may ask as a node. Raises Forbidden with the code that nodes understand."""
    if rules.members_only:
        raise Forbidden(
            "that node has an API key and talks to members of its swarm only: "
            "`swarm invite` there, then `swarm join CODE` here, makes this node one",
            wire.MEMBERS_ONLY,
        )


def check_management(rules: AccessRules, caller: Caller) -> None:
    """Raises Forbidden or Unauthorized for who may not manage this node. Its Origin has been looked at already."""
    if caller.is_node:
        raise Forbidden("no node manages another", "management_not_allowed")
    if not caller.own_origin:  # where something of a route is for managers only, its Origin may be on the allow-list
        raise _foreign("another origin", "none but its own may manage it")
    if caller.is_owner or any_known(rules.admin_digests, caller.keys):
        return
    if caller.from_loopback:
        check_key(rules, caller)
        return
    rule = (
        "this is asked on the node's own machine (not through a proxy), on its page that a link of `swarm page` "
        "opened, or with an admin key"
    )
    if rules.admin_digests and not any_known(rules.key_digests, caller.keys):
        raise Unauthorized(f"{rule}: see --admin-key-file where the node was started", given=bool(caller.keys))
    remedy = "this key is a client's" if rules.admin_digests else "start the node with --admin-key-file to have one"
    raise Forbidden(f"{rule}: {remedy}", "management_not_allowed")


def check_trust(caller: Caller) -> None:
    """Raises Forbidden for who may not say who belongs to the swarm: the owner alone. Its Origin has been looked at."""
    if not caller.is_owner:
        raise Forbidden(
            "who is a member is the owner's to say: `swarm page` on the node's machine prints a link that opens its "
            "page for that (once); `swarm invite`, `join` and `revoke` there do it, too",
            "trust_not_here",
        )


def check_tools(rules: AccessRules, caller: Caller) -> None:
    """Raises Forbidden or Unauthorized for who may not have tools executed here. Its Origin has been looked at.

    With a key it takes the key, from wherever; without one this machine itself: a node that listens beyond it does not
    start with tools and no key, and this holds where that was not asked.
    """
    if caller.is_node:
        raise Forbidden("no node has another's tools executed: a client or an agent does", "tools_not_allowed")
    check_key(rules, caller)
    if not (rules.wants_key or caller.from_loopback or caller.is_owner):
        raise Forbidden(
            "tools are executed for this machine only (not through a proxy) while the node has no API key: "
            "start it with --api-key-file, and send the key",
            "tools_not_allowed",
        )


def check_token(caller: Caller) -> None:
    """Raises Forbidden for a browser's request that changes something and does not carry the page's token."""
    if caller.method in ("GET", "HEAD", "OPTIONS") or not caller.from_browser or caller.has_token:
        return
    raise Forbidden(
        f"a page that changes something of this node sends the token of GET {PAGE_PATH} as {PAGE_HEADER} (a guard "
        "against CSRF); it is another one after the node was started again: load the page anew",
        "page_token_missing",
    )


def check_member(rules: AccessRules, caller: Caller) -> None:
    """Raises Forbidden for a member, proved by its certificate, that asks for anything but what nodes ask.

    And for what only those may ask that this node lets manage its models.
    """
    if caller.kind not in BETWEEN_NODES:
        raise Forbidden("members ask for what is between nodes only", "not_for_members")
    if caller.kind is RouteKind.MEMBERS and not rules.members_manage:
        raise Forbidden(
            "that node's models are not managed by other nodes: `[peers] manage = true` in its configuration allows it",
            "management_not_allowed",
        )


def check_key(rules: AccessRules, caller: Caller) -> None:
    """Raises Unauthorized where a key is wanted and none given is right. An admin key is, and an owner's session."""
    if not rules.wants_key or caller.is_owner:
        return
    if not caller.keys:
        raise Unauthorized(
            "this node wants an API key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`", given=False
        )
    if not any_known((*rules.key_digests, *rules.admin_digests), caller.keys):
        raise Unauthorized("this node does not know that API key: see --api-key where it was started", given=True)


def comes_from_loopback(remote: str | None, headers: Iterable[str]) -> bool:
    """Whether a connection from `remote` is from this machine; not where a header says that somebody passes it on."""
    if remote is None or any(_is_proxys(name.lower()) for name in headers):
        return False
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return False
    return unmapped(address).is_loopback


def any_known(digests: Iterable[bytes], keys: Iterable[str]) -> bool:
    """Whether one of `keys` is known, in a time that depends on how many there are and on nothing else."""
    known = False
    given = [digest(key) for key in keys]
    for wanted in digests:
        for candidate in given:
            known |= hmac.compare_digest(wanted, candidate)
    return known


def holder_place(rules: AccessRules, keys: Iterable[str]) -> int | None:
    """The place among all keys, clients' and then admins', of the first of `keys` that is known; None: none is.

    Takes a time that depends on how many there are and on nothing else.
    """
    found: int | None = None
    for key in keys:
        given, place_of_this = digest(key), None
        for place, wanted in enumerate((*rules.key_digests, *rules.admin_digests)):
            if hmac.compare_digest(wanted, given):
                place_of_this = place
        if found is None:
            found = place_of_this
    return found


def given_keys(authorizations: Iterable[str], api_keys: Iterable[str]) -> tuple[str, ...]:
    """The keys in a request's `Authorization: Bearer` and `x-api-key` headers; SDKs send either, and some both."""
    split = [value.strip().partition(" ") for value in authorizations]
    bearers = (key.strip() for scheme, _, key in split if scheme.lower() == "bearer")
    return tuple(key for key in (*bearers, *(key.strip() for key in api_keys)) if key)


def preflight_headers(methods: Iterable[str], asked: Mapping[str, str]) -> dict[str, str]:
    """The permission for a request that an allow-listed page asks about. `asked` are the preflight's own headers.

    Credentials are never allowed: a key travels in a header that the page itself sets, and there are no cookies.
    """
    names = [name.strip() for name in asked.get("Access-Control-Request-Headers", "").split(",")]
    wanted = [name for name in names[:MAX_ALLOWED_HEADERS] if _TOKEN.fullmatch(name)]
    allowed = {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": ", ".join(wanted),
        "Access-Control-Max-Age": "600",  # long enough for a conversation, short enough to revoke
    }
    if asked.get("Access-Control-Request-Private-Network") == "true":
        allowed["Access-Control-Allow-Private-Network"] = "true"
    return {name: value for name, value in allowed.items() if value}


def _check_fetch_site(caller: Caller) -> None:
    """Browsers leave Origin out where a page embeds something (an image, a script), and say so in Sec-Fetch-Site."""
    if caller.fetch_site not in ("cross-site", "same-site"):
        return
    follows_a_link = caller.fetch_mode == "navigate" and caller.method in ("GET", "HEAD")
    if follows_a_link and caller.kind not in BETWEEN_NODES | OWN_ORIGIN_ONLY:
        return  # a person did; the page that the link is on sees nothing of the answer
    raise _foreign("another site", "ask it by fetch() from an origin that --allow-origin names")


def _foreign(who: str, remedy: str) -> Forbidden:
    return Forbidden(f"this node does not answer web pages of {who}: {remedy}", "origin_not_allowed")


def _is_proxys(header: str) -> bool:
    return header in PROXY_HEADERS or header.startswith(PROXY_PREFIX)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return repr(text[:MAX_SHOWN_CHARS])
