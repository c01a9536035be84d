"""Request bodies of Anthropic's Messages API, and the requests for text that they mean.

Content blocks as clients send them become a conversation as chat templates take it: one message for each turn and each
tool result (`engine_messages`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, JsonValue, Tag, field_validator, model_validator
from typing_extensions import TypedDict

from swarm.engines.chat_turns import reminded
from swarm.errors import ThreadsUnsupported
from swarm.gateway.answers.swarm_options import SwarmOptions, options_of
from swarm.gateway.http.bodies import Part, is_finite
from swarm.gateway.openai.bodies import (
    MAX_INT,
    MAX_PARTS,
    Body,
    MaxTokens,
    RequestedModel,
    image_of,
    kind_shown,
    readable_text,
)
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
from swarm.images import BLIND, joined, left_out
from swarm.routing.policy import VoteOptions

# Claude Code begins its system prompt with a line about itself that differs in every request: no model needs it, and
# with it no two prompts share a beginning, so that the whole conversation would be prefilled anew each time.
ATTRIBUTION = "x-anthropic-billing-header:"
FAILED = "Error: "  # before the result of a tool that failed: chat templates have no other word for it


class TextBlock(TypedDict):
    """A plain dictionary: hundreds of thousands of them must parse without the garbage collector waking up."""

    type: Literal["text"]
    text: str


class ToolUseBlock(Part):
    """A call that the model made in an earlier turn."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: JsonObject

    @model_validator(mode="after")
    def _finite(self) -> ToolUseBlock:
        if not is_finite(self.input):
            raise ValueError("the input has a number that is not finite")
        return self


class ThinkingBlock(Part):
    """What a model reasoned in an earlier turn. Its signature means something to Anthropic's models only."""

    type: Literal["thinking"]
    thinking: str


# What only Anthropic's own models and hosted tools can read: left out, whatever text it has, as hosted tools are.
UNUSED = frozenset(
    {
        "redacted_thinking", "server_tool_use", "web_search_tool_result", "web_fetch_tool_result",
        "code_execution_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result",
        "tool_search_tool_result", "mcp_tool_use", "mcp_tool_result", "mcp_tool_listing", "fallback", "tool_addition",
        "tool_removal",
    }
)  # fmt: skip


class OtherBlock(Part):
    """What is no text here, and what this server does not know: a history never ends a conversation.

    Its text is read, if it has any (search results, what was compacted, a document that is plain text).
    """

    type: str
    title: JsonValue = None
    text: JsonValue = None
    content: JsonValue = None
    source: JsonValue = None

    @property
    def url(self) -> str:
        """Of an image: all of it as a `data:` URL, or where it is; "" where neither is said."""
        source = self.source if isinstance(self.source, dict) else {}
        if source.get("type") == "base64":
            return f"data:{source.get('media_type')};base64,{source.get('data')}"
        url = source.get("url")
        return url if isinstance(url, str) else ""

    @property
    def words(self) -> str:
        """What a model can read of it."""
        source = self.source if isinstance(self.source, dict) else {}
        plain = source.get("data") if source.get("type") == "text" else source.get("content")
        if self.text is None and self.content is None and plain is None:
            return ""
        return readable_text([self.title, self.text, self.content, plain])


class ToolResultBlock(Part):
    """What a tool answered to the call `tool_use_id`."""

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: str | Annotated[list[ResultBlock], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    is_error: bool | None = None


def block_kind(block: object) -> str:
    """By which model a block is read. Those that this server knows have their places; a misplaced one is refused."""
    kind = cast("dict[str, object]", block).get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return kind if kind in ("text", "thinking", "tool_use", "tool_result") else "other"


ResultBlock = Annotated[
    Annotated[TextBlock, Tag("text")] | Annotated[OtherBlock, Tag("other")], Discriminator(block_kind)
]
UserBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[OtherBlock, Tag("other")],
    Discriminator(block_kind),
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[OtherBlock, Tag("other")],
    Discriminator(block_kind),
]


class UserTurn(Part):
    """A user's turn, or that of somebody whose role this server does not know."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | Annotated[list[UserBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


class AssistantTurn(Part):
    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


class SystemTurn(Part):
    """An instruction in mid-conversation, which newer clients send."""

    role: Literal["system"]
    content: str | Annotated[list[ResultBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


def turn_kind(turn: object) -> str:
    """By which model a turn is read."""
    role = cast("dict[str, object]", turn).get("role") if isinstance(turn, dict) else getattr(turn, "role", None)
    return role if role in ("assistant", "system") else "user"


Turn = Annotated[
    Annotated[UserTurn, Tag("user")]
    | Annotated[AssistantTurn, Tag("assistant")]
    | Annotated[SystemTurn, Tag("system")],
    Discriminator(turn_kind),
]


class MessagesTool(Part):
    """A function of the client's. The tools that Anthropic hosts or has trained its models on have no schema."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None

    @model_validator(mode="after")
    def _finite(self) -> MessagesTool:
        if not is_finite(self.input_schema):
            raise ValueError("the schema has a number that is not finite")
        return self

    def to_engine(self) -> ToolSpec:
        """The same function as OpenAI has it."""
        function = FunctionSpec(
            name=self.name, description=self.description or "", parameters=self.input_schema, strict=self.strict
        )
        return ToolSpec(function=function)


class MessagesToolChoice(Part):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> MessagesToolChoice:
        if self.type == "tool" and self.name is None:
            raise ValueError("a tool_choice of type tool needs the tool's name")
        return self

    def to_engine(self) -> ToolChoice:
        """The same choice as OpenAI has it."""
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
    """Whether the model is to think before it answers. How much (`budget_tokens`) is up to the model."""

    type: str

    def to_engine(self) -> bool | None:
        """True or False where the client decides, None where it leaves that to the model."""
        return {"enabled": True, "disabled": False}.get(self.type)


class PromptBody(Body):
    """`POST /v1/messages/count_tokens`: everything that makes the prompt."""

    model: RequestedModel
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: str | Annotated[list[TextBlock], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tools: Annotated[list[MessagesTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: MessagesToolChoice | None = None
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
            # What a model must not call it is not shown: it would write the call into its answer.
            tools=() if choice and choice.type == "none" else tuple(tool.to_engine() for tool in self.tools or ()),
            tool_choice=choice.to_engine() if choice else "auto",
            parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
            thinking=self.thinking and self.thinking.to_engine(),
        )


class MessagesBody(PromptBody):
    """`POST /v1/messages`.

    `effort` and the like are ignored, and logged: how much a local model thinks is up to it.
    """

    max_tokens: MaxTokens
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1), AfterValidator(steady_temperature)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None  # what `output_config.format` was called at first
    thread: JsonValue = None  # a conversation that the server is to hold
    swarm: SwarmOptions | None = None

    @property
    def options(self) -> VoteOptions:
        """How to vote. Raises BadRequest where the rest of the body contradicts it."""
        return options_of(self.swarm, stream=self.stream)

    def to_request(self, model: str) -> GenerationRequest:
        """The request to `model`, with the sampling and the form that the body asks for. Raises ThreadsUnsupported."""
        if self.thread is not None:
            raise ThreadsUnsupported
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
                    **self.formed(self._response_format(), "output_config.format"),
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


Blocks = Sequence[UserBlock | AssistantBlock]


def engine_messages(system: str | Sequence[TextBlock] | None, turns: Sequence[Turn]) -> tuple[JsonObject, ...]:
    """The conversation as OpenAI's messages. Turns of one role in a row are one turn, as Anthropic has it."""
    messages: list[JsonObject] = []
    leading = list(takewhile(lambda turn: isinstance(turn, SystemTurn), turns))
    instructed = [system_text(turn.content) for turn in leading if isinstance(turn, SystemTurn)]
    instructions = "\n".join(filter(None, (system_text(system or ""), *instructed)))
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for answered, group in groupby(turns[len(leading) :], key=lambda turn: turn.role == "assistant"):
        if answered:
            messages.append(_assistant([block for turn in group for block in _blocks(turn)]))
        else:
            messages.extend(_asked(group))
    return tuple(messages)


def system_text(system: str | Sequence[ResultBlock]) -> str:
    """The instructions as one text, without ATTRIBUTION's line."""
    blocks = [system] if isinstance(system, str) else _texts(system)
    return "\n".join(text for text in map(_without_attribution, blocks) if text)


def _without_attribution(text: str) -> str:
    return text.partition("\n")[2].lstrip("\n") if text.startswith(ATTRIBUTION) else text


def _blocks(turn: Turn) -> Blocks:
    if isinstance(turn.content, str):
        return (TextBlock(type="text", text=turn.content),)
    return turn.content


def _texts(blocks: Iterable[UserBlock | AssistantBlock | ResultBlock]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, dict):
            yield block["text"]
        elif isinstance(block, OtherBlock) and block.type == "image":
            yield left_out("image", "only users and tools show images")
        elif isinstance(block, OtherBlock) and block.type not in UNUSED:
            yield block.words or left_out(kind_shown(block.type), BLIND)


def _contents(blocks: Iterable[UserBlock | AssistantBlock | ResultBlock]) -> Iterator[JsonValue]:
    """What blocks say, images as such."""
    for block in blocks:
        if isinstance(block, OtherBlock) and block.type == "image":
            yield [image_of(block.url)]
        else:
            yield from _texts([block])


def _asked(turns: Iterable[Turn]) -> list[JsonObject]:
    """Tool results first: templates want them right after the calls. Then what is said, if anything, in one turn.

    An instruction of the system's stands before the user's own words (`reminded`).
    """
    results: list[JsonObject] = []
    said: list[JsonObject] = []
    for turn in turns:
        if isinstance(turn, SystemTurn):
            said.append({"role": "system", "content": system_text(turn.content)})
            continue
        blocks = _blocks(turn)
        results += [_result(block) for block in blocks if isinstance(block, ToolResultBlock)]
        if contents := list(_contents(block for block in blocks if not isinstance(block, ToolResultBlock))):
            said.append({"role": "user", "content": joined(contents, "\n")})
    if results and not said:
        return results
    return [*results, {"role": "user", "content": joined((each["content"] for each in reminded(said)), "\n")}]


def _result(block: ToolResultBlock) -> JsonObject:
    content = block.content or ""
    said = content if isinstance(content, str) else joined(_contents(content), "\n")
    return {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": joined([FAILED, said]) if block.is_error else said,
    }


def _assistant(blocks: Blocks) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": "".join(_texts(blocks))}
    reasoning = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    if reasoning:
        message["reasoning_content"] = reasoning
    calls: list[JsonValue] = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: ToolUseBlock) -> JsonObject:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}
