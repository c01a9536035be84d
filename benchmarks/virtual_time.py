"""An event loop whose clock jumps: what waits for an instant is run at once, in the same order as in real time.

So a hundred nodes can be watched for an hour on one core, and a busy machine changes nothing. Only for what does no
real I/O and blocks for nothing. `time.monotonic` is the loop's clock while it runs.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

T = TypeVar("T")


# A turn of the loop takes a moment, as in life: a timer fires up to a nanosecond early, and whoever then waits for the
# rest of it would wait for ever.
TURN_S = 1e-9


class _NothingEverComes(selectors.SelectSelector):
    """Waiting takes no time: the clock is set forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for something that never happens")
        self.now += max(timeout, 0.0) + TURN_S
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: _NothingEverComes) -> None:
        super().__init__(clock)
        self._clock = clock

    def time(self) -> float:
        return self._clock.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. It must not use threads."""
    clock = _NothingEverComes()
    loop = _VirtualLoop(clock)
    try:
        with patch.object(time, "monotonic", lambda: clock.now):
            return loop.run_until_complete(work)
    finally:
        loop.close()
