"""The requests in progress: counted from their headers to the end of their answer, and ended aloud if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from federation.wire import PREFIX
from swarm.errors import Unavailable

CUT_OFF: Final = "this node shut down before the answer was complete: ask another node"


class Work:
    """One request in progress. Once cut, its innermost `within` block ends by Unavailable."""

    def __init__(self) -> None:
        self._limits: list[asyncio.Timeout] = []
        self._may_be_cut = True

    @asynccontextmanager
    async def within(self) -> AsyncGenerator[None]:
        """A block that knows how to tell the client; the outer of two ends only before or without the inner."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.append(limit)
                try:
                    yield
                finally:
                    self._limits.remove(limit)
                    if self._limits:
                        self._may_be_cut = False  # a stream was ended there: nothing may be said after it
        except TimeoutError:
            if not limit.expired():
                raise
            raise Unavailable(CUT_OFF) from None

    def cut(self) -> None:
        """End it at the next turn of the event loop."""
        if self._may_be_cut and self._limits:
            self._may_be_cut = False
            self._limits[-1].reschedule(asyncio.get_running_loop().time())


WORK = web.RequestKey("work", Work)


def work_of(request: web.Request) -> Work:
    """That of a request which is counted; of another one nobody cuts."""
    return request.get(WORK) or Work()


class InProgress:
    """The requests that ask for work. `asked_at` is when a client last came, on the monotonic clock; None for never."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self._running: set[Work] = set()  # bounded by admission
        self._one_ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    def now(self) -> frozenset[Work]:
        """Those of this moment."""
        return frozenset(self._running)

    def note_client(self) -> None:
        """A client asked something, or a balancer whether this node is ready."""
        self.asked_at = time.monotonic()

    @asynccontextmanager
    async def request(self, request: web.Request) -> AsyncGenerator[None]:
        """Count `request` while the block runs. Raises Unavailable where it is cut before its stream is open."""
        if not request.path.startswith(PREFIX):
            self.note_client()
        work = request[WORK] = Work()
        self._running.add(work)
        try:
            async with work.within():
                yield
        finally:
            self._running.discard(work)
            self._one_ended.set()

    async def over(self, works: Collection[Work], timeout_s: float) -> bool:
        """Whether all of `works` have ended, which is waited for. For one caller at a time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._running.isdisjoint(works):
                    self._one_ended.clear()
                    await self._one_ended.wait()
        except TimeoutError:
            return False
        return True

    def cut(self, works: Collection[Work]) -> None:
        """End those of `works` that still run: streams by an error in them, whole answers by a 503."""
        for work in self._running.intersection(works):
            work.cut()
