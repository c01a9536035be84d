"""Run voters on this node's own workers and hear them as they finish.

What the voters of one batch have generated so far, as far as it can be seen from here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from swarm.consensus.waves import SamplingChange
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.prompt_bound import refuse_too_long
from swarm.generation import Candidate, Delta, EventStream, Finish, GenerationRequest, ToolCallDelta
from swarm.routing.pills import Content, Pills
from swarm.workers.pool import ModelWorkers


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

    def heard(self, event: Delta | Finish) -> None:
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
    refuse_too_long(request, workers.engine.loaded)
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
