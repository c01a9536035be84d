"""How fast each replica answers this node's own requests: measured where the answer arrives, as moving means."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from swarm.moving_mean import moving_mean
from swarm.routing.expected_time import crowding
from swarm.routing.replicas import Place, Replica

MAX_PACES = 1024  # places remembered, those heard from last; each is some 200 bytes
PACE_LIFETIME_S = 600.0  # an older figure says little: machines get other work, models other files
MIN_TOKENS = 8  # shorter answers come in one or two packets, and tell nothing of the speed


@dataclass(frozen=True, slots=True)
class Pace:
    """`first_s` to the first event where a slot was free; `tokens_per_s` after it, of a lone answer. None: unknown."""

    first_s: float | None
    tokens_per_s: float | None
    noted_at: float


class Paces:
    """By place. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paces: OrderedDict[Place, Pace] = OrderedDict()

    def of(self, place: Place) -> Pace | None:
        """What was measured there lately."""
        pace = self._paces.get(place)
        return None if pace is None or self._clock() - pace.noted_at > PACE_LIFETIME_S else pace

    def note(self, asked: Replica, first_s: float, writing_s: float, tokens: int) -> None:
        """A whole answer of `asked`, which is as it was when it was asked."""
        before = self.of(asked.place)
        first = None if before is None else before.first_s
        speed = None if before is None else before.tokens_per_s
        if asked.slots_free:
            first = moving_mean(first, first_s)
        if tokens >= MIN_TOKENS and writing_s > 0:
            alone = tokens / writing_s * crowding(min(asked.load, asked.slots - 1), asked.slots)
            speed = moving_mean(speed, alone)
        self._paces[asked.place] = Pace(first, speed, self._clock())
        self._paces.move_to_end(asked.place)
        if len(self._paces) > MAX_PACES:
            self._paces.popitem(last=False)
