"""Request bodies of Ollama's API, and the requests for text that they mean.

The shapes are those of Ollama's own reference (docs/api.md in its repository) and of its Python client. Tool calls have
their arguments as objects there, and often no ids: a result belongs to the oldest call of that name without one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, AliasChoices, Field, JsonValue, field_validator, model_validator

from swarm.gateway.answers.swarm_options import SwarmOptions, options_of
from swarm.gateway.http.bodies import Part, is_finite
from swarm.gateway.ollama.keep_alive import idle_seconds
from swarm.gateway.openai.bodies import (
    MAX_EMBEDDING_INPUTS,
    MAX_INT,
    MAX_MODEL_CHARS,
    MAX_TOOL_CALLS,
    ROLES,
    SEEN_ROLES,
    Body,
    PositiveInt,
    RequestedModel,
    as_object,
)
from swarm.gateway.openai.llama_fields import LEAST_TYPICAL, MOST_REMEMBERED, obeyed_fields
from swarm.generation import (
    MAX_MESSAGES,
    MAX_STOP_STRINGS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    MIN_REPEAT_PENALTY,
    SEED_MASK,
    GenerationRequest,
    JsonObject,
    JsonSchemaFormat,
    ResponseFormat,
    ToolSpec,
    steady_temperature,
)
from swarm.images import MAX_SENT, image_part, joined, left_out
from swarm.routing.policy import VoteOptions

Thought = bool | Literal["low", "medium", "high", "max"]  # how much a model thinks is up to it: a level is `true`
# Seconds once it is read, infinite for ever.
KeepAliveSeconds = Annotated[str | int | float, AfterValidator(idle_seconds)]
Images = Annotated[list[str], Field(max_length=MAX_SENT, fail_fast=True)]


class OllamaOptions(Part):
    """`options`: what of Ollama's parameters means something here, in the ranges of the other APIs.

    A negative `seed` is none; `num_predict` of 0 or less: as much as fits.
    """

    num_predict: Annotated[int, Field(ge=-2, le=MAX_INT)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(steady_temperature)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(ge=MIN_REPEAT_PENALTY, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=MOST_REMEMBERED)] | None = None
    typical_p: Annotated[float, Field(ge=LEAST_TYPICAL, le=1)] | None = None

    def fields(self) -> dict[str, Any]:
        """The same as fields of a request."""
        same = self.model_dump(
            include={
                "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
            }
        )  # fmt: skip
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return {
            **same,
            "max_tokens": self.num_predict if self.num_predict is not None and self.num_predict > 0 else None,
            "stop": tuple(text for text in stop if text),
            "seed": None if self.seed is None or self.seed < 0 else self.seed & SEED_MASK,
            "llama_options": obeyed_fields(self.model_dump(include={"repeat_last_n", "typical_p"})),
        }


class OllamaCalled(Part):
    """The function of a call, with its arguments as an object; some clients send their text."""

    name: str
    arguments: JsonValue = None


class OllamaCall(Part):
    """A call that an assistant made."""

    id: str | None = None
    function: OllamaCalled


class OllamaMessage(Part):
    """One turn. `images` are in base64."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[OllamaCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_name: Annotated[str | None, Field(validation_alias=AliasChoices("tool_name", "name"))] = None
    tool_call_id: str | None = None


class OllamaKeeping(Body):
    """What says how long its model stays."""

    model: RequestedModel
    keep_alive: KeepAliveSeconds | None = None

    @property
    def idle_s(self) -> float | None:
        """The same in seconds, infinite for ever; None where it is left out."""
        return None if self.keep_alive is None else float(self.keep_alive)


class OllamaAsking(OllamaKeeping):
    """What `/api/chat` and `/api/generate` share."""

    stream: bool | None = None
    format: JsonValue = None
    options: OllamaOptions | None = None
    think: Thought | None = None
    template: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    swarm: SwarmOptions | None = None

    @model_validator(mode="after")
    def _of_what(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @field_validator("template")
    @classmethod
    def _own_templates(cls, value: str | None) -> str | None:
        if value:
            raise ValueError(
                "is in Ollama's own language, and every model here has its own template: leave it out, or send "
                "raw: true with the whole prompt to /api/generate"
            )
        return value

    @field_validator("format")
    @classmethod
    def _a_format(cls, value: JsonValue) -> JsonValue:
        if value not in (None, "", "json") and not isinstance(value, dict):
            raise ValueError('is neither "json" nor a JSON schema')
        if isinstance(value, dict) and not is_finite(value):
            raise ValueError("the schema has a number that is not finite")
        return value

    @property
    def streams(self) -> bool:
        """Whether lines are sent as the answer grows, which is Ollama's default."""
        return self.stream is not False

    @property
    def vote_options(self) -> VoteOptions:
        """How to vote. Raises BadRequest where the rest of the body contradicts it."""
        return options_of(self.swarm, stream=self.streams)

    def shared(self, model: str) -> dict[str, Any]:
        """The fields of a request to `model` that have nothing to do with its prompt."""
        sampling = (self.options or OllamaOptions()).fields()
        thinking = None if self.think is None else self.think is not False
        likely = {"logprobs": bool(self.logprobs), "top_logprobs": self.top_logprobs or 0}
        formed = self.formed(self._response_format(), "format")
        return {"model": model, "thinking": thinking, **sampling, **likely, **formed}

    def _response_format(self) -> ResponseFormat | None:
        if isinstance(self.format, dict):
            return ResponseFormat(
                type="json_schema", json_schema=JsonSchemaFormat(schema=cast("JsonObject", self.format), strict=True)
            )
        return ResponseFormat(type="json_object") if self.format == "json" else None


class OllamaChatBody(OllamaAsking):
    """`POST /api/chat`. Without messages the model is loaded, and nothing else."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _finite(self) -> OllamaChatBody:
        if not all(is_finite(tool.function.parameters) for tool in self.tools or ()):
            raise ValueError("a tool's schema has a number that is not finite")
        return self

    @property
    def loads(self) -> bool:
        """Whether it only asks for the model to be loaded."""
        return not self.messages

    def to_request(self, model: str) -> GenerationRequest:
        """The request to `model`, which may be another than the client named."""
        return GenerationRequest(
            **self.shared(model), messages=engine_turns(self.messages or ()), tools=tuple(self.tools or ())
        )


class OllamaGenerateBody(OllamaAsking):
    """`POST /api/generate`: a prompt that becomes a turn, or as it is (`raw`, or with a `suffix`).

    Without a prompt the model is loaded, and nothing else.
    """

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: Images | None = None

    @model_validator(mode="after")
    def _can_be_answered(self) -> OllamaGenerateBody:
        if (self.raw or self.suffix) and self.images:
            raise ValueError("images belong to a conversation: leave raw and suffix out")
        if self.suffix and self.logprobs:
            raise ValueError("a suffix goes without logprobs")
        if self.raw and self.system:
            raise ValueError("raw says that the prompt is whole: leave system out")
        return self

    @property
    def loads(self) -> bool:
        """Whether it only asks for the model to be loaded."""
        return not (self.prompt or self.suffix or self.images)

    def to_request(self, model: str) -> GenerationRequest:
        """The request to `model`, which may be another than the client named."""
        shared = self.shared(model)
        if self.raw or self.suffix:
            return GenerationRequest(**shared, prompt=self.prompt or "", suffix=self.suffix or None)
        turns = [OllamaMessage(role="system", content=self.system)] if self.system else []
        turns.append(OllamaMessage(role="user", content=self.prompt, images=self.images))
        return GenerationRequest(**shared, messages=engine_turns(turns))


class OllamaEmbedBody(OllamaKeeping):
    """`POST /api/embed`. What is too long is refused: `truncate` would hide that its end is not in the vector."""

    input: str | Annotated[list[str], Field(max_length=MAX_EMBEDDING_INPUTS, fail_fast=True)]
    dimensions: PositiveInt | None = None
    truncate: bool | None = None
    swarm: SwarmOptions | None = None  # only `upstream` matters here

    @property
    def texts(self) -> list[str]:
        """The texts; none where only the model is to be loaded."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return given if any(given) else []


class OllamaEmbeddingsBody(OllamaKeeping):
    """`POST /api/embeddings`, which came before `/api/embed`: one text, one vector."""

    prompt: str = ""


class OllamaNamedBody(Body):
    """A body that names a model: by `model`, or by `name` as older clients do."""

    model: Annotated[str, Field(max_length=MAX_MODEL_CHARS)] = ""
    name: Annotated[str, Field(max_length=MAX_MODEL_CHARS)] = ""

    @model_validator(mode="after")
    def _named(self) -> OllamaNamedBody:
        if not self.wanted:
            raise ValueError("model: this field is required")
        return self

    @property
    def wanted(self) -> str:
        """The name, by whichever field."""
        return self.model or self.name


def engine_turns(messages: Sequence[OllamaMessage]) -> tuple[JsonObject, ...]:
    """The conversation as OpenAI's messages: every call has an id, and every result names the call that it answers."""
    turns: list[JsonObject] = []
    open_calls: list[tuple[str, str]] = []  # (id, name) of calls without a result, the oldest first
    count = 0
    for message in messages:
        role = ROLES.get(message.role, "user")
        turn: JsonObject = {"role": role, "content": _content(message, is_seen=role in SEEN_ROLES)}
        if message.thinking and role == "assistant":
            turn["reasoning_content"] = message.thinking
        if message.tool_calls and role == "assistant":
            calls: list[JsonValue] = []
            for call in message.tool_calls:
                count += 1
                made = call.id or f"call_{count}"
                open_calls.append((made, call.function.name))
                calls.append({"id": made, "type": "function", "function": _function(call.function)})
            turn["tool_calls"] = calls
        if role == "tool":
            answered = message.tool_call_id or _oldest(open_calls, message.tool_name)
            open_calls = [each for each in open_calls if each[0] != answered]
            turn["tool_call_id"] = answered
            if message.tool_name:
                turn["name"] = message.tool_name
        turns.append(turn)
    return tuple(turns)


def _function(called: OllamaCalled) -> JsonObject:
    given = {} if called.arguments is None else called.arguments
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {"name": called.name, "arguments": as_object(text)}


def _oldest(open_calls: Sequence[tuple[str, str]], name: str | None) -> str:
    """The id of the call that a result without one answers: the oldest of that name, else the oldest."""
    fitting = [made for made, called in open_calls if called == name] or [made for made, _ in open_calls]
    return fitting[0] if fitting else ""


def _content(message: OllamaMessage, is_seen: bool) -> JsonValue:
    said = message.content or ""
    if not message.images:
        return said
    if not is_seen:
        return joined([said, left_out("image", "only users and tools show images")], "\n")
    return joined([said, *([image_part(as_data_url(image))] for image in message.images)])


def as_data_url(image: str) -> str:
    """An image in base64 as the `data:` URL that other APIs send; what it is, its bytes tell, not the URL."""
    return image if image.startswith("data:") else f"data:image/png;base64,{image}"
