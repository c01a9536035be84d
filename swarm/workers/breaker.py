"""How often something broken may be started again before it is left alone."""

from __future__ import annotations

from collections import deque


class Breaker:
    """Allows `most` starts within any `window_s` seconds. Pure: the caller brings the time."""

    def __init__(self, most: int, window_s: float) -> None:
        self._starts: deque[float] = deque(maxlen=most)
        self._most = most
        self._window_s = window_s

    def allows(self, now_s: float) -> bool:
        """Whether one more start is allowed now; an allowed one is counted."""
        if len(self._starts) == self._most and now_s - self._starts[0] < self._window_s:
            return False
        self._starts.append(now_s)
        return True
