"""Looking at the nodes from outside while things go wrong: are they alive, whom do they see, what do they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
import psutil

from tests.e2e.node_process import NodeProcess
from tests.faults.history import Footprint, Ping, View

PING_EVERY_S: Final = 0.1
VIEW_EVERY_S: Final = 0.5
LOOK_TIMEOUT_S: Final = 2.0  # a node that is well answers in milliseconds
MODEL: Final = "demo"


class Watch:
    """Pings and views of `nodes`, taken while `watching` runs."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self.pings: list[Ping] = []
        self.views: list[View] = []

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as tasks:
            looking = [
                tasks.create_task(self._again_and_again(look, node, every_s))
                for node in self._urls
                for look, every_s in ((self._ping, PING_EVERY_S), (self._view, VIEW_EVERY_S))
            ]
            try:
                yield
            finally:
                for task in looking:
                    task.cancel()

    async def _again_and_again(self, look: Any, node: str, every_s: float) -> None:
        while True:
            await look(node)
            await asyncio.sleep(every_s)  # a clock: how often something is looked at

    async def _ping(self, node: str) -> None:
        began = time.monotonic()
        answer = await _got(f"{self._urls[node]}/livez")
        took_s = None if answer is None else time.monotonic() - began
        self.pings.append(Ping(node, began, took_s))

    async def _view(self, node: str) -> None:
        self.views.append(await view_of(node, self._urls[node]))


async def view_of(node: str, url: str) -> View:
    """Whom the node would ask now."""
    answer = await _got(f"{url}/v1/federation/health")
    names = None if answer is None else frozenset(answer["models"].get(MODEL, ()))
    return View(node, time.monotonic(), names)


async def _got(url: str) -> Any:
    timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT_S)
    with suppress(aiohttp.ClientError, TimeoutError):
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return await response.json()
    return None


def footprint(node: NodeProcess) -> Footprint:
    """What the node's process holds now."""
    process = psutil.Process(node.pid)
    return Footprint(process.memory_info().rss, process.num_fds(), process.num_threads())


def footprints(nodes: Sequence[NodeProcess]) -> dict[str, Footprint]:
    return {node.name: footprint(node) for node in nodes}
