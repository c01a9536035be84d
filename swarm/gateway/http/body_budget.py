"""Memory for large requests, all of them together: each alone may be large, and many may come at once."""

from __future__ import annotations

import asyncio
import gc
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from swarm.engines.free_memory import TRIM_EVERY_S, trim
from swarm.errors import Unavailable

MOST_BYTES: Final = 256 * 2**20  # sixteen of the largest bodies; as text, and parsed, a few times as much
FREE_BYTES: Final = 64 * 1024  # of each: usual requests, and what nodes tell each other, are never turned away
LARGE_BYTES: Final = 2**20  # worth a look for what is left of it: 50 ms
COUNTED = web.RequestKey("counted", int)  # bytes of the request's body that count


class BodyBudget:
    """Counts what has come of the bodies of requests in progress, from the first piece until the answer's end."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._will_trim = False
        self._were_large = False  # of the requests since the last trim

    def came(self, request: web.Request, body_bytes: int) -> None:
        """So much of the request's body is here. Raises Unavailable where there is no room for it."""
        more = max(0, body_bytes - FREE_BYTES) - request[COUNTED]
        if more > 0 and self._held_bytes + more > self._most_bytes:
            raise Unavailable(
                f"the requests in progress have {self._held_bytes / 2**20:.0f} MiB of text, and this node takes "
                f"{self._most_bytes / 2**20:.0f} MiB at once: try again later, or with a shorter one"
            )
        self._held_bytes += more
        request[COUNTED] += more

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Gives back what a request holds when it has ended."""
        request[COUNTED] = 0
        try:
            return await handler(request)
        finally:
            self._held_bytes -= request[COUNTED]
            self._were_large = self._were_large or request[COUNTED] > LARGE_BYTES
            if not self._will_trim:
                self._will_trim = True
                asyncio.get_running_loop().call_later(TRIM_EVERY_S, self._trim)

    def _trim(self) -> None:
        """What requests left behind is given back, once for all of them; an engine in this process has its part.

        Errors and the frames they came from are cycles, and few: the collector would come for them much later.
        """
        large, self._will_trim, self._were_large = self._were_large, False, False
        asyncio.get_running_loop().run_in_executor(None, collect_and_trim if large else trim)


def collect_and_trim() -> None:
    gc.collect()
    trim()


BODIES = web.AppKey("bodies", BodyBudget)
