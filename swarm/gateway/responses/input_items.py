"""The items of a Responses input: what each may be, and the turns of a conversation that they make."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal, NotRequired, cast

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, field_validator
from typing_extensions import TypedDict

from swarm.gateway.http.bodies import Part
from swarm.gateway.openai.bodies import (
    IMAGES,
    MAX_PARTS,
    MAX_TOOL_CALLS,
    ImagePart,
    Message,
    MessageFunction,
    MessageToolCall,
    image_of,
    kind_shown,
    readable_text,
)
from swarm.gateway.openai.tools import as_input, flat_name
from swarm.gateway.responses.tools import ResponsesTool, ResponsesTools
from swarm.generation import MAX_MESSAGES, JsonObject
from swarm.images import BLIND, joined, left_out

MAX_ITEMS = MAX_MESSAGES - 1  # the instructions are one message more

# Read by models of their own; every other item is read as far as it has a role and text.
_READ = (
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "additional_tools",
)
# Records of tools that other servers run, and what only their models can read: left out, whatever text they have.
_FOREIGN = frozenset(
    {
        "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction",
        "compaction_summary", "compaction_trigger", "computer_call", "computer_call_output", "configuration_update",
        "file_search_call", "ghost_snapshot", "image_generation_call", "local_shell_call", "local_shell_call_output",
        "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output",
        "shell_call", "shell_call_output", "tool_search_call", "tool_search_output", "web_search_call",
    }
)  # fmt: skip


class TextContent(TypedDict):
    """A plain dictionary, as in chat: there may be hundreds of thousands of them."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


class RefusalContent(TypedDict):
    type: Literal["refusal"]
    refusal: str


class OtherContent(TypedDict):
    """What this server does not know, or no model here can look at: read as far as it is text."""

    type: str
    text: NotRequired[JsonValue]
    content: NotRequired[JsonValue]


_TEXTS = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})


def content_kind(part: object) -> str:
    """By which of the four a part is read."""
    kind = cast("dict[str, object]", part).get("type") if isinstance(part, dict) else None
    if kind == "refusal":
        return "refusal"
    if kind in IMAGES:
        return "image"
    return "text" if isinstance(kind, str) and kind in _TEXTS else "other"


ItemContent = Annotated[
    Annotated[TextContent, Tag("text")]
    | Annotated[RefusalContent, Tag("refusal")]
    | Annotated[ImagePart, Tag("image")]
    | Annotated[OtherContent, Tag("other")],
    Discriminator(content_kind),
]
Contents = str | Annotated[list[ItemContent], Field(max_length=MAX_PARTS, fail_fast=True)]


class MessageItem(Part):
    """One turn in words; clients may leave its type out."""

    type: str = "message"
    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Contents


class ReasoningItem(Part):
    """What an assistant thought before its next item. Encrypted thoughts are another server's and are not read."""

    type: Literal["reasoning"]
    summary: Annotated[list[ItemContent], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    content: Annotated[list[ItemContent], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None

    @property
    def text(self) -> str:
        """What was thought; the summary where only that came back."""
        return text_of(self.content or self.summary or "")


class FunctionCallItem(Part):
    type: Literal["function_call"]
    call_id: str
    name: str
    namespace: str | None = None
    arguments: JsonValue = "{}"


class CustomCallItem(Part):
    """A call of a tool that takes free text."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    namespace: str | None = None
    input: str = ""

    @property
    def arguments(self) -> str:
        """The free text as the arguments of the function that the tool is here."""
        return as_input(self.input)


class CallOutputItem(Part):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str | None = None
    output: Contents | JsonObject | None


class ReferenceItem(Part):
    """An object with an id and neither type nor role is a reference, whose type may be left out."""

    model_config = ConfigDict(validate_default=True)
    type: str = "item_reference"

    @field_validator("type")
    @classmethod
    def _refused(cls, name: str) -> str:
        raise ValueError(
            "this server keeps no earlier items to refer to: send the item itself "
            "(clients do so when told to store nothing, `store: false`)"
        )


class AdditionalToolsItem(Part):
    """More tools, offered in mid-conversation."""

    type: Literal["additional_tools"]
    tools: ResponsesTools


class OtherItem(Part):
    """An item that this server does not know: a history never ends a conversation, so its text is read, if any."""

    model_config = ConfigDict(extra="allow")
    type: str
    role: str | None = None

    @property
    def text(self) -> str:
        """What a model can read of it."""
        return "" if self.type in _FOREIGN else readable_text(self.model_extra)


def item_kind(item: object) -> str:
    """Which model an item of the input is parsed by."""
    if not isinstance(item, dict):
        return "message"
    fields = cast("dict[str, object]", item)
    kind = fields.get("type")
    if kind is None:
        return "reference" if "id" in fields and "role" not in fields else "message"
    if kind == "item_reference":
        return "reference"
    return kind if isinstance(kind, str) and kind in _READ else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[CustomCallItem, Tag("custom_tool_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[CallOutputItem, Tag("custom_tool_call_output")]
    | Annotated[AdditionalToolsItem, Tag("additional_tools")]
    | Annotated[ReferenceItem, Tag("reference")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(item_kind),
]


def is_unread(item: InputItem) -> bool:
    """Whether there is nothing in it that an answer could follow on."""
    return isinstance(item, ReasoningItem | AdditionalToolsItem) or (isinstance(item, OtherItem) and not item.text)


def added_tools(given: str | list[InputItem]) -> list[ResponsesTool]:
    """The tools that came with the input."""
    items = [] if isinstance(given, str) else given
    return [tool for item in items if isinstance(item, AdditionalToolsItem) for tool in item.tools]


def text_of(content: str | list[ItemContent]) -> str:
    """Content as one text. What is no text leaves a note, so that nobody takes silence for an answer about it."""
    if isinstance(content, str):
        return content
    return "".join(_part_text(part) for part in content)


def content_of(content: str | list[ItemContent]) -> str | list[ItemContent]:
    """Content as one text; with images as parts, in which all but those is text."""
    if isinstance(content, str):
        return content
    said = joined(
        [image_of(cast("ImagePart", part).get("image_url"))] if content_kind(part) == "image" else _part_text(part)
        for part in content
    )
    return cast("str | list[ItemContent]", said)


def _part_text(part: ItemContent) -> str:
    match content_kind(part):
        case "text":
            return cast("TextContent", part)["text"]
        case "refusal":
            return cast("RefusalContent", part)["refusal"]
        case "image":
            return left_out("image", "only users and tools show images")
        case _:
            return readable_text(cast("JsonObject", part)) or left_out(kind_shown(part["type"]), BLIND)


def _output(output: Contents | JsonObject | None) -> str | list[ItemContent]:
    """A tool's result as content: JSON where a client sent an object."""
    if isinstance(output, dict):
        return json.dumps(output, ensure_ascii=False)
    return content_of(output or "")


def messages_of(instructions: str | None, given: str | list[InputItem]) -> tuple[JsonObject, ...]:
    """The conversation as chat templates take it."""
    turns = _Turns()
    for item in [MessageItem(role="user", content=given)] if isinstance(given, str) else given:
        turns.add(item)
    turns.close()
    return tuple(message.to_engine() for message in with_one_system_turn(instructions, turns.closed))


def with_one_system_turn(instructions: str | None, turns: list[Message]) -> list[Message]:
    """`turns`, with the instructions and all system turns at their beginning as one: many templates take no more."""
    leading = 0
    while leading < len(turns) and turns[leading].role in ("system", "developer"):
        leading += 1
    texts = [instructions or "", *(str(turn.content) for turn in turns[:leading])]
    system = "\n\n".join(text for text in texts if text)
    return [Message(role="system", content=system), *turns[leading:]] if system else turns[leading:]


def _message(role: str, content: str | list[ItemContent], tool_call_id: str | None = None) -> Message:
    return Message.model_validate({"role": role, "content": content, "tool_call_id": tool_call_id})


@dataclass(slots=True)
class _Turns:
    """Puts an assistant's thoughts, words and calls, which are items of their own, together into turns."""

    closed: list[Message] = field(default_factory=list[Message])
    _reasoning: str = ""
    _text: str | None = None
    _calls: list[MessageToolCall] = field(default_factory=list[MessageToolCall])

    def add(self, item: InputItem) -> None:
        match item:
            case MessageItem(role="assistant"):
                self._begin_if_spoken()
                self._text = text_of(item.content)
            case ReasoningItem():
                self._begin_if_spoken()
                self._reasoning += item.text
            case FunctionCallItem() | CustomCallItem():
                if len(self._calls) == MAX_TOOL_CALLS:
                    self.close()
                function = MessageFunction(name=flat_name(item.namespace, item.name), arguments=item.arguments)
                self._calls.append(MessageToolCall(id=item.call_id, function=function))
            case MessageItem():
                self.close()
                content = text_of(item.content) if item.role in ("system", "developer") else content_of(item.content)
                self.closed.append(_message(item.role, content))
            case CallOutputItem():
                self.close()
                self.closed.append(_message("tool", _output(item.output), item.call_id))
            case OtherItem() if item.text:
                self.add(MessageItem(role=item.role or "user", content=item.text))
            case _:
                pass

    def _begin_if_spoken(self) -> None:
        if self._text is not None or self._calls:
            self.close()

    def close(self) -> None:
        """End the assistant's turn, if there is one; a thought that led to nothing is none."""
        if self._text is not None or self._calls:
            self.closed.append(
                Message(
                    role="assistant",
                    content=self._text,
                    tool_calls=self._calls or None,
                    reasoning_content=self._reasoning or None,
                )
            )
        self._reasoning, self._text, self._calls = "", None, []
