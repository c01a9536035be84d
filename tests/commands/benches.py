"""What the tests of `swarm bench` share: a node to measure, and the command beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from swarm.cli import main
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.running_node import RunningNode


@asynccontextmanager
async def demo_node(model: Path, *, context: int, slots: int) -> AsyncGenerator[RunningNode]:
    """A node that answers with the embedded model in `model`, so many at once."""

    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("demo", model, context, slots, 1))

    async with RunningNode("kitchen", load) as node:
        yield node


async def bench(*words: object) -> int:
    """The exit code of `swarm bench WORDS`, run beside this loop."""
    return await asyncio.to_thread(main, ["bench", *map(str, words)])
