"""Run voters on this node's own workers and hear them as they finish."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from swarm.consensus.ballots import SamplingChange
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.llama_cpp.prompt_bound import refuse_too_long
from swarm.generation import Candidate, Delta, EventStream, Finish, GenerationRequest, ToolCallDelta
from swarm.routing.meter import Meter
from swarm.routing.pills import Content, Pills
from swarm.workers.pool import ModelWorkers

OnEvent = Callable[[Delta | Finish], Awaitable[None]]


def with_sampling(request: GenerationRequest, change: SamplingChange) -> GenerationRequest:
    return request.model_copy(update={"temperature": change.temperature, "seed": change.seed})


def elapsed_ms(since: float) -> int:
    return round((time.perf_counter() - since) * 1000)


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
    pills: Pills,
    on_event: OnEvent | None = None,
    meter: Meter | None = None,
) -> AsyncGenerator[Candidate, None]:
    """`count` answers from this node's workers as one batch, each as soon as it is whole.

    `on_event` hears the first voter's events while they come, its `Finish` right before its candidate; `meter` hears
    everybody's. Closing the
    generator stops the batch. A candidate's time counts from here, waiting for the workers included; whoever would wait
    beyond the monotonic instant `deadline` is refused at once, and so is one of the `pills`.
    """
    refuse_too_long(request, workers.engine.capabilities)
    asked, content = time.perf_counter(), Content.of(request)
    pills.refuse(content)
    async with workers.lease(count, deadline) as lease, guarded(pills, content, node):
        begun = time.perf_counter()
        builders = [AnswerBuilder() for _ in lease.workers]
        async with aclosing(lease.engine.candidates(request, len(builders))) as events:
            async for event in events:
                builder = builders[event.choice]
                builder.add(event)
                if meter is not None:
                    meter.heard(event)
                if on_event is not None and event.choice == 0:
                    await on_event(event)
                if isinstance(event, Delta):
                    continue
                note_speed(workers, event, begun)
                voter = f"{lease.workers[event.choice].name}@{node}"
                yield builder.candidate(voter, node, request.model, elapsed_ms(asked))


@asynccontextmanager
async def guarded(pills: Pills, content: Content, node: str) -> AsyncGenerator[None]:
    """This node's own engine works on `content` within the block: see `Pills.guard`."""
    with pills.guard(content, node):
        yield


async def finished_events(candidate: Candidate, choice: int) -> AsyncGenerator[Delta | Finish, None]:
    """A whole answer as the events it would have been, for clients that stream."""
    if candidate.reasoning:
        yield Delta(choice, reasoning=candidate.reasoning)
    if candidate.text:
        yield Delta(choice, candidate.text, logprobs=candidate.logprobs)
    for index, call in enumerate(candidate.tool_calls):
        yield Delta(choice, tool_calls=(ToolCallDelta(index, call.id, call.name, call.arguments),))
    yield Finish(choice, candidate.finish_reason or "stop", candidate.usage)


async def held_back(events: EventStream) -> EventStream:
    """The same events once all of them are there: where it fails, nobody has seen a part of it."""
    async with aclosing(events):
        held = [event async for event in events]
    for event in held:
        yield event
