"""The table in `docs/trust.md` that says who may do what, made by asking every route of running nodes.

`SWARM_WRITE_TABLES=1 pytest tests/trust/test_who_may_what.py` writes it anew.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from federation import wire
from federation.tls import client_context
from federation.trust import Trust
from swarm.control_messages import INVITE_PATH, JOIN_PATH, PEERS_PATH, REVOKE_PATH
from swarm.gateway.http.access import ROUTES, AccessRules, RouteKind, digest, kind_of
from swarm.gateway.http.access_middleware import every_route_has_a_kind
from tests.doubles.paired import open_trust, paired_trusts, trusting_all
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.trust.test_control_endpoint import control_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
BEGIN, END = "<!-- who may do what: written by tests/trust/test_who_may_what.py -->", "<!-- end of the table -->"
KEY, ADMIN_KEY = "sk-client", "sk-admin"
ALLOWED, FOREIGN = "http://app.example:3000", "http://evil.example"
CONTROL = [("POST", INVITE_PATH), ("POST", JOIN_PATH), ("GET", PEERS_PATH), ("POST", REVOKE_PATH)]
# 403s with which an endpoint itself says no to somebody who may ask it.
ITS_OWN_NO = {"not_paired", "not_lending", "not_yourself", "no_session", "link_unknown", "too_many_links"}
REFUSALS = {
    "origin_not_allowed", "host_not_allowed", "members_only", "not_for_members", "not_a_member",
    "management_not_allowed", "trust_not_here", "page_token_missing", "tools_not_allowed",
}  # fmt: skip


def elsewhere() -> str | None:
    """An address of this machine that is not loopback: whoever uses it looks like another machine. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        host: str = probe.getsockname()[0]
        return None if host.startswith(("127.", "0.")) else host


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody, and how its requests differ. `own_page`: from a page of the node itself, which sends its token.

    `owner`: by a session that a link of `swarm page` opened.
    """

    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    is_elsewhere: bool = False
    own_page: bool = False
    owner: bool = False

    def with_key(self, key: str) -> Asker:
        return replace(self, headers={**self.headers, "Authorization": f"Bearer {key}"})


HERE, AWAY = Asker(), Asker(is_elsewhere=True)
PROXY = Asker({"X-Forwarded-For": "192.168.1.9"})
OWN_PAGE = Asker(own_page=True)
ALLOWED_PAGE = Asker({"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})
FOREIGN_PAGE = Asker({"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})
FOREIGN_IMAGE = Asker({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})
SAYS_NODE = Asker({wire.FROM_HEADER: "somebody"})
ASKERS = {
    "here": HERE, "here, key": HERE.with_key(KEY), "here, admin": HERE.with_key(ADMIN_KEY),
    "away": AWAY, "away, key": AWAY.with_key(KEY), "away, admin": AWAY.with_key(ADMIN_KEY),
    "proxy": PROXY, "proxy, key": PROXY.with_key(KEY), "proxy, admin": PROXY.with_key(ADMIN_KEY),
    "own page": OWN_PAGE, "own page, key": OWN_PAGE.with_key(KEY),
    "allowed page": ALLOWED_PAGE, "allowed page, key": ALLOWED_PAGE.with_key(KEY),
    "allowed page, admin": ALLOWED_PAGE.with_key(ADMIN_KEY),
    "foreign page, key": FOREIGN_PAGE.with_key(KEY), "foreign page, admin": FOREIGN_PAGE.with_key(ADMIN_KEY),
    "foreign image, key": FOREIGN_IMAGE.with_key(KEY), "foreign image, admin": FOREIGN_IMAGE.with_key(ADMIN_KEY),
    "owner": replace(HERE, owner=True), "owner, away": replace(AWAY, owner=True),
    "owner, proxy": replace(PROXY, owner=True), "owner, own page": replace(OWN_PAGE, owner=True),
    "owner, own page, away": replace(OWN_PAGE, owner=True, is_elsewhere=True),
    "owner, allowed page": replace(ALLOWED_PAGE, owner=True), "owner, foreign page": replace(FOREIGN_PAGE, owner=True),
    "owner, foreign image": replace(FOREIGN_IMAGE, owner=True),
    "owner, says it is a node": replace(SAYS_NODE, owner=True),
    "says it is a node, key": SAYS_NODE.with_key(KEY), "says it is a node, admin": SAYS_NODE.with_key(ADMIN_KEY),
}  # fmt: skip
MEMBER = "member"

_MACHINES = {"here", "away", "proxy", "owner, says it is a node"}
_ADMIN = {"here, admin", "away, admin", "proxy, admin"}
_KEY = {"here, key", "away, key", "proxy, key", "says it is a node, key", "says it is a node, admin", *_ADMIN}
_OWNER = {"owner", "owner, away", "owner, proxy", "owner, own page", "owner, own page, away"}
_OWN_PAGES = {"own page", "own page, key", "owner, own page", "owner, own page, away"}
_ALLOWED = {"allowed page", "allowed page, key", "allowed page, admin", "owner, allowed page"}
_OWN = {"here", "here, key", "here, admin", "own page", "own page, key"}
_EVERY_MACHINE = _MACHINES | _KEY | {"owner", "owner, away", "owner, proxy"}
# What a cell of the table says, and exactly who that is. Pages of other origins are in none.
WORDS = {
    "anyone": _EVERY_MACHINE | _OWN_PAGES | _ALLOWED,
    "a key": _KEY | _OWNER | {"own page, key", "allowed page, key", "allowed page, admin"},
    "any machine, its own page": _EVERY_MACHINE | _OWN_PAGES,
    "any machine": _EVERY_MACHINE,
    "a key (no page)": _KEY | {"owner", "owner, away", "owner, proxy"},
    "members": {MEMBER},
    "nobody": set[str](),
    "the owner": _OWNER,
    "this machine; the owner": _OWN | _OWNER,
    "a key; the owner": (_KEY - {"says it is a node, key", "says it is a node, admin"}) | {"own page, key"} | _OWNER,
    "this machine; an admin key; the owner": _OWN | _ADMIN | _OWNER,
    "this machine, with a key; the owner": {"here, key", "own page, key"} | _OWNER,
    "this machine, with a key; an admin key; the owner": {"here, key", "own page, key"} | _ADMIN | _OWNER,
}
SERVED = list(RouteKind)
WITH_ADMIN_KEYS = "**manage**, with `--admin-key-file`"
WHERE_ALLOWED = "**manage from another node**, with `[peers] manage = true`"
ROWS = {
    RouteKind.HEALTH: "**health**: `/livez`, `/readyz`, `/health`",
    RouteKind.DOCUMENTATION: "**documentation**: `/`, `/page/...`, `/docs`, `/openapi.json`",
    RouteKind.PAGE: "**ask what the page may**: `/swarm/v1/page`, open and end the owner's sessions",
    RouteKind.API: "**use the API**: `/v1/...`, also without `/v1`; `/api/...`",
    RouteKind.STATUS: "**read the status**: `/v1/federation/health`, `/v1/events`, "
    "`/swarm/v1/votes`, `performance`, `/metrics`, `/slots`",
    RouteKind.TOOLS: "**use its tools**: `/v1/tools`, `/v1/tools/execute`, `/mcp`",
    RouteKind.NODES: "**ask as a node**: `/federation/v1/...`",
    RouteKind.FILES: "**copy model files**: `/federation/v1/models/...`",
    RouteKind.LENDING: "**borrow memory**: `/federation/v1/lend`, where it lends any (`--lend`)",
    RouteKind.MEMBERS: "**manage from another node**: `/federation/v1/unload`, `pin`, `pull`",
    RouteKind.MANAGEMENT: "**manage**: models (`/v1/models/load`, `unload`, `pin`, `/swarm/v1/models`, `pulls`, "
    "`/api/pull`, `copy`, `delete`), "
    "`/swarm/v1/requests`, cancel, `usage`, `logs`",
    RouteKind.TRUST: "**trust**: `/swarm/v1/trust/...`: invite, join, revoke",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One column."""

    title: str
    federated: bool = False
    key: bool = False
    paired: bool = False

    def access(self, admin: bool) -> AccessRules:
        return AccessRules(
            origins=frozenset({ALLOWED}),
            key_digests=(digest(KEY),) if self.key else (),
            admin_digests=(digest(ADMIN_KEY),) if admin else (),
            federated=self.federated,
            open_federation=self.federated and self.key and not self.paired,
            members_manage=admin,
        )


SETTINGS = (
    Setting("alone"),
    Setting("alone, key", key=True),
    Setting("open federation", federated=True),
    Setting("open, key, `--open-federation`", federated=True, key=True),
    Setting("paired", federated=True, paired=True),
    Setting("paired, key", federated=True, key=True, paired=True),
)


@asynccontextmanager
async def running(setting: Setting, admin: bool, folder: Path) -> AsyncIterator[tuple[RunningNode, Trust]]:
    """A node with that setting, and the trust of the one that is a member beside it where it is paired."""
    kitchen, study = (
        paired_trusts(folder, "kitchen", "study") if setting.paired else (open_trust(folder, "kitchen"),) * 2
    )
    engine = ready(ScriptedEngine(saying("a word")))
    options = NodeOptions(access=setting.access(admin), trust=kitchen, federated=setting.federated, host="0.0.0.0")
    async with RunningNode("kitchen", engine, options=options) as node:
        yield node, study


def routes_of(node: RunningNode) -> list[tuple[str, str]]:
    found = {(route.method, route.resource.canonical) for route in node.app.router.routes() if route.resource}
    return sorted(found)


async def refuses(response: aiohttp.ClientResponse) -> bool:
    """Whether the answer says that its asker may not ask this."""
    if response.status == 401:
        return True
    if response.status != 403:
        return False  # unread: a stream of events has no end
    text = await response.text()
    code = re.search(r'"code": ?"(\w+)"', text)
    if code is None:  # Anthropic's shape has none, Ollama's neither, and HEAD no body
        has_none = "permission_error" in text or response.url.path.startswith("/api/")
        assert has_none or response.method == "HEAD", text
        return True
    assert code[1] in REFUSALS | ITS_OWN_NO, f"say here whether {code[1]!r} refuses its asker, or what was asked"
    return code[1] in REFUSALS


class Asking:
    """Asks one node as everybody."""

    def __init__(self, node: RunningNode, member: Trust, admin: bool, away: str | None) -> None:
        self._node = node
        self._admin = admin
        self._away = away
        self._context = None
        self._session = opened(node)
        if node.trust is not None and node.trust.mode == "paired":
            self._context = client_context(member.identity.pem, [node.trust.identity.certificate])

    def askers(self) -> list[str]:
        """All but those with a key that the node does not have, and those from a place that this machine has not."""
        known = [name for name, asker in ASKERS.items() if self._away is not None or not asker.is_elsewhere]
        known = [name for name in known if self._admin or not name.endswith("admin")]
        return known + ([MEMBER] if self._context is not None else [])

    async def may(self, session: aiohttp.ClientSession, who: str, method: str, path: str) -> bool:
        asker = ASKERS.get(who, HERE)
        host = f"{self._away}:{self._node.address.port}" if asker.is_elsewhere else str(self._node.address)
        headers = dict(asker.headers)
        if asker.own_page:
            headers |= {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
            headers["X-Swarm-Page"] = self._node.page_access.token
        if asker.owner:
            headers["X-Swarm-Owner"] = self._session
        scheme, context = ("https", self._context) if who == MEMBER else ("http", None)
        filled = path.replace("{sha256}", "0" * 64).replace("{name}", "page.js").replace("{id}", "x")
        body = b"{" if method == "POST" else None  # enough to be refused as a body by whoever reads it
        async with session.request(
            method, f"{scheme}://{host}{filled}", data=body, headers=headers, ssl=context or True
        ) as response:
            return not await refuses(response)

    async def all(self, routes: Iterable[tuple[str, str]]) -> dict[tuple[str, str], frozenset[str]]:
        async with aiohttp.ClientSession() as session:
            return {
                (method, path): frozenset([who for who in self.askers() if await self.may(session, who, method, path)])
                for method, path in routes
            }


def opened(node: RunningNode) -> str:
    """A session of the owner's, for the network."""
    return node.page_access.redeem(node.page_access.new_link(lan=True), "127.0.0.1", from_loopback=True).session


def in_words(who: frozenset[str], asked: Iterable[str]) -> str:
    """The word for exactly those of whom were asked."""
    known = set(asked)
    for word, meant in WORDS.items():
        if who == meant & known and (who or word == "nobody"):
            return word
    return f"?? {sorted(who)}"


async def column(setting: Setting, admin: bool, folder: Path) -> dict[RouteKind, str]:
    """Who may ask for each kind, measured; fails where two routes of one kind differ.

    Without admin keys one route of each kind but management is enough: the other half asks all. With them, members may
    manage, too, where there are any.
    """
    async with running(setting, admin, folder) as (node, member):
        asking = Asking(node, member, admin, elsewhere())
        routes = routes_of(node)
        one_of_each = {kind_of(*route): route for route in routes}.values()
        found = await asking.all(
            [route for route in routes if admin or route in one_of_each or kind_of(*route) is RouteKind.MANAGEMENT]
        )
    cells: dict[RouteKind, str] = {}
    for kind in SERVED:
        words = {route: in_words(who, asking.askers()) for route, who in found.items() if kind_of(*route) is kind}
        assert len(set(words.values())) == 1, f"{setting.title}: routes of one kind answer different people: {words}"
        cells[kind] = next(iter(words.values()))
    return cells


def as_rows(cells: Mapping[str, list[str]]) -> str:
    """Markdown."""
    titles = ["", *(setting.title for setting in SETTINGS)]
    lines = [titles, ["---"] * len(titles), *([row, *found] for row, found in cells.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


async def test_the_table_is_what_running_nodes_answer(tmp_path: Path) -> None:
    cells: dict[str, list[str]] = {ROWS[kind]: [] for kind in SERVED}
    for number, setting in enumerate(SETTINGS):
        plain = await column(setting, False, tmp_path / f"{number}")
        admin = await column(setting, True, tmp_path / f"{number}-admin")
        for kind in SERVED:
            cells[ROWS[kind]].append(plain[kind])
            # An admin key is no more than a client's key, but for management.
            managed = kind in (RouteKind.MANAGEMENT, RouteKind.MEMBERS)
            assert admin[kind] == plain[kind] or managed, (setting.title, kind)
        cells.setdefault(WITH_ADMIN_KEYS, []).append(admin[RouteKind.MANAGEMENT])
        cells.setdefault(WHERE_ALLOWED, []).append(admin[RouteKind.MEMBERS])
    cells[ROWS[RouteKind.TRUST]] = cells.pop(ROWS[RouteKind.TRUST])  # the last row
    table = as_rows(cells)
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    written, after = rest.split(END)
    if os.environ.get("SWARM_WRITE_TABLES"):
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
        return
    assert written.strip() == table, f"docs/trust.md is not what nodes answer; it should say:\n{table}"


async def test_every_route_is_in_exactly_one_row_and_no_row_has_one_that_there_is_not(tmp_path: Path) -> None:
    named = [route for routes in ROUTES.values() for route in routes]
    assert len(named) == len(set(named))
    async with running(SETTINGS[0], False, tmp_path) as (node, _):
        found = {f"{method} {path}" for method, path in routes_of(node)}
        assert set(named) <= found
        assert [route for route in routes_of(node) if kind_of(*route) is None] == []


def test_a_route_that_is_in_no_row_keeps_the_node_from_starting() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/models/rename", answer)
    with pytest.raises(LookupError, match=r"POST /v1/models/rename has no kind: name it in `http/access\.py`"):
        every_route_has_a_kind(app)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.title)
async def test_the_secret_of_the_control_endpoint_is_good_there_alone(setting: Setting, tmp_path: Path) -> None:
    """Its routes are on no other port, under no prefix, and it is no session of the owner's."""
    async with AsyncExitStack() as stack:
        node, member = await stack.enter_async_context(running(setting, True, tmp_path))
        secret = control_of(node).secret
        asking = Asking(node, member, True, elsewhere())
        session = await stack.enter_async_context(aiohttp.ClientSession())
        assert node.trust is not None
        roster = node.trust.roster
        for header in ("Authorization", "X-Swarm-Owner", "X-Swarm-Page"):
            sent = {header: f"Bearer {secret}" if header == "Authorization" else secret}
            asked = await session.post(f"{node.url}/swarm/v1/trust/invite", headers=sent, json={})
            assert asked.status == 403, header
            asked.release()
        for prefix in ("", "/v1", wire.PREFIX, "/swarm/v1"):
            for method, path in CONTROL:
                asked = await session.request(
                    method, f"{node.url}{prefix}{path}", headers={"Authorization": f"Bearer {secret}"}, json={}
                )
                assert asked.status in (401, 403, 404), (prefix, path)
                asked.release()
                for who in asking.askers():
                    if await asking.may(session, who, method, prefix + path):
                        assert kind_of(method, prefix + path) is None, (who, path)
        assert node.trust.roster == roster
        assert not node.trust_service.takes_joiners


async def test_whoever_shows_no_certificate_may_join_and_nothing_else(tmp_path: Path) -> None:
    """Over TLS, with the owner's secret: the answer is one line, that this is no request to join."""
    async with running(SETTINGS[2], True, tmp_path) as (node, _):
        await node.trust_service.invite()
        assert node.trust is not None
        roster, port = node.trust.roster, node.address.port
        secret = control_of(node).secret
        for method, path in CONTROL:
            told = await over_tls(port, f"{method} {path} HTTP/1.1\r\nAuthorization: Bearer {secret}\r\n\r\n".encode())
            assert b"not a request to join" in told, (path, told)
        assert node.trust.roster == roster


async def over_tls(port: int, sent: bytes) -> bytes:
    """What is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting_all(None))
    writer.write(sent)
    told = await reader.read()
    writer.close()
    return told
