"""What this node has asked of each peer, so that a figure told a moment ago can be corrected by what came since.

A peer tells its idle slots once a second; a burst of requests within that second must not all see the same idle slot.

How fast each replica answers this node's own requests: measured where the answer arrives, as moving means.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from swarm.generation import Usage
from swarm.moving_mean import moving_mean
from swarm.routing.preference import crowding
from swarm.routing.replicas import Replica, ReplicaKey

MAX_ENDED = 1024  # calls remembered per place after their end: more within one probe interval is no one-second figure


@dataclass(frozen=True, slots=True)
class Since:
    """Slots asked of one place: taken `begun` after some instant, held before it and `ended` since, `running` now."""

    begun: int = 0
    ended: int = 0
    running: int = 0


NOTHING = Since()


@dataclass(slots=True)
class _Calls:
    """The calls to one place: those that run by number, oldest first, as (start, slots); those over as (start, end)."""

    running: dict[int, tuple[float, int]] = field(default_factory=dict[int, tuple[float, int]])
    ended: deque[tuple[float, float, int]] = field(default_factory=lambda: deque(maxlen=MAX_ENDED))
    held: int = 0  # slots of those that run


class Outstanding:
    """A ledger of calls by place. `clock` is monotonic seconds, the one on which `Replica.told_at` stands."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[ReplicaKey, _Calls] = {}  # bounded by the peers that are routed to: see `keep`
        self._numbers = 0

    @contextmanager
    def asked(self, place: ReplicaKey, slots: int = 1) -> Generator[None]:
        """A call that holds or awaits `slots` at `place` within the block."""
        calls = self._calls.setdefault(place, _Calls())
        self._numbers += 1
        number, began = self._numbers, self._clock()
        calls.running[number] = (began, slots)
        calls.held += slots
        try:
            yield
        finally:
            del calls.running[number]
            calls.held -= slots
            calls.ended.append((began, self._clock(), slots))

    def since(self, place: ReplicaKey, instant: float) -> Since:
        """What was asked of `place`, as seen against a figure that was true at `instant`."""
        calls = self._calls.get(place)
        if calls is None:
            return NOTHING
        begun = ended = 0
        for began, slots in reversed(calls.running.values()):
            if began < instant:
                break
            begun += slots
        for began, end, slots in reversed(calls.ended):
            if end < instant:
                break
            if began < instant:
                ended += slots
        return Since(begun, ended, calls.held)

    def keep(self, places: set[ReplicaKey]) -> None:
        """Forget what is over at every other place; called with those that can be asked now."""
        for place in self._calls.keys() - places:
            if not self._calls[place].running:
                del self._calls[place]


def corrected(told: Replica, since: Since) -> Replica:
    """`told` as it must be by now. Others' requests are as told; never less is at work there than this node has asked.

    The wait that it told holds for the queue that it told: of another one it is in proportion.
    """
    if since == NOTHING or told.suspect:
        return told
    load = max(told.load + since.begun - since.ended, since.running, 0)
    if load == told.load:
        return told
    waiting = max(0, load - told.slots)
    return replace(
        told,
        slots_free=max(0, told.slots - load),
        waiting=waiting,
        wait_s=told.wait_s * (waiting + 1) / (told.waiting + 1) if told.wait_s and load >= told.slots else None,
    )


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
        self._paces: OrderedDict[ReplicaKey, Pace] = OrderedDict()

    def of(self, place: ReplicaKey) -> Pace | None:
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
