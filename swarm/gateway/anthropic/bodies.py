"""Request bodies of Anthropic's Messages API, and the requests for text that they mean."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Field, field_validator, model_validator

from swarm.gateway.answers.swarm_options import SwarmOptions, options_of
from swarm.gateway.anthropic.blocks import TextBlock, Turn
from swarm.gateway.anthropic.turns import engine_messages
from swarm.gateway.http.finite import is_finite
from swarm.gateway.openai.messages import MAX_PARTS, Part
from swarm.gateway.openai.sampling_body import MAX_INT, Body, ModelName, PositiveInt
from swarm.generation import (
    MAX_MESSAGES,
    MAX_STOP_STRINGS,
    MAX_TOOLS,
    FunctionSpec,
    GenerationRequest,
    JsonObject,
    JsonSchemaFormat,
    NamedFunction,
    NamedToolChoice,
    ResponseFormat,
    ToolChoice,
    ToolSpec,
    steady_temperature,
)
from swarm.routing.policy import VoteOptions


class Tool(Part):
    """A function of the client's. The tools that Anthropic hosts or has trained its models on have no schema."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None

    @model_validator(mode="after")
    def _finite(self) -> Tool:
        if not is_finite(self.input_schema):
            raise ValueError("the schema has a number that is not finite")
        return self

    def to_engine(self) -> ToolSpec:
        function = FunctionSpec(
            name=self.name, description=self.description or "", parameters=self.input_schema, strict=self.strict
        )
        return ToolSpec(function=function)


class Choice(Part):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> Choice:
        if self.type == "tool" and self.name is None:
            raise ValueError("a tool_choice of type tool needs the tool's name")
        return self

    def to_engine(self) -> ToolChoice:
        match self.type:
            case "auto" | "none":
                return self.type
            case "any":
                return "required"
            case "tool":
                return NamedToolChoice(function=NamedFunction(name=self.name or ""))


class JsonFormat(Part):
    """The schema that the answer's text must follow."""

    type: Literal["json_schema"]
    schema_: Annotated[JsonObject, Field(alias="schema")]

    @model_validator(mode="after")
    def _finite(self) -> JsonFormat:
        if not is_finite(self.schema_):
            raise ValueError("the schema has a number that is not finite")
        return self


class OutputConfig(Part):
    format: JsonFormat | None = None


class Thinking(Part):
    """Whether the model is to think before it answers. How much (`budget_tokens`) is the model's affair."""

    type: str

    def to_engine(self) -> bool | None:
        return {"enabled": True, "disabled": False}.get(self.type)


class PromptBody(Body):
    """`POST /v1/messages/count_tokens`: everything that makes the prompt."""

    model: ModelName
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: str | Annotated[list[TextBlock], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None

    @field_validator("tools", mode="before")
    @classmethod
    def _functions_only(cls, value: object) -> object:
        """Clients offer hosted tools (web_search_20250305, ...) to every server; only functions reach a model."""
        if not isinstance(value, list):
            return value
        return [tool for tool in cast("list[object]", value) if not is_hosted(tool)]

    @model_validator(mode="after")
    def _callable(self) -> PromptBody:
        choice = self.tool_choice
        names = [tool.name for tool in self.tools or ()]
        if choice and choice.type in ("any", "tool") and not names:
            raise ValueError(f"tool_choice {choice.type} needs tools with an input_schema")
        if choice and choice.type == "tool" and choice.name not in names:
            raise ValueError(f"tool_choice names {choice.name!r}, which is not among the tools")
        return self

    def to_request(self, model: str) -> GenerationRequest:
        """The request to `model`, which may be another than the client named."""
        choice = self.tool_choice
        return GenerationRequest(
            model=model,
            messages=engine_messages(self.system, self.messages),
            # What a model must not call it is not shown: told of a tool it would write the call into its answer.
            tools=() if choice and choice.type == "none" else tuple(tool.to_engine() for tool in self.tools or ()),
            tool_choice=choice.to_engine() if choice else "auto",
            parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
            thinking=self.thinking and self.thinking.to_engine(),
        )


class MessagesBody(PromptBody):
    """`POST /v1/messages`.

    `effort` and the like are taken and ignored aloud: how much a local model thinks is the model's affair.
    """

    max_tokens: PositiveInt
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1), AfterValidator(steady_temperature)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None  # what `output_config.format` was called at first
    swarm: SwarmOptions | None = None

    @property
    def options(self) -> VoteOptions:
        """How to vote. Raises BadRequest where the rest of the body contradicts it."""
        return options_of(self.swarm, stream=self.stream)

    def to_request(self, model: str) -> GenerationRequest:
        return (
            super()
            .to_request(model)
            .model_copy(
                update={
                    "max_tokens": self.max_tokens,
                    "temperature": self.temperature,
                    "top_p": self.top_p,
                    "top_k": self.top_k,
                    "stop": tuple(text for text in self.stop_sequences or () if text),
                    "response_format": self._response_format(),
                }
            )
        )

    def _response_format(self) -> ResponseFormat | None:
        wanted = (self.output_config and self.output_config.format) or self.output_format
        if wanted is None:
            return None
        return ResponseFormat(type="json_schema", json_schema=JsonSchemaFormat(schema=wanted.schema_, strict=True))


def is_hosted(tool: object) -> bool:
    """Whether `tool` is one that the model is expected to know by its type alone."""
    if not isinstance(tool, dict):
        return False
    known = cast("dict[str, object]", tool)
    return "input_schema" not in known and isinstance(known.get("type"), str) and known["type"] != "custom"
