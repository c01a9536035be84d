"""A node of the version before beside nodes of this one: they find each other, vote, answer for each other and pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.asking import ask, federation_view, voted_on
from tests.e2e.commands import swarm_command
from tests.e2e.network import Network
from tests.e2e.node_process import PROGRAM, NodeProcess
from tests.e2e.swarm_of_nodes import Swarm, all_see
from tests.e2e.version_before import VERSION, program_of_version_before
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.netns

NAMES = ("küche", "study", "attic")  # the version before takes any letters, too
PAIRED_S = 15.0
OUT_S = 6.0


@pytest.fixture(scope="module")
def program_before(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    try:
        return program_of_version_before(tmp_path_factory.mktemp("version-before"))
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def swarm(network: Network, tmp_path: Path, program_before: tuple[str, ...]) -> Iterator[Swarm]:
    """The study is of the version before."""
    programs = {"study": program_before}
    nodes = [
        NodeProcess(name, tmp_path / name, machine, ("--federation",), program=programs.get(name, PROGRAM))
        for name, machine in zip(NAMES, network.machines, strict=True)
    ]
    with Swarm(nodes) as swarm:
        yield swarm


async def version_of(node: NodeProcess) -> str:
    view = await federation_view(node)
    assert view is not None
    return str(view["node"]["version"])


async def test_open_they_are_one_swarm_then_paired_by_codes_of_either(
    swarm: Swarm, tmp_path: Path, program_before: tuple[str, ...]
) -> None:
    await swarm.whole()
    kitchen, study, attic = swarm.nodes
    assert await version_of(study) == VERSION
    for node in swarm:
        await voted_on(node, NAMES, votes=12)

    invited = await swarm_command(kitchen, tmp_path, "invite", "--uses", "2", "--for", "1h")
    for node in (study, attic):  # by one code, which names the node's own port
        joined = await swarm_command(node, tmp_path, "join", str(invited["code"]))
        assert joined["inviter"] == "küche"
    await all_see(swarm.nodes, swarm.nodes, PAIRED_S)
    for node in swarm:
        await voted_on(node, NAMES, votes=12)

    left = await swarm_command(attic, tmp_path, "leave", "--yes")
    assert sorted(left["told"]) == ["küche", "study"]  # type: ignore[call-overload]
    await all_see((kitchen, study), (kitchen, study), OUT_S)
    invited = await swarm_command(study, tmp_path, "invite")  # whose code names a port of its own
    assert all(str(address).endswith(":17616") for address in invited["addresses"])  # type: ignore[attr-defined]
    await swarm_command(attic, tmp_path, "join", str(invited["code"]))
    await all_see(swarm.nodes, swarm.nodes, PAIRED_S)
    await voted_on(attic, NAMES, votes=12)

    for program in (program_before, PROGRAM):  # downgraded and updated again, with the same data directory
        attic.kill()
        attic.program = program
        attic.start()
        await attic.ready()
        assert await version_of(attic) == await version_of(study if program is program_before else kitchen)
        await all_see(swarm.nodes, swarm.nodes, PAIRED_S)

    await swarm_command(kitchen, tmp_path, "revoke", "study", "--yes")
    await all_see((kitchen, attic), (kitchen, attic), OUT_S)
    await all_see((study,), (study,), PAIRED_S)
    await study.says("this node was revoked by küche")
    for node in swarm:
        assert "Traceback" not in node.logs()


async def test_each_answers_for_the_other_what_only_it_serves(
    network: Network, tmp_path: Path, program_before: tuple[str, ...]
) -> None:
    here, there, _ = network.machines
    with (
        NodeProcess("kitchen", tmp_path / "kitchen", here, ("--federation",)) as kitchen,
        NodeProcess(
            "study", tmp_path / "study", there, ("--federation",), program=program_before, model="demo:b"
        ) as study,
    ):
        await kitchen.ready()
        await study.ready()

        async def served(node: NodeProcess) -> dict[str, list[str]]:
            view = await federation_view(node)
            return {} if view is None else view["models"]

        wanted = {"demo": ["kitchen"], "demo:b": ["study"]}

        async def both() -> list[dict[str, list[str]]]:
            return [await served(kitchen), await served(study)]

        await eventually(both, PAIRED_S, "each knows what the other serves", until=[wanted, wanted].__eq__)
        assert "Paris" in (await ask(study, model="demo")).text
        answer = await ask(kitchen, model="demo:b")
        assert answer.text
        assert {candidate["voter"].rpartition("@")[2] for candidate in answer.swarm["candidates"]} == {"study"}
