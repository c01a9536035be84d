"""Memory that is lent over mutual TLS between two nodes: a real llama.cpp computes in a real RPC server far away."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from federation.lending_client import lease_of
from tests.doubles.lending_nodes import DEMO, Lent, LlamaServer, lending_build, lending_nodes, way_to

PROMPT = "Once upon a time there was a"


@pytest.fixture
async def lent(tmp_path: Path) -> AsyncGenerator[Lent]:
    async with lending_nodes(tmp_path, lending_build()) as nodes:
        yield nodes


async def test_a_model_in_lent_memory_answers_as_it_does_alone(lent: Lent) -> None:
    async with LlamaServer(lent.build, DEMO, None) as alone:
        expected = await alone.answer(PROMPT, 40)
    async with lease_of(lent.client, lent.url, lent.request()) as lease, way_to(lent, lease) as port:
        assert lease.grant.rpc == "7.0.0"
        async with LlamaServer(lent.build, DEMO, port) as pooled:
            assert await pooled.answer(PROMPT, 40) == expected
            (part,) = lent.lending.state().lent
            assert part.model == "demo"
    assert expected.strip()
