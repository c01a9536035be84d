"""Tool calls as clients need them, whatever an engine or peer sent: dense indices, unique ids, one opening each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.generation import FinishReason, ToolCall, ToolCallDelta, new_call_id


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
        index = self._index.get(delta.index)
        if index is not None:
            return ToolCallDelta(index, None, None, delta.arguments)
        index = self._index[delta.index] = len(self._index)
        given = delta.id if delta.id and delta.id not in self._ids else new_call_id()
        self._ids.add(given)
        return ToolCallDelta(index, given, delta.name or "", delta.arguments)
