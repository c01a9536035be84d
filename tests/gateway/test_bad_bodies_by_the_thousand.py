"""Ten thousand bad bodies over every POST endpoint that the application has: no 5xx, no defect, and it serves on."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.clients import Client
from tests.doubles.damage import damaged_bodies
from tests.doubles.running_node import RunningNode
from tests.doubles.valid_bodies import bodies_for

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODIES = 10_000
ROUNDS = 100
CONNECTIONS = 4
# One token of whatever survives the damage.
LIMITS = {"max_tokens": 1, "max_completion_tokens": 1, "max_output_tokens": 1, "n_predict": 1}
BROKEN = re.compile(r'"(server_error|api_error|internal_error|engine_failed)"')  # how a stream tells of a 5xx

Sent = tuple[str, bytes]


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections that stay open, as those of clients do."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as opened:
        yield opened


async def problem(session: aiohttp.ClientSession, url: str, sent: Sent) -> tuple[Sent, int, str] | None:
    """What was wrong with the answer to one body; None if nothing was."""
    path, raw = sent
    async with session.post(url + path, data=raw) as response:
        text = await response.text()
        if response.status < 500 and not BROKEN.search(text):
            return None
        return sent, response.status, text[:500]


def batch(seed: int, paths: list[str], size: int) -> list[Sent]:
    """So many bodies, the endpoints in turn."""
    kinds = {path: damaged_bodies(seed, bodies_for(path), LIMITS) for path in paths}
    return [(path, next(kinds[path])) for path in itertools.islice(itertools.cycle(paths), size)]


@settings(
    max_examples=ROUNDS,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
async def test_ten_thousand_bad_bodies_break_nothing(
    demo_node: RunningNode,
    client: Client,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    ways = asyncio.Semaphore(CONNECTIONS)

    async def send(sent: Sent) -> tuple[Sent, int, str] | None:
        async with ways:
            return await problem(session, demo_node.url, sent)

    caplog.clear()
    paths = [path for path in demo_node.post_paths if not path.endswith("/unload")]  # they would do as they say
    sent = batch(seed, paths, BODIES // ROUNDS)
    problems = await asyncio.gather(*map(send, sent))
    assert [found for found in problems if found] == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert (await client.chat("hello", max_tokens=1)).status == 200
