"""The body of a chat completion."""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import Field, field_validator, model_validator

from swarm.gateway.http.finite import is_finite
from swarm.gateway.openai.messages import Message, Part
from swarm.gateway.openai.sampling_body import PositiveInt, Sampling
from swarm.generation import (
    MAX_MESSAGES,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    NamedToolChoice,
    ResponseFormat,
    ToolChoice,
    ToolSpec,
)


class TemplateSwitches(Part):
    """`chat_template_kwargs`, as vLLM and llama.cpp have it: of all that a template may read, the one that many do."""

    enable_thinking: bool | None = None


class ChatCompletionBody(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: PositiveInt | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: TemplateSwitches | None = None

    @field_validator("tools", mode="before")
    @classmethod
    def _functions_only(cls, value: object) -> object:
        """Clients offer hosted tools (web_search, custom, ...) to every server; only functions reach a model."""
        if not isinstance(value, list):
            return value
        tools = cast("list[object]", value)
        return [tool for tool in tools if hosted_type(tool) is None]

    @model_validator(mode="after")
    def _consistent(self) -> ChatCompletionBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in (None, "auto", "none") and not self.tools:
            raise ValueError("tool_choice needs tools of type function")
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        wanted = self.response_format
        if wanted and wanted.type == "json_schema" and not wanted.json_schema:
            raise ValueError("response_format json_schema needs a json_schema")
        schemas = [tool.function.parameters for tool in self.tools or ()]
        if wanted and wanted.json_schema:
            schemas.append(wanted.json_schema.schema_)
        if not all(map(is_finite, schemas)):
            raise ValueError("a schema has a number that is not finite")
        return self

    def to_request(self) -> GenerationRequest:
        shared = self._shared()
        shared["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return GenerationRequest(
            **shared,
            messages=tuple(message.to_engine() for message in self.messages),
            # What a model must not call it is not shown: told of a tool it would write the call into its answer.
            tools=() if self.tool_choice == "none" else tuple(self.tools or ()),
            tool_choice=self.tool_choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls is not False,
            response_format=self.response_format,
            logprobs=bool(self.logprobs),
            thinking=self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking,
            top_logprobs=self.top_logprobs or 0,
        )


def hosted_type(tool: object) -> str | None:
    """The type of a tool that is no function; None for functions, and for what is no tool at all."""
    kind = cast("dict[str, object]", tool).get("type") if isinstance(tool, dict) else None
    return kind if isinstance(kind, str) and kind != "function" else None
