"""Run voters and hear them as they finish: on this node's own workers, or on a peer over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from pydantic import ValidationError

from federation.client import PeerClient
from federation.errors import PeerError
from swarm.consensus.ballots import SamplingChange
from swarm.engines.assembly import AnswerBuilder
from swarm.errors import BadRequest, PeerFailed
from swarm.generation import Candidate, Delta, Finish, Frozen, GenerationRequest, ToolCallDelta
from swarm.routing.replicas import Replica
from swarm.tracing import current_request_id
from swarm.workers.pool import ModelWorkers

OnEvent = Callable[[Delta | Finish], Awaitable[None]]


REFUSAL_VOTER = "refused"  # the voter name under which a peer says that the request itself can never work


class CandidatesBody(Frozen):
    """The body of `POST /federation/v1/candidates`: run `votes` voters on `request` as it stands."""

    request: GenerationRequest
    votes: int


def with_sampling(request: GenerationRequest, change: SamplingChange) -> GenerationRequest:
    return request.model_copy(update={"temperature": change.temperature, "seed": change.seed})


def elapsed_ms(since: float) -> int:
    return round((time.perf_counter() - since) * 1000)


async def local_candidates(
    workers: ModelWorkers, request: GenerationRequest, count: int, node: str, on_event: OnEvent | None = None
) -> AsyncGenerator[Candidate, None]:
    """`count` answers from this node's workers as one batch, each as soon as it is whole.

    `on_event` hears the first voter's events while they come, its `Finish` right before its candidate. Closing the
    generator stops the batch.
    """
    started = time.perf_counter()
    async with workers.lease(count) as lease:
        builders = [AnswerBuilder() for _ in lease.workers]
        model = lease.engine.model_id
        async with aclosing(lease.engine.candidates(request, len(builders))) as events:
            async for event in events:
                builder = builders[event.choice]
                builder.add(event)
                if on_event is not None and event.choice == 0:
                    await on_event(event)
                if isinstance(event, Delta):
                    continue
                took_ms = elapsed_ms(started)
                if took_ms > 0 and builder.usage.completion_tokens > 1:
                    workers.measured(builder.usage.completion_tokens / took_ms * 1000)
                yield builder.candidate(f"{lease.workers[event.choice].name}@{node}", node, model, took_ms)


async def peer_candidates(
    client: PeerClient, replica: Replica, request: GenerationRequest, count: int, hops: int, deadline_s: float
) -> AsyncGenerator[Candidate, None]:
    """`count` answers from a peer. At most that many are taken, and each must bear the peer's own name."""
    assert replica.url is not None
    started = time.perf_counter()
    body = CandidatesBody(request=request, votes=count).model_dump(mode="json", by_alias=True, exclude_none=True)
    left = count
    try:
        stream = client.stream_candidates(
            replica.url, body, request_id=current_request_id.get(), hops=hops, deadline_s=deadline_s
        )
        async with aclosing(stream) as lines:
            async for line in lines:
                candidate = Candidate.model_validate_json(line)
                if candidate.error is not None and candidate.voter == REFUSAL_VOTER:
                    raise BadRequest(candidate.error)
                name = candidate.voter.split("@", 1)[0][:64] or f"voter-{left}"
                yield candidate.model_copy(
                    update={"voter": f"{name}@{replica.node}", "node": replica.node, "elapsed_ms": elapsed_ms(started)}
                )
                left -= 1
                if not left:
                    return
    except PeerError as error:
        raise PeerFailed(replica.node, str(error)) from error
    except ValidationError as error:
        raise PeerFailed(replica.node, f"sent a candidate that is none: {error.errors()[0]['msg']}") from error
    raise PeerFailed(replica.node, f"sent {count - left} of {count} candidates")


async def finished_events(candidate: Candidate, choice: int) -> AsyncGenerator[Delta | Finish, None]:
    """A whole answer as the events it would have been, for clients that stream."""
    if candidate.reasoning:
        yield Delta(choice, reasoning=candidate.reasoning)
    if candidate.text:
        yield Delta(choice, candidate.text, logprobs=candidate.logprobs)
    for index, call in enumerate(candidate.tool_calls):
        yield Delta(choice, tool_calls=(ToolCallDelta(index, call.id, call.name, call.arguments),))
    yield Finish(choice, candidate.finish_reason or "stop", candidate.usage)
