"""Tools and the choice among them in the flat form of the Responses API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swarm.gateway.openai.messages import Part
from swarm.generation import MAX_TOOLS, FunctionSpec, JsonObject, NamedFunction, NamedToolChoice, ToolChoice, ToolSpec


class FunctionTool(Part):
    """A function offered to the model; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def spec(self) -> ToolSpec:
        function = FunctionSpec(
            name=self.name, description=self.description or "", parameters=self.parameters or {}, strict=self.strict
        )
        return ToolSpec(function=function)


class FunctionChoice(Part):
    """The one function to call."""

    type: Literal["function"]
    name: str


class AllowedTool(Part):
    type: str
    name: str | None = None


class AllowedTools(Part):
    """The functions that may be called now, out of all that are offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[AllowedTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


Choice = Literal["auto", "none", "required"] | FunctionChoice | AllowedTools


def chosen(tools: list[FunctionTool], choice: Choice | None) -> tuple[list[FunctionTool], ToolChoice]:
    """The functions to show to the model, and how free it is among them. Raises ValueError if that cannot be met."""
    names = {tool.name for tool in tools}
    match choice:
        case "none":
            return [], "none"  # told of a tool it must not call, a model would write the call into its answer
        case FunctionChoice():
            if choice.name not in names:
                raise ValueError(f"tool_choice names {choice.name!r}, which is not among the tools")
            return tools, NamedToolChoice(function=NamedFunction(name=choice.name))
        case AllowedTools():
            allowed = {tool.name for tool in choice.tools if tool.type == "function"}
            if not names & allowed:
                raise ValueError("tool_choice allows none of the tools of type function")
            return [tool for tool in tools if tool.name in allowed], choice.mode
        case "required" if not tools:
            raise ValueError("tool_choice needs tools of type function")
        case _:
            return tools, choice or "auto"
