"""Three machines that find each other by mDNS alone answer as one, whichever is asked."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.asking import SLOTS, ask, federation_view, long_stream, metrics_of, slots_free, voted_on
from tests.e2e.network import Network
from tests.e2e.node_process import PROGRAM
from tests.e2e.swarm_of_nodes import JOIN_S, Swarm, federated
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.netns

STOP_S = 1.0  # from a client's leaving to idle workers everywhere
BUSY_S = 5.0  # from a request to the first token everywhere
COMMAND_S = 10.0

CLIENTS_THAT_LEFT = 'swarm_requests_total{endpoint="/v1/chat/completions",status="499"}'
PEERS_THAT_LEFT = 'swarm_requests_total{endpoint="/federation/v1/candidates",status="499"}'


@pytest.fixture(scope="module")
def swarm(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with federated(network.machines, tmp_path_factory.mktemp("three"), "--federation") as swarm:
        asyncio.run(swarm.whole())
        yield swarm


@pytest.mark.parametrize("position", range(3))
async def test_a_question_asked_of_any_node_is_voted_on_by_all_three(swarm: Swarm, position: int) -> None:
    asked = swarm.nodes[position]
    answer = await voted_on(asked, [node.name for node in swarm])
    assert answer.swarm["coordinator"] == asked.name
    assert answer.swarm["asked"] >= answer.swarm["votes"] >= 3


async def test_a_calculation_is_decided_by_counting_over_nodes(swarm: Swarm) -> None:
    answer = await ask(swarm.nodes[0], "Calculate 12 + 7 - 3", strategy="majority", votes=3)
    assert answer.swarm["wanted"] == 3
    assert len(answer.voting_nodes) >= 2, "three votes are one of each node, and the first two may settle it"
    assert "16" in answer.text


async def test_every_peer_was_found_by_mdns(swarm: Swarm) -> None:
    async def sources() -> list[str]:
        views = [await federation_view(node) for node in swarm]
        return [peer["source"] for view in views if view is not None for peer in view["peers"]]

    await eventually(sources, JOIN_S, "every node found both others by mDNS", until=(["mdns"] * 6).__eq__)


async def test_the_banner_names_node_address_model_workers_and_peers(swarm: Swarm) -> None:
    for node in swarm:
        assert node.machine is not None
        assert node.url == f"http://{node.machine.ip}:17615"
        lines = node.output.splitlines()
        assert re.match(rf"Local Swarm \S+ · node {node.name} \(\w+\)", lines[0]), lines
        assert any(re.match(r"\s+network\s+eth0", line) for line in lines), lines
        assert any(re.match(r"\s+trust\s+open: any node on this network may join", line) for line in lines), lines
        assert any(re.match(r"\s+model\s+demo: \S", line) for line in lines), lines
        workers = next(line for line in lines if re.match(r"\s+workers\s", line))
        assert workers.count(",") == SLOTS - 1, workers
        for other in swarm:
            joined = [line for line in lines if line.startswith(f"+ peer {other.name} at {other.url[7:]} (")]
            assert bool(joined) == (other is not node), lines


async def test_status_inside_a_machine_shows_the_whole_swarm(swarm: Swarm) -> None:
    node = swarm.nodes[1]
    assert node.machine is not None
    command = node.machine.command(*PROGRAM, "status", "--json")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(COMMAND_S):
        out, _ = await process.communicate()
    view = json.loads(out)
    assert process.returncode == 0
    assert view["node"]["name"] == node.name
    assert sorted(view["models"]["demo"]) == sorted(other.name for other in swarm)


async def test_a_client_that_leaves_in_mid_stream_stops_generation_everywhere(swarm: Swarm) -> None:
    asked, *others = swarm.nodes
    before = {node.name: await metrics_of(node) for node in swarm}
    async with long_stream(asked, strategy="medoid", votes=3 * SLOTS):
        await all_have_idle(swarm, 0, BUSY_S)
    await all_have_idle(swarm, SLOTS, STOP_S)
    for node, series in ((asked, CLIENTS_THAT_LEFT), *((other, PEERS_THAT_LEFT) for other in others)):
        left = (await metrics_of(node)).get(series, 0) - before[node.name].get(series, 0)
        assert left == 1, f"{node.name} did not count {series}"


async def all_have_idle(swarm: Swarm, wanted: int, timeout_s: float) -> None:
    """Return when exactly `wanted` workers are idle on every node at once."""

    async def idle() -> set[int | None]:
        return {await slots_free(node) for node in swarm}

    await eventually(idle, timeout_s, f"{wanted} of {SLOTS} workers are idle on every node", until={wanted}.__eq__)
