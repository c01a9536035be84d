"""One address as a place to probe, and when to probe it next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from federation.hostport import Address
from federation.peer import AddressRejected, Source
from federation.timing import DEAD_AFTER_FAILURES, DEAD_AFTER_REFUSALS, Timing

_RTT_WEIGHT = 0.25  # of a new measurement: follows a change within a few seconds, ignores one slow answer
_MAX_DOUBLINGS = 10  # keeps 2**n small; every cap is reached long before


class Standing(Enum):
    """What an address is to the table, which decides how eagerly it is asked."""

    ROUTE = auto()  # the address in use of an alive or suspect peer
    RESCUE = auto()  # another address of a suspect peer: it may save it
    ALTERNATE = auto()  # another address of an alive peer
    LOST = auto()  # any address of a dead peer
    UNPROVEN = auto()  # nobody acceptable has answered there


@dataclass(slots=True)
class Contact:
    """Mutable record of one address. Times are on the table's clock.

    `failures`, and the `refusals` among them, count since the last proof of life.
    """

    address: Address
    source: Source
    due_at: float
    since: float  # last proposed, or last acceptable answer: what forgetting counts from
    node_id: str | None = None
    in_flight: bool = False
    started_at: float | None = None
    failures: int = 0
    refusals: int = 0
    conflicts: int = 0
    rtt_ms: float | None = None
    reported: AddressRejected | None = None  # what was last said of it

    def start(self, now: float) -> None:
        """A probe leaves."""
        self.in_flight = True
        self.started_at = now

    def succeed(self, rtt_ms: float, now: float) -> None:
        """The node it belongs to answered."""
        self.since = now
        self.clear_failures()
        self.conflicts = 0
        self.reported = None
        self.rtt_ms = rtt_ms if self.rtt_ms is None else self.rtt_ms + _RTT_WEIGHT * (rtt_ms - self.rtt_ms)

    def fail(self, refused: bool) -> None:
        """A probe brought nothing acceptable."""
        self.failures += 1
        self.refusals += refused

    def clear_failures(self) -> None:
        """Proof of life came, by a probe or by real traffic."""
        self.failures = 0
        self.refusals = 0

    @property
    def is_lost(self) -> bool:
        """Whether the evidence is enough to give the address up."""
        return self.failures >= DEAD_AFTER_FAILURES or self.refusals >= DEAD_AFTER_REFUSALS


class ProbeSchedule:
    """When to probe next. `random` gives numbers in [0, 1) for the jitter."""

    def __init__(self, timing: Timing, random: Callable[[], float]) -> None:
        self._timing = timing
        self._random = random

    def after_answer(self, standing: Standing, now: float) -> float:
        """The next time for an address that just answered."""
        is_alternate = standing is Standing.ALTERNATE
        interval_s = self._timing.alternate_interval_s if is_alternate else self._timing.probe_interval_s
        return now + self._jittered(interval_s)

    def after_failure(self, contact: Contact, standing: Standing, now: float) -> float:
        """The next time for an address whose probe just failed."""
        timing = self._timing
        match standing:
            case Standing.ROUTE if contact.refusals:
                return now + timing.refused_retry_s
            case Standing.ROUTE:
                return self.next_in_step(contact, now)
            case Standing.RESCUE if contact.failures < DEAD_AFTER_FAILURES:
                return self.next_in_step(contact, now)
            case Standing.RESCUE | Standing.ALTERNATE:
                return now + self._backoff(contact, timing.alternate_interval_s, timing.unproven_retry_cap_s)
            case Standing.LOST:
                return now + self._backoff(contact, timing.retry_first_s, timing.lost_retry_cap_s)
            case Standing.UNPROVEN:
                return now + self._backoff(contact, timing.retry_first_s, timing.unproven_retry_cap_s)

    def next_in_step(self, contact: Contact, now: float) -> float:
        """One interval after the last probe started: at once after a slow failure, spaced after a quick one."""
        return now if contact.started_at is None else max(now, contact.started_at + self._timing.probe_interval_s)

    def _backoff(self, contact: Contact, first_s: float, cap_s: float) -> float:
        doublings = min(max(contact.failures - 1, 0), _MAX_DOUBLINGS)
        return self._jittered(min(first_s * 2**doublings, cap_s))

    def _jittered(self, interval_s: float) -> float:
        return interval_s * (1 + self._timing.jitter * (2 * self._random() - 1))
