"""How much of this node copying files for peers may take: so many at once, so fast, and slower while models answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from swarm.errors import Unavailable

MAX_TRANSFERS: Final = 4  # each holds an open file and a chunk; more would not be faster over one cable
MAX_TRANSFERS_PER_HOST: Final = 2  # one machine's: others get their turn
IDLE_BYTES_PER_S: Final = 250e6  # twice a gigabit cable; bounds what it costs of a small CPU
BUSY_BYTES_PER_S: Final = 8e6  # while a model answers: 2 % of one core, measured (25e6: 5 %, 250e6: 35 %)
MAX_HEAD_START_S: Final = 0.1  # of work that was not asked for meanwhile; more would come in bursts
RETRY_AFTER_S: Final = 1  # told to who finds no place: about one piece


def paced(now: float, free_at: float, size_bytes: int, bytes_per_s: float) -> float:
    """When the next bytes may go, after `size_bytes` that go at `free_at`, or now where that has passed."""
    return max(free_at, now - MAX_HEAD_START_S) + size_bytes / bytes_per_s


class Transfers:
    """The places for transfers, and the pace that all share. `is_busy`: whether a model of this node answers."""

    def __init__(
        self,
        is_busy: Callable[[], bool],
        idle_bytes_per_s: float = IDLE_BYTES_PER_S,
        busy_bytes_per_s: float = BUSY_BYTES_PER_S,
    ) -> None:
        self._is_busy = is_busy
        self._idle_bytes_per_s = idle_bytes_per_s
        self._busy_bytes_per_s = busy_bytes_per_s
        self._by_host: Counter[str] = Counter()
        self._free_at = 0.0

    @property
    def running(self) -> int:
        return self._by_host.total()

    @contextmanager
    def place(self, host: str) -> Generator[None]:
        """A place for one transfer to `host`. Raises Unavailable where there is none."""
        if self.running >= MAX_TRANSFERS or self._by_host[host] >= MAX_TRANSFERS_PER_HOST:
            raise Unavailable("this node gives as many files as it may at once: try again", RETRY_AFTER_S)
        self._by_host[host] += 1
        try:
            yield
        finally:
            self._by_host[host] -= 1
            self._by_host += Counter()  # drops the zeros: one for each host that ever asked would stay

    async def take_turn(self, size_bytes: int) -> None:
        """Return when `size_bytes` may go."""
        now = time.monotonic()
        rate = self._busy_bytes_per_s if self._is_busy() else self._idle_bytes_per_s
        begins_at, self._free_at = self._free_at, paced(now, self._free_at, size_bytes, rate)
        if begins_at > now:
            await asyncio.sleep(begins_at - now)
