"""After a load with everything in it, tasks, descriptors, slots and memory are what they were before."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import RunningNode
from tests.e2e.waiting import eventually

REQUESTS: Final = 200
AT_ONCE: Final = 20
BACK_S: Final = 30.0  # the promise
MORE_MEMORY_BYTES: Final = 48 * 2**20  # allocators keep some; a leak of a request's buffers would be far more
CHAT: Final = "/v1/chat/completions"
LONG: Final[dict[str, Any]] = {"max_tokens": 300, "temperature": 1.5}


@dataclass(frozen=True, slots=True)
class Held:
    """What the process and its node hold."""

    tasks: int
    descriptors: int
    slots_free: int
    in_progress: int
    waiting: int


def held(node: RunningNode) -> Held:
    states = node.pool.states()
    return Held(
        tasks=len(asyncio.all_tasks()),
        descriptors=psutil.Process().num_fds(),
        slots_free=sum(state.slots_free for state in states),
        in_progress=len(node.condition.in_progress),
        waiting=sum(state.waiting for state in states),
    )


def idle(found: Held) -> Held:
    """All but the descriptors, some of which are opened once and kept."""
    return replace(found, descriptors=0)


def no_more_than(before: Held) -> Callable[[Held], bool]:
    """As idle as before, without a descriptor more; one fewer is a connection that was kept open for a while."""
    return lambda now: idle(now) == idle(before) and now.descriptors <= before.descriptors


def memory_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def whole(client: Client) -> None:
    assert (await client.chat("What is 2 + 2?", max_tokens=20, swarm={"votes": 3})).status in (200, 503)


async def streamed(client: Client) -> None:
    reply = await client.chat("Tell me about the sea.", max_tokens=20, stream=True, swarm={"strategy": "single"})
    assert reply.status in (200, 503)


async def left_in_the_middle(client: Client) -> None:
    async with client.open(CHAT, chat_body("Tell me about the sea.", stream=True, **LONG)) as response:
        await response.content.readany()


async def left_before_the_first_byte(client: Client) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.chat("Tell me about the sea.", **LONG)


async def refused(client: Client) -> None:
    assert (await client.chat(temperature=9)).status == 400


async def unknown(client: Client) -> None:
    assert (await client.post(CHAT, {**chat_body(), "model": "no-such-model"})).status == 404


async def embedded(client: Client) -> None:
    assert (await client.post("/v1/embeddings", {"model": "demo", "input": ["a", "b"]})).status in (200, 503)


KINDS: Final[tuple[Callable[[Client], Coroutine[Any, Any, None]], ...]] = (
    whole, streamed, left_in_the_middle, left_before_the_first_byte, refused, unknown, embedded,
)  # fmt: skip


async def ask(url: str, requests: int) -> None:
    """Ask for everything there is, AT_ONCE at a time, and close every connection."""
    room = asyncio.Semaphore(AT_ONCE)
    async with connect(url) as client, asyncio.TaskGroup() as tasks:

        async def one(kind: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
            async with room:
                await kind(client)

        for number in range(requests):
            tasks.create_task(one(KINDS[number % len(KINDS)]))


async def test_nothing_is_left_of_two_hundred_requests(demo_model: Path) -> None:
    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("demo", demo_model, 1024, 4, threads=1))

    async with RunningNode("kitchen", load) as node:

        async def now() -> Held:
            return held(node)

        fresh = held(node)
        await ask(node.url, 2 * len(KINDS))  # what is opened once is opened now, and memory is taken for its buffers
        before = await eventually(now, BACK_S, f"as idle as {fresh}", until=lambda now: idle(now) == idle(fresh))
        before_bytes = memory_bytes()
        await ask(node.url, REQUESTS)
        await eventually(now, BACK_S, f"it holds what it held before: {before}", until=no_more_than(before))
        assert memory_bytes() - before_bytes < MORE_MEMORY_BYTES
