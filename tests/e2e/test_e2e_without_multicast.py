"""Where multicast does not pass, one --peer makes a node a full member of the swarm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.asking import federation_view, voted_on
from tests.e2e.network import Network
from tests.e2e.node_process import NodeProcess
from tests.e2e.swarm_of_nodes import Swarm, all_see

pytestmark = pytest.mark.netns

KILLED_OUT_S = 2.0


@pytest.fixture
def swarm(network: Network, tmp_path: Path) -> Iterator[Swarm]:
    """The kitchen hopes for mDNS in vain and is told nobody; the others are told of the kitchen only."""
    kitchen, *others = network.machines
    for machine in network.machines:
        machine.block_multicast()
    told = {machine: ["--peer", f"{kitchen.ip}:17615"] for machine in others}
    told[kitchen] = ["--federation"]
    nodes = [NodeProcess(m.name, tmp_path / m.name, m, told[m]) for m in network.machines]
    with Swarm(nodes) as swarm:
        yield swarm


async def test_one_peer_is_enough_to_learn_the_rest_and_to_lose_a_node(swarm: Swarm) -> None:
    await swarm.whole()
    kitchen, study, attic = swarm.nodes
    assert await sources_seen(study) == {"attic": "exchange", "kitchen": "static"}
    assert await sources_seen(attic) == {"study": "exchange", "kitchen": "static"}
    assert await sources_seen(kitchen) == {"attic": "exchange", "study": "exchange"}
    assert kitchen.machine is not None
    assert kitchen.machine.dropped_packets() > 0, "the kitchen's mDNS questions met no filter"
    assert "mDNS       off: no multicast on" in kitchen.output
    assert "--peer HOST:PORT" in kitchen.output
    assert "Traceback" not in kitchen.errors

    for node in swarm:
        await voted_on(node, ["kitchen", "study", "attic"])

    kitchen.kill()  # the one that the others were told of
    for node in (study, attic):
        await voted_on(node, ["study", "attic"])
    await all_see((study, attic), (study, attic), KILLED_OUT_S)


async def sources_seen(node: NodeProcess) -> dict[str, str]:
    """How the node found each of its peers."""
    view = await federation_view(node)
    assert view is not None
    return {peer["name"]: peer["source"] for peer in view["peers"]}
