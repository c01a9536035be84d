"""Every route of the application, asked by whoever has no business there: a new route is guarded, or this fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from federation import wire
from swarm.gateway.http.access import PAGE_PATH, TRUST_PATH, AccessRules, digest
from swarm.gateway.peers.model_files import FileService
from tests.doubles.file_nodes import CountingTransfers, stocked
from tests.doubles.paired import identity, open_trust, paired_trusts, trusting_all
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

ANSWER_S = 10.0
KEY = "a-key-of-the-kitchen"
# What a stranger on the network gets from a node that is paired and wants an API key, and why.
OPEN_TO_ALL = {
    "/": "what this is and where to go: the same on every node of a version",
    "/livez": "supervisors have no key, and it says only that the process answers",
    "/readyz": "the same, and whether a model can be reached",
    "/health": "the same under llama.cpp's name",
    "/v1/health": "the same",
    "/openapi.json": "the same on every node of a version",
    "/docs": "the page that shows it",
    "/docs/{name}": "what that page is made of",
    "/page/{path}": "what the page of the swarm is made of: the same on every node of a version",
    "/swarm/v1/page": "what its caller may do, which is nothing here, and how to get more",
}
PAGE = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
FOREIGN: dict[str, tuple[tuple[str, str], ...]] = {
    "a foreign Origin": (("Host", "localhost"), ("Origin", "http://evil.example")),
    "an opaque Origin": (("Host", "localhost"), ("Origin", "null")),
    "an Origin of this machine's other port": (("Host", "localhost:17615"), ("Origin", "http://localhost:3000")),
    "a cross-site embedding": (("Host", "localhost"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")),
    "a same-site embedding": (("Host", "localhost"), ("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "no-cors")),
    "a rebound name": (("Host", "evil.example"),),
    "a rebound name with a port": (("Host", "evil.example:17615"), ("Origin", "http://evil.example:17615")),
    "a name that looks like an address": (("Host", "127.0.0.1.evil.example"),),
    "two Hosts": (("Host", "localhost"), ("Host", "evil.example")),
    "two Hosts the other way round": (("Host", "evil.example"), ("Host", "localhost")),
    "a Host with a path": (("Host", "localhost/evil.example"),),
}


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is the template; `url` has its variables filled in."""

    method: str
    path: str

    @property
    def url(self) -> str:
        filled = (
            self.path.replace("{sha256}", "ab" * 32)
            .replace("{digest}", f"sha256:{'ab' * 32}")
            .replace("{name}", "tokenize")
            .replace("{slot}", "0")
        )
        filled = filled.replace("{id}", "m").replace("{path}", "icon.svg")
        assert "{" not in filled, f"a variable that this test does not know: {self.path}"
        return filled


def all_routes(node: RunningNode) -> list[Route]:
    found = {Route(route.method, route.resource.canonical) for route in node.app.router.routes() if route.resource}
    assert len(found) > 40, found
    return sorted(found, key=lambda route: (route.path, route.method))


async def ask(
    node: RunningNode, route: Route, headers: tuple[tuple[str, str], ...], tls: ssl.SSLContext | None = None
) -> int | None:
    """The status, None where there is no answer. Written by hand: no client sends what is sent here."""
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"input":"x","prompt":"x","max_tokens":1}'
    lines = [f"{route.method} {route.url} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json", *(f"{name}: {text}" for name, text in headers)]
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(*node.address, ssl=tls)
            try:
                writer.write("\r\n".join((*lines, "", "")).encode() + body)
                head = await reader.read(64)
            finally:
                writer.transport.abort()
    except (OSError, ssl.SSLError):
        return None
    return int(head.split(b" ")[1]) if head else None


@asynccontextmanager
async def kitchen(folder: Path, *, paired: bool, key: str | None) -> AsyncIterator[tuple[RunningNode, ScriptedEngine]]:
    engine = ScriptedEngine(saying("secret"), model_id="m")
    trust = paired_trusts(folder, "kitchen", "study")[0] if paired else open_trust(folder, "kitchen")
    options = NodeOptions(
        trust=trust,
        access=AccessRules(key_digests=(digest(key),) if key else ()),
        files=FileService(stocked(folder / "models", b"secret"), CountingTransfers()),
    )
    async with RunningNode("kitchen", ready(engine), options=options) as node:
        yield node, engine


async def test_a_stranger_gets_nothing_from_a_paired_node_with_a_key(tmp_path: Path) -> None:
    async with kitchen(tmp_path, paired=True, key=KEY) as (node, engine):
        for route in all_routes(node):
            status = await ask(node, route, (("Host", "localhost"),))
            if route.path in OPEN_TO_ALL:
                assert status in (200, 307, 404), (route, status)
            elif route.path.startswith((PAGE_PATH + "/", TRUST_PATH + "/")):  # a session's alone, with no key instead
                assert status in (400, 403), (route, status)
            else:
                assert status == (403 if route.path.startswith(wire.PREFIX) else 401), (route, status)
        assert engine.requests == []
        assert {route.path for route in all_routes(node)} >= set(OPEN_TO_ALL), "no reason without its route"


@pytest.mark.parametrize("who", ["without a certificate", "with a foreign one", "revoked", "with another's id"])
async def test_over_tls_only_members_get_anything(tmp_path: Path, who: str) -> None:
    async with kitchen(tmp_path, paired=True, key=None) as (node, engine):
        study = identity(tmp_path, "study")
        stranger = identity(tmp_path, "rogue")
        shown = {"without a certificate": None, "with a foreign one": stranger.pem}.get(who, study.pem)
        assert await ask(node, Route("GET", wire.NODE_PATH), (("Host", "x"),), trusting_all(study.pem)) == 200
        if who == "revoked":
            await node.trust_service.revoke(study.node_id)
        claimed = node.id if who == "with another's id" else study.node_id
        for route in all_routes(node):
            status = await ask(node, route, (("Host", "x"), (wire.FROM_HEADER, claimed)), trusting_all(shown))
            assert status in (None, 403), (route, status)
        assert engine.requests == []


@pytest.mark.parametrize("page", FOREIGN)
async def test_no_page_of_another_origin_gets_anything(tmp_path: Path, page: str) -> None:
    """Nor does one whose name was made to lead here. Without a key and open, as most nodes are."""
    async with kitchen(tmp_path, paired=False, key=None) as (node, engine):
        for route in all_routes(node):
            status = await ask(node, route, FOREIGN[page])
            assert status in (400, 403), (route, status)
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
            assert await ask(node, Route(method, "/no/such/route"), FOREIGN[page]) in (400, 403)
        assert engine.requests == []


async def test_this_machines_own_clients_are_served(tmp_path: Path) -> None:
    """The other side of every test above: each route answers somebody."""
    async with kitchen(tmp_path, paired=False, key=None) as (node, engine):
        members_alone = (wire.UNLOAD_PATH, wire.PIN_PATH, wire.PULL_PATH, wire.LEND_PATH)  # and only where they may
        owners_alone = (TRUST_PATH + "/", PAGE_PATH + "/")  # who has opened a link of `swarm page`: tests/trust
        routes = [route for route in all_routes(node) if route.path not in members_alone]
        routes = [route for route in routes if not route.path.startswith(owners_alone)]
        routes.sort(key=lambda route: route.path.endswith("/unload"))  # what comes after it has no model
        statuses = {route: await ask(node, route, (("Host", "localhost"),)) for route in routes}
        assert set(statuses.values()) <= {200, 307, 400, 404}, statuses
        assert 403 not in statuses.values(), statuses
        assert engine.requests
