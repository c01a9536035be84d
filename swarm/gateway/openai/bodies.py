"""OpenAI's request bodies (chat and plain completions, embeddings) and the requests for text that they mean.

Parsed and bounded on arrival; unknown fields are ignored, which the log says once for each. A conversation's turns come
first, as clients send them and as chat templates take them. Bodies of other APIs build on `Body` and `Sampling`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from swarm.errors import BadRequest
from swarm.gateway.answers.model_names import NO_MODEL
from swarm.gateway.answers.swarm_options import SwarmOptions, options_of
from swarm.gateway.http.bodies import Part, is_finite
from swarm.gateway.openai.constraints import MEANINGS, constrained, with_its_schema
from swarm.gateway.openai.llama_fields import OBEYED, REFUSED, obeyed_fields, refused_field
from swarm.gateway.openai.tools import (
    ChatToolChoice,
    CustomDefinition,
    FunctionCallChoice,
    HostedTool,
    as_input,
    chosen_among,
    of_functions,
)
from swarm.generation import (
    MAX_MESSAGES,
    MAX_STOP_STRINGS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    MIN_REPEAT_PENALTY,
    SEED_MASK,
    ExtraText,
    FunctionSpec,
    GenerationRequest,
    JsonObject,
    Prompt,
    ResponseFormat,
    ToolChoice,
    ToolSpec,
    steady_temperature,
)
from swarm.images import BLIND, image_part, joined, left_out
from swarm.routing.policy import VoteOptions
from swarm.routing.replicas import SWARM_ALIAS

MAX_PARTS = 1024  # of one message; clients send a handful
MAX_TOOL_CALLS = 256  # in one turn
MAX_ARGUMENT_LEVELS = 64  # of a call's arguments, as of its schema: templates walk over them
MAX_CHOICES = 32  # OpenAI allows 128; no local engine has that many slots
MAX_MODEL_CHARS = 512  # a hub name, a file, a quantization
MAX_BIASED_TOKENS = 1024  # OpenAI documents 300
MAX_INT = 2**31 - 1  # engines take 32 bits
MAX_PROMPTS = 32  # of one request; OpenAI takes more, evaluation harnesses send 1 to 16
MAX_EXTRA_TEXTS = 64  # files beside the one that is filled in; editors send up to 16 pieces
MAX_EMBEDDING_INPUTS = 2048  # OpenAI's limit
MAX_LOGGED_FIELDS = 1000  # unknown names to remember: they come from clients
MAX_SHOWN_TYPE_CHARS = 64  # of a part's type that this server does not know
READABLE = (
    "title",
    "url",
    "text",
    "content",
    "stdout",
    "stderr",
    "output",
    "result",
)  # where text is, as others send it
MAX_READ_LEVELS = 8  # of nesting: what others send has three
SAID = ("content", "reasoning_content", "tool_calls")  # the parts of an assistant's turn that say something
FORM_ASKED = "Give that answer in the form that is asked for."
IMAGES = ("image_url", "input_image")  # types of parts
SEEN_ROLES = ("user", "tool")  # whose images a model is shown; no template knows those of others
ROLES = {"developer": "system", "function": "tool", **{role: role for role in ("system", "user", "assistant", "tool")}}
KNOWN_FIELDS = MEANINGS.keys() | OBEYED.keys() | REFUSED.keys() | {"extra_body"}  # though no field of a body here
RANDOM_SEEDS = (-1, 2**32 - 1)  # llama.cpp's words for none
BANNED = -100.0  # a token that is never drawn, as OpenAI has it
_logged_fields: set[str] = set()
log = logging.getLogger(__name__)
RequestedModel = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)]


def _or_swarm(model: object) -> object:
    return SWARM_ALIAS if model is None else model


def _or_none(model: object) -> object:
    if model == NO_MODEL:
        raise ValueError("is empty: name a model of /v1/models, or swarm")
    return NO_MODEL if model is None else model


ModelOrSwarm = Annotated[RequestedModel, BeforeValidator(_or_swarm, json_schema_input_type=RequestedModel | None)]
ModelOrNone = Annotated[
    str, Field(max_length=MAX_MODEL_CHARS), BeforeValidator(_or_none, json_schema_input_type=RequestedModel | None)
]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT)]
MaxTokens = Annotated[int, Field(ge=0, le=MAX_INT)]  # 0: nothing is generated; the prompt is read, and cached
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
PromptTokens = Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT)]], Field(min_length=1, fail_fast=True)]


class TextPart(TypedDict):
    """A plain dictionary: hundreds of thousands of them must parse without the garbage collector waking up."""

    type: Literal["text"]
    text: str


class RefusalPart(TypedDict):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImagePart(TypedDict):
    """An image: its URL, most often a `data:` URL. In chat that is in an object, in Responses (`input_image`) not."""

    type: Literal["image_url", "input_image"]
    image_url: NotRequired[JsonValue]


class OtherPart(TypedDict):
    """What this server does not know, or no model here can look at: read as far as it is text.

    Refusing it would end every later turn of that conversation too.
    """

    type: str
    text: NotRequired[JsonValue]
    content: NotRequired[JsonValue]


def part_kind(part: object) -> str:
    """By which of the four a part is read."""
    kind = cast("dict[str, object]", part).get("type") if isinstance(part, dict) else None
    if kind in IMAGES:
        return "image"
    return kind if kind in ("text", "refusal") else "other"


ContentPart = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[RefusalPart, Tag("refusal")]
    | Annotated[ImagePart, Tag("image")]
    | Annotated[OtherPart, Tag("other")],
    Discriminator(part_kind),
]


class MessageFunction(Part):
    """A function that was called. Clients send the arguments as the text that they are, as an object, or not at all."""

    name: str
    arguments: JsonValue = "{}"

    @property
    def arguments_text(self) -> str:
        """The arguments as the JSON text of an object."""
        given = "{}" if self.arguments is None else self.arguments
        return as_object(given if isinstance(given, str) else json.dumps(given, ensure_ascii=False))


class MessageCustomCall(Part):
    """A custom tool that was called."""

    name: str
    input: str = ""


class MessageToolCall(Part):
    """A call that an assistant made. One of a type that this server does not know is a function of that name."""

    model_config = ConfigDict(extra="allow")
    id: str | None = None
    type: str = "function"
    function: MessageFunction | None = None
    custom: MessageCustomCall | None = None

    @model_validator(mode="after")
    def _whole(self) -> MessageToolCall:
        if self.type in ("function", "custom") and getattr(self, self.type) is None:
            raise ValueError(f"a call of type {self.type} needs its {self.type}")
        return self

    def to_engine(self) -> JsonObject:
        function: JsonObject
        if self.function is not None:
            function = {"name": self.function.name, "arguments": self.function.arguments_text}
        elif self.custom is not None:
            function = {"name": self.custom.name, "arguments": as_input(self.custom.input)}
        else:
            function = {"name": self.type, "arguments": as_object(json.dumps(self.model_extra, ensure_ascii=False))}
        return {"id": self.id or "", "type": "function", "function": function}


class Message(Part):
    """One turn. Assistant turns may have tool calls and no content; a role that nobody knows speaks as a user does."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    function_call: MessageFunction | None = None  # what a call was before there were several
    reasoning_content: Annotated[str | None, Field(validation_alias=AliasChoices("reasoning_content", "reasoning"))] = (
        None
    )

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and self.role not in ("assistant", "tool", "function"):
            raise ValueError(f"a {self.role} message needs content")
        return self

    def to_engine(self) -> JsonObject:
        """The turn as chat templates know it: one of four roles, and parts are one text, but for images."""
        role = ROLES.get(self.role, "user")
        if isinstance(self.content, list):
            content = joined([content_of(part, is_seen=role in SEEN_ROLES) for part in self.content])
        else:
            content = self.content
        wire: JsonObject = {"role": role, "content": content or self.refusal or ""}
        if self.tool_calls:
            wire["tool_calls"] = [call.to_engine() for call in self.tool_calls]
        elif self.function_call is not None:
            call = MessageToolCall(id=former_id(self.function_call.name), function=self.function_call)
            wire["tool_calls"] = [call.to_engine()]
        if self.role == "function" and self.tool_call_id is None:
            wire["tool_call_id"] = former_id(self.name or "")
        for field in ("name", "tool_call_id", "reasoning_content"):
            value: str | None = getattr(self, field)
            if value is not None:
                wire[field] = value
        return wire


def content_of(part: ContentPart, is_seen: bool) -> JsonValue:
    """A part as the content of a turn: an image where those `is_seen`, else a text."""
    match part_kind(part):
        case "text":
            return cast("TextPart", part)["text"]
        case "refusal":
            return cast("RefusalPart", part)["refusal"]
        case "image" if is_seen:
            return [image_of(cast("ImagePart", part).get("image_url"))]
        case "image":
            return left_out("image", "only users and tools show images")
        case _:
            other = cast("OtherPart", part)
            return readable_text(cast("JsonObject", other)) or left_out(kind_shown(other["type"]), BLIND)


def image_of(given: JsonValue) -> JsonObject:
    """An image as a turn has it, from a URL or an object with one; what is neither is told when it is looked at."""
    url = given.get("url") if isinstance(given, dict) else given
    return image_part(url if isinstance(url, str) else "")


def kind_shown(kind: str) -> str:
    """A part's type as the note calls it that stands for a part which is no text.

    With it neither does one recording make every later turn of a conversation fail, nor does an answer pass for one
    about it.
    """
    return kind.removeprefix("input_").removesuffix("_url")[:MAX_SHOWN_TYPE_CHARS]


def readable_text(value: JsonValue, levels: int = MAX_READ_LEVELS) -> str:
    """What a model can read in a piece of a history that this server does not know; "" where there is no text."""
    match value:
        case str():
            return value
        case list() if levels:
            return "\n".join(filter(None, (readable_text(member, levels - 1) for member in value)))
        case dict() if levels:
            return readable_text([value[name] for name in READABLE if name in value], levels - 1)
        case _:
            return ""


def former_id(name: str) -> str:
    """What ties a call to its result where both have no id, as before there were several calls in a turn."""
    return f"call_{name}"


def as_object(arguments: str) -> str:
    """The JSON text of a call's arguments; what llama.cpp would not read as a JSON object is wrapped in one.

    No text at all is no arguments: engines stream calls of functions without any so.
    Models make malformed calls, clients send them back, and llama.cpp (and templates that walk over the arguments)
    would fail on them.
    """
    if not arguments.strip():
        return "{}"
    return arguments if _is_object(arguments) else json.dumps({"arguments": arguments}, ensure_ascii=False)


def _is_object(text: str) -> bool:
    """Whether `text` is a JSON object for parsers stricter than Python's: no NaN, no 1e999, no half of a surrogate."""
    try:
        parsed: JsonValue = json.loads(text)
        if not isinstance(parsed, dict) or _levels(parsed) > MAX_ARGUMENT_LEVELS or not is_finite(parsed):
            return False
        if "\\u" in text:
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _levels(value: JsonValue) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_levels, inside), default=0)


class Body(Part):
    """A whole body. Unknown fields are ignored; the log names each once."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _log_unknown(self) -> Body:
        for name in set(self.model_extra or ()) - _logged_fields - KNOWN_FIELDS:
            if len(_logged_fields) < MAX_LOGGED_FIELDS:
                _logged_fields.add(name)
                log.info("ignoring the unknown field %.100r of a request", name)
        return self

    def formed(self, own: ResponseFormat | None, field: str = "response_format") -> dict[str, Any]:
        """The form that the answer must have, as fields of a request; `own` is what the API itself calls it.

        Raises BadRequest for demands of other servers' dialects that mean nothing, or contradict it.
        """
        form, foreign = constrained(self.model_extra or {}, own, field)
        why = None
        if foreign is None and self.model_extra and (refused := refused_field(self.model_extra)) is not None:
            foreign, why = refused
        return {"response_format": form, "foreign": foreign, "foreign_why": why}


class StreamOptions(Part):
    include_usage: bool | None = None


class Sampling(Body):
    """Parameters that chat and plain completions share, with OpenAI's ranges (and llama.cpp's own samplers)."""

    model: ModelOrNone = NO_MODEL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(steady_temperature)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, Field(ge=MIN_REPEAT_PENALTY, le=10)] | None = None
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    swarm: SwarmOptions | None = None

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _few_biases(cls, value: object) -> object:
        """Before the entries are looked at: a million bad ones would be a million error messages.

        llama.cpp's own form is a list of pairs, and `false` bans a token there.
        """
        given: Sequence[object] = cast("list[object]", value) if isinstance(value, list) else []
        if isinstance(value, dict):
            given = [*cast("dict[object, object]", value).items()]
        if len(given) > MAX_BIASED_TOKENS:
            raise ValueError(f"at most {MAX_BIASED_TOKENS} tokens can be biased")
        pairs = [cast("Sequence[object]", pair) for pair in given if isinstance(pair, list | tuple)]
        if len(pairs) < len(given) or not isinstance(value, list | dict):
            return cast("object", value)
        if not all(len(pair) == 2 for pair in pairs):
            return cast("object", value)
        return {str(token): BANNED if bias is False else bias for token, bias in pairs}

    @property
    def choices(self) -> int:
        """How many answers are asked for (`n`)."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def options(self) -> VoteOptions:
        """How to vote. Raises BadRequest where the rest of the body contradicts it."""
        return options_of(self.swarm, stream=self.stream, choices=self.choices)

    def _shared(self) -> dict[str, Any]:
        same = self.model_dump(
            include={
                "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
                "frequency_penalty", "repeat_penalty", "logit_bias",
            }
        )  # fmt: skip
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = None if self.seed is None or self.seed in RANDOM_SEEDS else self.seed & SEED_MASK
        stops = tuple(text for text in stop if text)
        options = obeyed_fields(self.model_extra) if self.model_extra else {}
        return {**same, "stop": stops, "seed": seed, "llama_options": options}


def as_prompts(value: str | list[int] | Sequence[str | list[int]]) -> list[Prompt]:
    """One text, one list of tokens, or several of either, as a list. An empty list is no prompt at all."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [tuple(cast("list[int]", value))]
    several = cast("Sequence[str | list[int]]", value)
    return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in several]


class TemplateSwitches(Part):
    """`chat_template_kwargs`, as vLLM and llama.cpp have it: of all that a template may read, the one that many do."""

    enable_thinking: bool | None = None


def tool_kind(tool: object) -> str:
    """By which model a tool is read."""
    kind = cast("dict[str, object]", tool).get("type") if isinstance(tool, dict) else getattr(tool, "type", "function")
    return kind if kind in ("function", "custom") else "hosted" if isinstance(kind, str) else "function"


ChatTool = Annotated[
    Annotated[ToolSpec, Tag("function")]
    | Annotated[CustomDefinition, Tag("custom")]
    | Annotated[HostedTool, Tag("hosted")],
    Discriminator(tool_kind),
]


def form_asked_for(
    messages: Sequence[JsonObject], choice: ToolChoice, response_format: ResponseFormat | None
) -> tuple[JsonObject, ...]:
    """`messages`; where they end with words of an assistant and the answer has to have a form, FORM_ASKED after them.

    Words alone are gone on with, which a form cannot be: it is that of a whole answer. At OpenAI any answer is a turn
    of its own, and LangGraph's agents ask for an object so, when they have said all that they know.
    """
    said = [turn for turn in messages if turn["role"] != "assistant" or any(map(turn.get, SAID))]
    begun = said[-1] if said else {}
    formed = choice not in ("auto", "none") or (response_format is not None and response_format.type != "text")
    if not formed or begun.get("role") != "assistant" or begun.get("tool_calls"):
        return tuple(messages)
    return (*messages, {"role": "user", "content": FORM_ASKED})


class ChatCompletionBody(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: MaxTokens | None = None
    tools: Annotated[list[ChatTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ChatToolChoice | None = None
    functions: Annotated[list[FunctionSpec], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    function_call: FunctionCallChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    chat_template_kwargs: TemplateSwitches | None = None

    @field_validator("response_format", mode="before")
    @classmethod
    def _with_its_schema(cls, value: object) -> object:
        return with_its_schema(value)

    @model_validator(mode="after")
    def _consistent(self) -> ChatCompletionBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        self._callable()
        wanted = self.response_format
        if wanted and wanted.type == "json_schema" and not wanted.json_schema:
            raise ValueError("response_format json_schema needs a json_schema")
        if wanted and wanted.json_schema and "schema_" not in wanted.json_schema.model_fields_set:
            raise ValueError("response_format.json_schema needs a schema: {} allows any JSON object")
        if wanted and wanted.type in ("choice", "regex") and getattr(wanted, wanted.type) is None:
            raise ValueError(f"response_format {wanted.type} needs a {wanted.type}")
        schemas = [tool.function.parameters for tool in self.specs()]
        if wanted and wanted.json_schema:
            schemas.append(wanted.json_schema.schema_)
        if not all(map(is_finite, schemas)):
            raise ValueError("a schema has a number that is not finite")
        return self

    @property
    def custom(self) -> frozenset[str]:
        """The names of the custom tools: their calls have an input, not arguments."""
        return frozenset(tool.custom.name for tool in self.tools or () if isinstance(tool, CustomDefinition))

    @property
    def offers_functions(self) -> bool:
        """Whether the client speaks of functions as before there were tools, and wants to be answered so."""
        return bool(self.functions) and not self.tools

    def specs(self) -> list[ToolSpec]:
        """The tools as functions."""
        if self.offers_functions:
            return [ToolSpec(function=function) for function in self.functions or ()]
        offered = [tool for tool in self.tools or () if not isinstance(tool, HostedTool)]
        return [tool if isinstance(tool, ToolSpec) else tool.custom.spec() for tool in offered]

    def _callable(self) -> tuple[tuple[ToolSpec, ...], ToolChoice]:
        """The functions to show to the model, and how free it is among them. Raises ValueError if there are none."""
        choice = of_functions(self.function_call) if self.offers_functions else self.tool_choice
        specs = self.specs()
        if not specs and (choice is None or isinstance(choice, str)) and choice != "required":
            return (), choice or "auto"
        return chosen_among(specs, choice)

    def to_request(self) -> GenerationRequest:
        """The request for text that this body means."""
        shared = self._shared()
        if self.max_completion_tokens is not None:
            shared["max_tokens"] = self.max_completion_tokens
        tools, choice = self._callable()
        turns = [message.to_engine() for message in self.messages]
        formed = self.formed(self.response_format)
        return GenerationRequest(
            **shared,
            messages=form_asked_for(turns, choice, formed["response_format"]),
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False and not self.offers_functions,
            **formed,
            logprobs=bool(self.logprobs),
            thinking=self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking,
            top_logprobs=self.top_logprobs or 0,
        )


class CompletionBody(Sampling):
    """`POST /v1/completions`: prompts as texts or the model's own tokens, and perhaps what follows the answer."""

    prompt: str | PromptTokens | Annotated[list[str | PromptTokens], Field(fail_fast=True)]
    suffix: str | None = None
    input_extra: Annotated[list[ExtraText], Field(max_length=MAX_EXTRA_TEXTS, fail_fast=True)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _can_be_answered(self) -> CompletionBody:
        if not self.prompts:
            raise ValueError("prompt is an empty list")
        if len(self.prompts) > MAX_PROMPTS:
            raise ValueError(f"{len(self.prompts)} prompts; at most {MAX_PROMPTS} are answered in one request")
        if len(self.prompts) > 1 and self.stream:
            raise ValueError("several prompts are not streamed: send one request for each, or stream: false")
        tokens = any(isinstance(prompt, tuple) for prompt in self.prompts)
        if tokens and self.model in (SWARM_ALIAS, NO_MODEL):
            raise ValueError("a prompt of tokens needs the model whose tokens they are: name it")
        if self.suffix and (tokens or self.logprobs is not None):
            raise ValueError("a suffix needs a prompt that is text, and no logprobs")
        if self.echo and self.logprobs is not None:
            raise ValueError(
                "echo with logprobs asks for the log-probabilities of the prompt's own tokens, which no engine here "
                "tells: leave one of the two out"
            )
        return self

    @property
    def prompts(self) -> list[Prompt]:
        """Each prompt, as a text or as tokens; never none."""
        return as_prompts(self.prompt)

    @property
    def text(self) -> str:
        """The first prompt; "" where it is tokens."""
        prompt = self.prompts[0]
        return prompt if isinstance(prompt, str) else ""

    def to_request(self) -> GenerationRequest:
        """The request of the one prompt. Raises BadRequest where there are more: each is a request of its own."""
        if len(self.prompts) > 1:
            raise BadRequest(f"prompt has {len(self.prompts)} entries; one is taken here", param="prompt")
        return GenerationRequest(
            **self._shared(),
            **self.formed(None),
            prompt=self.prompts[0],
            suffix=self.suffix or None,
            input_extra=tuple(self.input_extra or ()),
            logprobs=self.logprobs is not None,
            top_logprobs=self.logprobs or 0,
        )


EmbeddingInput = (
    Annotated[str, Field(min_length=1)]
    | PromptTokens
    | Annotated[list[Annotated[str, Field(min_length=1)] | PromptTokens], Field(min_length=1, fail_fast=True)]
)


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    model: ModelOrNone = NO_MODEL
    input: EmbeddingInput
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: PositiveInt | None = None
    swarm: SwarmOptions | None = None  # only `upstream` matters here

    @property
    def options(self) -> VoteOptions:
        """How to ask; only `upstream` matters here."""
        return VoteOptions() if self.swarm is None else self.swarm.options()

    @model_validator(mode="after")
    def _few_inputs(self) -> EmbeddingBody:
        if len(self.texts) > MAX_EMBEDDING_INPUTS:
            raise ValueError(f"input has {len(self.texts)} texts; at most {MAX_EMBEDDING_INPUTS} are taken at once")
        return self

    @property
    def texts(self) -> list[Prompt]:
        """Each input, as a text or as tokens; never none."""
        return as_prompts(self.input)
