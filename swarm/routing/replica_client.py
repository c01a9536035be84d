"""Ask one replica, wherever it is: this node's workers, a peer, or an upstream.

`ReplicaClient` decides by the replica's place how it is asked, and accounts for what it asks of peers. Below it are the
ways to run answers on workers of this node, upstreams' included, and what can be seen of answers that are not whole.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

from federation.client import PeerClient
from swarm.engines.assembly import AnswerBuilder, drawn_as
from swarm.engines.engine import UNKNOWN_TOKEN_BYTES, Capabilities, refuse_too_long
from swarm.engines.upstream.repaired_calls import repaired_candidate, with_repaired_calls
from swarm.errors import ContextExceeded, PeerFailed, UpstreamFailed
from swarm.generation import (
    GAVE_WAY,
    Candidate,
    Delta,
    EventStream,
    Finish,
    GenerationRequest,
    ToolCallDelta,
    has_images,
    prompt_chars,
)
from swarm.images import in_words
from swarm.routing.peer_answers import OnEvent, elapsed_ms, peer_candidates, peer_events
from swarm.routing.poison_pills import PoisonPills, RequestContent
from swarm.routing.policy import Batch
from swarm.routing.preference import RoutingReason
from swarm.routing.replicas import Replica
from swarm.routing.resumption import Resumption
from swarm.routing.router import Router
from swarm.routing.upstream import Upstreams
from swarm.routing.utilities import UtilityCall, UtilityRoom, ask_peer, refuse_what_does_not_fit, run_here
from swarm.routing.waiting_room import Elsewhere, WaitingRoom
from swarm.workers.model_workers import GaveWay, ModelWorkers, Recall
from swarm.workers.pool import WorkerPool

IDLE_SEAT = "idle"  # in the place of a worker's name where a voter that gives way found none


@dataclass(frozen=True, slots=True)
class Served:
    """Who answers a single request: why that one, and who was `tried` before it and failed.

    `loaded_s` is how long the request waited for its model to be loaded on this node, None where it ran already, and
    `resumed` how the answer came to go on there, where it had begun elsewhere.
    """

    voter: str
    replica: Replica
    reason: RoutingReason = "only one"
    tried: tuple[str, ...] = ()
    loaded_s: float | None = None
    resumed: Resumption | None = None


OnServed = Callable[[Served], None]
A = TypeVar("A")


class ReplicaClient:
    """Every way to have one replica do something. Deadlines are monotonic instants."""

    def __init__(
        self,
        pool: WorkerPool,
        client: PeerClient,
        router: Router,
        upstreams: Upstreams,
        peers_idle: Callable[[], bool],
        is_peer: Callable[[str], bool] = lambda _: True,
        utilities: UtilityRoom | None = None,
    ) -> None:
        self._is_peer = is_peer
        self._pool = pool
        self._client = client
        self._router = router
        self._upstreams = upstreams
        self._room = WaitingRoom(peers_idle)
        self.utilities = utilities or UtilityRoom()

    async def candidates(
        self,
        replica: Replica,
        request: GenerationRequest,
        count: int,
        deadline: float,
        on_event: OnEvent | None = None,
        meter: Meter | None = None,
        gives_way: bool = False,
    ) -> AsyncGenerator[Candidate, None]:
        """`count` whole answers; `on_event` gets the first one's events; `meter` counts what is made here of all.

        Where they give way, some are candidates with that error, as soon as somebody else waits for their workers.
        """
        request = shown_to(replica.capabilities, request.model_copy(update={"model": replica.model_there}))
        content, repairs = RequestContent.of(request), self._repairs(replica, request)
        account, guard = nullcontext(None), nullcontext()
        if replica.local:
            source = self._own_candidates(replica, request, count, deadline, on_event, meter, gives_way)
        else:
            refuse_to_send(replica, request)
            guard = self._guarded(replica, content)
            account = self._router.asking(replica, deadline, count)
            source = peer_candidates(self._client, replica, request, count, deadline, on_event, gives_way)
        with guard, account as asked:
            async with aclosing(source) as answers:
                async for candidate in answers:
                    if asked is not None and candidate.error is None:  # before it is given: the reader may need no more
                        asked.answered()
                        self.pills.answered(content)
                    sent_bytes = 0 if replica.local else candidate.size_bytes
                    usage = self._router.believed(replica, candidate.usage, sent_bytes)
                    if usage is not candidate.usage:
                        candidate = candidate.model_copy(update={"usage": usage})
                    yield repaired_candidate(candidate, request) if repairs else candidate

    async def _own_candidates(
        self,
        replica: Replica,
        request: GenerationRequest,
        count: int,
        deadline: float,
        on_event: OnEvent | None,
        meter: Meter | None,
        gives_way: bool,
    ) -> AsyncGenerator[Candidate, None]:
        async with self._workers(replica, deadline, if_loaded=gives_way) as workers:
            source = local_candidates(
                workers, request, count, replica.node, deadline, self.pills, self.utilities, on_event, meter, gives_way
            )
            async with aclosing(source) as answers:
                async for candidate in answers:
                    yield candidate

    def events(
        self,
        replica: Replica,
        request: GenerationRequest,
        choices: int,
        deadline: float,
        on_served: OnServed,
        elsewhere: Elsewhere | None = None,
        for_peer: bool = False,
    ) -> EventStream:
        """The events of `choices` answers; `on_served` is called with who gives them. `for_peer`: another node asked.

        Raises SoonerElsewhere before the first one, where `elsewhere` names a peer while the request waits here.
        """
        request = shown_to(replica.capabilities, request.model_copy(update={"model": replica.model_there}))
        if replica.local:
            events = self._local_events(replica, request, choices, deadline, on_served, elsewhere, for_peer)
        else:
            on_served(Served(replica.node, replica))
            refuse_to_send(replica, request)
            choosing = self._peer_choices(replica, request, choices, deadline) if choices > 1 else None
            events = choosing or self._peer_events(replica, request, deadline)
        return with_repaired_calls(events, request) if self._repairs(replica, request) else events

    def _repairs(self, replica: Replica, request: GenerationRequest) -> bool:
        """Whether calls that are not quite JSON are put right: as the request says, else at upstreams and not here."""
        rule = request.repair
        if rule is None:
            rule = self._upstreams.of(replica).plan.repair if replica.upstream else "off"
        return rule == "safe" and bool(request.tools)

    async def utility(self, replica: Replica, call: UtilityCall[A], deadline: float, for_peer: bool = False) -> A:
        """The answer to a call that generates nothing. `for_peer`: another node asked."""
        if replica.upstream:
            asked = call.of(self._upstreams.of(replica).http, replica.model)
            async with self._workers(replica, deadline) as workers:
                answer = await run_here(workers, asked, deadline, self.utilities, self.pills, replica.node)
            if not call.fits(answer):
                raise UpstreamFailed(replica.node, f"it sent an answer to {call.name} that does not fit the question")
            return answer
        if replica.local:
            async with self._workers(replica, deadline, for_peer) as workers:
                return await run_here(workers, call, deadline, self.utilities, self.pills, replica.node)
        with self._guarded(replica, call.content), self._router.asking(replica, deadline, slots=int(call.leases)):
            return await ask_peer(self._client, replica, call, deadline)

    @property
    def pills(self) -> PoisonPills:
        """The requests that are asked of nobody, because engines ended over them."""
        return self._router.pills

    def _guarded(self, replica: Replica, content: RequestContent) -> AbstractContextManager[None]:
        """A peer that works on `content` within the block."""
        return self.pills.guard(content, replica.node, replica.node_id, lambda: self._is_peer(replica.node_id))

    @asynccontextmanager
    async def _workers(
        self, replica: Replica, deadline: float, for_peer: bool = False, if_loaded: bool = False
    ) -> AsyncGenerator[ModelWorkers]:
        """Those of a replica that is asked through this node: its model, loaded if need be, stays within the block."""
        if replica.upstream:
            yield self._upstreams.of(replica).workers
            return
        async with self._pool.using(replica.model, deadline, for_peer, if_loaded) as workers:
            yield workers

    async def _local_events(
        self,
        replica: Replica,
        request: GenerationRequest,
        choices: int,
        deadline: float,
        on_served: OnServed,
        elsewhere: Elsewhere | None,
        for_peer: bool,
    ) -> AsyncGenerator[Delta | Finish, None]:
        asked, waiting = time.perf_counter(), nullcontext()
        async with AsyncExitStack() as stack:
            workers = await stack.enter_async_context(self._workers(replica, deadline, for_peer))
            loaded_s = None if replica.state == "ready" else time.perf_counter() - asked
            request = shown_to(workers.engine.capabilities, request)  # its image part may have been no part of it
            await refuse_what_does_not_fit(workers, request, choices, self.utilities, self.pills, replica.node)
            served_at_once = workers.state().slots_free >= choices and not workers.waiting
            if elsewhere is not None and not served_at_once:
                waiting = self._room.waits(replica.model, choices, elsewhere)
            async with waiting:
                lease = await stack.enter_async_context(workers.lease(choices, deadline))
            on_served(Served(f"{lease.workers[0].name}@{replica.node}", replica, loaded_s=loaded_s))
            begun = time.perf_counter()
            stack.enter_context(self.pills.guard(RequestContent.of(request), replica.node))
            async with aclosing(lease.engine.candidates(request, choices)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        workers.generated.add()
                    elif choices == 1:
                        note_speed(workers, event, begun)
                    yield event

    async def _peer_choices(
        self, replica: Replica, request: GenerationRequest, choices: int, deadline: float
    ) -> AsyncGenerator[Delta | Finish, None]:
        choice = itertools.count()
        async with aclosing(self.candidates(replica, request, choices, deadline)) as answers:
            async for candidate in answers:
                if candidate.error is not None:
                    raise PeerFailed(replica.node, candidate.error)
                async for event in finished_events(candidate, next(choice)):
                    yield event

    async def _peer_events(
        self, replica: Replica, request: GenerationRequest, deadline: float
    ) -> AsyncGenerator[Delta | Finish, None]:
        content = RequestContent.of(request)
        with self._guarded(replica, content), self._router.asking(replica, deadline) as asked:
            async with aclosing(peer_events(self._client, replica, request, deadline)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        asked.answered()
                        self.pills.answered(content)
                    yield event


def shown_to(can: Capabilities, request: GenerationRequest) -> GenerationRequest:
    """`request` as a model that `can` so much is asked: where it cannot see, with a note for each image."""
    return request if can.vision or not has_images(request) else in_words(request)


def refuse_to_send(replica: Replica, request: GenerationRequest) -> None:
    """Raises ContextExceeded where `request` is so long that a peer could only refuse it. Its tokens are not known."""
    if not replica.upstream and replica.context_tokens is not None and request.suffix is None:
        chars = prompt_chars(request)
        if chars > replica.context_tokens * UNKNOWN_TOKEN_BYTES:
            tokens = chars // UNKNOWN_TOKEN_BYTES
            raise ContextExceeded(tokens, replica.context_tokens, at_least=True, param=request.prompt_field)


class Meter:
    """Counts the answers that are `missing`, and the events of unfinished ones: about one a token.

    A peer's events are not seen, only its whole answers. `left_its_prompt`: a voter is ready whose slot still holds the
    prompt. That is the first of a batch: llama.cpp copies its prompt to the others, and forgets the copies with them.
    """

    def __init__(self, voters: int) -> None:
        self.missing = voters
        self.left_its_prompt = False
        self._sees = False
        self._unfinished: Counter[int] = Counter()

    def count(self, event: Delta | Finish) -> None:
        self._sees = True
        if isinstance(event, Delta):
            self._unfinished[event.choice] += 1
            return
        del self._unfinished[event.choice]
        self.left_its_prompt = self.left_its_prompt or event.choice == 0

    def answered(self) -> None:
        """One voter's whole answer has come."""
        self.missing -= 1
        self.left_its_prompt = self.left_its_prompt or not self.missing

    @property
    def unfinished_tokens(self) -> int:
        """Generated for answers that are not whole."""
        return self._unfinished.total()

    @property
    def knows_nothing(self) -> bool:
        """Answers are missing, and whether anything was generated for them cannot be seen."""
        return self.missing > 0 and not self._sees


def with_samplings(request: GenerationRequest, batch: Batch) -> GenerationRequest:
    """The request for all voters of `batch`."""
    first, last = batch.samplings[0], batch.samplings[-1]
    apart = first.temperature if batch.first_apart else None
    return request.model_copy(update={"temperature": last.temperature, "seed": first.seed, "first_temperature": apart})


def without_logprobs(on_event: OnEvent) -> OnEvent:
    """`on_event` as a client hears it that asked for no log-probabilities."""

    async def heard(event: Delta | Finish) -> None:
        if isinstance(event, Delta) and event.logprobs is not None:
            if not (event.text or event.reasoning or event.tool_calls):
                return
            event = replace(event, logprobs=None)
        await on_event(event)

    return heard


async def bare(answers: AsyncGenerator[Candidate, None]) -> AsyncGenerator[Candidate, None]:
    """The answers without their log-probabilities, of which their confidence is what was wanted."""
    async with aclosing(answers):
        async for candidate in answers:
            yield candidate.model_copy(update={"logprobs": None})


def note_speed(workers: ModelWorkers, finish: Finish, since: float) -> None:
    """Report how fast a finished answer was generated, prefill included; one token says nothing."""
    took_s = time.perf_counter() - since
    if finish.usage.completion_tokens > 1 and took_s > 0:
        workers.measured(finish.usage.completion_tokens / took_s)


async def local_candidates(
    workers: ModelWorkers,
    request: GenerationRequest,
    count: int,
    node: str,
    deadline: float,
    pills: PoisonPills,
    room: UtilityRoom,
    on_event: OnEvent | None = None,
    meter: Meter | None = None,
    gives_way: bool = False,
) -> AsyncGenerator[Candidate, None]:
    """`count` answers from this node's workers as one batch, each as soon as it is whole.

    `on_event` is called with the first voter's events while they come, its `Finish` right before its candidate; `meter`
    counts everybody's. Closing the generator stops the batch. A candidate's time counts from here, waiting for the
    workers included; whoever would wait beyond the monotonic instant `deadline` is refused at once, and so is one of
    the `pills`.

    A batch that `gives_way` takes only workers that are idle, and is stopped when somebody else waits for them: all of
    it, since one answer of a shared prefill cannot be stopped alone. Whoever has no answer by then has GAVE_WAY for its
    error, after the workers were given back.
    """
    request = shown_to(workers.engine.capabilities, request)
    asked, content = time.perf_counter(), RequestContent.of(request)
    pills.refuse(content)
    if gives_way:  # it never waits
        refuse_too_long(request, workers.engine.loaded)
    else:
        await refuse_what_does_not_fit(workers, request, count, room, pills, node)
    left = dict.fromkeys(range(count), f"{IDLE_SEAT}@{node}")  # the voters without an answer
    try:
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(workers.lease(count, deadline, gives_way))
            left.update((choice, f"{worker.name}@{node}") for choice, worker in enumerate(lease.workers))
            stack.enter_context(pills.guard(content, node))
            begun = time.perf_counter()
            builders = [AnswerBuilder() for _ in lease.workers]
            events = lease.engine.candidates(request, len(builders))
            async with aclosing(events if lease.recall is None else recallable(events, lease.recall)) as events:
                async for event in events:
                    builder = builders[event.choice]
                    builder.add(event)
                    if meter is not None:
                        meter.count(event)
                    if on_event is not None and event.choice == 0:
                        await on_event(event)
                    if isinstance(event, Delta):
                        workers.generated.add()
                        continue
                    note_speed(workers, event, begun)
                    voter = left.pop(event.choice)
                    answer = builder.candidate(voter, node, request.model, elapsed_ms(asked))
                    yield answer.model_copy(update={"temperature": drawn_as(request, event.choice).temperature})
    except GaveWay:
        pass
    if gives_way:
        for voter in left.values():
            took_ms = elapsed_ms(asked)
            yield Candidate(voter=voter, node=node, model=request.model, elapsed_ms=took_ms, error=GAVE_WAY)


async def recallable(events: EventStream, recall: Recall) -> EventStream:
    """The same events until the workers are wanted back. Raises GaveWay then, whatever is being waited for."""
    async with aclosing(events):
        while (event := await recall.until(anext(events, None))) is not None:
            yield event


async def finished_events(candidate: Candidate, choice: int) -> AsyncGenerator[Delta | Finish, None]:
    """A whole answer as the events it would have been, for clients that stream."""
    if candidate.reasoning:
        yield Delta(choice, reasoning=candidate.reasoning)
    if candidate.text:
        yield Delta(choice, candidate.text, logprobs=candidate.logprobs)
    for index, call in enumerate(candidate.tool_calls):
        logprobs = None if candidate.text or index else candidate.logprobs  # once
        yield Delta(choice, tool_calls=(ToolCallDelta(index, call.id, call.name, call.arguments),), logprobs=logprobs)
    reason = candidate.finish_reason or "stop"
    yield Finish(
        choice, reason, candidate.usage, candidate.stop_sequence, candidate.repaired, timings=candidate.timings
    )


async def held_back(events: EventStream) -> EventStream:
    """The same events once all of them are there: where it fails, nobody has seen a part of it."""
    async with aclosing(events):
        held = [event async for event in events]
    for event in held:
        yield event
