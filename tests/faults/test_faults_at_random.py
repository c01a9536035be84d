"""Whatever goes wrong and in whatever order: every client gets its answer or is told, and the swarm heals."""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.schedule import make_schedule
from tests.faults.trial import Trial

pytestmark = pytest.mark.netns

LASTS_S = 30.0
CLIENTS = 3  # of each node
SEEDS = [int(seed) for seed in os.environ.get("SWARM_FAULTS_SEEDS", "1").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
async def test_faults_at_random(trial: Trial, seed: int) -> None:
    schedule = make_schedule(seed, trial.names, LASTS_S)
    sys.stdout.write("\n".join((f"SWARM_FAULTS_SEEDS={seed}", *map(str, schedule), "")))  # shown where it fails
    calm = await trial.calm(CLIENTS)
    async with trial.under_load(CLIENTS):
        await trial.director.play(schedule)
    trial.assert_kept(calm, f"seed {seed}")
    await trial.back_to(calm)
