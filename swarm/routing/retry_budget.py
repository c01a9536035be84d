"""How many requests may be asked a second time: a bucket of tokens, so that a swarm in trouble has no more to do."""

from __future__ import annotations

import time
from collections.abc import Callable

RETRY_SHARE = 0.2  # of the requests may be retried, beyond the floor
RETRY_FLOOR = 32  # retries always allowed at first: what waits at one peer when it is lost, its slots and a short queue
FLOOR_PER_S = 1.0  # of the floor comes back each second: a quiet node is not left without it
MAX_SAVED = 256  # retries that a busy node may save up for the moment when a peer with a long queue is lost


class RetryBudget:
    """Every first attempt pays in a share of a token, every retry takes one. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = float(RETRY_FLOOR)
        self._filled_at = clock()

    def attempt(self) -> None:
        """A request is asked for the first time, which is never refused."""
        self._tokens = min(self._tokens + RETRY_SHARE, MAX_SAVED)

    def allows_a_retry(self) -> bool:
        """Whether a request may be asked again, elsewhere; one that is allowed is counted."""
        now_s = self._clock()
        if self._tokens < RETRY_FLOOR:
            self._tokens = min(self._tokens + (now_s - self._filled_at) * FLOOR_PER_S, RETRY_FLOOR)
        self._filled_at = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
