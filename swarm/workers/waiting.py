"""How long somebody who comes now will wait for workers, and when one who is refused may come back. Plain numbers."""

from __future__ import annotations

import math
from typing import Literal, Protocol

MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1, 60  # SDKs obey no more than a minute, and a queue is another one by then
UNMEASURED_RETRY_AFTER_S = 2  # about one short answer, while nothing has been measured

Refusal = Literal["queue_full", "deadline", "node_full"]


class QueueListener(Protocol):
    """Who wants to know what happens to requests that need workers."""

    def waited(self, seconds: float) -> None:
        """A request got its workers after so long."""
        ...

    def refused(self, why: Refusal) -> None:
        """A request was turned away before it waited."""
        ...


def expected_wait_s(wanted: int, idle: int, queued: int, slots: int, service_s: float | None) -> float | None:
    """Seconds until `wanted` of `slots` workers are free for a newcomer; None while nothing is measured.

    `idle` are free at once, `queued` are wanted by those before it, and a request holds its workers for `service_s`
    on average: the mean time in which a queue moves up, not a promise.
    """
    if wanted <= idle:
        return 0.0
    return None if service_s is None else (queued + wanted) * service_s / slots


def retry_after_s(wait_s: float | None) -> int:
    """What to tell one who is refused: the expected wait in whole seconds, within reason."""
    if wait_s is None:
        return UNMEASURED_RETRY_AFTER_S
    return math.ceil(min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S))
