"""How fast each replica answers this node's own requests: measured where the answer arrives, as moving means."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from swarm.generation import Usage
from swarm.moving_mean import moving_mean
from swarm.routing.expected_time import crowding
from swarm.routing.replicas import Place, Replica

MAX_PACES = 1024  # places remembered, those heard from last; each is some 200 bytes
PACE_LIFETIME_S = 120.0  # then what the node tells of itself counts: one bad moment must not keep it idle for long
SHORT_PROMPT_TOKENS = 512  # reading more than that takes its own time, which says nothing of the next prompt
MIN_TOKENS = 8  # shorter answers come in one or two packets, and tell nothing of the speed


@dataclass(frozen=True, slots=True)
class Pace:
    """`first_s` to the first event, of a short prompt where a slot was free; `tokens_per_s` from then on, if alone."""

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

    def note(self, asked: Replica, first_s: float, writing_s: float, usage: Usage) -> None:
        """A whole answer of `asked`, which is as it was when it was asked."""
        tokens, read_tokens = usage.completion_tokens, usage.prompt_tokens - usage.cached_tokens
        before = self.of(asked.place)
        first = None if before is None else before.first_s
        speed = None if before is None else before.tokens_per_s
        if asked.slots_free and read_tokens <= SHORT_PROMPT_TOKENS:
            first = moving_mean(first, first_s)
        if tokens >= MIN_TOKENS and writing_s > 0:
            alone = tokens / writing_s * crowding(min(asked.load, asked.slots - 1), asked.slots)
            speed = moving_mean(speed, alone)
        self._paces[asked.place] = Pace(first, speed, self._clock())
        self._paces.move_to_end(asked.place)
        if len(self._paces) > MAX_PACES:
            self._paces.popitem(last=False)
