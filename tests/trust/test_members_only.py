"""A paired node answers members and nobody else, and forgets at once who is a member no more."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from federation import wire
from federation.client import PeerClient
from federation.errors import PeerError, PeerMembersOnly, PeerUntrusted
from federation.peer import Why
from federation.roster import Roster
from federation.roster_store import save_roster
from federation.tls import client_context
from federation.trust import Trust
from swarm.errors import Forbidden
from swarm.gateway.http.access_middleware import check_membership, check_stranger
from tests.doubles.clients import connect
from tests.doubles.paired import identity, open_trust, paired_trusts, trusting_all
from tests.doubles.running_node import RunningNode, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode

WAIT_S = 10.0
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
# At the handshake, or, where that was under way when the pin went, at the first request.
SHUT_OUT = r"does not accept this node as one|answered 403: this certificate is not, or no longer"
BODIES: dict[str, Any] = {
    wire.CANDIDATES_PATH: {"request": CHAT, "votes": 1},
    wire.GENERATE_PATH: CHAT,
    wire.GOODBYE_PATH: {"id": "someone"},
    wire.UTILITIES_PATH + "/{name}": {"model": "m", "text": "hello"},
}


@dataclass(frozen=True, slots=True)
class Rogue:
    """Somebody on the network who knows everything but a member's key. `context` None speaks plain HTTP."""

    context: ssl.SSLContext | None

    async def get(self, node: RunningNode, method: str, path: str, **headers: str) -> tuple[int, str] | None:
        """What it gets, as status and text; None where there is no answer."""
        scheme = "http" if self.context is None else "https"
        url = f"{scheme}://{node.address}{path}"
        connector = aiohttp.TCPConnector(force_close=True)
        body = io.BytesIO(json.dumps(BODIES.get(path, {})).encode())
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                async with session.request(
                    method, url, data=body if method == "POST" else None, headers=sent, ssl=self.context or True
                ) as response:
                    return response.status, await response.text()
            except (aiohttp.ClientError, OSError):
                return None


def rogues(folder: Path) -> dict[str, Rogue]:
    (elsewhere, _) = paired_trusts(folder / "elsewhere", "office", "lab")
    return {
        "open": Rogue(None),
        "without a certificate": Rogue(trusting_all(None)),
        "paired elsewhere": Rogue(trusting_all(elsewhere.identity.pem)),
    }


def between_nodes(node: RunningNode) -> list[tuple[str, str]]:
    """Every endpoint between nodes of the running application: a new one is guarded or this test fails."""
    routes = [(r.method, r.resource.canonical) for r in node.app.router.routes() if r.resource and r.method != "HEAD"]
    return [route for route in routes if route[1].startswith(wire.PREFIX)]


@pytest.fixture
async def pair(make_node: MakeNode, tmp_path: Path) -> tuple[RunningNode, RunningNode]:
    """Kitchen and study, members of one swarm, to be started by `together`."""
    kitchen, study = paired_trusts(tmp_path, "kitchen", "study")
    return make_node("kitchen", kitchen), make_node("study", study)


@asynccontextmanager
async def together(*nodes: RunningNode) -> AsyncIterator[tuple[RunningNode, ...]]:
    """Members that run and see each other."""
    async with run_nodes(*nodes):
        await acquainted(*nodes)
        yield nodes


async def acquainted(*nodes: RunningNode) -> None:
    for node in nodes:
        for other in nodes:
            if other is not node:
                node.membership.endpoint_reported(*other.address)
        await node.until(lambda node=node: len(node.membership.alive()) == len(nodes) - 1)


async def test_a_rogue_gets_nothing_from_any_endpoint_between_nodes(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    async with together(*pair) as (kitchen, _):
        endpoints = between_nodes(kitchen)
        assert {wire.NODE_PATH, wire.PEERS_PATH, wire.LOADABLE_PATH, *BODIES, wire.ROSTER_PATH} <= {
            path for _, path in endpoints
        }
        for kind, rogue in rogues(tmp_path).items():
            for method, path in endpoints:
                got = await rogue.get(kitchen, method, path, X_Swarm_From=pair[1].id, Authorization="Bearer x")
                if rogue.context is None:
                    assert got is not None
                    assert got[0] == 403, (kind, path, got)
                    assert "members_only" in got[1]
                    assert kitchen.id not in got[1]
                else:
                    assert got is None, (kind, path, got)
        assert len(kitchen.membership.alive()) == 1, "the swarm is unharmed"


async def test_clients_are_served_as_before(pair: tuple[RunningNode, RunningNode]) -> None:
    async with together(*pair) as (kitchen, _study):
        async with connect(kitchen.url) as client:
            assert (await client.get("/livez")).status == 200
            health = (await client.get("/v1/federation/health")).json
            assert health["node"]["mode"] == "paired"
            assert [peer["state"] for peer in health["peers"]] == ["alive"]
            assert health["trust"] == {"mode": "paired", "problem": None, "absent": []}
            reply = await client.chat(swarm={"votes": 8})
        assert {c["voter"].split("@")[1] for c in reply.json["swarm"]["candidates"]} == {"kitchen", "study"}


async def test_a_member_may_not_use_the_rest_over_its_link_nor_speak_for_another(
    pair: tuple[RunningNode, RunningNode],
) -> None:
    async with together(*pair) as (kitchen, study):
        assert study.trust is not None
        member = Rogue(client_context(study.trust.identity.pem, [kitchen.trust.identity.certificate]))
        assert (await member.get(kitchen, "GET", wire.NODE_PATH, X_Swarm_From=study.id))[0] == 200
        for path in ("/v1/models", "/livez", "/metrics", "/docs", "/nowhere"):
            status, text = await member.get(kitchen, "GET", path)
            assert (status, "not_for_members" in text) == (403, True), path
        status, text = await member.get(kitchen, "GET", wire.NODE_PATH, X_Swarm_From=kitchen.id)
        assert (status, "not_yourself" in text) == (403, True)
        status, text = await member.get(kitchen, "POST", wire.GOODBYE_PATH)
        assert (status, "not_yourself" in text) == (403, True)


async def test_a_member_that_claims_another_id_is_no_peer(make_node: MakeNode, tmp_path: Path) -> None:
    """Its certificate is pinned, and it says that it is the attic."""
    kitchen_trust, study_trust, attic_trust = paired_trusts(tmp_path, "kitchen", "study", "attic")
    kitchen, study = make_node("kitchen", kitchen_trust), make_node("study", study_trust)
    async with run_nodes(kitchen, study):
        study.id = attic_trust.node_id
        with pytest.raises(PeerError, match="its certificate is another node's"):
            await kitchen.client.describe(study.address, WAIT_S)
        kitchen.membership.endpoint_reported(*study.address)
        await eventually(lambda: all(study.address != a for p in kitchen.membership.peers() for a in p.addresses))


async def test_open_and_paired_nodes_ignore_each_other_and_say_why(
    make_node: MakeNode, tmp_path: Path, pair: tuple[RunningNode, RunningNode]
) -> None:
    async with together(*pair) as (kitchen, _):
        async with make_node("visitor") as visitor:
            with pytest.raises(PeerMembersOnly, match=r"belongs to a paired swarm .*swarm invite` there"):
                await visitor.client.describe(kitchen.address, WAIT_S)
            visitor.membership.listed([kitchen.address])
            await visitor.until(lambda: bool(visitor.membership.rejected()))
            assert [rejected.why for rejected in visitor.membership.rejected()] == [Why.UNTRUSTED]
            with pytest.raises(PeerUntrusted, match=r"is an open node.*swarm invite"):
                await kitchen.client.describe(visitor.address, WAIT_S)
        (office, _) = paired_trusts(tmp_path / "elsewhere", "office", "lab")
        async with make_node("office", office) as stranger:
            for one, other in ((kitchen, stranger), (stranger, kitchen)):
                with pytest.raises(PeerUntrusted, match="not a member of this paired swarm"):
                    await one.client.describe(other.address, WAIT_S)


async def test_a_node_that_meets_itself_says_so(pair: tuple[RunningNode, RunningNode]) -> None:
    async with together(*pair):
        with pytest.raises(PeerUntrusted, match="is this node itself"):
            await pair[0].client.describe(pair[0].address, WAIT_S)


async def test_whoever_is_not_pinned_there_is_told_at_the_first_read(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    """TLS 1.3 lets a client finish its handshake before the server has looked at the certificate."""
    async with together(*pair) as (kitchen, _):
        assert kitchen.trust is not None
        one_sided = open_trust(tmp_path, "one-sided")
        await one_sided.adopt(kitchen.trust.roster.admit(one_sided.identity.certificate, "one-sided"))
        async with PeerClient(one_sided.node_id, trust=one_sided) as client:
            with pytest.raises(PeerUntrusted, match="does not accept this node as one"):
                await client.describe(kitchen.address, WAIT_S)


@asynccontextmanager
async def endless_answer(kitchen: RunningNode, study: RunningNode) -> AsyncIterator[asyncio.Task[None]]:
    """Study reads a stream of candidates that kitchen's engine never ends."""
    begun = asyncio.Event()

    async def read() -> None:
        call = {"request_id": "r", "hops": 1, "deadline_s": 600.0, "idle_s": None}
        body = json.dumps(BODIES[wire.CANDIDATES_PATH]).encode()
        async with study.client.open_generation(kitchen.address.url, wire.CANDIDATES_PATH, body, **call) as answer:
            async for _ in answer.chunks():
                begun.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), WAIT_S)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, PeerError):
            await task


@pytest.mark.parametrize("revoker", ["the one that answers", "the one that asks"])
async def test_revoking_cuts_live_connections(make_node: MakeNode, tmp_path: Path, revoker: str) -> None:
    never = asyncio.Event()
    engine = ScriptedEngine(lambda _, __: [never], model_id="m")
    kitchen_trust, study_trust = paired_trusts(tmp_path, "kitchen", "study")
    kitchen, study = make_node("kitchen", kitchen_trust, engine), make_node("study", study_trust)
    async with run_nodes(kitchen, study):
        await acquainted(kitchen, study)
        async with endless_answer(kitchen, study) as reading:
            who, whom = (kitchen, study) if revoker == "the one that answers" else (study, kitchen)
            done = await who.trust_service.revoke(whom.id)
            assert (done.name, done.itself) == (whom.name, False)
            with pytest.raises(PeerError):
                await asyncio.wait_for(reading, WAIT_S)
            assert who.membership.alive() == ()
            await eventually(lambda: all(state.slots_free == state.slots for state in kitchen.pool.states()))
        with pytest.raises(PeerError, match=SHUT_OUT):
            await whom.client.describe(who.address, WAIT_S)


async def test_a_revocation_reaches_all_and_survives_restarts(make_node: MakeNode, tmp_path: Path) -> None:
    names = ("kitchen", "study", "attic", "cellar")
    trusts = paired_trusts(tmp_path, *names)
    *nodes, cellar = (make_node(trust.identity.name, trust) for trust in trusts)
    kitchen, study, attic = nodes
    async with run_nodes(kitchen, study):
        await acquainted(kitchen, study)
        done = await kitchen.trust_service.revoke(cellar.id[:8])  # while attic is off
        assert done.told == ("study",)
        assert done.untold == ("attic",)
        assert not study.trust.is_member(cellar.id)
        assert attic.trust.is_member(cellar.id)
    again = [make_node(name, open_trust(tmp_path, name)) for name in ("kitchen", "study")]
    async with run_nodes(*again, attic, cellar):
        await acquainted(*again, attic)
        await eventually(lambda: not attic.trust.is_member(cellar.id))
        for node in (*again, attic):
            with pytest.raises(PeerError, match=SHUT_OUT):
                await cellar.client.describe(node.address, WAIT_S)
            assert [known.name for known in node.trust_service.peers().revoked] == ["cellar"]


async def test_a_revoked_node_does_not_come_back_through_one_that_has_not_heard(
    make_node: MakeNode, tmp_path: Path
) -> None:
    trusts = paired_trusts(tmp_path, "kitchen", "attic", "cellar")
    kitchen, attic, cellar = (make_node(trust.identity.name, trust) for trust in trusts)
    await trusts[0].revoke(cellar.id)  # while the attic is off
    revoked = trusts[0].roster
    assert revoked is not None
    forged = revoked.admit(cellar.trust.identity.certificate, "cellar")
    async with run_nodes(attic, cellar):
        await acquainted(attic, cellar)
        merged = await cellar.client.exchange_roster(attic.address, forged, WAIT_S)
        entry = merged.get(cellar.id)
        assert entry is not None
        assert (entry.epoch, entry.revoked) == (1, False), "as the attic has known it all along"
        async with run_nodes(kitchen):
            await acquainted(kitchen, attic)
            await eventually(lambda: not attic.trust.is_member(cellar.id))


async def test_a_revoked_node_may_be_invited_again(pair: tuple[RunningNode, RunningNode]) -> None:
    async with together(*pair) as (kitchen, study):
        await kitchen.trust_service.revoke("study")
        code = (await kitchen.trust_service.invite()).code
        await study.trust_service.join(code)
        await acquainted(kitchen, study)


async def test_the_list_is_the_same_everywhere_a_moment_after_a_change(make_node: MakeNode, tmp_path: Path) -> None:
    """The study does not hear it from the kitchen, which changed its list behind everybody's back."""
    trusts = paired_trusts(tmp_path, "kitchen", "study")
    kitchen, study = (make_node(trust.identity.name, trust) for trust in trusts)
    newcomer = identity(tmp_path, "attic")
    async with run_nodes(kitchen, study):
        await acquainted(kitchen, study)
        await kitchen.trust.admit(newcomer.certificate, "attic", ())
        await eventually(lambda: study.trust.is_member(newcomer.node_id))


async def test_another_swarms_list_is_refused(pair: tuple[RunningNode, RunningNode], tmp_path: Path) -> None:
    async with together(*pair) as (kitchen, study):
        foreign = Roster(swarm="f" * 16).admit(identity(tmp_path, "rogue").certificate, "rogue")
        with pytest.raises(PeerError, match="the list of another swarm"):
            await study.client.exchange_roster(kitchen.address, foreign, WAIT_S)


async def test_a_clock_that_is_years_off_cuts_nobody_off(make_node: MakeNode, tmp_path: Path) -> None:
    """A board without a battery wakes up in 1970, and makes its certificate then."""
    from datetime import UTC, datetime

    from federation import tls

    class In1970(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(1970, 1, 1, 0, 5, tzinfo=tz or UTC)

    class In2070(In1970):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2070, 1, 1, tzinfo=tz or UTC)

    for name, clock in (("kitchen", In1970), ("study", In2070)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(tls, "datetime", clock)
            (tmp_path / name).mkdir()
            (tmp_path / name / "node.pem").write_bytes(tls.make_certificate())
    trusts = paired_trusts(tmp_path, "kitchen", "study")
    kitchen, study = (make_node(trust.identity.name, trust) for trust in trusts)
    async with run_nodes(kitchen, study):
        await acquainted(kitchen, study)


async def test_a_lost_list_that_cannot_be_written_still_holds(
    pair: tuple[RunningNode, RunningNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with together(*pair):
        from federation import trust as trust_module
        from federation.errors import RosterError
        from swarm.errors import SwarmError

        def full_disk(*_: object) -> None:
            raise RosterError("cannot write roster.json (No space left on device): it holds until this node stops")

        monkeypatch.setattr(trust_module, "save_roster", full_disk)
        kitchen, study = pair
        with pytest.raises(SwarmError, match="No space left"):
            await kitchen.trust_service.revoke(study.id)
        assert not kitchen.trust.is_member(study.id)


@pytest.mark.parametrize(
    ("path", "is_member", "claimed", "code"),
    [
        (wire.NODE_PATH, True, None, None),
        (wire.NODE_PATH, True, "me", None),
        (wire.PREFIX, True, None, None),
        (wire.NODE_PATH, False, None, "not_a_member"),
        (wire.NODE_PATH, True, "you", "not_yourself"),
        ("/v1/models", True, None, "not_for_members"),
        ("/federation/v1evil", True, None, "not_for_members"),
    ],
)
def test_what_is_answered_over_tls(path: str, is_member: bool, claimed: str | None, code: str | None) -> None:
    if code is None:
        check_membership(path, "me", is_member, claimed)
        return
    with pytest.raises(Forbidden) as caught:
        check_membership(path, "me", is_member, claimed)
    assert caught.value.code == code


def test_what_is_answered_over_plain_http_by_a_paired_node() -> None:
    for path in ("/v1/models", "/livez", "/v1/federation/health", "/federation/v1evil"):
        check_stranger(path)
    for path in (wire.PREFIX, wire.NODE_PATH, wire.UTILITIES_PATH + "/{name}"):
        with pytest.raises(Forbidden):
            check_stranger(path)


def test_a_saved_list_is_what_makes_a_node_paired(tmp_path: Path) -> None:
    trust: Trust = paired_trusts(tmp_path, "kitchen", "study")[0]
    assert trust.mode == "paired"
    assert trust.client_context is not None
    save_roster(tmp_path / "kitchen", None)
    fresh = open_trust(tmp_path, "kitchen")
    assert (fresh.mode, fresh.client_context, fresh.node_id) == ("open", None, trust.node_id)
