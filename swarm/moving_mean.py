"""Two ways to follow a figure that changes: a mean that forgets, and a rate of late."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

QUARTERS: Final = 4
NEWEST_SHARE = 0.2  # of a new figure: five of them later the mean is mostly about those five


def moving_mean(before: float | None, new: float) -> float:
    """The exponentially weighted mean with one more figure; the first one is the mean."""
    return new if before is None else (1 - NEWEST_SHARE) * before + NEWEST_SHARE * new


class RecentRate:
    """How much came a second of late: a count by quarters of a second, over the last `window_s`."""

    def __init__(self, window_s: float = 3.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window = math.ceil(window_s * QUARTERS)
        self._counts: deque[tuple[int, int]] = deque(maxlen=self._window + 1)  # (quarter, count), the oldest first
        self._at, self._count = 0, 0

    def add(self, count: int = 1) -> None:
        """So many came now."""
        at = int(self._clock() * QUARTERS)
        if at != self._at:
            if self._count:
                self._counts.append((self._at, self._count))
            self._at, self._count = at, 0
        self._count += count

    def per_s(self) -> float:
        """The rate now; 0 once nothing came for the whole window."""
        first = int(self._clock() * QUARTERS) - self._window
        total = sum(count for at, count in (*self._counts, (self._at, self._count)) if at > first)
        return total * QUARTERS / self._window
