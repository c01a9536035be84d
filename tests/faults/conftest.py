"""Three machines on a switch that can fail, a swarm on them, and clients that write down what they get."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.network import Network
from tests.e2e.reports import network_or_skip, pytest_runtest_makereport
from tests.e2e.swarm_of_nodes import Swarm, federated
from tests.faults.switch import FaultySwitch
from tests.faults.trial import Trial

__all__ = ["lasting_swarm", "line_trial", "network", "pytest_runtest_makereport", "swarm", "trial"]


VOTING = ("--federation", "--votes", "5")  # also on prose, of which this model's words are known


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with network_or_skip(("kitchen", "study", "attic")) as network:
        yield network


@pytest.fixture
def swarm(network: Network, tmp_path: Path) -> Iterator[Swarm]:
    """One for each test: they end and start its nodes."""
    with federated(network.machines, tmp_path, *VOTING) as swarm:
        asyncio.run(swarm.whole())
        yield swarm


@pytest.fixture
def trial(network: Network, swarm: Swarm) -> Iterator[Trial]:
    with FaultySwitch(network) as switch:
        yield Trial(swarm, switch)


@pytest.fixture(scope="module")
def lasting_swarm(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """One for all tests of a module that leave the processes alone."""
    with federated(network.machines, tmp_path_factory.mktemp("lasting"), *VOTING) as swarm:
        asyncio.run(swarm.whole())
        yield swarm


@pytest.fixture
def line_trial(network: Network, lasting_swarm: Swarm) -> Iterator[Trial]:
    with FaultySwitch(network) as switch:
        yield Trial(lasting_swarm, switch)
