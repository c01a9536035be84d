"""`POST /v1/responses`: what clients send, parsed and bounded, and the request for text that it is."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from swarm.gateway.http.bodies import Part, is_finite
from swarm.gateway.openai.bodies import MaxTokens, Sampling, form_asked_for
from swarm.gateway.responses.input_items import MAX_ITEMS, InputItem, added_tools, is_unread, messages_of
from swarm.gateway.responses.tools import (
    Offered,
    ResponsesTool,
    ResponsesToolChoice,
    ResponsesTools,
    chosen,
    flattened,
)
from swarm.generation import (
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    JsonObject,
    JsonSchemaFormat,
    ResponseFormat,
)

MAX_METADATA = 16  # OpenAI's limit
LOGPROBS = "message.output_text.logprobs"  # the one thing that can be included


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
    tools: ResponsesTools | None = None
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

    @field_validator("tools")
    @classmethod
    def _finite(cls, tools: list[ResponsesTool] | None) -> list[ResponsesTool] | None:
        if not all(is_finite(spec.function.parameters) for _, spec in flattened(tools or ()).values()):
            raise ValueError("a schema has a number that is not finite")
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _possible(cls, choice: ResponsesToolChoice | None, info: ValidationInfo) -> ResponsesToolChoice | None:
        if {"tools", "input"} <= info.data.keys():  # else they are the problem
            chosen(flattened([*(info.data["tools"] or ()), *added_tools(info.data["input"])]), choice)
        return choice

    @field_validator("input")
    @classmethod
    def _readable(cls, value: str | list[InputItem]) -> str | list[InputItem]:
        if not isinstance(value, str) and all(is_unread(item) for item in value):
            raise ValueError("none of these items is anything that a model reads: send a message")
        return value

    @cached_property
    def offered(self) -> Offered:
        """The functions that a model may call, those that came with the input included."""
        return flattened([*(self.tools or ()), *added_tools(self.input)])

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer is to have log-probabilities."""
        return LOGPROBS in (self.include or ())

    def to_request(self) -> GenerationRequest:
        """The request for text that this body means."""
        shared = self._shared()
        if self.max_output_tokens is not None:
            shared["max_tokens"] = self.max_output_tokens
        tools, choice = chosen(self.offered, self.tool_choice)
        wanted = self.text.format if self.text else None
        formed = self.formed(wanted.to_engine() if wanted else None, "text.format")
        return GenerationRequest(
            **shared,
            messages=form_asked_for(messages_of(self.instructions, self.input), choice, formed["response_format"]),
            tools=tuple(tools),
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            **formed,
            logprobs=self.wants_logprobs,
            top_logprobs=(self.top_logprobs or 0) if self.wants_logprobs else 0,
        )
