"""The turns of a conversation as clients send them, and as chat templates take them."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import AliasChoices, Discriminator, Field, JsonValue, model_validator
from typing_extensions import TypedDict

from swarm.gateway.http.bodies import Part
from swarm.gateway.http.compact_json import is_finite
from swarm.generation import JsonObject

MAX_PARTS = 1024  # of one message; clients send a handful
MAX_TOOL_CALLS = 256  # in one turn
MAX_ARGUMENT_LEVELS = 64  # of a call's arguments, as of its schema: templates walk over them


class TextPart(TypedDict):
    """A plain dictionary: hundreds of thousands of them must parse without the garbage collector waking up."""

    type: Literal["text"]
    text: str


class UnreadPart(TypedDict):
    """What no model here can look at. Refusing it would end every later turn of that conversation too."""

    type: Literal["image_url", "input_audio", "file"]


ContentPart = Annotated[TextPart | UnreadPart, Discriminator("type")]


class MessageFunction(Part):
    name: str
    arguments: str = "{}"


class MessageToolCall(Part):
    id: str = ""
    type: Literal["function"] = "function"
    function: MessageFunction

    def to_engine(self) -> JsonObject:
        function: JsonObject = {"name": self.function.name, "arguments": as_object(self.function.arguments)}
        return {"id": self.id, "type": "function", "function": function}


class Message(Part):
    """One turn. Assistant turns may have tool calls and no content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: Annotated[str | None, Field(validation_alias=AliasChoices("reasoning_content", "reasoning"))] = (
        None
    )

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a {self.role} message needs content")
        return self

    def to_engine(self) -> JsonObject:
        """The turn as chat templates know it: `developer` is a system turn, parts are one text."""
        content = self.content
        if isinstance(content, list):
            content = "".join(map(text_of, content))
        wire: JsonObject = {"role": "system" if self.role == "developer" else self.role, "content": content or ""}
        if self.tool_calls:
            wire["tool_calls"] = [call.to_engine() for call in self.tool_calls]
        for field in ("name", "tool_call_id", "reasoning_content"):
            value: str | None = getattr(self, field)
            if value is not None:
                wire[field] = value
        return wire


def text_of(part: ContentPart) -> str:
    """A part as text."""
    if part["type"] == "text":
        return part["text"]
    return left_out(part["type"].removeprefix("input_").removesuffix("_url"))


def left_out(kind: str) -> str:
    """The note that content leaves which is no text: neither does one picture make every later turn of a conversation
    fail, nor does an answer pass for one about it.
    """
    return f"[{kind} left out: this model reads text only]"


def as_object(arguments: str) -> str:
    """The JSON text of a call's arguments; what llama.cpp would not read as a JSON object is wrapped in one.

    Models make malformed calls, clients send them back, and llama.cpp (and templates that walk over the arguments)
    would fail on them.
    """
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
