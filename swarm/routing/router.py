"""What this node has learned of whom it asks, and the one place where every request to a replica is accounted for.

The effects beside `preference.py`, `outstanding.py`, `circuit.py`, `pace.py`, `affinity.py`, `pills.py` and `rules.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from swarm.errors import ContextExceeded, EngineDied, PeerFailed, PeerMalformed, SwarmError, Unavailable
from swarm.generation import Usage
from swarm.routing.circuit import DEFAULT_LIMITS, Circuits, FailureLimits, RetryBudget
from swarm.routing.conduct import BOAST, Conduct, possible_tokens
from swarm.routing.outstanding import Outstanding, Paces, corrected
from swarm.routing.pills import Pills
from swarm.routing.preference import within_reason
from swarm.routing.prefix import Affinity, Prefixes
from swarm.routing.replicas import CircuitState, Replica
from swarm.routing.rules import RoutingRules, ruled, unheard_of

log = logging.getLogger(__name__)

WARN_AFTER_S = 30.0  # a node named in [routing] has so long to join before it is warned of


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


class Router:
    """`report_traffic` hears how peers did; `clock` is monotonic seconds, the clock of `Replica.told_at`."""

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
        self._paces = Paces(clock)
        self.affinity = Affinity(clock)
        self.conduct = Conduct()
        self.pills = Pills(clock)
        self._budget = RetryBudget(clock, limits)
        self.listeners: list[RoutingListener] = []

    def with_local_knowledge(self, told: Sequence[Replica], *, everything: bool = True) -> tuple[Replica, ...]:
        """The replicas, as told, with all that this node knows better; `everything`: no others can be asked."""
        if everything:
            self._outstanding.keep({replica.place for replica in told})
            self._warn_of_rules(told)
        return ruled(within_reason([*map(self._known, told)]), self._rules)

    def _known(self, told: Replica) -> Replica:
        place, pace = told.place, self._paces.of(told.place)
        known = told
        if pace is not None:
            known = replace(told, answered=True, first_s=pace.first_s, own_tokens_per_s=pace.tokens_per_s)
        if told.local:
            return known
        known = corrected(known, self._outstanding.since(place, told.told_at))
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
        return tuple(replace(r, warm=True) if r.place == place else r for r in replicas)

    @contextmanager
    def asking(self, replica: Replica, deadline: float, slots: int = 1) -> Generator[None]:
        """A request to a peer, which holds or awaits `slots` there. What becomes of the block is what became of it.

        A failure is the peer's unless the request's own time was up. Being busy or refusing it is an answer. That its
        engine ended over the request is one, too, and all the same a failure: who says so of everything is left alone.
        """
        place, trial = replica.place, self._circuits.begin(replica.place)
        try:
            with self._outstanding.asked(place, slots):
                yield
        except PeerFailed as error:
            if isinstance(error, PeerMalformed):
                self.conduct.note(replica.node_id, malformed=1)
            if self._clock() >= deadline:
                self._leave(replica, trial)
            else:
                self._failed(replica, trial)
            raise
        except EngineDied:
            self._report_traffic(replica.node_id, True)
            self._count_failure(replica, trial)
            raise
        except Exception:  # a refusal
            self._circuits.answered(place)
            raise
        except BaseException:  # the client left
            self._leave(replica, trial)
            raise
        self._circuits.answered(place)
        self._report_traffic(replica.node_id, True)

    def _leave(self, replica: Replica, trial: bool) -> None:
        if trial:
            self._circuits.given_up(replica.place)

    def _failed(self, replica: Replica, trial: bool) -> None:
        self._report_traffic(replica.node_id, False)
        self._count_failure(replica, trial)

    def _count_failure(self, replica: Replica, trial: bool) -> None:
        if self._circuits.failed(replica.place, trial):
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
        pace = self._paces.of(asked.place)
        if asked.told_tokens_per_s is not None and pace is not None and pace.tokens_per_s is not None:
            boasts = asked.told_tokens_per_s > BOAST * pace.tokens_per_s
            self.conduct.note(asked.node_id, paced=1, refuted=int(boasts))

    def believed(self, replica: Replica, usage: Usage, sent_bytes: int) -> Usage:
        """What a peer says that its whole answer cost, as far as an answer of so many bytes can have."""
        if replica.local:
            return usage
        tokens = possible_tokens(usage.completion_tokens, sent_bytes)
        overstated = tokens < usage.completion_tokens
        self.conduct.note(replica.node_id, answers=1, overstated=int(overstated))
        return usage.model_copy(update={"completion_tokens": tokens}) if overstated else usage

    def circuits(self) -> Mapping[str, CircuitState]:
        """The circuit of each node that failed a request; the worst of its models'. Closed for everybody else."""
        return self._circuits.by_node()


def costs_a_retry(replica: Replica, error: SwarmError) -> bool:
    """Whether asking elsewhere counts against the budget: not where nobody was given work in vain."""
    if isinstance(error, ContextExceeded):
        return False
    return not (replica.local and isinstance(error, Unavailable))
