"""The doctor in a paired swarm: it asks the others as its own node would, with that node's key and pins, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from federation.roster_store import save_roster
from swarm.doctor import own_node
from swarm.doctor.examination import examine_network
from swarm.doctor.finding import Finding, Level
from swarm.node.settings import Settings, make_settings
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, run_nodes
from tests.doubles.waiting import eventually
from tests.trust.test_members_only import acquainted


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunningNode, RunningNode]:
    kitchen, study = paired_trusts(tmp_path, "kitchen", "study")
    return (
        RunningNode("kitchen", options=NodeOptions(trust=kitchen)),
        RunningNode("study", options=NodeOptions(trust=study)),
    )


def settings_of(node: RunningNode, folder: Path) -> Settings:
    given = {"federation": True, "data_dir": folder / node.name, "port": node.address.port, "host": "127.0.0.1"}
    return make_settings(given, environment={})


async def looked_at(settings: Settings) -> dict[str, Finding]:
    """What was found of the swarm: its check's first word -> finding."""
    findings = await asyncio.to_thread(lambda: list(examine_network(settings)))
    return {finding.check.split(" ")[0]: finding for finding in findings if finding.check != "peer versions"}


async def test_a_member_is_asked_as_a_member_and_asked_whether_it_sees_this_one(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    kitchen, _ = pair
    async with run_nodes(*pair):
        await acquainted(*pair)
        await eventually(lambda: all(entry.places for entry in kitchen.trust.others))
        for node in pair:
            found = await looked_at(settings_of(node, tmp_path))
            assert found["port"].message.endswith(f"the node {node.name} runs here")
            assert (found["trust"].level, found["trust"].message) == (Level.OK, "paired with 1 other member")
            assert found["peer"].level is Level.OK, found
            assert "reachable both ways" in found["peer"].message
            assert found["clock"].level is Level.OK


async def test_a_clock_that_is_off_is_named(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitchen, _ = pair
    ahead_s = own_node._ahead_s
    monkeypatch.setattr(own_node, "_ahead_s", lambda date, here_s: ahead_s(date, here_s + 3600))
    async with run_nodes(*pair):
        await acquainted(*pair)
        found = await looked_at(settings_of(kitchen, tmp_path))
        assert found["peer"].level is Level.OK
        assert (found["clock"].level, "behind this machine" in found["clock"].message) == (Level.FAIL, True)


async def test_a_revoked_node_is_told_so_by_its_doctor_and_is_a_stranger_to_the_others(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    kitchen, study = pair
    async with run_nodes(*pair):
        await acquainted(*pair)
        await kitchen.trust_service.revoke("study")
        await eventually(lambda: study.trust.exclusion is not None)
        here = await looked_at(replace(settings_of(kitchen, tmp_path), peer=(str(study.address),)))
        assert here["trust"].message == "paired with 0 other members"
        assert (here["peer"].level, here["peer"].message) == (
            Level.FAIL, "what answers there is not a member of this swarm",
        )  # fmt: skip
        assert "`swarm invite` here" in here["peer"].remedy
        there = await looked_at(replace(settings_of(study, tmp_path), peer=(str(kitchen.address),)))
        assert "was revoked by kitchen" in there["trust"].message
        assert (there["trust"].level, there["peer"].level) == (Level.FAIL, Level.FAIL)
        assert "does not accept this node as one" in there["peer"].message
        assert "`swarm invite` there" in there["peer"].remedy


async def test_strangers_on_a_members_port_are_told_apart(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    kitchen, _ = pair
    (office,) = paired_trusts(tmp_path / "elsewhere", "office")
    async with (
        kitchen,
        RunningNode("office", options=NodeOptions(trust=office)) as foreign,
        RunningNode("visitor", options=NodeOptions(trust=open_trust(tmp_path, "visitor"))) as visitor,
    ):
        asked = settings_of(kitchen, tmp_path)
        found = await looked_at(replace(asked, peer=(str(foreign.address),)))
        assert found["peer"].message == "what answers there is not a member of this swarm"
        found = await looked_at(replace(asked, peer=(str(visitor.address),)))
        assert "is an open node, or none" in found["peer"].message
        assert found["peer"].level is Level.FAIL
        found = await looked_at(replace(settings_of(visitor, tmp_path), peer=(str(kitchen.address),)))
        assert "belongs to a paired swarm" in found["peer"].message
        assert "`swarm invite` there" in found["peer"].remedy


@asynccontextmanager
async def study_gone(pair: tuple[RunningNode, RunningNode]) -> AsyncIterator[None]:
    """The kitchen runs, has met the study, and has noticed that it is off."""
    kitchen, study = pair
    async with kitchen:
        async with study:
            await acquainted(*pair)
            await eventually(lambda: all(entry.places for entry in kitchen.trust.others))
        await eventually(lambda: kitchen.membership.alive() == ())
        yield


async def test_a_member_that_is_off_fails_nothing_and_itself_is_left_out(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    kitchen, _ = pair
    async with study_gone(pair):
        found = await looked_at(settings_of(kitchen, tmp_path))
        assert (found["peer"].level, found["peer"].check[:10]) == (Level.WARN, "peer study"), found["peer"]
        assert "a member that does not answer" in found["peer"].message
        itself = await looked_at(replace(settings_of(kitchen, tmp_path), peer=(str(kitchen.address),)))
        assert itself["peer"].check.startswith("peer study"), "this node is not a peer of itself"


async def test_a_member_that_is_off_may_be_known_to_the_node_alone(
    pair: tuple[RunningNode, RunningNode], tmp_path: Path
) -> None:
    """The list on disk follows what the node knows; the doctor may be asked in between."""
    kitchen, study = pair
    async with study_gone(pair):
        assert kitchen.trust.roster is not None
        async with kitchen.trust._changing:  # nothing is being written
            save_roster(tmp_path / "kitchen", kitchen.trust.roster.with_endpoints(study.id, ()))
        found = await looked_at(settings_of(kitchen, tmp_path))
        assert (found["peer"].level, found["peer"].check[:10]) == (Level.WARN, "peer study"), found["peer"]
