"""Tools that are no functions, as functions: a model here calls functions alone, and its caller sees what it offered.

Custom tools take free text: a function with one string, `input`. Functions of a namespace bear its name before theirs.
Tools that a server would have to run are nobody's here: they are
left out, as clients offer them to every server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from pydantic import Field, JsonValue, model_validator

from swarm.gateway.http.bodies import Part
from swarm.generation import (
    MAX_TOOLS,
    FunctionSpec,
    JsonObject,
    NamedFunction,
    NamedToolChoice,
    ToolChoice,
    ToolSpec,
)

INPUT = "input"  # the one argument of the function that a custom tool is
ToolName = Annotated[str, Field(min_length=1, max_length=256)]


class HostedTool(Part):
    """A tool that the server would have to run, or a model to know (web_search, ...): offered to no model here.

    Clients offer theirs to every server.
    """

    type: str


class InputFormat(Part):
    """What a custom tool's input must be. The grammar is beside the type in Responses, and an object inside in chat."""

    type: Literal["text", "grammar"] = "text"
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _inside(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        fields = cast("dict[str, object]", given)
        inside = fields.get("grammar")
        return {**cast("dict[str, object]", inside), **fields} if isinstance(inside, dict) else fields

    @model_validator(mode="after")
    def _whole(self) -> InputFormat:
        if self.type == "grammar" and (self.syntax is None or self.definition is None):
            raise ValueError("a format of type grammar needs its syntax (lark or regex) and its definition")
        return self


class CustomTool(Part):
    """A tool that takes free text, without its type."""

    name: ToolName
    description: str | None = None
    format: InputFormat | None = None

    def spec(self, name: str | None = None) -> ToolSpec:
        """The tool as a function, by its own name or another.

        A regular expression binds its input. A lark grammar no engine here can enforce: the model is told it, and
        whoever runs the tool checks it in any case.
        """
        described, bounds = self.description or "", cast("JsonObject", {"type": "string"})
        if self.format is not None and self.format.definition is not None:
            if self.format.syntax == "regex":
                bounds["pattern"] = f"^(?:{self.format.definition})$"
            else:
                described += f"\n\nThe input follows this grammar (lark):\n{self.format.definition}"
        schema: JsonObject = {
            "type": "object",
            "properties": {INPUT: bounds},
            "required": [INPUT],
            "additionalProperties": False,
        }
        return ToolSpec(function=FunctionSpec(name=name or self.name, description=described.strip(), parameters=schema))


def as_input(text: str) -> str:
    """The arguments of a custom tool's function for this input, as JSON."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The free text that a model gave a custom tool; what it wrote where that is no such object."""
    try:
        parsed: JsonValue = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    given = parsed.get(INPUT) if isinstance(parsed, dict) else None
    return given if isinstance(given, str) else arguments


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A function under the name by which a model calls it, and what its caller knows it as."""

    name: str
    custom: bool = False
    namespace: str | None = None


def flat_name(namespace: str | None, name: str) -> str:
    """One name for a function of a namespace. Some end in the mark that parts the two, others do not."""
    return name if not namespace else f"{namespace.removesuffix('__')}__{name}"


# What may be called, in chat


class CustomDefinition(Part):
    """A tool of type custom."""

    type: Literal["custom"]
    custom: CustomTool


class ChosenName(Part):
    name: str


class NamedCustomChoice(Part):
    """The one custom tool to call."""

    type: Literal["custom"]
    custom: ChosenName


class AllowedChatTool(Part):
    """One that may be called. Those that are neither functions nor custom tools are offered to no model here."""

    type: str
    function: ChosenName | None = None
    custom: ChosenName | None = None

    @property
    def name(self) -> str | None:
        chosen = self.function or self.custom
        return None if chosen is None else chosen.name


class AllowedInChat(Part):
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[AllowedChatTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class AllowedChoice(Part):
    """The tools that may be called now, out of all that are offered."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedInChat


ChatToolChoice = Literal["auto", "none", "required"] | NamedToolChoice | NamedCustomChoice | AllowedChoice


def chosen_among(tools: Sequence[ToolSpec], choice: ChatToolChoice | None) -> tuple[tuple[ToolSpec, ...], ToolChoice]:
    """The functions to show to the model, and how free it is among them. Raises ValueError if that cannot be met."""
    match choice:
        case "none":
            return (), "none"  # what a model must not call it is not shown: it would write the call into its answer
        case NamedToolChoice():
            return tuple(tools), named(tools, choice.function.name)
        case NamedCustomChoice():
            return tuple(tools), named(tools, choice.custom.name)
        case AllowedChoice():
            allowed = choice.allowed_tools
            return allowed_among(tools, (tool.name for tool in allowed.tools)), allowed.mode
        case "required" if not tools:
            raise ValueError("tool_choice needs tools of type function")
        case _:
            return tuple(tools), choice or "auto"


def named(tools: Iterable[ToolSpec], name: str) -> NamedToolChoice:
    """The choice of the function `name`. Raises ValueError where there is none."""
    if name not in {tool.function.name for tool in tools}:
        raise ValueError(f"tool_choice names {name!r}, which is not among the tools")
    return NamedToolChoice(function=NamedFunction(name=name))


def allowed_among(tools: Sequence[ToolSpec], names: Iterable[str | None]) -> tuple[ToolSpec, ...]:
    """Those of `tools` that are named. Raises ValueError for none."""
    wanted = set(names)
    allowed = tuple(tool for tool in tools if tool.function.name in wanted)
    if not allowed:
        raise ValueError("tool_choice allows none of the tools of type function")
    return allowed


class FormerChoice(Part):
    """`function_call`, which came before `tool_choice`: the one function to call."""

    name: str


FunctionCallChoice = Literal["auto", "none"] | FormerChoice


def of_functions(choice: FunctionCallChoice | None) -> ChatToolChoice | None:
    """The same as `tool_choice` has it."""
    return NamedToolChoice(function=NamedFunction(name=choice.name)) if isinstance(choice, FormerChoice) else choice
