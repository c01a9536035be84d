"""A client that leaves through the official package: the engine's workers are idle again within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from tests.e2e.asking import SLOTS, metrics_of, rambling, slots_free
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually

FREED_S = 1.0  # the promise
BUSY_S = 10.0  # to begin; milliseconds on an idle machine
SINGLE = {"swarm": {"strategy": "single"}}
VOTE = {"swarm": {"votes": SLOTS}}


@pytest_asyncio.fixture
async def ai(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    plain = DefaultAsyncHttpxClient(verify=False)
    async with AsyncOpenAI(base_url=base_url, api_key="none", http_client=plain, max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(autouse=True)
async def leaves(node: NodeProcess) -> AsyncIterator[None]:
    """Fails a test whose answer came to its end before the client left."""
    before = await clients_left(node)
    yield
    await eventually(lambda: clients_left(node), BUSY_S, "one client left", until=(before + 1).__eq__)


async def clients_left(node: NodeProcess) -> float:
    """How many requests the node has counted as left by their client."""
    series = 'swarm_requests_total{endpoint="/v1/chat/completions",status="499"}'
    return (await metrics_of(node)).get(series, 0.0)


@pytest_asyncio.fixture
async def long_answer(node: NodeProcess) -> dict[str, Any]:
    """A request that keeps a worker busy for seconds, asked of a node that is idle."""
    await eventually(lambda: slots_free(node), BUSY_S, "all workers are idle", until=SLOTS.__eq__)
    fields = await asyncio.to_thread(rambling)
    return {"model": "demo", "messages": [{"role": "user", "content": "hello"}], **fields, "extra_body": SINGLE}


async def busy(node: NodeProcess, workers: int) -> None:
    await eventually(lambda: slots_free(node), BUSY_S, f"{workers} at work", until=(SLOTS - workers).__eq__)


async def freed(node: NodeProcess, left_at: float) -> None:
    """Fails if a worker is at work FREED_S after the client has left."""
    await eventually(lambda: slots_free(node), BUSY_S, "all workers are idle", until=SLOTS.__eq__)
    assert time.perf_counter() - left_at < FREED_S


@pytest.mark.client("openai-python", "cancel")
@pytest.mark.parametrize("more", [{}, {"n": SLOTS}], ids=["one", "n"])
async def test_a_stream_that_is_closed(
    node: NodeProcess, ai: AsyncOpenAI, long_answer: dict[str, Any], more: dict[str, Any]
) -> None:
    stream = await ai.chat.completions.create(**long_answer, **more, stream=True)
    await anext(aiter(stream))
    await busy(node, more.get("n", 1))
    await stream.close()
    await freed(node, time.perf_counter())


@pytest.mark.client("openai-python", "cancel")
async def test_a_stream_that_a_blocking_client_leaves(
    node: NodeProcess, base_url: str, long_answer: dict[str, Any]
) -> None:
    def leave() -> float:
        plain = DefaultHttpxClient(verify=False)
        with OpenAI(base_url=base_url, api_key="none", http_client=plain) as client:
            with client.chat.completions.create(**long_answer, stream=True) as stream:
                next(iter(stream))
            return time.perf_counter()

    await freed(node, await asyncio.to_thread(leave))


@pytest.mark.client("openai-python", "cancel")
@pytest.mark.parametrize(("extra", "workers"), [(SINGLE, 1), (VOTE, SLOTS)], ids=["single", "vote"])
async def test_an_answer_that_is_no_longer_awaited(
    node: NodeProcess, ai: AsyncOpenAI, long_answer: dict[str, Any], extra: dict[str, Any], workers: int
) -> None:
    asking = asyncio.create_task(ai.chat.completions.create(**{**long_answer, "extra_body": extra}))
    await busy(node, workers)
    asking.cancel()
    left_at = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await freed(node, left_at)


@pytest.mark.client("openai-python", "cancel")
async def test_an_answer_that_takes_longer_than_the_client_waits(
    node: NodeProcess, ai: AsyncOpenAI, long_answer: dict[str, Any]
) -> None:
    with pytest.raises(APITimeoutError):
        await ai.chat.completions.create(**long_answer, timeout=0.3)
    await freed(node, time.perf_counter())
