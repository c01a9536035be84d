"""One node with the embedded model for all tests of a module that only ask it things."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from openai import AsyncOpenAI

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.clients import Client, connect, openai_client
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.scripted_tools import ScriptedTools

SLOTS, CONTEXT_TOKENS = 4, 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_node(demo_model: Path) -> AsyncIterator[RunningNode]:
    """A node named "kitchen" that serves the embedded model as "demo", and has played tools."""

    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("demo", demo_model, CONTEXT_TOKENS, SLOTS, threads=1))

    async with RunningNode("kitchen", load, options=NodeOptions(tool_host=ScriptedTools())) as node:
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def client(demo_node: RunningNode) -> AsyncIterator[Client]:
    async with connect(demo_node.url) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="module")
async def ai(demo_node: RunningNode) -> AsyncIterator[AsyncOpenAI]:
    """The official package, without retries: what is answered is what was sent."""
    async with openai_client(demo_node.url, max_retries=0) as opened:
        yield opened
