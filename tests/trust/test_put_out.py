"""What a revoked node knows and does: it says who put it out, is alone, stays closed, and may be invited again."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation import wire
from federation.client import tell_revoked
from federation.errors import PeerError, PeerUntrusted
from federation.roster import SURE_AFTER, SURE_S, Exclusion, Refusals, exclusion_in
from federation.trust import Trust
from swarm.commands.members import peers_text, revoke_text
from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules, digest
from swarm.node.pairing import peers_at_rest, revoke_at_rest
from swarm.node.trust import trust_words
from tests.doubles.clients import connect
from tests.doubles.paired import identity, open_trust, paired_trusts, roster_of
from tests.doubles.running_node import RunningNode, run_nodes
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode
from tests.trust.test_members_only import acquainted

WAIT_S = 10.0
REVOKED = "this node was revoked by kitchen: ask for a new code (`swarm invite` there)"


@pytest.fixture
async def trio(make_node: MakeNode, tmp_path: Path) -> tuple[RunningNode, ...]:
    trusts = paired_trusts(tmp_path, "kitchen", "study", "attic")
    return tuple(make_node(trust.identity.name, trust) for trust in trusts)


def said(node: RunningNode, words: str) -> int:
    return sum(words in line for line in node.said)


async def test_it_is_told_who_revoked_it_and_says_so_everywhere_once(trio: tuple[RunningNode, ...]) -> None:
    kitchen, study, _attic = trio
    async with run_nodes(*trio):
        await acquainted(*trio)
        done = await kitchen.trust_service.revoke("study")
        assert done.knows
        assert "It has been informed" in revoke_text(done)
        await eventually(lambda: said(study, REVOKED) > 0)
        async with connect(study.url) as client:
            health = (await client.get("/v1/federation/health")).json
        assert REVOKED in health["trust"]["problem"]
        assert REVOKED in peers_text(study.trust_service.peers())
        assert [(one.name, one.by) for one in kitchen.trust_service.peers().revoked] == [("study", "kitchen")]
        assert peers_text(kitchen.trust_service.peers()).splitlines()[-1].endswith("revoked    by kitchen")
        assert REVOKED in trust_words(study.trust)
        await eventually(lambda: study.membership.alive() == ())
        assert said(study, REVOKED) == 1
        assert said(kitchen, "revoked by") == 0


async def test_from_then_on_it_is_alone_and_not_open(
    trio: tuple[RunningNode, ...], make_node: MakeNode, tmp_path: Path
) -> None:
    kitchen, study, attic = trio
    async with run_nodes(*trio, make_node("visitor")):
        await acquainted(*trio)
        await kitchen.trust_service.revoke("study")
        await eventually(lambda: study.trust.exclusion is not None)
        assert study.describe().mode == "paired"
        with pytest.raises(SetupError, match="was revoked by kitchen"):
            await study.trust_service.invite()
        with pytest.raises(SetupError, match="was revoked by kitchen"):
            await study.trust_service.revoke("kitchen")
        async with connect(study.url) as client:
            assert (await client.chat()).status == 200, "it serves its own clients"
            assert (await client.get(wire.NODE_PATH)).status == 403, "and nobody who is a stranger"
        for member in (kitchen, attic):
            with pytest.raises(PeerError):
                await member.client.describe(study.address, WAIT_S)
    again = open_trust(tmp_path, "study")
    assert (again.mode, again.exclusion) == ("paired", Exclusion("kitchen", reported=True))
    assert REVOKED in (peers_at_rest(tmp_path / "study").problem or "")
    with pytest.raises(SetupError, match="was revoked by kitchen"):
        revoke_at_rest(tmp_path / "study", "kitchen")


async def test_one_that_was_off_learns_it_when_everybody_refuses_it(
    trio: tuple[RunningNode, ...], make_node: MakeNode, tmp_path: Path
) -> None:
    kitchen, _, attic = trio
    study = make_node("study", Trust.load(identity(tmp_path, "study"), tmp_path / "study", Refusals(sure_s=0.2)))
    async with run_nodes(kitchen, attic):
        await acquainted(kitchen, attic)
        assert not (await kitchen.trust_service.revoke("study")).knows
        async with study:
            study.membership.endpoint_reported(*kitchen.address)
            study.membership.endpoint_reported(*attic.address)
            await eventually(lambda: study.trust.exclusion is not None)
            assert study.trust.exclusion.by in ("kitchen", "attic")
            assert said(study, "nobody else does: ask for a new code (`swarm invite` there)") == 1
            assert study.trust.mode == "paired"
            await study.trust_service.join((await attic.trust_service.invite()).code)
            assert study.trust.exclusion is None
            await acquainted(kitchen, study, attic)
            assert study.trust.exclusion is None


async def test_what_it_noted_while_it_was_out_does_not_come_back_with_it(trio: tuple[RunningNode, ...]) -> None:
    kitchen, study, attic = trio
    async with run_nodes(*trio):
        await acquainted(*trio)
        await kitchen.trust_service.revoke("study")
        await eventually(lambda: study.trust.exclusion is not None)
        await study.trust.revoke(attic.id)  # by an older version, or by hand
        await study.trust_service.join((await kitchen.trust_service.invite()).code)
        await acquainted(*trio)
        assert all(len(node.trust.others) == 2 for node in trio)


async def test_it_may_leave_for_good_or_join_another_swarm(trio: tuple[RunningNode, ...], make_node: MakeNode) -> None:
    kitchen, study, attic = trio
    office = make_node("office")
    async with run_nodes(*trio, office):
        await acquainted(*trio)
        await kitchen.trust_service.revoke("study")
        await kitchen.trust_service.revoke("attic")
        await eventually(lambda: study.trust.exclusion is not None and attic.trust.exclusion is not None)
        left = await study.trust_service.revoke("study")
        assert (left.itself, left.told) == (True, ())
        assert study.trust.mode == "open"
        await attic.trust_service.join((await office.trust_service.invite()).code)
        assert [entry.name for entry in attic.trust.others] == ["office"]


async def test_a_newcomer_that_a_member_has_not_heard_of_is_not_put_out(trio: tuple[RunningNode, ...]) -> None:
    """Attic refuses study for a moment, and kitchen takes it."""
    kitchen, study, attic = trio
    async with run_nodes(kitchen, study):
        await acquainted(kitchen, study)
        for _ in range(2 * SURE_AFTER):
            study.trust.refused_by(attic.id)
            await study.client.describe(kitchen.address, WAIT_S)
        assert study.trust.exclusion is None


def test_when_refusals_are_sure() -> None:
    refusals = Refusals()
    assert refusals.by(0.0) is None
    for at in (0.0, 1.0, SURE_S + 1):
        refusals.refused("kitchen", at)
    assert refusals.by(SURE_S + 1) == "kitchen"
    refusals.accepted()
    assert refusals.by(99.0) is None
    for _ in range(9):
        refusals.refused("kitchen", 100.0)
    assert refusals.by(100.0) is None, "all in one moment"
    lonely = Refusals()
    lonely.refused("kitchen", 0.0)
    lonely.refused("attic", 50.0)
    assert lonely.by(50.0) is None, "twice only: they were being restarted"


def test_what_the_list_says_of_its_keeper(tmp_path: Path) -> None:
    roster = roster_of(tmp_path, "kitchen", "study")
    study = next(entry.id for entry in roster.members if entry.name == "study")
    assert exclusion_in(None, study) is None
    assert exclusion_in(roster, study) is None
    assert exclusion_in(roster.revoke(study, "kitchen"), study) == Exclusion("kitchen", reported=True)
    assert "another member" in str(exclusion_in(roster.revoke(study), study))
    assert roster.revoke(study, "kitchen").digest == roster.revoke(study).digest, "an older node's list is the same"


async def test_whom_a_stranger_claims_to_have_revoked_stays(trio: tuple[RunningNode, ...], tmp_path: Path) -> None:
    """Only a member's list is taken: not over plain HTTP, and not with another swarm's certificate."""
    _, study, _ = trio
    async with study:
        told = study.trust.roster.revoke(study.id, "mallory")
        (mallory,) = paired_trusts(tmp_path / "elsewhere", "mallory")
        assert not await tell_revoked(mallory.identity, study.trust.identity.certificate, [study.address], told)
        async with connect(study.url) as client:
            assert (await client.post(wire.ROSTER_PATH, told.model_dump(mode="json"))).status == 403
        assert study.trust.exclusion is None
        with pytest.raises(PeerUntrusted):
            await study.client.describe(study.address, WAIT_S)


async def test_a_node_with_a_key_that_leaves_its_swarm_stands_open_at_no_moment(
    make_node: MakeNode, tmp_path: Path
) -> None:
    """It becomes a swarm of its own: strangers get nothing, it asks none of them, and it can be joined or join."""
    kitchen_trust, study_trust = paired_trusts(tmp_path, "kitchen", "study")
    kitchen = make_node("kitchen", kitchen_trust, access=AccessRules(key_digests=(digest("sk-a"),)))
    study, stranger = make_node("study", study_trust), make_node("stranger")
    modes: list[str] = []
    kitchen_trust.subscribe(lambda change: modes.append(change.now))
    async with run_nodes(kitchen, study, stranger):
        await acquainted(kitchen, study)
        done = await kitchen.trust_service.revoke("kitchen")
        assert (done.itself, done.closed) == (True, True)
        assert "stays closed to other nodes, because it has an API key" in revoke_text(done)
        assert said(kitchen, "It has an API key, so it stays closed to other nodes") == 1
        assert set(modes) == {"paired"}
        assert kitchen_trust.others == ()
        await eventually(lambda: not study.trust.is_member(kitchen.id))
        async with connect(kitchen.url) as client:
            reply = await client.get(wire.NODE_PATH, x_api_key="sk-a")
            assert (reply.status, reply.error["code"]) == (403, wire.MEMBERS_ONLY)
            assert (await client.get("/v1/models", x_api_key="sk-a")).status == 200
        with pytest.raises(PeerUntrusted, match="is an open node"):
            await kitchen.client.describe(stranger.address, WAIT_S)
        with pytest.raises(PeerError):
            await study.client.describe(kitchen.address, WAIT_S)
        code = (await kitchen.trust_service.invite()).code
        await stranger.trust_service.join(code)
        await kitchen.until(lambda: [peer.id for peer in kitchen.membership.alive()] == [stranger.id])
    assert open_trust(tmp_path, "kitchen").mode == "paired", "after a restart, too"


async def test_without_a_key_or_where_it_was_said_aloud_a_node_that_leaves_is_open(
    make_node: MakeNode, tmp_path: Path
) -> None:
    aloud = AccessRules(key_digests=(digest("sk-a"),), open_federation=True)
    for number, access in enumerate((AccessRules(), aloud)):
        (trust,) = paired_trusts(tmp_path / f"{number}", "kitchen")
        async with make_node("kitchen", trust, access=access) as kitchen:
            done = await kitchen.trust_service.revoke("kitchen")
            assert (done.closed, trust.mode) == (False, "open")
            assert "is open again" in revoke_text(done)
