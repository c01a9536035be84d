"""A node from start to stop: the signals that end it."""

from __future__ import annotations

import asyncio
import os
import signal

from swarm.console import Console
from swarm.node import Node
from swarm.settings import Settings


async def run_node(settings: Settings, console: Console) -> None:
    """Run a node until SIGINT or SIGTERM; a second signal ends it at once. Raises SetupError if it cannot start."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    def watch_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)

    watch_signals()
    starting = asyncio.create_task(_started(settings, console), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        stopping.cancel()
        return
    node = await starting
    watch_signals()  # llama.cpp's server may have installed its own while it loaded; ours must be the last
    try:
        await stopping
    finally:
        await node.__aexit__()


async def _started(settings: Settings, console: Console) -> Node:
    node = Node(settings, console)
    await node.__aenter__()
    return node
