"""A real node in a process of its own, which also tells where its engine listens.

    python -m benchmarks.node_under_test '{"model": "...", "workers": 8}'     (fields of swarm.node.settings.Settings)

Prints one JSON line after the node's own once it is ready, and runs until its standard input ends; a line on it is an
address to find the engine at from now on (`relay.py`). The engine's own address and key are a secret between the node
and its engine; a benchmark needs them to ask the very same loaded model past the gateway, so this file, and no other,
reaches into the adapter for them.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from swarm.commands.terminal import Terminal
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.node.node import Node
from swarm.node.settings import make_settings

PROFILE_VARIABLE = "SWARM_BENCH_PROFILE"  # a file: where to write a cProfile of everything after `ready`


@dataclass(frozen=True, slots=True)
class Ready:
    """What the parent is told. `pid` is the node's; a large model's engine has a process of its own."""

    gateway_url: str
    engine_url: str
    engine_key: str
    model: str
    pid: int


def engine_of(node: Node) -> tuple[str, Any]:
    """The one model's id, and the adapter that talks to its listener."""
    model = node.describe().models[0].id
    workers = node.pool.get(model)
    if workers is None or not isinstance(workers.engine, LlamaServerEngine):
        raise SystemExit(f"{model} has no xllamacpp engine, so there is no native server to compare with")
    return model, workers.engine.http


def describe(node: Node) -> Ready:
    """Where to ask the node, and where to ask its engine without it."""
    model, http = engine_of(node)
    key = http._session.headers["Authorization"].removeprefix("Bearer ")
    return Ready(node.setup.announced.url, http._address, key, model, os.getpid())


def obey(node: Node, loop: asyncio.AbstractEventLoop) -> None:
    """Take addresses for the engine from standard input, and say so, until it ends. Blocks."""
    _, http = engine_of(node)
    for line in sys.stdin:
        asyncio.run_coroutine_threadsafe(ask_at(http, line.strip()), loop).result()
        print(json.dumps({"engine": http._address}), flush=True)


async def ask_at(http: Any, address: str) -> None:
    """Ask the engine there from now on, over TCP."""
    http._address = address
    before, http._session._connector = http._session._connector, aiohttp.TCPConnector(force_close=True, limit=0)
    await before.close()


async def run(fields: dict[str, Any], profile: Path | None) -> None:
    """A node from start to stop."""
    async with Node(make_settings(fields), Terminal()) as node:
        print(json.dumps(asdict(describe(node))), flush=True)
        profiler = cProfile.Profile()
        if profile is not None:
            profiler.enable()
        await asyncio.to_thread(obey, node, asyncio.get_running_loop())
        if profile is not None:
            profiler.disable()
            profiler.dump_stats(profile)


if __name__ == "__main__":
    target = os.environ.get(PROFILE_VARIABLE)
    asyncio.run(run(json.loads(sys.argv[1]), Path(target) if target else None))
