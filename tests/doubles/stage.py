"""A node with one scripted engine and a client of it: where votes are held whose every word a test writes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, saying
from tests.doubles.waiting import eventually

SLOTS = 4


class Stage:
    """A node named "kitchen" with one scripted engine of four slots, and a client."""

    def __init__(self, engine: ScriptedEngine, node: RunningNode, client: Client) -> None:
        self.engine = engine
        self.node = node
        self.client = client

    def voters_say(self, *answers: list[Step] | str) -> None:
        """Voter 0 plays the first answer, voter 1 the second, ..."""
        steps = [[answer] if isinstance(answer, str) else answer for answer in answers]
        self.engine.script = lambda _, voter: steps[voter]

    async def until_waiting(self, count: int) -> None:
        """Return when `count` requests wait for workers."""
        workers = self.node.pool.get("scripted")
        assert workers is not None
        await eventually(lambda: workers.waiting == count)

    @property
    def names(self) -> list[str]:
        workers = self.node.pool.get("scripted")
        assert workers is not None
        return [f"{worker.name}@kitchen" for worker in workers.workers]


async def staged(stack: AsyncExitStack, **options: Any) -> Stage:
    """A stage until `stack` is closed; `options` are those of the node."""
    engine = ScriptedEngine(saying("yes"), slots=SLOTS)
    node = await stack.enter_async_context(RunningNode("kitchen", ready(engine), options=NodeOptions(**options)))
    return Stage(engine, node, await stack.enter_async_context(connect(node.url)))
