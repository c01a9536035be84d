"""`POST /v1/responses`: what clients send, parsed and bounded, and the request for text that it is.

Tools and the choice among them have a flat form of their own here.
"""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from swarm.gateway.http.bodies import Part, is_finite
from swarm.gateway.openai.bodies import MaxTokens, Sampling, hosted_type
from swarm.gateway.responses.input_items import MAX_ITEMS, InputItem, OtherItem, ReasoningItem, messages_of
from swarm.generation import (
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    FunctionSpec,
    GenerationRequest,
    JsonObject,
    JsonSchemaFormat,
    NamedFunction,
    NamedToolChoice,
    ResponseFormat,
    ToolChoice,
    ToolSpec,
)

MAX_METADATA = 16  # OpenAI's limit
LOGPROBS = "message.output_text.logprobs"  # the one thing that can be included


class FunctionTool(Part):
    """A function offered to the model; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def spec(self) -> ToolSpec:
        """The same function as chat has it."""
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


ResponsesToolChoice = Literal["auto", "none", "required"] | FunctionChoice | AllowedTools


def chosen(tools: list[FunctionTool], choice: ResponsesToolChoice | None) -> tuple[list[FunctionTool], ToolChoice]:
    """The functions to show to the model, and how free it is among them. Raises ValueError if that cannot be met."""
    names = {tool.name for tool in tools}
    match choice:
        case "none":
            return [], "none"  # a model that knew of a tool would write the call into its answer
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


class TextFormat(Part):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TextFormat:
        if self.type == "json_schema" and self.schema_ is None:
            raise ValueError("format json_schema needs a schema")
        if not is_finite(self.schema_):
            raise ValueError("the schema has a number that is not finite")
        return self

    def to_engine(self) -> ResponseFormat:
        """The same form as chat has it."""
        if self.schema_ is None or self.type != "json_schema":
            return ResponseFormat(type=self.type)
        schema = JsonSchemaFormat(name=self.name or "response", schema=self.schema_, strict=self.strict)
        return ResponseFormat(type="json_schema", json_schema=schema)


class TextConfig(Part):
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Part):
    """Accepted as it comes; a `summary` that is asked for decides in which events thoughts go out."""

    effort: str | None = None
    summary: str | None = None


class ResponsesBody(Sampling):
    """A request for one response. Nothing is kept between requests: `input` is the whole conversation."""

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ResponsesToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] | None = None
    previous_response_id: JsonValue = None
    conversation: JsonValue = None
    prompt: JsonValue = None
    background: bool | None = None
    # Taken and left alone; they are named here so that they are not logged as unknown.
    store: JsonValue = None
    prompt_cache_key: JsonValue = None
    client_metadata: JsonValue = None
    user: JsonValue = None
    safety_identifier: JsonValue = None
    truncation: JsonValue = None
    service_tier: JsonValue = None
    max_tool_calls: JsonValue = None

    @field_validator("previous_response_id", "conversation", "prompt")
    @classmethod
    def _nothing_kept(cls, value: JsonValue, info: ValidationInfo) -> JsonValue:
        if value is not None:
            raise ValueError(f"this server keeps no state: leave {info.field_name} out, send all of it as `input`")
        return value

    @field_validator("background")
    @classmethod
    def _in_foreground(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("this server keeps no responses to fetch later: leave it out, and stream the answer")
        return value

    @field_validator("tools", mode="before")
    @classmethod
    def _functions_only(cls, value: object) -> object:
        """Clients offer hosted tools (web_search, custom, ...) to every server; only functions reach a model."""
        if not isinstance(value, list):
            return value
        return [tool for tool in cast("list[object]", value) if hosted_type(tool) is None]

    @field_validator("tools")
    @classmethod
    def _finite(cls, tools: list[FunctionTool] | None) -> list[FunctionTool] | None:
        if not all(is_finite(tool.parameters) for tool in tools or ()):
            raise ValueError("a schema has a number that is not finite")
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _possible(cls, choice: ResponsesToolChoice | None, info: ValidationInfo) -> ResponsesToolChoice | None:
        if "tools" in info.data:  # else they are the problem
            chosen(info.data["tools"] or [], choice)
        return choice

    @field_validator("input")
    @classmethod
    def _readable(cls, value: str | list[InputItem]) -> str | list[InputItem]:
        if not isinstance(value, str) and all(isinstance(item, ReasoningItem | OtherItem) for item in value):
            raise ValueError("none of these items is anything that a model reads: send a message")
        return value

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer is to have log-probabilities."""
        return LOGPROBS in (self.include or ())

    def to_request(self) -> GenerationRequest:
        """The request for text that this body means."""
        shared = self._shared()
        if self.max_output_tokens is not None:
            shared["max_tokens"] = self.max_output_tokens
        tools, choice = chosen(self.tools or [], self.tool_choice)
        wanted = self.text.format if self.text else None
        return GenerationRequest(
            **shared,
            messages=messages_of(self.instructions, self.input),
            tools=tuple(tool.spec() for tool in tools),
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            response_format=wanted.to_engine() if wanted else None,
            logprobs=self.wants_logprobs,
            top_logprobs=(self.top_logprobs or 0) if self.wants_logprobs else 0,
        )
