"""What every folder of tests over node processes does: skip where there is no network, show what nodes said."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence

import pytest

from tests.e2e.network import Network, why_impossible
from tests.e2e.swarm_of_nodes import Swarm


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its nodes said."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        swarms = (value for value in item.funcargs.values() if isinstance(value, Swarm))
        report.sections.extend((f"node {node.name}", node.logs()) for swarm in swarms for node in swarm)
    return report


def network_or_skip(names: Sequence[str]) -> Network:
    """Machines on one bridge. Where that is impossible the tests are skipped, but never on CI."""
    reason = why_impossible()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the tests in network namespaces: {reason}")
        pytest.skip(reason)
    return Network(names)
