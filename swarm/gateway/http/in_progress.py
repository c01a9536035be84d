"""The work that a node has in progress, and whether it takes more.

`InProgress` counts requests from their headers to the end of their answer, and ends them if need be, with an error that
the client sees. `Admission` bounds how many there are, whoever does the work in the end, before their bodies are read.
`Condition` says whether it takes work at all: not yet while it loads its first model, no longer once it shuts down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from federation import wire
from federation.tasks import tell_each
from swarm.errors import RequestCancelled, SwarmError, Unavailable, UnknownModel, UnknownRequest
from swarm.gateway.http.access import ABOUT_THE_NODE, is_between_nodes, kind_of
from swarm.gateway.http.access_middleware import KEY_HOLDER
from swarm.gateway.http.errors import CLIENT_LEFT_STATUS
from swarm.logs import current_request_id
from swarm.workers.pool import WorkerPool
from swarm.workers.slots import retry_after_s

ENDING: Final = web.RequestKey("ending", str)  # how a stream ended, for the metrics
CLIENT_LEFT, BROKEN_OFF = str(CLIENT_LEFT_STATUS), "broken"
CUT_OFF: Final = "this node shut down before the answer was complete: ask another node"
CANCELLED: Final = "the request was cancelled on the node that worked on it"
MAX_IN_FLIGHT = 2048  # running, queued and passed on; at 60 KB a stream 120 MB, and a quarter of most open-file limits
ALWAYS_TAKEN = frozenset({wire.GOODBYE_PATH})  # a few bytes that save work
LOADING_RETRY_AFTER_S = 2  # sent to clients: a small model is there by then, a large one after a few retries
LEAVING_RETRY_AFTER_S = 1  # where a supervisor starts the node again, it listens by then


def _shut_down() -> SwarmError:
    return Unavailable(CUT_OFF)


def _cancelled() -> SwarmError:
    return RequestCancelled(CANCELLED)


class Work:
    """One request in progress. Once cut, its innermost `within` block ends by the error that it was cut with.

    `request_id` is the caller's where it gave one, so several may share it; `began` is on the monotonic clock. `key` is
    the name of its key, never the key; `model` what it asks for, once its body is read. `waits` for a worker: of votes,
    and of what needs none, nothing is said. `tokens`: about how many of a streamed answer have come.
    """

    def __init__(self, path: str = "", key: str | None = None) -> None:
        self.path = path
        self.key = key
        self.model: str | None = None
        self.waits = False
        self.tokens: int | None = None
        self.request_id = current_request_id.get()
        self.began = time.monotonic()
        self._limits: list[asyncio.Timeout] = []
        self._may_be_cut = True
        self._error = _shut_down

    @asynccontextmanager
    async def within(self) -> AsyncGenerator[None]:
        """A block that can report an error to the client; of two nested ones the outer ends only before the inner."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.append(limit)
                try:
                    yield
                finally:
                    self._limits.remove(limit)
                    if self._limits:
                        self._may_be_cut = False  # a stream was ended there: nothing may be sent after it
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._error() from None

    @property
    def for_a_node(self) -> bool:
        """Whether another node asked, for a client of its own."""
        return is_between_nodes(self.path)

    def cut(self, error: Callable[[], SwarmError] = _shut_down) -> bool:
        """End it at the next turn of the event loop; False where its end is being sent already."""
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
        holder = request.get(KEY_HOLDER)
        work = request[WORK] = Work(request.path, None if holder is None else holder.name)
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


class Condition:
    """Whether the node takes work: `loading` until its first model runs, `draining` from the first stop signal on."""

    def __init__(self, loading: bool = True, draining: bool = False) -> None:
        self.in_progress = InProgress()
        self._loading = loading
        self._draining = draining
        self._subscribers: list[Callable[[], None]] = []

    @property
    def loading(self) -> bool:
        """Whether the node's first model does not run yet."""
        return self._loading

    @loading.setter
    def loading(self, loading: bool) -> None:
        self._loading = loading
        self._tell()

    @property
    def draining(self) -> bool:
        """Whether this node shuts down and only ends what it has begun; it never goes back."""
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining
        self._tell()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after every change, which must not block; the returned function ends that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _tell(self) -> None:
        tell_each(self._subscribers)

    @contextmanager
    def finding_a_model(self, node: str, for_peer: bool = False) -> Generator[None]:
        """Wrap the choice of who answers. `node` is this one's name; `for_peer`: another node asks.

        Raises Unavailable for UnknownModel while this node loads, since it may be about to know the model; and while
        it shuts down, when it does no work for peers, and clients' only through peers.
        """
        if self.draining and for_peer:
            raise Unavailable(f"node {node!r} is shutting down: ask another node", LEAVING_RETRY_AFTER_S)
        try:
            yield
        except UnknownModel as error:
            if self.draining:
                message = f"node {node!r} is shutting down and knows no other that serves this: ask another node"
                raise Unavailable(message, LEAVING_RETRY_AFTER_S) from error
            if not self.loading:
                raise
            raise Unavailable(f"{error}; this node is still loading its own", LOADING_RETRY_AFTER_S) from error


def closing_connections(condition: Condition) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal for every answer's headers: once the node leaves, each is the last one of its connection.

    So clients with idle connections are not surprised later by one that closes while they write to it.
    """

    async def close(_: web.Request, response: web.StreamResponse) -> None:
        if condition.draining:
            response.force_close()
            response.headers["Connection"] = "close"

    return close


def is_management(request: web.Request) -> bool:
    """Whether its route is for those who manage this node, who belongs to it, or what its page may do."""
    resource = request.match_info.route.resource
    return resource is not None and kind_of(request.method, resource.canonical) in ABOUT_THE_NODE


class Admission:
    """Bounds the requests in progress that ask for work: all those by POST, but for management, which frees it.

    `refused` is called for each request that is turned away.
    """

    def __init__(
        self, pool: WorkerPool, in_progress: InProgress, refused: Callable[[], None], most: int = MAX_IN_FLIGHT
    ) -> None:
        self._most = most
        self._pool = pool
        self._in_progress = in_progress
        self._refused = refused

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Raises Unavailable, which says when to come back, where the node has as many as it takes."""
        if request.method != "POST" or request.path in ALWAYS_TAKEN or is_management(request):
            return await handler(request)
        if len(self._in_progress) >= self._most:
            self._refused()
            raise Unavailable(
                f"this node has {len(self._in_progress)} requests in progress, which is all it takes: try again later",
                retry_after_s=retry_after_s(self._pool.expected_wait_s()),
            )
        async with self._in_progress.request(request):
            return await handler(request)
