"""When a place whose requests fail is left alone, and when it is tried again. A pure machine: the caller brings time.

| state     | asked                                    | becomes                                               |
|-----------|------------------------------------------|-------------------------------------------------------|
| closed    | as any other                             | open after FAILURES_TO_OPEN failures without a success |
| open      | only where nobody else can answer        | half open after the pause                             |
| half open | by one request, its trial; else as open  | closed if the trial is answered, open twice as long if not |

What counts as a failure is the peer's own: being busy or refusing a request as wrong are answers like others.

How many requests may be asked a second time: a bucket of tokens, so that a swarm in trouble has no more to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from swarm.routing.replicas import CircuitState, ReplicaKey

FAILURES_TO_OPEN = 3  # one is a lost connection, two a coincidence
FIRST_PAUSE_S = 1.0  # about what a restart of an engine takes
MAX_PAUSE_S = 30.0  # a peer that is well again is asked again within half a minute at the latest
RETRY_SHARE = 0.2  # of the requests may be retried, beyond the floor
RETRY_FLOOR = 32  # retries always allowed at first: what waits at one peer when it is lost, its slots and a short queue
FLOOR_PER_S = 1.0  # of the floor comes back each second: a quiet node is not left without it
MAX_SAVED = 256  # retries that a busy node may save up for the moment when a peer with a long queue is lost
MAX_CIRCUITS = 1024  # places with a failure; each is some 100 bytes, and a peer table holds 128 nodes

_WORSE: Mapping[CircuitState, int] = {"closed": 0, "half_open": 1, "open": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLimits:
    """How much failure is borne: of one place before its circuit opens, and of retries."""

    to_open: int = FAILURES_TO_OPEN
    retry_share: float = RETRY_SHARE
    retry_floor: int = RETRY_FLOOR
    floor_per_s: float = FLOOR_PER_S


DEFAULT_LIMITS = FailureLimits()


@dataclass(slots=True)
class Circuit:
    """The record of one place. `retry_at` None: closed."""

    to_open: int = FAILURES_TO_OPEN
    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    retry_at: float | None = None
    on_trial: bool = False

    def state(self, now_s: float) -> CircuitState:
        if self.retry_at is None:
            return "closed"
        return "half_open" if self.on_trial or now_s >= self.retry_at else "open"

    def routable(self, now_s: float) -> CircuitState:
        """As `state`; a half open one whose trial is running is as good as open."""
        return "open" if self.on_trial else self.state(now_s)

    def begin(self, now_s: float) -> bool:
        """A request begins; whether it is the trial."""
        if self.routable(now_s) != "half_open":
            return False
        self.on_trial = True
        return True

    def give_up(self) -> None:
        """The trial ended without a word on the peer: its client left."""
        self.on_trial = False

    def fail(self, now_s: float, trial: bool) -> bool:
        """A request failed; whether that opened the circuit."""
        self.failures += 1
        if trial:
            self.on_trial = False
            self.pause_s = min(2 * self.pause_s, MAX_PAUSE_S)
            self.retry_at = now_s + self.pause_s
            return True
        if self.retry_at is not None or self.failures < self.to_open:
            return False
        self.retry_at = now_s + self.pause_s
        return True


class Circuits:
    """The circuits of all places; one that is closed and has no failures is not kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, limits: FailureLimits = DEFAULT_LIMITS) -> None:
        self._clock = clock
        self._to_open = limits.to_open
        self._circuits: dict[ReplicaKey, Circuit] = {}

    def routable(self, place: ReplicaKey) -> CircuitState:
        circuit = self._circuits.get(place)
        return "closed" if circuit is None else circuit.routable(self._clock())

    def begin(self, place: ReplicaKey) -> bool:
        """A request to `place` begins; whether it is a trial, which must end by one of the three below."""
        circuit = self._circuits.get(place)
        return circuit is not None and circuit.begin(self._clock())

    def answered(self, place: ReplicaKey) -> None:
        self._circuits.pop(place, None)

    def failed(self, place: ReplicaKey, trial: bool = False) -> bool:
        """Whether that opened the circuit."""
        circuit = self._circuits.get(place)
        if circuit is None:
            if len(self._circuits) >= MAX_CIRCUITS:
                del self._circuits[next(iter(self._circuits))]  # the oldest
            circuit = self._circuits[place] = Circuit(self._to_open)
        return circuit.fail(self._clock(), trial)

    def given_up(self, place: ReplicaKey) -> None:
        circuit = self._circuits.get(place)
        if circuit is not None:
            circuit.give_up()

    def by_node(self) -> dict[str, CircuitState]:
        """Of each node with a failure the worst of its models' circuits."""
        now_s = self._clock()
        worst: dict[str, CircuitState] = {}
        for (node_id, _), circuit in self._circuits.items():
            state = circuit.state(now_s)
            if _WORSE[state] >= _WORSE[worst.get(node_id, "closed")]:
                worst[node_id] = state
        return worst


class RetryBudget:
    """Every first attempt pays in a share of a token, every retry takes one. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, limits: FailureLimits = DEFAULT_LIMITS) -> None:
        self._clock = clock
        self._limits = limits
        self._tokens = float(limits.retry_floor)
        self._filled_at = clock()

    def attempt(self) -> None:
        """A request is asked for the first time, which is never refused."""
        self._tokens = min(self._tokens + self._limits.retry_share, MAX_SAVED)

    def allows_a_retry(self) -> bool:
        """Whether a request may be asked again, elsewhere; one that is allowed is counted."""
        now_s = self._clock()
        floor = self._limits.retry_floor
        if self._tokens < floor:
            self._tokens = min(self._tokens + (now_s - self._filled_at) * self._limits.floor_per_s, floor)
        self._filled_at = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
