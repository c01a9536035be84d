"""Five nodes, minutes of faults at random: an open swarm, and a paired one where every connection is mutual TLS."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import swarm_command
from tests.e2e.network import Network
from tests.e2e.reports import network_or_skip
from tests.e2e.swarm_of_nodes import Swarm, all_see, federated
from tests.faults.schedule import make_schedule
from tests.faults.trial import Trial

pytestmark = [pytest.mark.netns, pytest.mark.slow]

LASTS_S = float(os.environ.get("SWARM_FAULTS_S", "180"))
SEEDS = [int(seed) for seed in os.environ.get("SWARM_FAULTS_SEEDS", "11,12").split(",")]
CLIENTS = 2  # of each node: five nodes share this machine
JOIN_S = 30.0
PAIRED_S = 20.0


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with network_or_skip(("kitchen", "study", "attic", "cellar", "garage")) as network:
        yield network


@pytest.fixture(params=["open", "paired"])
def swarm(network: Network, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    with federated(network.machines, tmp_path, "--federation") as swarm:
        asyncio.run(ready(swarm))
        if request.param == "paired":
            asyncio.run(pair(swarm, tmp_path))
        yield swarm


async def ready(swarm: Swarm) -> None:
    for node in swarm:
        await node.ready()
    await all_see(swarm.nodes, swarm.nodes, JOIN_S)


async def pair(swarm: Swarm, folder: Path) -> None:
    """Each node is invited by the one before it."""
    members = swarm.nodes[:1]
    for newcomer in swarm.nodes[1:]:
        invited = await swarm_command(members[-1], folder, "invite")
        await swarm_command(newcomer, folder, "join", str(invited["code"]))
        members = (*members, newcomer)
        await all_see(members, members, PAIRED_S)


@pytest.mark.parametrize("seed", SEEDS)
async def test_faults_at_random_for_long(trial: Trial, seed: int) -> None:
    await trial.survives(make_schedule(seed, trial.names, LASTS_S), CLIENTS, f"SWARM_FAULTS_SEEDS={seed}")
