"""Whether a call that a model made can be executed: a tool that there is, and arguments that keep its schema. Pure.

Arguments are read as votes read them, so that what a vote took for equal is executed as equal: a scalar that stands
for the wanted type is that type ("5" for an integer is 5). Nothing else is repaired here, and texts stay to the letter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, cast

from pydantic import JsonValue

from swarm.consensus.schema import coerced, parse_json
from swarm.engines.schema_check import violations
from swarm.tools.tool import ToolDefinition

MOST_NAMED: Final = 3  # of what breaks a schema: a model corrects no more at once
LIKENESS: Final = 0.6  # of difflib: a letter or two wrong


@dataclass(frozen=True, slots=True)
class AskedCall:
    """A call as a model made it: `arguments` is its JSON text, which may be malformed."""

    id: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """A call that can be executed; or one that cannot, whose `problem` says to the model why."""

    asked: AskedCall
    definition: ToolDefinition | None = None
    arguments: Mapping[str, JsonValue] | None = None
    problem: str | None = None


def check_call(asked: AskedCall, tools: Sequence[ToolDefinition], *, cut: bool = False) -> CheckedCall:
    """The call with arguments that keep its tool's schema, or with its problem in words.

    `cut`: the answer ended at the most tokens that it may have, so that arguments which cannot be read are no slip.
    """
    definition = next((tool for tool in tools if tool.name == asked.tool), None)
    if definition is None:
        return CheckedCall(asked, problem=_unknown(asked.tool, tools))
    try:
        value = _as_written(asked.arguments or "{}")
    except ValueError as error:
        why = "the answer was cut off before they ended: make them shorter" if cut else str(error)
        return CheckedCall(asked, definition, problem=f"the arguments cannot be read as JSON: {why}")
    return check_arguments(asked, definition, value)


def _as_written(text: str) -> JsonValue:
    """What a vote can read, with its texts to the letter. Raises ValueError.

    To a vote the two forms of an accented letter are the same, composed and decomposed; to a file they are not.
    """
    parse_json(text)

    def number(digits: str) -> int | float:
        value = float(digits)
        return int(value) if value.is_integer() else value

    return cast("JsonValue", json.loads(text, parse_float=number))


def check_arguments(asked: AskedCall, definition: ToolDefinition, value: JsonValue) -> CheckedCall:
    """The same for arguments that are read already: those that a person has put right."""
    value = coerced(definition.parameters, value)
    if not isinstance(value, dict):
        return CheckedCall(asked, definition, problem="the arguments have to be an object")
    broken = violations(definition.parameters, value)
    if broken:
        told = "; ".join(f"{each.path.replace('$', 'arguments', 1)}: {each.message}" for each in broken[:MOST_NAMED])
        return CheckedCall(asked, definition, problem=f"the arguments do not keep the schema of {asked.tool}: {told}")
    return CheckedCall(asked, definition, arguments=value)


def batches(calls: Sequence[CheckedCall], *, sequential: bool = False) -> list[list[CheckedCall]]:
    """The calls of one turn in the order of their execution: those of one batch run side by side.

    One whose tool runs `alone` is a batch of its own, between those before it and those behind it.
    """
    found: list[list[CheckedCall]] = []
    joins = False
    for call in calls:
        alone = sequential or (call.definition is not None and call.definition.alone)
        if joins and not alone:
            found[-1].append(call)
        else:
            found.append([call])
        joins = not alone
    return found


def _unknown(name: str, tools: Sequence[ToolDefinition]) -> str:
    names = [tool.name for tool in tools]
    near = get_close_matches(name, names, n=1, cutoff=LIKENESS)
    hint = f": did you mean {near[0]}?" if near else f"; there are: {', '.join(names) or 'none'}"
    return f"there is no tool {name!r}{hint}"
