"""Answers that peers generate: asking for them, and believing no more of what comes back than was agreed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

from pydantic import JsonValue, ValidationError

from federation.client import PeerClient
from federation.errors import PeerBrokeOff, PeerError, PeerTimedOut, PeerUnreachable
from federation.peer_response import PeerResponse
from federation.printable_text import printable
from federation.wire import GENERATE_PATH
from swarm.engines.openai_dialect import ChunkReader, EventTooLargeError, request_body, sse_data
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    EngineDied,
    LenderLost,
    PeerFailed,
    PeerMalformed,
    PeerSilent,
    PeerVanished,
    SwarmError,
    Unavailable,
)
from swarm.generation import Candidate, Delta, Finish, Frozen, GenerationRequest, JsonObject, ToolCallDelta, Usage
from swarm.logs import current_request_id
from swarm.routing.poison_pills import REFUSED_S
from swarm.routing.replicas import Replica
from swarm.workers.slots import MAX_RETRY_AFTER_S

HOPS = 1  # a peer answers itself: nothing is passed on twice
MAX_REFUSAL_BYTES = 16 * 2**10  # of an error's body; ours are under 1 KiB
MAX_NAME_CHARS = 64  # of a voter's name
MAX_MESSAGE_CHARS = 500  # quoted of a peer's error
MAX_TOKENS = 2**31  # counts beyond it are no counts
MAX_LOGPROBS_LEVELS = 16  # of nesting; OpenAI's have 5, and what writes JSON for clients ends near a thousand
PROMPT_FIELDS = ("messages", "prompt", "input", "documents")  # between nodes
LEADER_LINE = b'{"leader":'  # how a line with a step of the leader's answer begins: no candidate has this field

OnEvent = Callable[[Delta | Finish], Awaitable[None]]


def elapsed_ms(since: float) -> int:
    """Whole milliseconds since the instant `since` of `time.perf_counter()`."""
    return round((time.perf_counter() - since) * 1000)


class LeaderStep(Frozen):
    """One step of a leader's answer as a peer sends it, a line between its candidates; `ended` right before its own.

    Calls are not sent: where tools are offered nothing but thoughts is shown.
    """

    text: str = ""
    reasoning: str = ""
    logprobs: JsonValue = None
    ended: bool = False

    @staticmethod
    def of(event: Delta | Finish) -> LeaderStep:
        if isinstance(event, Finish):
            return LeaderStep(ended=True)
        return LeaderStep(text=event.text, reasoning=event.reasoning, logprobs=event.logprobs)

    def event(self) -> Delta | Finish:
        """The event that was sent. The usage comes with the candidate."""
        if self.ended:
            return Finish(0, "stop", Usage())
        return Delta(0, self.text, self.reasoning, logprobs=self.logprobs)


class LeaderLine(Frozen):
    """A line of `POST /federation/v1/candidates` that is no candidate."""

    leader: LeaderStep


def remaining_s(deadline: float) -> float:
    """What is left until the monotonic instant `deadline`; never nothing, so that a late call fails as a timeout."""
    return max(deadline - time.monotonic(), 0.001)


async def peer_candidates(
    client: PeerClient,
    replica: Replica,
    request: GenerationRequest,
    count: int,
    deadline: float,
    on_event: OnEvent | None = None,
    gives_way: bool = False,
) -> AsyncGenerator[Candidate, None]:
    """`count` answers from a peer. At most that many are taken, and each bears the peer's own name.

    With `gives_way` the peer may stop them for the sake of others there; older nodes do not know it and never do.

    `on_event` is called with the first one's events as they come, where the peer sends them.
    Raises the peer's refusal of the request as BadRequest, its being busy as Unavailable, that its engine ended over
    the request as EngineDied, that a machine with a part of the model is gone as LenderLost, a connection that broke
    off as PeerVanished, all else as PeerFailed.
    """
    assert replica.url is not None
    started = time.perf_counter()
    body: JsonObject = {"request": request_body(request, 1), "votes": count}
    if on_event is not None:
        body["leader"] = True
    if gives_way:
        body["gives_way"] = True
    left = count
    try:
        stream = client.stream_candidates(
            replica.url,
            body,
            request_id=current_request_id.get(),
            hops=HOPS,
            deadline_s=remaining_s(deadline),
        )
        async with aclosing(stream) as lines:
            async for line in lines:
                if line.startswith(LEADER_LINE):
                    if on_event is not None:
                        await on_event(read_leader_step(line, replica))
                    continue
                answer = read_candidate(line, replica, elapsed_ms(started))
                yield answer.model_copy(update={"temperature": request.temperature})
                left -= 1
                if not left:
                    return
    except PeerError as error:
        raise peer_failure(replica, error) from error
    raise PeerFailed(replica.node, f"sent {count - left} of {count} candidates")


def read_leader_step(line: bytes, replica: Replica) -> Delta | Finish:
    """One step of an answer that is shown while it is made. Raises PeerFailed where it is none."""
    try:
        return LeaderLine.model_validate_json(line).leader.event()
    except ValidationError as error:
        raise PeerMalformed(replica.node, f"sent a step that is none: {error.errors()[0]['msg']}") from error


def read_candidate(line: bytes, replica: Replica, took_ms: int) -> Candidate:
    """One line of a peer's answer. Raises the error that the line carries, and PeerFailed where it is no candidate."""
    try:
        candidate = Candidate.model_validate_json(line)
    except ValidationError as error:
        if detail := error_object(line):
            raise refusal(replica, detail) from error
        raise PeerMalformed(replica.node, f"sent a candidate that is none: {error.errors()[0]['msg']}") from error
    if not credible(candidate.usage):
        raise PeerMalformed(replica.node, "sent a candidate that is none: its token counts are impossible")
    name = printable(candidate.voter.split("@", 1)[0])[:MAX_NAME_CHARS] or "voter"
    return candidate.model_copy(
        update={
            "voter": f"{name}@{replica.node}",
            "node": replica.node,
            "model": replica.model,
            "elapsed_ms": took_ms,
        }
    )


async def peer_events(
    client: PeerClient, replica: Replica, request: GenerationRequest, deadline: float
) -> AsyncGenerator[Delta | Finish, None]:
    """One answer generated by a peer, event by event, ending with its `Finish`. Raises as `peer_candidates` does."""
    assert replica.url is not None
    reader = ChunkReader(chat=request.messages is not None)
    finished = False
    try:
        async with client.open_generation(
            replica.url,
            GENERATE_PATH,
            json.dumps(request_body(request, 1), allow_nan=False).encode(),
            request_id=current_request_id.get(),
            hops=HOPS,
            deadline_s=remaining_s(deadline),
        ) as response:
            if response.status != 200:
                raise refusal(replica, error_object(await beginning(response)), response.status)
            async for data in sse_data(response.chunks()):
                if data == b"[DONE]":
                    break
                for event in read_chunk(reader, data, replica):
                    finished = finished or isinstance(event, Finish)
                    yield event
    except PeerError as error:
        raise peer_failure(replica, error) from error
    except EventTooLargeError as error:
        raise PeerMalformed(replica.node, f"sent {error}") from error
    if not finished:
        raise PeerFailed(replica.node, "ended the stream before the answer was complete")


def read_chunk(reader: ChunkReader, data: bytes, replica: Replica) -> list[Delta | Finish]:
    """The events in one chunk of a peer's stream. Raises as `read_candidate` does."""
    if data.startswith(b'{"error"'):
        raise refusal(replica, error_object(data))
    try:
        events = reader.events(json.loads(data))
        if all(map(well_formed, events)):
            return events
        problem = "a value of the wrong type"
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = repr(error)
    raise PeerMalformed(replica.node, f"sent an unreadable chunk: {printable(problem)[:MAX_MESSAGE_CHARS]}")


def well_formed(event: Delta | Finish) -> bool:
    """Whether an event made from a peer's JSON has the types that it promises, and is of the one answer asked for."""
    if event.choice != 0:
        return False
    if isinstance(event, Finish):
        return credible(event.usage)
    typed = _are(str, event.text, event.reasoning) and all(map(_call_well_formed, event.tool_calls))
    return typed and is_shallow(event.logprobs, MAX_LOGPROBS_LEVELS)


def is_shallow(value: JsonValue, levels: int) -> bool:
    """Whether JSON nests at most `levels` deep."""
    if not isinstance(value, dict | list):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(is_shallow(member, levels - 1) for member in inside)


def _call_well_formed(call: ToolCallDelta) -> bool:
    return _are(int, call.index) and _are(str, call.arguments, call.id or "", call.name or "")


def _are(kind: type, *values: object) -> bool:
    """Whether the values have the type that they are declared with: JSON brings any."""
    return all(isinstance(value, kind) for value in values)


def credible(usage: Usage) -> bool:
    """Whether these can be counts: they go into sums and metrics."""
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    return all(0 <= count <= MAX_TOKENS for count in counts)


async def beginning(response: PeerResponse) -> bytes:
    """The first bytes of an answer's body: enough for any error of ours."""
    body = b""
    while len(body) < MAX_REFUSAL_BYTES and (chunk := await response.read()):
        body += chunk
    return body[:MAX_REFUSAL_BYTES]


def peer_failure(replica: Replica, error: PeerError) -> SwarmError:
    """A failed exchange in this layer's terms: a peer that says it is busy is well, every other failure is its own.

    Only a connection that stood and broke off counts as vanishing: a slow, frozen or unreachable node may be well.
    """
    if error.status == 503:
        return Unavailable(f"{replica.node} is busy: {error}")
    if isinstance(error, PeerBrokeOff):
        return PeerVanished(replica.node, str(error))
    if isinstance(error, PeerTimedOut | PeerUnreachable):
        return PeerSilent(replica.node, str(error))
    return PeerFailed(replica.node, str(error))


def refusal(replica: Replica, detail: Mapping[str, Any], status: int = 500) -> SwarmError:
    """A peer's error object (the gateway's, see `gateway/http/errors.py`) as the error that it was there."""
    message = printable(str(detail.get("message") or f"answered {status}"))[:MAX_MESSAGE_CHARS]
    match detail.get("code"), detail.get("n_prompt_tokens"), detail.get("n_ctx"):
        case "context_length_exceeded", int(prompt_tokens), int(context_tokens):
            param = detail.get("param")
            return ContextExceeded(prompt_tokens, context_tokens, param=param if param in PROMPT_FIELDS else None)
        case "context_length_exceeded" | "invalid_value", _, _:
            return BadRequest(message)
        case "engine_failed", _, _ if detail.get("died") is True:  # older nodes say no more than that it failed
            return EngineDied(f"{replica.node}: {message}", refusal_s_in(detail.get("refused_for_s")))
        case "lender_lost", _, _:
            lender = printable(str(detail.get("lender") or "a lender"))[:MAX_NAME_CHARS]
            return LenderLost(lender, f"{replica.node}: {message}", retry_after_s_in(detail.get("retry_after_s")))
        case "unavailable", _, _:
            return Unavailable(f"{replica.node}: {message}", retry_after_s_in(detail.get("retry_after_s")))
        case _:
            return PeerFailed(replica.node, message)


def retry_after_s_in(value: object) -> int:
    """When a busy peer says to come back, within reason; a second where it does not say."""
    return value if isinstance(value, int) and 1 <= value <= MAX_RETRY_AFTER_S else 1


def refusal_s_in(value: object) -> int:
    """For how long a peer still refuses the request: a memory of it ends where it began, and is not passed on anew."""
    return value if isinstance(value, int) and 1 <= value <= REFUSED_S else REFUSED_S


def error_object(body: bytes) -> Mapping[str, Any]:
    """The `error` of an error's JSON; empty for anything else."""
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = cast("Mapping[str, Any]", parsed).get("error") if isinstance(parsed, dict) else None
    return cast("Mapping[str, Any]", error) if isinstance(error, dict) else {}
