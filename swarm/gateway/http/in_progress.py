"""The requests in progress: counted from their headers to the end of their answer, and ended aloud if need be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from swarm.errors import RequestCancelled, SwarmError, Unavailable, UnknownRequest
from swarm.gateway.http.access import is_between_nodes
from swarm.logs import current_request_id

ENDING: Final = web.RequestKey("ending", str)  # set on a request whose stream did not end well: how, for the metrics
CLIENT_LEFT, BROKEN_OFF = "499", "broken"  # 499 is nginx's word for a client that left
CUT_OFF: Final = "this node shut down before the answer was complete: ask another node"
CANCELLED: Final = "the request was cancelled on the node that worked on it"


def _shut_down() -> SwarmError:
    return Unavailable(CUT_OFF)


def _cancelled() -> SwarmError:
    return RequestCancelled(CANCELLED)


class Work:
    """One request in progress. Once cut, its innermost `within` block ends by the error that it was cut with.

    `request_id` is the caller's where it gave one, so several may share it; `began` is on the monotonic clock.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.request_id = current_request_id.get()
        self.began = time.monotonic()
        self._limits: list[asyncio.Timeout] = []
        self._may_be_cut = True
        self._error = _shut_down

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
            raise self._error() from None

    @property
    def for_a_node(self) -> bool:
        """Whether another node asked, for a client of its own."""
        return is_between_nodes(self.path)

    def cut(self, error: Callable[[], SwarmError] = _shut_down) -> bool:
        """End it at the next turn of the event loop; False where its last words are being said already."""
        if not (self._may_be_cut and self._limits):
            return False
        self._may_be_cut = False
        self._error = error
        self._limits[-1].reschedule(asyncio.get_running_loop().time())
        return True


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
        work = request[WORK] = Work(request.path)
        if not work.for_a_node:
            self.note_client()
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

    def cancel(self, request_id: str) -> int:
        """End all requests with that id; how many there were. Raises UnknownRequest for none."""
        cancelled = sum(work.cut(_cancelled) for work in self._running if work.request_id == request_id)
        if not cancelled:
            raise UnknownRequest(request_id)
        return cancelled

    def cut(self, works: Collection[Work]) -> None:
        """End those of `works` that still run: streams by an error in them, whole answers by a 503."""
        for work in self._running.intersection(works):
            work.cut()
