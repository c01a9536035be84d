"""Three real nodes: open at first, paired by invitations, without one of them after it is revoked, and restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.asking import federation_view, get_text, voted_on
from tests.e2e.commands import swarm_command
from tests.e2e.network import Network
from tests.e2e.swarm_of_nodes import Swarm, all_see, federated

pytestmark = pytest.mark.netns

PAIRED_S = 15.0  # a probe on every address, the list of members, and mDNS again
OUT_S = 6.0


@pytest.fixture
def swarm(network: Network, tmp_path: Path) -> Iterator[Swarm]:
    with federated(network.machines, tmp_path, "--federation") as swarm:
        yield swarm


async def test_three_open_nodes_become_a_paired_swarm_and_one_is_put_out(swarm: Swarm, tmp_path: Path) -> None:
    await swarm.whole()
    kitchen, study, attic = swarm.nodes

    invited = await swarm_command(kitchen, tmp_path, "invite")
    await all_see((kitchen,), (kitchen,), OUT_S)  # open nodes are nobody to it from now on
    await swarm_command(study, tmp_path, "join", str(invited["code"]))
    await all_see((kitchen, study), (kitchen, study), PAIRED_S)
    await all_see((attic,), (attic,), PAIRED_S)
    await attic.says("belongs to a paired swarm")

    invited = await swarm_command(study, tmp_path, "invite")
    await swarm_command(attic, tmp_path, "join", str(invited["code"]))
    await all_see(swarm.nodes, swarm.nodes, PAIRED_S)
    for node in swarm:
        await voted_on(node, ["kitchen", "study", "attic"], votes=12)
        view = await federation_view(node)
        assert view is not None
        assert view["node"]["mode"] == "paired"
        refusal = await get_text(f"{node.url}/federation/v1/node")
        assert refusal is not None
        assert "members_only" in refusal

    await swarm_command(kitchen, tmp_path, "revoke", "attic", "--yes")
    await all_see((kitchen, study), (kitchen, study), OUT_S)
    await all_see((attic,), (attic,), PAIRED_S)
    await attic.says("this node was revoked")
    assert attic.output.count("this node was revoked by kitchen: ask for a new code") == 1

    study.kill()
    study.start()
    await study.ready()
    await all_see((kitchen, study), (kitchen, study), PAIRED_S)
    members = await swarm_command(study, tmp_path, "peers")
    assert [(node["name"], node["state"]) for node in members["nodes"]] == [("kitchen", "alive")]  # type: ignore[union-attr, index]
    assert [node["name"] for node in members["revoked"]] == ["attic"]  # type: ignore[union-attr, index]
    for node in swarm:
        assert "Traceback" not in node.errors
