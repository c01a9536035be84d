"""The network of the end-to-end tests; a failed test shows what its nodes said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.network import Network
from tests.e2e.reports import network_or_skip, pytest_runtest_makereport

__all__ = ["network", "pytest_runtest_makereport"]


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three machines on one bridge."""
    with network_or_skip(("kitchen", "study", "attic")) as network:
        yield network
