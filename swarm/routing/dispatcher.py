"""Answer a request with whoever can: one replica with failover, or a ballot of many. The effects beside `policy.py`."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from federation.client import PeerClient
from federation.errors import PeerError
from federation.wire import GENERATE_PATH
from swarm.consensus.ballots import SamplingChange, ballot_samplings
from swarm.consensus.question import Question
from swarm.engines.engine import Embeddings
from swarm.engines.llama_http import ChunkReader, request_body
from swarm.engines.sse import sse_data
from swarm.errors import BadRequest, EngineFailed, PeerFailed, SwarmError, Unavailable
from swarm.generation import Candidate, Delta, EventStream, Finish, GenerationRequest
from swarm.routing.ballot import BallotCall, Batch, Failure, Outcome, batches_of, hold_ballot
from swarm.routing.policy import Assignment, Plan, VoteOptions, by_preference, make_plan
from swarm.routing.replicas import Replica, able
from swarm.routing.voters import OnEvent, finished_events, local_candidates, peer_candidates, with_sampling
from swarm.tracing import current_request_id
from swarm.workers.pool import ModelWorkers, WorkerPool

log = logging.getLogger(__name__)

DEFAULT_DEADLINE_S = 600.0  # a long answer of a large model on a small machine; requests may ask for less


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered a single request."""

    voter: str
    replica: Replica


class Dispatcher:
    """Everything the gateway needs: plans, ballots, single answers, embeddings."""

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
        self._default_votes = default_votes
        self._default_strategy = default_strategy

    def replicas(self, local_only: bool = False) -> tuple[Replica, ...]:
        """Every place where a model runs now: here first, then on live peers."""
        here = tuple(
            Replica(
                node_id=self._node_id,
                node=self.node,
                model=state.model_id,
                slots=state.slots,
                slots_free=state.slots_free,
                params=state.params,
                tokens_per_s=state.tokens_per_s,
                embeddings=state.embeddings,
            )
            for state in self._pool.states()
            if state.problem is None
        )
        return here if local_only else here + self._peers()

    def plan(self, request: GenerationRequest, options: VoteOptions, choices: int, local_only: bool = False) -> Plan:
        """Who will answer. Raises UnknownModel or BadRequest before anything is generated."""
        if options.strategy == "auto":
            options = VoteOptions(self._default_strategy, options.votes, options.min_votes, options.deadline_s)
        chars = len(request.prompt or "") + sum(len(str(message.get("content"))) for message in request.messages or ())
        return make_plan(able(request.model, self.replicas(local_only)), options, self._default_votes, chars, choices)

    def question(self, request: GenerationRequest, options: VoteOptions) -> Question:
        return Question.of(request, options.strategy if options.strategy != "auto" else self._default_strategy)

    def vote(
        self, request: GenerationRequest, plan: Plan, options: VoteOptions, stream: bool
    ) -> AsyncGenerator[Delta | Outcome, None]:
        """Hold the planned ballot; with `stream`, a local leader's deltas come live where that is safe."""
        question = self.question(request, options)
        base = request.seed if request.seed is not None else random.getrandbits(31)
        samplings = ballot_samplings(request, plan.asked, base_seed=base)
        batches = batches_of(leader_first(plan.assignments), samplings)
        deadline_s = options.deadline_s or DEFAULT_DEADLINE_S

        def run(
            replica: Replica, samplings: Sequence[SamplingChange], on_event: OnEvent | None
        ) -> AsyncGenerator[Candidate, None]:
            sampled = with_sampling(request, samplings[0]).model_copy(update={"model": replica.model})
            return self._run(replica, sampled, len(samplings), on_event, deadline_s)

        return hold_ballot(
            BallotCall(
                question=question,
                wanted=plan.wanted,
                batches=batches,
                deadline=time.monotonic() + deadline_s,
                run=run,
                replace=lambda failure: self._replacement(request, failure),
                stream_leader=stream and batches[0].replica.local and may_stream_leader(question),
            )
        )

    async def _run(
        self, replica: Replica, request: GenerationRequest, count: int, on_event: OnEvent | None, deadline_s: float
    ) -> AsyncGenerator[Candidate, None]:
        if replica.local:
            source = local_candidates(self._workers(replica.model), request, count, self.node, on_event)
        else:
            source = peer_candidates(self._client, replica, request, count, 1, deadline_s)
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
        others = [r for r in able(request.model, self.replicas()) if r.node_id != lost.node_id]
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
        self, request: GenerationRequest, choices: int, on_served: Callable[[Served], None], local_only: bool = False
    ) -> AsyncGenerator[Delta | Finish, None]:
        """`choices` answers of the best replica; before the first event the next best may take over."""
        candidates = by_preference(able(request.model, self.replicas(local_only)))
        for position, replica in enumerate(candidates):
            begun = False
            try:
                async with aclosing(self._events(replica, request, choices, on_served)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except (PeerFailed, EngineFailed, Unavailable) as error:
                if not replica.local:
                    self._report_traffic(replica.node_id, False)
                if begun or position + 1 == len(candidates):
                    raise
                log.warning("failing over from %s: %s", replica.node, error)

    def _events(
        self, replica: Replica, request: GenerationRequest, choices: int, on_served: Callable[[Served], None]
    ) -> EventStream:
        request = request.model_copy(update={"model": replica.model})
        if replica.local:
            return self._local_events(replica, request, choices, on_served)
        if choices > 1:
            return self._remote_choices(replica, request, choices, on_served)
        return self._proxied_events(replica, request, on_served)

    async def _local_events(
        self, replica: Replica, request: GenerationRequest, choices: int, on_served: Callable[[Served], None]
    ) -> AsyncGenerator[Delta | Finish, None]:
        workers = self._workers(replica.model)
        if choices > len(workers.workers):
            raise BadRequest(
                f"n is {choices}; {replica.model!r} has {len(workers.workers)} workers here (--workers)", param="n"
            )
        async with workers.lease(choices) as lease:
            on_served(Served(f"{lease.workers[0].name}@{self.node}", replica))
            started = time.perf_counter()
            async with aclosing(lease.engine.candidates(request, choices)) as events:
                async for event in events:
                    yield event
                    if isinstance(event, Finish) and choices == 1 and event.usage.completion_tokens > 1:
                        workers.measured(event.usage.completion_tokens / max(time.perf_counter() - started, 1e-6))

    async def _remote_choices(
        self, replica: Replica, request: GenerationRequest, choices: int, on_served: Callable[[Served], None]
    ) -> AsyncGenerator[Delta | Finish, None]:
        on_served(Served(replica.node, replica))
        source = peer_candidates(self._client, replica, request, choices, 1, DEFAULT_DEADLINE_S)
        async with aclosing(source) as answers:
            choice = 0
            async for candidate in answers:
                async for event in finished_events(candidate, choice):
                    yield event
                choice += 1

    async def _proxied_events(
        self, replica: Replica, request: GenerationRequest, on_served: Callable[[Served], None]
    ) -> AsyncGenerator[Delta | Finish, None]:
        """One answer generated by a peer, event by event."""
        assert replica.url is not None
        reader = ChunkReader(chat=request.messages is not None)
        finished = False
        try:
            async with self._client.open_generation(
                replica.url,
                GENERATE_PATH,
                json.dumps(request_body(request, 1)).encode(),
                request_id=current_request_id.get(),
                hops=1,
                deadline_s=DEFAULT_DEADLINE_S,
            ) as response:
                if response.status != 200:
                    raise await response.refusal()
                on_served(Served(replica.node, replica))
                async for data in sse_data(response.chunks()):
                    if data == b"[DONE]":
                        break
                    for event in reader.events(json.loads(data)):
                        finished = finished or isinstance(event, Finish)
                        yield event
        except PeerError as error:
            raise peer_failure(replica, error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise PeerFailed(replica.node, f"sent an unreadable chunk: {error!r}") from error
        if not finished:
            raise PeerFailed(replica.node, "ended the stream before the answer was complete")
        self._report_traffic(replica.node_id, True)

    async def embed(self, model: str, texts: Sequence[str]) -> tuple[Embeddings, str]:
        """Vectors from this node's own model, and the model's id. Peers are not asked for embeddings yet."""
        here = [replica for replica in able(model, self.replicas(local_only=True)) if replica.embeddings]
        if not here:
            raise BadRequest(f"model {model!r} cannot embed on this node", param="model")
        workers = self._workers(here[0].model)
        async with workers.lease(1) as lease:
            return await lease.engine.embed(texts), here[0].model


def peer_failure(replica: Replica, error: PeerError) -> SwarmError:
    """A peer's refusal of the request itself stays a refusal; everything else is the peer's failure."""
    if error.status == 400:
        return BadRequest(str(error))
    return PeerFailed(replica.node, str(error))


def may_stream_leader(question: Question) -> bool:
    """Whether a leader may be shown live: not where a first answer would be acted on (tools, JSON, numbers)."""
    structured = question.response_format is not None and question.response_format.type != "text"
    return not (
        question.tools or structured or question.wants_final_answer or question.strategy in ("first", "majority")
    )


def leader_first(assignments: Sequence[Assignment]) -> tuple[Assignment, ...]:
    """This node's own voters first: only they can be streamed live."""
    return tuple(sorted(assignments, key=lambda assignment: not assignment.replica.local))
