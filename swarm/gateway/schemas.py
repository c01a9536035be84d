"""Request bodies as OpenAI's clients send them: parsed and bounded on arrival, unknown fields ignored aloud."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from swarm.consensus.question import STRATEGIES
from swarm.generation import (
    MAX_MESSAGES,
    MAX_STOP_STRINGS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    JsonObject,
    ResponseFormat,
    ToolChoice,
    ToolSpec,
)
from swarm.routing.policy import MAX_VOTES, VoteOptions

log = logging.getLogger(__name__)

MAX_CHOICES = 32  # OpenAI allows 128; no local engine has that many slots
MAX_DEADLINE_S = 3600.0
MAX_EMBEDDING_INPUTS = 2048  # OpenAI's limit
SEED_MASK = 2**31 - 1  # engines take 32 bits; OpenAI's seeds are any integer
_logged_fields: set[str] = set()


class Body(BaseModel):
    """Strict types (no "0.5" for 0.5), finite numbers, and unknown fields that are ignored aloud, once."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="after")
    def _log_unknown(self) -> Body:
        for name in set(self.model_extra or ()) - _logged_fields:
            if len(_logged_fields) < 1000:  # field names come from clients
                _logged_fields.add(name)
                log.info("ignoring the unknown field %.100r of a request", name)
        return self


class SwarmOptions(Body):
    """The request extension: how to vote."""

    strategy: str = "auto"
    votes: Annotated[int, Field(ge=1, le=MAX_VOTES)] | None = None
    min_votes: Annotated[int, Field(ge=1, le=MAX_VOTES)] | None = None
    deadline_s: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S, strict=False)] | None = None

    @field_validator("strategy")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in STRATEGIES:
            raise ValueError(f"unknown strategy; there are {', '.join(STRATEGIES)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> SwarmOptions:
        if self.votes is not None and self.min_votes is not None and self.min_votes > self.votes:
            raise ValueError(f"min_votes {self.min_votes} is more than votes {self.votes}")
        if self.strategy == "single" and (self.votes or 1) > 1:
            raise ValueError(f"strategy single asks one voter, and votes is {self.votes}")
        return self

    def options(self) -> VoteOptions:
        return VoteOptions(self.strategy, self.votes, self.min_votes, self.deadline_s)


class StreamOptions(Body):
    include_usage: bool = False


class TextPart(Body):
    type: Literal["text"]
    text: str


class MessageFunction(Body):
    name: str
    arguments: str = "{}"


class MessageToolCall(Body):
    id: str = ""
    type: Literal["function"] = "function"
    function: MessageFunction


class Message(Body):
    """One turn. Assistant turns may have tool calls and no content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a {self.role} message needs content")
        return self

    def to_engine(self) -> JsonObject:
        """The turn as chat templates know it: `developer` is a system turn, parts are one text."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        wire: JsonObject = {"role": "system" if self.role == "developer" else self.role, "content": content or ""}
        if self.tool_calls:
            wire["tool_calls"] = [call.model_dump(include={"id", "type", "function"}) for call in self.tool_calls]
        for field in ("name", "tool_call_id", "reasoning_content"):
            value: str | None = getattr(self, field)
            if value is not None:
                wire[field] = value
        return wire


class Sampling(Body):
    """Parameters that chat and plain completions share, with OpenAI's ranges (and llama.cpp's own samplers)."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, strict=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, strict=False)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, strict=False)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, strict=False)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10, strict=False)] | None = None
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = (
        None
    )
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    swarm: SwarmOptions = Field(default_factory=SwarmOptions)

    @field_validator("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if isinstance(value, str | bool):
            raise ValueError("should be a number")
        return value

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _shared(self) -> dict[str, Any]:
        same = self.model_dump(
            include={
                "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
                "frequency_penalty", "repeat_penalty", "logit_bias",
            }
        )  # fmt: skip
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = None if self.seed is None else self.seed & SEED_MASK
        return {**same, "stop": tuple(text for text in stop if text), "seed": seed}


class ChatCompletionBody(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatCompletionBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in (None, "auto", "none") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if self.response_format and self.response_format.type == "json_schema" and not self.response_format.json_schema:
            raise ValueError("response_format json_schema needs a json_schema")
        return self

    def to_request(self) -> GenerationRequest:
        shared = self._shared()
        shared["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return GenerationRequest(
            **shared,
            messages=tuple(message.to_engine() for message in self.messages),
            tools=tuple(self.tools or ()),
            tool_choice=self.tool_choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls is not False,
            response_format=self.response_format,
            logprobs=bool(self.logprobs),
            top_logprobs=self.top_logprobs or 0,
        )


class CompletionBody(Sampling):
    """`POST /v1/completions`: one prompt (a list of one is taken too)."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def to_request(self) -> GenerationRequest:
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return GenerationRequest(
            **self._shared(), prompt=prompt, logprobs=self.logprobs is not None, top_logprobs=self.logprobs or 0
        )


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input
