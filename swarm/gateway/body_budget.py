"""Memory for the bodies that are being read, all of them together: each alone may be large, and many come at once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from aiohttp import web

from swarm.errors import Unavailable

MOST_BYTES = 256 * 2**20  # sixteen of the largest bodies at once, or tens of thousands of usual ones


class BodyBudget:
    """What has come of bodies that are not whole yet; once parsed, a prompt is bounded by its model's context."""

    def __init__(self) -> None:
        self._held_bytes = 0

    @contextmanager
    def reading(self) -> Generator[Callable[[int], None]]:
        """A body is read within the block, which tells the size of each piece; all is given back at the end.

        Telling raises Unavailable where there is no room for the piece.
        """
        held = 0

        def came(size: int) -> None:
            nonlocal held
            if self._held_bytes + size > MOST_BYTES:
                raise Unavailable(
                    f"{self._held_bytes / 2**20:.0f} MiB of requests' bodies are being read, and at most "
                    f"{MOST_BYTES / 2**20:.0f} MiB are at once: try again"
                )
            held += size
            self._held_bytes += size

        try:
            yield came
        finally:
            self._held_bytes -= held


BODIES = web.AppKey("bodies", BodyBudget)
