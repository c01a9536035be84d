"""How much work the node takes on at once, whoever does it in the end: a bound on requests, before their bodies."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from federation import wire
from swarm.errors import Unavailable
from swarm.gateway.http.access import REQUESTS_PATH
from swarm.gateway.http.errors import Handler
from swarm.gateway.http.in_progress import InProgress
from swarm.workers.pool import WorkerPool
from swarm.workers.slots import retry_after_s

MAX_IN_FLIGHT = 2048  # running, queued and passed on; at 60 KB a stream 120 MB, and a quarter of most open-file limits
ALWAYS_TAKEN = frozenset({wire.GOODBYE_PATH})  # a few bytes that save work


class Admission:
    """Bounds the requests in progress that ask for work: all those by POST, but for management, which frees it.

    `refused` is told of each request that is turned away."""

    def __init__(
        self, pool: WorkerPool, in_progress: InProgress, refused: Callable[[], None], most: int = MAX_IN_FLIGHT
    ) -> None:
        self._most = most
        self._pool = pool
        self._in_progress = in_progress
        self._refused = refused

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Raises Unavailable, which says when to come back, where the node has its hands full."""
        asks_for_work = request.method == "POST" and not request.path.startswith(REQUESTS_PATH)
        if not asks_for_work or request.path in ALWAYS_TAKEN:
            return await handler(request)
        if len(self._in_progress) >= self._most:
            self._refused()
            raise Unavailable(
                f"this node has {len(self._in_progress)} requests in progress, which is all it takes: try again later",
                retry_after_s=retry_after_s(self._pool.expected_wait_s()),
            )
        async with self._in_progress.request(request):
            return await handler(request)
