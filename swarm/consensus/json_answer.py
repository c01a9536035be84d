"""Answers that are JSON, or call tools with it: equal where their values are; JSON is otherwise alike leaf by leaf.

Of a call the tool and the arguments count. Ids are left out: each voter makes its own; so are arguments that only
comment on the others (`x-swarm-remark` in their schema, or a shell tool's `description`). The winner's own go out as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue
from rapidfuzz import fuzz

from swarm.consensus.answers import AbstainReason, Flaw
from swarm.consensus.code_answer import fenced_blocks, is_one_block
from swarm.consensus.schema import MAX_JSON_CHARS, canonical_json, coerced, parse_json, what_counts
from swarm.engines.schema_check import Violation, violations
from swarm.generation import SHELL_TOOLS, Candidate, GenerationRequest, JsonObject, ResponseFormat, ToolCall, ToolSpec

MAX_COMPARED_LEAVES = 256  # of each answer, in pointer order; every pair of answers is compared
LONG_STRING_CHARS = 20  # shorter strings are names and labels: they agree exactly or not at all
MAX_FUZZY_CHARS = 2000
FUZZY_MATCH_PERCENT = 90.0

_JSON_TAGS = ("json", "jsonc", "json5", "")
_DIGITS = re.compile(r"\d+")

MAX_CALLS = 64  # in one answer; agents make a handful
_Call = tuple[str, str]  # the tool's name and its arguments in canonical form


@dataclass(frozen=True, slots=True, eq=False)
class JsonAnswer:
    """`key` is the whole value in canonical form; `leaves` its scalars by JSON pointer."""

    key: str
    leaves: Mapping[str, JsonValue]

    def likeness(self, other: JsonAnswer) -> float:
        """The share of leaves, of all that either has, on which both agree; 0..1, the same either way round."""
        if self.key == other.key:
            return 1.0
        shared = self.leaves.keys() & other.leaves.keys()
        agreed = sum(_agree(self.leaves[pointer], other.leaves[pointer]) for pointer in shared)
        return agreed / (len(self.leaves) + len(other.leaves) - len(shared))


def read_demanded_json(text: str, form: ResponseFormat) -> JsonAnswer | Flaw:
    """The answer where the client demanded JSON of `form`: the whole text, else the last fenced block that is JSON."""
    value = _parsed(text)
    if isinstance(value, Flaw):
        blocks = (_parsed(block.code) for block in reversed(fenced_blocks(text)) if block.language in _JSON_TAGS)
        value = next((found for found in blocks if not isinstance(found, Flaw)), value)
    if isinstance(value, Flaw):
        return value
    schema = _demanded(form)
    if broken := violations(schema, value.json):
        return Flaw(AbstainReason.BREAKS_SCHEMA, f"{broken[0].path}: {broken[0].keyword}")
    return json_answer(what_counts(schema, value.json))


def _demanded(form: ResponseFormat) -> JsonObject:
    if form.type == "json_schema" and form.json_schema is not None:
        return form.json_schema.schema_
    return {"type": "object"}


def read_volunteered_json(text: str) -> JsonAnswer | None:
    """The answer where nobody demanded JSON: an object or array that is the whole text, fenced or bare."""
    bare = text.strip()
    if is_one_block(bare):
        block = fenced_blocks(bare)[0]
        bare = block.code.strip() if block.language in _JSON_TAGS else ""
    value = _parsed(bare) if bare[:1] in ("{", "[") and bare else None
    return json_answer(value.json) if isinstance(value, _Parsed) else None


def json_answer(value: JsonValue) -> JsonAnswer:
    """The answer whose value is `value`, which is normalised."""
    leaves = sorted(_leaves(value, ""), key=lambda leaf: leaf[0])
    return JsonAnswer(canonical_json(value), dict(leaves[:MAX_COMPARED_LEAVES]))


@dataclass(frozen=True, slots=True)
class _Parsed:
    """Distinguishes a parsed `null` from nothing."""

    json: JsonValue


def _parsed(text: str) -> _Parsed | Flaw:
    try:
        return _Parsed(parse_json(text))
    except ValueError as error:
        return Flaw(AbstainReason.NOT_JSON, str(error))


def _leaves(value: JsonValue, pointer: str) -> Iterator[tuple[str, JsonValue]]:
    """Scalars and empty containers with their JSON pointers (RFC 6901)."""
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from _leaves(member, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{pointer}/{index}")
    else:
        yield pointer, value


def _agree(one: JsonValue, other: JsonValue) -> bool:
    """Equal, or two long strings that differ in wording and in no number."""
    if isinstance(one, str) and isinstance(other, str):
        return one == other or (_is_long(one) and _is_long(other) and _alike(one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _is_long(text: str) -> bool:
    return LONG_STRING_CHARS <= len(text) <= MAX_FUZZY_CHARS


def _alike(one: str, other: str) -> bool:
    alike = fuzz.ratio(one, other, score_cutoff=FUZZY_MATCH_PERCENT) >= FUZZY_MATCH_PERCENT
    return alike and _DIGITS.findall(one) == _DIGITS.findall(other)


@dataclass(frozen=True, slots=True)
class ToolCallAnswer:
    """The names called (sorted where calls run in parallel, else in order); `key` adds the canonical arguments."""

    names: tuple[str, ...]
    key: tuple[_Call, ...]


def read_tool_calls(calls: Sequence[ToolCall], tools: Sequence[ToolSpec], parallel: bool) -> ToolCallAnswer | Flaw:
    """The answer that `calls` give; a flaw where one names no tool of `tools` or has arguments it does not take."""
    if len(calls) > MAX_CALLS:
        return Flaw(AbstainReason.TOO_LARGE, f"{len(calls)} calls")
    schemas = {tool.function.name: tool.function.parameters for tool in tools}
    read: list[_Call] = []
    for call in calls:
        if call.name not in schemas:
            return Flaw(AbstainReason.UNKNOWN_TOOL, call.name)
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
        return Flaw(AbstainReason.MALFORMED_ARGUMENTS, f"{call.name}: {error}")
    if not isinstance(value, dict):
        return Flaw(AbstainReason.MALFORMED_ARGUMENTS, f"{call.name}: not an object")
    value = coerced(schema, value)
    if broken := violations(schema, value):
        return Flaw(AbstainReason.BREAKS_SCHEMA, f"{call.name} {broken[0].path}: {broken[0].keyword}")
    compared = what_counts(schema, value)
    if isinstance(compared, dict) and call.name.casefold() in SHELL_TOOLS and len(compared) > 1:
        compared.pop("description", None)
    return canonical_json(compared)


def schema_violations(request: GenerationRequest, candidate: Candidate) -> tuple[Violation, ...]:
    """What in an answer breaks the schemas of `request`: of the tools that it calls, or of the form that was demanded.

    Paths begin with `$` in a text, with `tool_calls[0].arguments` in a call. Nothing is said of an answer that was cut,
    which says so itself, and of one that is too large to be judged.
    """
    if candidate.error is not None or candidate.finish_reason in ("length", "content_filter"):
        return ()
    if candidate.tool_calls:
        schemas = {tool.function.name: tool.function.parameters for tool in request.tools}
        return tuple(
            replace(violation, path=f"tool_calls[{number}].arguments{violation.path[1:]}")
            for number, call in enumerate(candidate.tool_calls[:MAX_CALLS])
            if call.name in schemas
            for violation in _broken(call.arguments.strip() or "{}", {"type": "object"}, schemas[call.name])
        )
    form = request.response_format
    if form is None or not form.is_json or request.messages is None:
        return ()
    return _broken(candidate.text, _demanded(form))


def _broken(text: str, *schemas: JsonObject) -> tuple[Violation, ...]:
    """What in the JSON `text` breaks the first of `schemas` that it breaks."""
    if len(text) > MAX_JSON_CHARS:
        return ()
    value = _parsed(text)
    if isinstance(value, Flaw):
        return (Violation("$", "type", f"this is not JSON: {value.detail}"),)
    return next((found for schema in schemas if (found := violations(schema, value.json))), ())
