"""A request for text, the events that come back while it runs, and one finished answer.

Requests and finished answers travel between nodes as JSON, so they are frozen pydantic models whose field names are
OpenAI's. Events never leave the process one by one through pydantic: they are plain frozen dataclasses, made per token.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
RepairRule = Literal["off", "safe"]
"""What becomes of calls that are not quite JSON: they stay as they are, or what is lost on nobody is put right."""
JsonObject = dict[str, JsonValue]
LlamaOptions = dict[str, float | int | bool]  # by llama.cpp's own names
Prompt = str | tuple[int, ...]  # a text, or the model's own tokens of it

MAX_STOP_STRINGS = 16  # OpenAI allows 4; local servers allow more; each is compared against every token
MAX_MESSAGES = 4096  # far above any context; bounds validation work
MAX_TOOLS = 256  # OpenAI's limit is 128
MAX_CHOICES_OF_TEXT = 1000  # as many values as a schema may list
MAX_TOP_LOGPROBS = 20  # OpenAI's limit
MOST_MS = 1e9  # of an answer: twelve days; whatever says more has not measured it
REMARK = "x-swarm-remark"  # in a property's schema: what it says is in each voter's own words, and decides nothing
SHELL_TOOLS = frozenset({"bash", "shell"})  # coding agents' own: `description` says in free words what a command is for
# Below it llama.cpp divides logits until they are no numbers, and then takes the vocabulary's last token, always, even
# against a grammar, which ends its process.
MIN_TEMPERATURE = 1e-4
MIN_REPEAT_PENALTY = 0.01  # logits are divided by it: the same holds; 1 is none, and useful values are about 1.1
SEED_MASK = 2**31 - 1  # engines take 32 bits; OpenAI's seeds are any integer


def steady_temperature(temperature: float) -> float:
    """A temperature that a sampler can divide by: 0 for what is next to it."""
    return 0.0 if temperature < MIN_TEMPERATURE else temperature


class Frozen(BaseModel):
    """Base of value objects: immutable, unknown fields ignored (a newer peer may send more)."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ToolCall(Frozen):
    """One call a model made. `arguments` is the JSON text as generated; it may be malformed."""

    id: str
    name: str
    arguments: str


def new_call_id() -> str:
    """An id for a call whose engine gave it none."""
    return f"call_{secrets.token_hex(12)}"


class Usage(Frozen):
    """Token counts of one answer (or the sum over choices). `cached_tokens` is the part of the prompt not prefilled."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Timings(Frozen):
    """How long one answer took where it was computed, in milliseconds; how many tokens is what its `Usage` counts.

    `prompt_ms`: to read what of the prompt was in no cache; `predicted_ms`: from the first token to the last.
    """

    prompt_ms: Annotated[float, Field(ge=0, le=MOST_MS, allow_inf_nan=False)]
    predicted_ms: Annotated[float, Field(ge=0, le=MOST_MS, allow_inf_nan=False)]


class FunctionSpec(Frozen):
    """A function offered to the model; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str = ""
    parameters: JsonObject = Field(default_factory=dict)
    strict: bool | None = None


class ToolSpec(Frozen):
    """A tool as OpenAI sends it; only functions reach an engine."""

    type: Literal["function"] = "function"
    function: FunctionSpec


class NamedFunction(Frozen):
    name: str


class NamedToolChoice(Frozen):
    """`tool_choice` that names the one function to call."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolChoice = Literal["auto", "none", "required"] | NamedToolChoice


class JsonSchemaFormat(Frozen):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    name: str = "response"
    schema_: JsonObject = Field(alias="schema", default_factory=dict)
    strict: bool | None = None


class ResponseFormat(Frozen):
    """`text`, `json_object`, or `json_schema` with its schema; and text that is one of `choice`, or all of `regex`.

    `field` is what the client called it, for refusals: other servers have other names for the same.
    """

    type: Literal["text", "json_object", "json_schema", "choice", "regex"] = "text"
    json_schema: JsonSchemaFormat | None = None
    choice: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CHOICES_OF_TEXT)] | None = None
    regex: str | None = None
    field: Annotated[str | None, Field(exclude=True, repr=False)] = None

    @property
    def is_json(self) -> bool:
        """Whether the answer must be JSON."""
        return self.type in ("json_object", "json_schema")

    @property
    def is_strict(self) -> bool:
        """Whether a schema must be kept in everything that it says."""
        return self.json_schema is not None and bool(self.json_schema.strict)


class ExtraText(Frozen):
    """Another file of the project that is being written, for filling in the middle. llama.cpp's own names."""

    filename: Annotated[str, Field(max_length=4096)] = ""
    text: str = ""


class GenerationRequest(Frozen):
    """One request for text, validated. Exactly one of `messages` (chat) and `prompt` (completion) is set.

    `messages` stay in OpenAI's own JSON form, checked by the gateway: the model's chat template is their consumer. The
    content of each is a text; of one with images a list of parts (see `images.py`).
    `model` is a model id that a replica serves, never an alias. None means "the engine's default".
    With a `suffix` the answer belongs between `prompt` and it; `input_extra` are other files that help to write it.
    `thinking` is what the client wants of a model that can think before it answers; None leaves it to the model.
    `original` is the client's own body where that was OpenAI's form: an upstream gets it with every field that this
    node does not know. It goes to no engine and no peer. Nor does `foreign`, the name of a field by which the client
    wants the answer constrained, and that only an upstream may know; `foreign_why` says why, where that is not it.
    `llama_options` are obeyed by engines that are llama.cpp, and by no others.
    `repair` is what the request says of calls that are not quite JSON; None leaves it to where they come from.
    Of several answers drawn at once the first has `first_temperature`, where that is set. No client and no peer says
    so: it is how a ballot draws the voters of one engine, where its `capabilities` say that it can.
    """

    model: str
    messages: tuple[JsonObject, ...] | None = None
    prompt: Prompt | None = None
    suffix: str | None = None
    input_extra: tuple[ExtraText, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    thinking: bool | None = None
    llama_options: LlamaOptions = Field(default_factory=LlamaOptions)
    original: Annotated[bytes | None, Field(exclude=True, repr=False)] = None
    foreign: Annotated[str | None, Field(exclude=True, repr=False)] = None
    foreign_why: Annotated[str | None, Field(exclude=True, repr=False)] = None
    repair: Annotated[RepairRule | None, Field(exclude=True)] = None
    first_temperature: Annotated[float | None, Field(exclude=True)] = None

    @property
    def prompt_field(self) -> str:
        """Which field has the prompt."""
        return "prompt" if self.messages is None else "messages"


GAVE_WAY = "gave way: somebody else waited for the worker"  # the `error` of a vote that nobody had asked for


class Candidate(Frozen):
    """One complete answer from one voter ("Zeus@kitchen"), or the reason why there is none (`error`).

    `mean_logprob` is the mean log-probability of the generated tokens where the engine reports it, `confidence`
    the lowest mean of some in a row (`engines/assembly.py`); `stop_sequence` the one of the request's that ended the
    answer, where the engine says which; `timings` are None where nobody measured them, as of older nodes.

    `node_id` is of the node that was asked, `temperature` what it was asked to be drawn at (None: the engine's own),
    `repaired` what was put right of its calls: all three are written in by whoever asked, and never travel.
    """

    voter: str
    node: str = ""
    node_id: Annotated[str, Field(exclude=True)] = ""
    model: str = ""
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    usage: Usage = Usage()
    timings: Timings | None = None
    elapsed_ms: int = 0
    mean_logprob: float | None = None
    confidence: float | None = None
    temperature: Annotated[float | None, Field(exclude=True)] = None
    repaired: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    logprobs: JsonValue = None
    error: str | None = None

    @property
    def size_bytes(self) -> int:
        """The bytes of everything that was written: text, reasoning and tool calls."""
        calls = (call.name + call.arguments for call in self.tool_calls)
        return sum(map(_size_bytes, (self.text, self.reasoning, *calls)))


def _size_bytes(text: str) -> int:
    """As UTF-8; what is never valid there counts as a question mark. Asked of every token, most of which are ASCII."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: the first of each `index` carries `id` and `name`, later ones only `arguments`."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to the answer number `choice`."""

    choice: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: JsonValue = None

    @property
    def size_bytes(self) -> int:
        """The bytes that this step wrote."""
        size = _size_bytes(self.text) + _size_bytes(self.reasoning)
        for call in self.tool_calls:
            size += _size_bytes(call.name or "") + _size_bytes(call.arguments)
        return size


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer number `choice` is complete; exactly one per choice. `usage` counts this choice alone.

    `stop_sequence`: which of the request's own ended it; None for another end, and where the engine does not say.
    `repaired`: what was put right of its calls, in words (see `repaired_calls.py`). `timings`: where it was measured.
    """

    choice: int
    reason: FinishReason
    usage: Usage
    stop_sequence: str | None = None
    repaired: tuple[str, ...] = ()
    timings: Timings | None = field(default=None, compare=False)  # two answers are alike, however long they took


GenerationEvent = Delta | Finish
EventStream = AsyncGenerator[GenerationEvent, None]  # closing it cancels


def is_greedy(request: GenerationRequest) -> bool:
    """Whether sampling leaves nothing to chance, so that one model answers twice in the same words."""
    return request.temperature == 0 or request.top_k == 1


def has_images(request: GenerationRequest) -> bool:
    """Whether an image is anywhere in the conversation."""
    return any(isinstance(message.get("content"), list) for message in request.messages or ())


def prompt_chars(request: GenerationRequest) -> int:
    """How long the prompt is, in characters or tokens: never more than its bytes."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    return sum(map(len, texts_of(request)))


def texts_of(request: GenerationRequest) -> Iterator[str]:
    """Every text that goes into the prompt of `request`."""
    if isinstance(request.prompt, str):
        yield request.prompt
    yield request.suffix or ""
    for extra in request.input_extra:
        yield extra.text
    for message in request.messages or ():
        yield from _said(message)
    for tool in request.tools:
        yield tool.function.description


def _said(message: JsonObject) -> Iterator[str]:
    calls = message.get("tool_calls")
    arguments: list[JsonValue] = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments.append(function.get("arguments") if isinstance(function, dict) else None)
    for text in itertools.chain([message.get("content"), message.get("reasoning_content")], arguments):
        if isinstance(text, str):
            yield text
        elif isinstance(text, list):  # an image is no text, however many letters its data URL has
            yield from (str(part["text"]) for part in text if isinstance(part, dict) and part.get("type") == "text")
