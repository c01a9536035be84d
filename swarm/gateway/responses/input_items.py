"""The items of a Responses input: what each may be, and the turns of a conversation that they make."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

from pydantic import ConfigDict, Discriminator, Field, Tag, field_validator
from typing_extensions import TypedDict

from swarm.gateway.http.bodies import Part
from swarm.gateway.openai.bodies import (
    MAX_PARTS,
    MAX_TOOL_CALLS,
    Message,
    MessageFunction,
    MessageToolCall,
    left_out,
)
from swarm.generation import MAX_MESSAGES, JsonObject

MAX_ITEMS = MAX_MESSAGES - 1  # the instructions are one message more

# Records of tools that other servers run. Clients send a whole history to whoever answers next: it must not fail here.
_FOREIGN = frozenset(
    {
        "additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction",
        "compaction_summary", "compaction_trigger", "computer_call", "computer_call_output", "file_search_call",
        "ghost_snapshot", "image_generation_call", "local_shell_call", "local_shell_call_output",
        "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output",
        "shell_call", "shell_call_output", "tool_search_call", "tool_search_output", "web_search_call",
    }
)  # fmt: skip
_READ = ("message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")


class TextContent(TypedDict):
    """A plain dictionary, as in chat: there may be hundreds of thousands of them."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str


class RefusalContent(TypedDict):
    type: Literal["refusal"]
    refusal: str


class UnreadContent(TypedDict):
    """What no model here can look at."""

    type: Literal["input_image", "input_file", "input_audio"]


ItemContent = Annotated[TextContent | RefusalContent | UnreadContent, Discriminator("type")]
Contents = str | Annotated[list[ItemContent], Field(max_length=MAX_PARTS, fail_fast=True)]


class MessageItem(Part):
    """One turn in words; clients may leave its type out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
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
    arguments: str = "{}"


class CustomCallItem(Part):
    """A call of a tool that takes free text."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str = ""

    @property
    def arguments(self) -> str:
        """The free text as the arguments of a function: {"input": text}."""
        return json.dumps({"input": self.input}, ensure_ascii=False)


class CallOutputItem(Part):
    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str | None = None
    output: Contents


class OtherItem(Part):
    """An item that no model reads: left out where clients send it routinely, else refused."""

    # An object with an id and neither type nor role is a reference, whose type may be left out.
    model_config = ConfigDict(validate_default=True)
    type: str = "item_reference"

    @field_validator("type")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "item_reference":
            raise ValueError(
                "this server keeps no earlier items to refer to: send the item itself "
                "(clients do so when told to store nothing, `store: false`)"
            )
        if name not in _FOREIGN:
            raise ValueError(f"unknown type of item; this server reads {', '.join(_READ)}")
        return name


def item_kind(item: object) -> str:
    """Which model an item of the input is parsed by."""
    if not isinstance(item, dict):
        return "message"
    fields = cast("dict[str, object]", item)
    kind = fields.get("type")
    if kind is None:
        return "other" if "id" in fields and "role" not in fields else "message"
    return kind if isinstance(kind, str) and kind in _READ else "other"


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[CustomCallItem, Tag("custom_tool_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[CallOutputItem, Tag("custom_tool_call_output")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(item_kind),
]


def text_of(content: str | list[ItemContent]) -> str:
    """Content as one text. What is no text leaves a note, so that nobody takes silence for an answer about it."""
    if isinstance(content, str):
        return content
    return "".join(_part_text(part) for part in content)


def _part_text(part: ItemContent) -> str:
    match part["type"]:
        case "refusal":
            return part["refusal"]
        case "input_image" | "input_file" | "input_audio" as kind:
            return left_out(kind.removeprefix("input_"))
        case _:
            return part["text"]


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
                function = MessageFunction(name=item.name, arguments=item.arguments)
                self._calls.append(MessageToolCall(id=item.call_id, function=function))
            case MessageItem():
                self.close()
                self.closed.append(Message(role=item.role, content=text_of(item.content)))
            case CallOutputItem():
                self.close()
                self.closed.append(Message(role="tool", content=text_of(item.output), tool_call_id=item.call_id))
            case OtherItem():
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
