"""Whatever goes wrong and in whatever order: every client gets its answer or is told, and the swarm heals."""

from __future__ import annotations

import os

import pytest

from tests.faults.schedule import make_schedule
from tests.faults.trial import Trial

pytestmark = pytest.mark.netns

LASTS_S = float(os.environ.get("SWARM_FAULTS_S", "35"))
SEEDS = [int(seed) for seed in os.environ.get("SWARM_FAULTS_SEEDS", "3").split(",")]  # the same again: what failed
CLIENTS = 3  # of each node


@pytest.mark.parametrize("seed", SEEDS)
async def test_faults_at_random(trial: Trial, seed: int) -> None:
    await trial.survives(make_schedule(seed, trial.names, LASTS_S), CLIENTS, f"SWARM_FAULTS_SEEDS={seed}")
