"""Answer a request with whoever can: one replica with failover, or a ballot of many. The effects beside `policy.py`."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from federation.client import PeerClient
from swarm.consensus.ballots import SamplingChange, ballot_samplings
from swarm.consensus.question import Question
from swarm.engines.schema_refusal import refuse_impossible_schemas
from swarm.errors import BadRequest, ContextExceeded, EngineFailed, PeerFailed, Unavailable, UnknownModel
from swarm.generation import Candidate, Delta, EventStream, Finish, GenerationRequest
from swarm.routing.ballot import batches_of, hold_ballot
from swarm.routing.ballot_box import BallotCall, Batch, Failure, OnEvent, Outcome
from swarm.routing.peer_answers import peer_candidates, peer_events
from swarm.routing.policy import (
    Assignment,
    Defaults,
    Plan,
    VoteOptions,
    by_preference,
    make_plan,
    with_slots_for,
)
from swarm.routing.replicas import Replica, able
from swarm.routing.serving import local_replicas
from swarm.routing.utilities import INFILL, UtilityCall, ask_peer, replicas_for, run_here, skilled
from swarm.routing.voters import finished_events, local_candidates, note_speed, with_sampling
from swarm.workers.pool import ModelWorkers, WorkerPool

log = logging.getLogger(__name__)

DEFAULT_DEADLINE_S = 600.0  # a long answer of a large model on a small machine; requests may ask for less


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered a single request."""

    voter: str
    replica: Replica


OnServed = Callable[[Served], None]
A = TypeVar("A")


class Dispatcher:
    """Everything the gateway needs: plans, ballots, single answers, utilities. Deadlines are monotonic instants."""

    def __init__(
        self,
        pool: WorkerPool,
        peers: Callable[[], tuple[Replica, ...]],
        client: PeerClient,
        report_traffic: Callable[[str, bool], None],
        node_id: str,
        node: str,
        default_votes: int,
        default_strategy: str,
    ) -> None:
        self._pool = pool
        self._peers = peers
        self._client = client
        self._report_traffic = report_traffic
        self._node_id = node_id
        self.node = node
        self._defaults = Defaults(default_votes, default_strategy)

    def replicas(self, local_only: bool = False) -> tuple[Replica, ...]:
        """Every place where a model runs now: here first, then on live peers."""
        here = local_replicas(self._pool.states(), self._node_id, self.node)
        return here if local_only else here + self._peers()

    def plan(self, request: GenerationRequest, options: VoteOptions, choices: int, local_only: bool = False) -> Plan:
        """Who will answer. Raises UnknownModel or BadRequest before anything is generated."""
        refuse_impossible_schemas(request)
        chars = len(request.prompt or ()) + sum(len(str(message.get("content"))) for message in request.messages or ())
        return make_plan(self._able(request, local_only), options, self._defaults, chars, choices)

    def _able(self, request: GenerationRequest, local_only: bool = False) -> tuple[Replica, ...]:
        """Who may answer: where there is a `suffix`, only those that can fill in the middle."""
        found = able(request.model, self.replicas(local_only))
        return found if request.suffix is None else skilled(request.model, found, INFILL, self.replicas(local_only))

    def vote(
        self, request: GenerationRequest, plan: Plan, options: VoteOptions, deadline: float, stream: bool
    ) -> AsyncGenerator[Delta | Outcome, None]:
        """Hold the planned ballot; with `stream`, a local leader's deltas come live where that is safe."""
        question = Question.of(request, plan.strategy)
        base = request.seed if request.seed is not None else random.getrandbits(31)
        samplings = ballot_samplings(request, plan.asked, base_seed=base)
        batches = batches_of(leader_first(plan.assignments), samplings)

        def run(
            replica: Replica, samplings: Sequence[SamplingChange], on_event: OnEvent | None
        ) -> AsyncGenerator[Candidate, None]:
            sampled = with_sampling(request, samplings[0]).model_copy(update={"model": replica.model})
            return self._candidates(replica, sampled, len(samplings), deadline, on_event)

        return hold_ballot(
            BallotCall(
                question=question,
                wanted=plan.wanted,
                batches=batches,
                deadline=deadline,
                run=run,
                replace=lambda failure: self._replacement(request, failure),
                stream_leader=stream and batches[0].replica.local and may_stream_leader(question),
                min_votes=options.min_votes or 1,
            )
        )

    async def _candidates(
        self, replica: Replica, request: GenerationRequest, count: int, deadline: float, on_event: OnEvent | None = None
    ) -> AsyncGenerator[Candidate, None]:
        """`count` answers of one replica. How a peer did is reported."""
        if replica.local:
            source = local_candidates(self._workers(replica.model), request, count, self.node, deadline, on_event)
        else:
            source = peer_candidates(self._client, replica, request, count, deadline)
        try:
            async with aclosing(source) as answers:
                async for candidate in answers:
                    yield candidate
        except PeerFailed:
            self._report_traffic(replica.node_id, False)
            raise
        if not replica.local:
            self._report_traffic(replica.node_id, True)

    def _replacement(self, request: GenerationRequest, failure: Failure) -> Batch | None:
        """The same voters elsewhere, for a failure that is the node's and not the request's."""
        if isinstance(failure.error, BadRequest) or not failure.missing:
            return None
        lost = failure.batch.replica
        try:
            others = [replica for replica in self._able(request) if replica.node_id != lost.node_id]
        except UnknownModel:
            return None
        if not others:
            return None
        best = by_preference(others)[0]
        return Batch(best, failure.batch.samplings[: min(failure.missing, best.slots)])

    def _workers(self, model: str) -> ModelWorkers:
        workers = self._pool.get(model)
        if workers is None:
            raise Unavailable(f"model {model!r} was unloaded meanwhile")
        return workers

    async def single(
        self,
        request: GenerationRequest,
        choices: int,
        deadline: float,
        on_served: OnServed,
        local_only: bool = False,
    ) -> AsyncGenerator[Delta | Finish, None]:
        """`choices` answers of the best replica; before the first event the next best may take over.

        A prompt too long for one replica goes to the next too: contexts differ. And so does one who would
        wait beyond `deadline`.
        """
        replicas = with_slots_for(choices, self._able(request, local_only))
        for position, replica in enumerate(replicas):
            begun = False
            try:
                async with aclosing(self._events(replica, request, choices, deadline, on_served)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except (PeerFailed, EngineFailed, Unavailable, ContextExceeded) as error:
                if begun or position + 1 == len(replicas):
                    raise
                log.warning("failing over from %s: %s", replica.node, error)

    def _events(
        self, replica: Replica, request: GenerationRequest, choices: int, deadline: float, on_served: OnServed
    ) -> EventStream:
        request = request.model_copy(update={"model": replica.model})
        if replica.local:
            return self._local_events(replica, request, choices, deadline, on_served)
        on_served(Served(replica.node, replica))
        if choices > 1:
            return self._peer_choices(replica, request, choices, deadline)
        return self._peer_events(replica, request, deadline)

    async def _local_events(
        self, replica: Replica, request: GenerationRequest, choices: int, deadline: float, on_served: OnServed
    ) -> AsyncGenerator[Delta | Finish, None]:
        workers = self._workers(replica.model)
        async with workers.lease(choices, deadline) as lease:
            on_served(Served(f"{lease.workers[0].name}@{self.node}", replica))
            begun = time.perf_counter()
            async with aclosing(lease.engine.candidates(request, choices)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Finish) and choices == 1:
                        note_speed(workers, event, begun)

    async def _peer_choices(
        self, replica: Replica, request: GenerationRequest, choices: int, deadline: float
    ) -> AsyncGenerator[Delta | Finish, None]:
        choice = itertools.count()
        async with aclosing(self._candidates(replica, request, choices, deadline)) as answers:
            async for candidate in answers:
                if candidate.error is not None:
                    raise PeerFailed(replica.node, candidate.error)
                async for event in finished_events(candidate, next(choice)):
                    yield event

    async def _peer_events(
        self, replica: Replica, request: GenerationRequest, deadline: float
    ) -> AsyncGenerator[Delta | Finish, None]:
        try:
            async with aclosing(peer_events(self._client, replica, request, deadline)) as events:
                async for event in events:
                    yield event
        except PeerFailed:
            self._report_traffic(replica.node_id, False)
            raise
        self._report_traffic(replica.node_id, True)

    async def utility(
        self, model: str, call: UtilityCall[A], deadline: float, local_only: bool = False
    ) -> tuple[A, Replica]:
        """The answer to a call that generates nothing, and whose it is: this node's own where it can, else a peer's."""
        replicas = replicas_for(model, self.replicas(local_only), call.skill)
        for replica in replicas[:-1]:
            try:
                return await self._utility(replica, call, deadline), replica
            except (PeerFailed, EngineFailed, Unavailable, ContextExceeded) as error:
                log.warning("failing over from %s: %s", replica.node, error)
        return await self._utility(replicas[-1], call, deadline), replicas[-1]

    async def _utility(self, replica: Replica, call: UtilityCall[A], deadline: float) -> A:
        if replica.local:
            return await run_here(self._workers(replica.model), call, deadline)
        try:
            answer = await ask_peer(self._client, replica, call, deadline)
        except PeerFailed:
            self._report_traffic(replica.node_id, False)
            raise
        self._report_traffic(replica.node_id, True)
        return answer


def may_stream_leader(question: Question) -> bool:
    """Whether a leader may be shown live: not where a first answer would be acted on (tools, JSON, numbers)."""
    acted_on = question.tools or question.wants_json or question.wants_final_answer
    return not acted_on and question.strategy not in ("first", "majority")


def leader_first(assignments: Sequence[Assignment]) -> tuple[Assignment, ...]:
    """This node's own voters first: only they can be streamed live."""
    return tuple(sorted(assignments, key=lambda assignment: not assignment.replica.local))
