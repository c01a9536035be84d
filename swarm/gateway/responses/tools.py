"""The tools of a Responses request, which are flat, and the choice among them, as the functions that a model calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, cast

from pydantic import Discriminator, Field, Tag

from swarm.gateway.http.bodies import Part
from swarm.gateway.openai.tools import CustomTool, HostedTool, OfferedTool, ToolName, allowed_among, flat_name, named
from swarm.generation import MAX_TOOLS, FunctionSpec, JsonObject, ToolChoice, ToolSpec

Offered = Mapping[str, tuple[OfferedTool, ToolSpec]]  # by the name that a model uses


class FunctionTool(Part):
    """A function offered to the model; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def spec(self, name: str | None = None) -> ToolSpec:
        """The same function as chat has it, by its own name or another."""
        return ToolSpec(
            function=FunctionSpec(
                name=name or self.name,
                description=self.description or "",
                parameters=self.parameters or {},
                strict=self.strict,
            )
        )


class CustomTextTool(CustomTool):
    """A tool that takes free text."""

    type: Literal["custom"]


def tool_kind(tool: object) -> str:
    """By which model a tool is read."""
    kind = cast("dict[str, object]", tool).get("type") if isinstance(tool, dict) else getattr(tool, "type", "function")
    return kind if kind in ("function", "custom", "namespace") else "hosted" if isinstance(kind, str) else "function"


CallableTool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTextTool, Tag("custom")]
    | Annotated[HostedTool, Tag("namespace")]  # in another: there is no such thing yet
    | Annotated[HostedTool, Tag("hosted")],
    Discriminator(tool_kind),
]


class NamespaceTool(Part):
    """Functions and custom tools that belong together, under one name."""

    type: Literal["namespace"]
    name: ToolName
    description: str | None = None
    tools: Annotated[list[CallableTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


ResponsesTool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTextTool, Tag("custom")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[HostedTool, Tag("hosted")],
    Discriminator(tool_kind),
]
ResponsesTools = Annotated[list[ResponsesTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


def flattened(tools: Iterable[ResponsesTool]) -> Offered:
    """Every function that a model may call, by the name that it is to use. Raises ValueError where two have one."""
    found: dict[str, tuple[OfferedTool, ToolSpec]] = {}
    for tool in tools:
        namespace = tool.name if isinstance(tool, NamespaceTool) else None
        for each in tool.tools if isinstance(tool, NamespaceTool) else (tool,):
            if isinstance(each, HostedTool):
                continue
            name = flat_name(namespace, each.name)
            if namespace and name in found:
                raise ValueError(f"two tools are called {name!r}")
            found[name] = OfferedTool(each.name, isinstance(each, CustomTextTool), namespace), each.spec(name)
    return found


class FunctionChoice(Part):
    """The one function or custom tool to call."""

    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class AllowedTool(Part):
    type: str
    name: str | None = None
    namespace: str | None = None


class AllowedTools(Part):
    """The functions that may be called now, out of all that are offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[AllowedTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


ResponsesToolChoice = Literal["auto", "none", "required"] | FunctionChoice | AllowedTools


def chosen(tools: Offered, choice: ResponsesToolChoice | None) -> tuple[list[ToolSpec], ToolChoice]:
    """The functions to show to the model, and how free it is among them. Raises ValueError if that cannot be met."""
    specs = [spec for _, spec in tools.values()]
    match choice:
        case "none":
            return [], "none"  # a model that knew of a tool would write the call into its answer
        case FunctionChoice():
            names = named_by(tools, choice)
            return specs, named(specs, names[0] if names else choice.name)
        case AllowedTools():
            wanted = [name for tool in choice.tools for name in named_by(tools, tool)]
            return list(allowed_among(specs, wanted)), choice.mode
        case "required" if not tools:
            raise ValueError("tool_choice needs tools of type function")
        case _:
            return specs, choice or "auto"


def named_by(tools: Offered, wanted: FunctionChoice | AllowedTool) -> Sequence[str]:
    """What a choice means, in the names that models use: one tool, or all of a namespace."""
    if wanted.type == "namespace":
        return [name for name, (offered, _) in tools.items() if offered.namespace == wanted.name]
    flat = flat_name(wanted.namespace, wanted.name or "")
    if flat in tools:
        return [flat] if wanted.type in ("function", "custom") else []
    return [name for name, (offered, _) in tools.items() if offered.name == wanted.name and not wanted.namespace]
