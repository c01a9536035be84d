"""How an answer is put for one family of clients: the seam between what a swarm answers and each API's own shapes.

A form is made for one response. `OpenAIForm` has OpenAI's chat and plain completions; each other API brings its own.
What all of them need is here, too: tool calls with dense indices, unique ids and one opening each, whatever an engine
or peer sent; and how a vote stands, for streams that have room for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from swarm.gateway.answers.streams import Dialect, OpenStream
from swarm.generation import (
    Candidate,
    Delta,
    Finish,
    FinishReason,
    JsonObject,
    ToolCall,
    ToolCallDelta,
    Usage,
    new_call_id,
)


class AnswerWriter(Protocol):
    """Writes one answer's events to a stream. Every choice opens once and ends once."""

    async def begin(self) -> None:
        """The answer is on its way, and nothing of it can be shown yet."""
        ...

    async def delta(self, event: Delta) -> None:
        """What one step added."""
        ...

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """A choice is complete; `extension` is the `swarm` object, given with the last choice alone."""
        ...

    async def end(self, usages: list[Usage]) -> None:
        """Everything is complete; one usage per choice."""
        ...


class AnswerForm(Protocol):
    """The shapes of one response, whole or streamed."""

    @property
    def dialect(self) -> Dialect:
        """Headers, heartbeat and failure of a stream."""
        ...

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        """The body of a response that does not stream; `extension` is the `swarm` object."""
        ...

    def writer(self, out: OpenStream, choices: int) -> AnswerWriter:
        """A writer of the streamed response on `out`."""
        ...


def with_unique_ids(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls of one answer; a blank or repeated id is replaced."""
    seen: set[str] = set()
    made: list[ToolCall] = []
    for call in calls:
        given = call.id if call.id and call.id not in seen else new_call_id()
        seen.add(given)
        made.append(call if given == call.id else call.model_copy(update={"id": given}))
    return made


def honest_reason(reason: FinishReason, called: bool) -> FinishReason:
    """`tool_calls` if, and only if, there is one (an answer cut short stays cut short)."""
    if called and reason == "stop":
        return "tool_calls"
    return "stop" if reason == "tool_calls" and not called else reason


@dataclass(slots=True)
class CallOpening:
    """One choice's calls while they stream: the first delta of each has its id and name, later ones only arguments."""

    _index: dict[int, int] = field(default_factory=dict[int, int])
    _ids: set[str] = field(default_factory=set[str])

    @property
    def any(self) -> bool:
        """Whether a call was opened."""
        return bool(self._index)

    def opened(self, delta: ToolCallDelta) -> ToolCallDelta:
        """`delta` with the index, and for the first of its call the id and name, that the client is to see."""
        index = self._index.get(delta.index)
        if index is not None:
            return ToolCallDelta(index, None, None, delta.arguments)
        index = self._index[delta.index] = len(self._index)
        given = delta.id if delta.id and delta.id not in self._ids else new_call_id()
        self._ids.add(given)
        return ToolCallDelta(index, given, delta.name or "", delta.arguments)


@runtime_checkable
class BallotWriter(Protocol):
    """A writer of a stream in which a ballot can be shown beside the answer."""

    async def ballot(self, standing: JsonObject) -> None:
        """How the vote stands."""
        ...


async def show_standing(writer: AnswerWriter, standing: JsonObject) -> None:
    """Tell the client how the vote stands, if its stream has room for that: events of other APIs are not extended."""
    if isinstance(writer, BallotWriter):
        await writer.ballot(standing)


def message_object(candidate: Candidate) -> JsonObject:
    """The assistant's turn. `content` is null where there are only tool calls, as OpenAI has it."""
    message: JsonObject = {
        "role": "assistant",
        "content": candidate.text or None if candidate.tool_calls else candidate.text,
        "refusal": None,  # OpenAI's schema requires it
        "annotations": [],
    }
    if candidate.reasoning:
        message["reasoning_content"] = candidate.reasoning
    if candidate.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in with_unique_ids(candidate.tool_calls)
        ]
    return message
