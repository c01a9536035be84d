"""One `swarm` process with the embedded model for the tests of each client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.node_process import NodeProcess


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node as a user starts it; the tests only ask it things, so one is enough for all of them."""
    with NodeProcess("kitchen", tmp_path_factory.mktemp("node")) as running:
        asyncio.run(running.ready())
        yield running


@pytest.fixture(scope="module")
def base_url(node: NodeProcess) -> str:
    """What users of a client are told to enter."""
    return f"{node.url}/v1"
