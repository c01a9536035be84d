"""How much is asked of this node lately: what is idle at one instant is not spare, if its clients want it the next."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

DEMAND_WINDOW_S = 2.0  # a client that asks again at all does so within moments; a rush may be forgotten soon after
MAX_NOTED = 4096  # changes within one window; a node that sees more of them has nothing to spare anyway


class Demand:
    """How many requests were answered at once, lately. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = 0
        self._noted: deque[tuple[float, int]] = deque(maxlen=MAX_NOTED)  # how many ran until that instant

    @contextmanager
    def request(self) -> Generator[None]:
        """A request that is being answered within the block."""
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def peak(self) -> int:
        """The most requests that ran at once within the last DEMAND_WINDOW_S."""
        horizon = self._clock() - DEMAND_WINDOW_S
        while self._noted and self._noted[0][0] < horizon:
            self._noted.popleft()
        return max([self._running, *(running for _, running in self._noted)])

    def _note(self, change: int) -> None:
        self._noted.append((self._clock(), self._running))
        self._running += change
