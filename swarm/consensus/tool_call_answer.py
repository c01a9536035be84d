"""Answers that call tools: which tools, and with which arguments. Ids are left out: each voter makes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from swarm.consensus.answers import Flaw, Reason
from swarm.consensus.canonical_json import canonical_json, parse_json
from swarm.consensus.schema import breach, coerced, without_defaults
from swarm.generation import JsonObject, ToolCall, ToolSpec

MAX_CALLS = 64  # in one answer; agents make a handful

_Call = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ToolCallAnswer:
    """The names called (sorted where calls run in parallel, else in order); `key` adds the canonical arguments."""

    names: tuple[str, ...]
    key: tuple[_Call, ...]


def read_tool_calls(calls: Sequence[ToolCall], tools: Sequence[ToolSpec], parallel: bool) -> ToolCallAnswer | Flaw:
    """The answer that `calls` give; a flaw where one names no tool of `tools` or has arguments it does not take."""
    if len(calls) > MAX_CALLS:
        return Flaw(Reason.TOO_LARGE, f"{len(calls)} calls")
    schemas = {tool.function.name: tool.function.parameters for tool in tools}
    read: list[_Call] = []
    for call in calls:
        if call.name not in schemas:
            return Flaw(Reason.UNKNOWN_TOOL, call.name)
        arguments = _arguments(call, schemas[call.name])
        if isinstance(arguments, Flaw):
            return arguments
        read.append((call.name, arguments))
    if parallel:
        read.sort()
    return ToolCallAnswer(tuple(name for name, _ in read), tuple(read))


def _arguments(call: ToolCall, schema: JsonObject) -> str | Flaw:
    """The canonical form of the arguments, read by the tool's schema; no text at all is no argument."""
    try:
        value: JsonValue = parse_json(call.arguments) if call.arguments.strip() else {}
    except ValueError as error:
        return Flaw(Reason.MALFORMED_ARGUMENTS, f"{call.name}: {error}")
    if not isinstance(value, dict):
        return Flaw(Reason.MALFORMED_ARGUMENTS, f"{call.name}: not an object")
    value = coerced(schema, value)
    if (broken := breach(schema, value)) is not None:
        return Flaw(Reason.BREAKS_SCHEMA, f"{call.name} {broken}")
    return canonical_json(without_defaults(schema, value))
