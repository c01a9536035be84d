"""One address as a target of probes: what is known of it, how long it takes to answer, when to probe it next. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self

from federation.hostport import Address
from federation.peer import AddressRejected, Source
from federation.timing import (
    DEAD_AFTER_FAILURES,
    DEAD_AFTER_REFUSALS,
    MAX_PROBES_AT_ONCE,
    Timing,
    lost_stretch,
    stretch,
)

_MAX_DOUBLINGS = 10  # keeps 2**n small; every cap is reached long before

_MEAN_GAIN: Final = 1 / 8  # RFC 6298's alpha
_DEVIATION_GAIN: Final = 1 / 4  # its beta
_DEVIATIONS: Final = 4.0  # its K


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

    `failures`, and the `refusals` among them, count since the last proof of life; `silent_since` is when the
    first probe left since which nothing has been heard.
    """

    address: Address
    source: Source
    due_at: float
    since: float  # last proposed, or last acceptable answer: what forgetting counts from
    node_id: str | None = None
    claimed_id: str | None = None  # whom mDNS says it leads to, or whoever answered last says it is
    in_flight: int = 0
    started_at: float | None = None
    silent_since: float | None = None
    failures: int = 0
    refusals: int = 0
    conflicts: int = 0  # answers, one after the other, of a second process with its node's id
    round_trip: RoundTrip | None = None
    problem: str | None = None  # what the last failure was
    reported: AddressRejected | None = None  # what was last said of it

    @property
    def rtt_ms(self) -> float | None:
        return None if self.round_trip is None else self.round_trip.mean_ms

    @property
    def usual_s(self) -> float:
        """What its answers hardly ever take longer than; 0 while unknown."""
        return 0.0 if self.round_trip is None else self.round_trip.at_most_s

    def start(self, now: float) -> None:
        """A probe leaves."""
        self.in_flight += 1
        self.started_at = now
        self.silent_since = now if self.silent_since is None else self.silent_since

    def succeed(self, rtt_ms: float, now: float) -> None:
        """The node it belongs to answered; whatever else is under way to it does not matter any more."""
        self.since = now
        self.in_flight = 0
        self.clear_failures(now)
        self.conflicts = 0
        self.reported = None
        self.round_trip = RoundTrip.first(rtt_ms) if self.round_trip is None else self.round_trip.after(rtt_ms)

    def fail(self, refused: bool, problem: str) -> None:
        """A probe brought nothing acceptable."""
        self.in_flight = max(0, self.in_flight - 1)
        self.failures += 1
        self.refusals += refused
        self.problem = problem

    def clear_failures(self, now: float) -> None:
        """Proof of life came, by a probe or by real traffic: what is under way now counts from here."""
        self.failures = 0
        self.refusals = 0
        self.problem = None
        self.silent_since = now if self.in_flight else None

    def is_lost(self, now: float, timing: Timing) -> bool:
        """Whether the evidence is enough to give the address up."""
        if self.refusals >= DEAD_AFTER_REFUSALS:
            return True
        return self.silent_since is not None and now >= self.silent_since + timing.give_up_s

    def forgive(self, stalled_s: float, now: float) -> None:
        """This process did not run for so long, and could not have heard an answer."""
        if self.silent_since is not None:
            self.silent_since = min(now, self.silent_since + stalled_s)


class ProbeSchedule:
    """When to probe next, and how long to wait. `random` gives numbers in [0, 1) for the jitter."""

    def __init__(self, timing: Timing, random: Callable[[], float]) -> None:
        self._timing = timing
        self._random = random

    def after_answer(self, standing: Standing, now: float, peers: int) -> float:
        """The next time for an address that just answered, in a swarm of so many peers."""
        is_alternate = standing is Standing.ALTERNATE
        interval_s = self._timing.alternate_interval_s if is_alternate else self._timing.probe_interval_s
        longer = stretch(peers)
        return now + self._jittered(
            interval_s * longer, self._timing.jitter if longer == 1 else self._timing.crowd_jitter
        )

    def after_failure(self, contact: Contact, standing: Standing, now: float, lost: int) -> float:
        """The next time for an address whose probe just failed, with so many dead peers."""
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
                slower = lost_stretch(lost)
                return now + self._backoff(contact, timing.retry_first_s * slower, timing.lost_retry_cap_s * slower)
            case Standing.UNPROVEN:
                return now + self._backoff(contact, timing.retry_first_s, timing.unproven_retry_cap_s)

    def next_in_step(self, contact: Contact, now: float) -> float:
        """One interval after the last probe started: at once after a slow failure, spaced after a quick one."""
        return now if contact.started_at is None else max(now, contact.started_at + self._timing.probe_interval_s)

    def next_start(self, contact: Contact, standing: Standing) -> float | None:
        """When a probe may leave; None until one that is under way ends.

        The address in use is asked again beside an unanswered probe, which then has a connection of its own.
        """
        if not contact.in_flight or contact.started_at is None:
            return contact.due_at
        if standing is not Standing.ROUTE or contact.in_flight >= MAX_PROBES_AT_ONCE:
            return None
        return contact.started_at + self.patience_s(contact)

    def patience_s(self, contact: Contact) -> float:
        """How long an answer usually takes at most, within bounds: then another connection is tried beside."""
        timing = self._timing
        return _within(timing.retransmit_min_s, contact.usual_s, timing.retransmit_max_s)

    def suspect_at(self, contact: Contact) -> float | None:
        """When its silence is worth a word."""
        if contact.silent_since is None:
            return None
        timing = self._timing
        return contact.silent_since + _within(timing.suspect_after_s, contact.usual_s, timing.suspect_late_s)

    def timeout_s(self, contact: Contact, standing: Standing) -> float:
        """How long a probe that leaves now is waited for: on the address in use, until a verdict is due."""
        if standing is not Standing.ROUTE or contact.started_at is None or contact.silent_since is None:
            return _within(self._timing.probe_timeout_s, contact.usual_s, self._timing.suspect_late_s)
        left_s = self._timing.give_up_s - (contact.started_at - contact.silent_since)
        return max(left_s, self._timing.retransmit_min_s)

    def _backoff(self, contact: Contact, first_s: float, cap_s: float) -> float:
        doublings = min(max(contact.failures - 1, 0), _MAX_DOUBLINGS)
        return self._jittered(min(first_s * 2**doublings, cap_s))

    def _jittered(self, interval_s: float, jitter: float | None = None) -> float:
        share = self._timing.jitter if jitter is None else jitter
        return interval_s * (1 + share * (2 * self._random() - 1))


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How long one address takes to answer: mean and deviation in milliseconds, as TCP keeps them (RFC 6298, 2).

    Each probe is timed on its own, so an answer is never taken for that to another (Karn's problem does not arise).
    """

    mean_ms: float
    deviation_ms: float

    @classmethod
    def first(cls, rtt_ms: float) -> Self:
        return cls(rtt_ms, rtt_ms / 2)

    def after(self, rtt_ms: float) -> RoundTrip:
        """With one more measurement."""
        deviation_ms = self.deviation_ms + _DEVIATION_GAIN * (abs(self.mean_ms - rtt_ms) - self.deviation_ms)
        return RoundTrip(self.mean_ms + _MEAN_GAIN * (rtt_ms - self.mean_ms), deviation_ms)

    @property
    def at_most_s(self) -> float:
        """What an answer hardly ever takes longer than (RFC 6298's RTO), in seconds."""
        return (self.mean_ms + _DEVIATIONS * self.deviation_ms) / 1000


def _within(least: float, value: float, most: float) -> float:
    return min(max(value, least), max(least, most))
