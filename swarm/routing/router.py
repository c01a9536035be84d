"""The one place where every request to a replica is accounted for, and where replicas get what is known of them here.

`Router` has the effects. It keeps what `observations.py`, `prefix.py` and `poison_pills.py` count, and two machines of
its own, both with their clock given. A *circuit* says when a replica whose requests fail is left alone, and when it is
tried again:

| state     | asked                                    | becomes                                               |
|-----------|------------------------------------------|-------------------------------------------------------|
| closed    | as any other                             | open after FAILURES_TO_OPEN failures without a success |
| open      | only where nobody else can answer        | half open after the pause                             |
| half open | by one request, its trial; else as open  | closed if the trial is answered, open twice as long if not |

What counts as a failure is the peer's own: being busy or refusing a request as wrong are answers like others. The
*retry budget* says how many requests may be asked a second time: a bucket of tokens, so that a swarm in trouble has no
more to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from swarm.errors import ContextExceeded, EngineDied, PeerFailed, PeerMalformed, SwarmError, Unavailable
from swarm.generation import Usage
from swarm.routing.continuation import LEAST_SAVED_S
from swarm.routing.observations import (
    OVERCLAIM,
    Affinity,
    Conduct,
    MeasuredSpeeds,
    Outstanding,
    corrected,
    possible_tokens,
)
from swarm.routing.poison_pills import PoisonPills
from swarm.routing.preference import KeptCopies, fastest_measured, fastest_of, within_reason
from swarm.routing.prefix import Prefixes
from swarm.routing.replicas import CircuitState, Replica, ReplicaKey
from swarm.routing.resumption import LEAST_REPLAY_S, Continuity
from swarm.routing.rules import RoutingRules, ruled, unheard_of
from swarm.routing.told_models import ServedByPeers

log = logging.getLogger(__name__)

WARN_AFTER_S = 30.0  # a node named in [routing] has so long to join before it is warned of
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
    """How much failure is borne: of one place before its circuit opens, of retries, and of an answer's pause.

    `replay_s`: what a place has at least to make anew what a client has of an answer; `continued_s`: what is to be
    saved of that where it is continued.
    """

    to_open: int = FAILURES_TO_OPEN
    retry_share: float = RETRY_SHARE
    retry_floor: int = RETRY_FLOOR
    floor_per_s: float = FLOOR_PER_S
    replay_s: float = LEAST_REPLAY_S
    continued_s: float = LEAST_SAVED_S


DEFAULT_LIMITS = FailureLimits()


class RoutingListener(Protocol):
    """Who wants to know what becomes of requests."""

    def failed_over(self) -> None:
        """What one replica failed is asked of the next."""
        ...

    def retry_refused(self) -> None:
        """A request that failed is not asked again: too many are."""
        ...

    def circuit_opened(self) -> None:
        """Requests to a peer have failed so often that it is left alone for a while."""
        ...

    def prefix_followed(self) -> None:
        """A request went where its conversation was answered last."""
        ...

    def moved(self) -> None:
        """A request that waited for this node's workers left for a peer with an idle slot."""
        ...

    def resumed(self) -> None:
        """A streamed answer goes on elsewhere from what its client has."""
        ...

    def not_resumed(self) -> None:
        """A streamed answer that could be the same elsewhere ended by an error: nobody was there, or differed."""
        ...


class AnswerListener(Protocol):
    """Who wants to know how quickly replicas answer what this node's clients ask, votes aside."""

    def answered(self, replica: Replica, first_s: float, took_s: float, tokens: int) -> None:
        """A request has its answer, `took_s` after `replica` was asked.

        It began after `first_s`, and has so many `tokens`, those of all its choices together.
        """
        ...

    def failed(self, replica: Replica) -> None:
        """A request got no answer there; another may be asked for it."""
        ...


class Asked:
    """A request that a peer has. `trial`: it decides on the peer's circuit, until it is answered."""

    def __init__(self, note: Callable[[], None], trial: bool) -> None:
        self._note = note
        self._noted = False
        self.trial = trial

    def answered(self) -> None:
        """A whole answer has come; noted once."""
        self.trial = False
        if not self._noted:
            self._noted = True
            self._note()


class Router:
    """`report_traffic` is called with how peers did; `clock` is monotonic seconds, that of `Replica.reported_at`."""

    def __init__(
        self,
        report_traffic: Callable[[str, bool], None],
        rules: RoutingRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        limits: FailureLimits = DEFAULT_LIMITS,
    ) -> None:
        self._report_traffic = report_traffic
        self._rules = rules or RoutingRules()
        self._clock = clock
        self._started = clock()
        self._warned: set[str] = set()  # bounded by the rules
        self._outstanding = Outstanding(clock)
        self._circuits = Circuits(clock, limits)
        self._paces = MeasuredSpeeds(clock)
        self.affinity = Affinity(clock)
        self.conduct = Conduct()
        self.pills = PoisonPills(clock)
        self._budget = RetryBudget(clock, limits)
        self._limits = limits
        self._paced, self._capped = KeptCopies(), KeptCopies()
        self.listeners: list[RoutingListener] = []
        self.answer_listeners: list[AnswerListener] = []

    def with_local_knowledge(self, reported: Sequence[Replica], *, everything: bool = True) -> tuple[Replica, ...]:
        """The replicas, as reported, with all that this node knows better; `everything`: no others can be asked."""
        keys = [replica.key for replica in reported]
        if everything:
            self._outstanding.keep(set(keys))
            self._warn_of_rules(reported)
        known = self._all_known(reported, keys)
        return ruled(within_reason(known, fastest_measured(known), self._capped), self._rules)

    def _all_known(self, reported: Iterable[Replica], keys: Iterable[ReplicaKey]) -> list[Replica]:
        """Of most places nothing is known here: nobody was asked there lately."""
        noted = {*self._paces.places(), *self._outstanding.places(), *self._circuits.places()}
        if not noted:
            return list(reported)
        each = zip(reported, keys, strict=True)
        return [self._known(replica) if key in noted else replica for replica, key in each]

    def with_local_knowledge_of(
        self, wanted: Sequence[Replica], here: Sequence[Replica], served: ServedByPeers
    ) -> tuple[Replica, ...]:
        """The `wanted`, as `with_local_knowledge` of all would have them; all are those `here` and those `served`."""
        self._outstanding.keep(served)
        if self._rules.nodes:
            self._warn_of_rules((*here, *served.replicas))
        speeds = self._paces.speeds()
        measured = [speeds.get(replica.key) or replica.tokens_per_s for replica in here]
        measured += [speed for place, speed in speeds.items() if place in served]
        known = self._all_known(wanted, [replica.key for replica in wanted])
        return ruled(within_reason(known, fastest_of(measured), self._capped), self._rules)

    def _known(self, reported: Replica) -> Replica:
        place, pace = reported.key, self._paces.of(reported.key)
        known = reported
        if pace is not None:
            known = self._paced.of(reported, answered=True, first_s=pace.first_s, own_tokens_per_s=pace.tokens_per_s)
        if reported.local:
            return known
        known = corrected(known, self._outstanding.since(place, reported.reported_at))
        circuit = self._circuits.routable(place)
        return known if circuit == "closed" else replace(known, circuit=circuit)

    def _warn_of_rules(self, replicas: Sequence[Replica]) -> None:
        if not self._rules.nodes or self._clock() - self._started < WARN_AFTER_S:
            return
        for problem in unheard_of(self._rules, replicas):
            if problem not in self._warned:
                self._warned.add(problem)
                log.warning("%s", problem)

    def warmed(self, replicas: Iterable[Replica], prefixes: Prefixes) -> tuple[Replica, ...]:
        """The replicas, the one marked where the conversation was answered last."""
        place = self.affinity.place_of(prefixes)
        if place is None:
            return tuple(replicas)
        return tuple(replace(r, warm=True) if r.key == place else r for r in replicas)

    @contextmanager
    def asking(self, replica: Replica, deadline: float, slots: int = 1) -> Generator[Asked]:
        """A request to a peer, which holds or awaits `slots` there. What becomes of the block is what became of it.

        Whoever may leave the block early says when it was `answered`: what comes after a whole answer is the reader's
        affair. A failure is the peer's unless the request's own time was up. Being busy or refusing it is an answer.
        That its engine ended over the request is one, too, and all the same a failure: who says so of everything is
        left alone.
        """
        asked = Asked(lambda: self._answered(replica), trial=self._circuits.begin(replica.key))
        try:
            with self._outstanding.asked(replica.key, slots):
                yield asked
        except PeerFailed as error:
            if isinstance(error, PeerMalformed):
                self.conduct.note(replica.node_id, malformed=1)
            if self._clock() >= deadline:
                self._leave(replica, asked.trial)
            else:
                self._failed(replica, asked.trial)
            raise
        except EngineDied:
            self._report_traffic(replica.node_id, True)
            self._count_failure(replica, asked.trial)
            raise
        except Exception:  # a refusal
            self._circuits.answered(replica.key)
            raise
        except BaseException:  # the client left
            self._leave(replica, asked.trial)
            raise
        asked.answered()

    def _answered(self, replica: Replica) -> None:
        self._circuits.answered(replica.key)
        self._report_traffic(replica.node_id, True)

    def _leave(self, replica: Replica, trial: bool) -> None:
        if trial:
            self._circuits.given_up(replica.key)

    def _failed(self, replica: Replica, trial: bool) -> None:
        self._report_traffic(replica.node_id, False)
        self._count_failure(replica, trial)

    def _count_failure(self, replica: Replica, trial: bool) -> None:
        if self._circuits.failed(replica.key, trial):
            log.warning("requests to %s for %s fail: it is left alone for a while", replica.node, replica.model)
            for listener in self.listeners:
                listener.circuit_opened()

    def attempt(self) -> None:
        """A request is asked for the first time."""
        self._budget.attempt()

    def fail_over(self, replica: Replica, error: SwarmError) -> None:
        """`replica` failed a request, which goes to the next. Raises Unavailable where too many were retried."""
        log.warning("failing over from %s: %s", replica.node, error)
        if not self.may_retry(replica, error):
            raise Unavailable(
                f"{error}; it was not asked elsewhere, because too many requests had to be retried lately: try again"
            ) from error

    def may_retry(self, replica: Replica, error: SwarmError) -> bool:
        """Whether what `replica` failed is asked elsewhere; one that is allowed is counted."""
        allowed = not costs_a_retry(replica, error) or self._budget.allows_a_retry()
        for listener in self.listeners:
            if allowed:
                listener.failed_over()
            else:
                listener.retry_refused()
        return allowed

    def note_pace(self, asked: Replica, first_s: float, writing_s: float, usage: Usage) -> None:
        """How long a whole answer of `asked` took."""
        self._paces.note(asked, first_s, writing_s, usage)
        pace = self._paces.of(asked.key)
        if asked.reported_tokens_per_s is not None and pace is not None and pace.tokens_per_s is not None:
            overclaims = asked.reported_tokens_per_s > OVERCLAIM * pace.tokens_per_s
            self.conduct.note(asked.node_id, paced=1, refuted=int(overclaims))

    def believed(self, replica: Replica, usage: Usage, sent_bytes: int) -> Usage:
        """What a peer says that its whole answer cost, as far as an answer of so many bytes can have."""
        if replica.local:
            return usage
        tokens = possible_tokens(usage.completion_tokens, sent_bytes)
        overstated = tokens < usage.completion_tokens
        self.conduct.note(replica.node_id, answers=1, overstated=int(overstated))
        return usage.model_copy(update={"completion_tokens": tokens}) if overstated else usage

    def continuity(self) -> Continuity:
        """An answer that may go on elsewhere."""
        return Continuity(self._limits.replay_s, self._limits.continued_s)

    def replayed(self, replica: Replica, *, differs: bool) -> None:
        """A peer made an answer anew that another had begun. Who is wrong where it `differs` is not known."""
        if not replica.local:
            self.conduct.note(replica.node_id, replays=1, differing=int(differs))

    def circuits(self) -> Mapping[str, CircuitState]:
        """The circuit of each node that failed a request; the worst of its models'. Closed for everybody else."""
        return self._circuits.by_node()


def costs_a_retry(replica: Replica, error: SwarmError) -> bool:
    """Whether asking elsewhere counts against the budget: not where nobody was given work in vain."""
    if isinstance(error, ContextExceeded):
        return False
    return not (replica.local and isinstance(error, Unavailable))


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

    def places(self) -> Iterable[ReplicaKey]:
        """Those of which a failure is noted."""
        return self._circuits

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
        self._capped = KeptCopies()
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
