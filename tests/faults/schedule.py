"""What goes wrong, when, and for how long: pure, and the same for the same seed. Everything is healed by its end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

CALM_S: Final = 3.0  # before the first fault: a reference to compare with
SHORTEST_S: Final = 3.0  # long enough to be noticed
LONGEST_S: Final = 9.0  # longer than the 6 s after which a silent node is out
RECOVERY_S: Final = 4.0  # until a node that was started again is ready, and the others have noticed
GAP_S: Final = 6.0  # at most, between two faults
PERCENTS: Final = (10, 20, 30)  # of packets lost


class Fault(StrEnum):
    """How a node or its line fails."""

    KILL = "kill -9, then started again"
    FREEZE = "SIGSTOP, then SIGCONT"
    STOP = "SIGTERM, then started again"
    CUT = "cut off from the others"
    DEAF = "nothing of the others reaches it"
    MUTE = "nothing of it reaches the others"
    LOSS = "every line loses packets"
    DELAY = "200 ms away from the others"


PROCESS_FAULTS: Final = frozenset({Fault.KILL, Fault.FREEZE, Fault.STOP})


@dataclass(frozen=True, slots=True)
class Event:
    """`fault` of `victims` from `at_s` after the start, healed `lasts_s` later; `percent` is a loss's."""

    at_s: float
    fault: Fault
    victims: tuple[str, ...]
    lasts_s: float
    percent: int = 0

    @property
    def ends_s(self) -> float:
        return self.at_s + self.lasts_s

    def __str__(self) -> str:
        share = f" {self.percent} %" if self.percent else ""
        return f"{self.at_s:5.1f}-{self.ends_s:5.1f} s  {self.fault}{share}: {', '.join(self.victims) or 'all'}"


def make_schedule(seed: int, names: Sequence[str], lasts_s: float) -> tuple[Event, ...]:
    """Faults of the nodes `names` within `lasts_s`, all healed by then.

    At any time a majority is undisturbed; packets are lost on all lines beside whatever else goes on.
    """
    dice = random.Random(seed)
    events: list[Event] = []
    at_s = CALM_S
    while True:
        event = _next_event(dice, names, at_s)
        if event.ends_s > lasts_s:
            return tuple(events)
        if _bearable((*events, event), names):
            events.append(event)
            at_s += dice.uniform(0.5, GAP_S)
        else:
            at_s += 0.5


def _next_event(dice: random.Random, names: Sequence[str], at_s: float) -> Event:
    fault = dice.choice(tuple(Fault))
    lasts_s = dice.uniform(SHORTEST_S, LONGEST_S)
    at_s, lasts_s = round(at_s, 2), round(lasts_s, 2)
    if fault is Fault.LOSS:
        return Event(at_s, fault, (), lasts_s, dice.choice(PERCENTS))
    several = fault is Fault.CUT and minority(names) > 1
    count = dice.randint(1, minority(names)) if several else 1
    return Event(at_s, fault, tuple(dice.sample(tuple(names), count)), lasts_s)


def minority(names: Sequence[str]) -> int:
    """How many nodes may be disturbed at once."""
    return (len(names) - 1) // 2


def _bearable(events: Sequence[Event], names: Sequence[str]) -> bool:
    """Whether the last event leaves a majority undisturbed, nobody disturbed twice, and one loss at a time."""
    *before, last = events
    if last.fault is Fault.LOSS:
        return not any(event.fault is Fault.LOSS and event.ends_s > last.at_s for event in before)
    recovering = [event for event in before if event.ends_s + RECOVERY_S > last.at_s]
    disturbed = [name for event in (*recovering, last) for name in event.victims]
    return len(disturbed) == len(set(disturbed)) <= minority(names)
