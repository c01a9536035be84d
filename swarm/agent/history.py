"""A conversation as another provider's model takes it: thoughts, ids of calls and images. Pure.

What is kept of a conversation stays as each provider sent it. It is brought to a model's form for each request, so that
whoever thought something gets its own thoughts back, signed, when the conversation returns to it.

* **Thoughts** go back to whoever can read them as thoughts; everybody else gets them as text in `[Reasoning]` marks.
* **Ids of calls** go back unchanged to whoever gave them, if there is no `|` in them. Others get an id of letters,
  digits, `_` and `-`, at most `MAX_ID_CHARS` long: the same where it already is one, else `call_` and the head of its
  SHA-256. No two calls of a conversation share one, and each result goes with its call.
* **Images** become a note where the model cannot see them.

Before all of it, calls without a result get one that says so, and results without a call are dropped: that is
pydantic-ai's own `repair_messages`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    RetryPromptPart,  # pyright: ignore[reportDeprecated]  # kept in older conversations
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

MAX_ID_CHARS: Final = 40  # OpenAI's Chat Completions take no more; Anthropic and Responses take 64
SAFE_ID: Final = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_ID_CHARS}}}")
JOINT: Final = "|"  # pydantic-ai's, between a call's id and its item's: it would send two halves
HASH_CHARS: Final = 24  # of SHA-256, in hexadecimal: 96 bits
REASONING: Final = ("[Reasoning]", "[/Reasoning]")

Keeps = Callable[[ModelResponse, ThinkingPart], bool]
"""Whether a model can read a part of a response as a thought of its own."""


def as_taken(
    messages: Sequence[ModelMessage], system: str, keeps: Keeps, blind: str | None = None
) -> list[ModelMessage]:
    """`messages` as the model of the provider `system` takes them; `blind` is its name where it cannot see images."""
    taken = with_thoughts_told(messages, keeps)
    taken = with_fitting_ids(taken, system)
    return taken if blind is None else without_images(taken, blind)


def with_thoughts_told(messages: Sequence[ModelMessage], keeps: Keeps) -> list[ModelMessage]:
    """Thoughts that are not kept as text, in the place where they were thought."""

    def told(response: ModelResponse, part: ModelResponsePart) -> ModelResponsePart | None:
        if not isinstance(part, ThinkingPart) or keeps(response, part):
            return part
        thought = part.content.strip()  # none where it came encrypted
        return TextPart(f"{REASONING[0]}\n{thought}\n{REASONING[1]}") if thought else None

    return [
        _with_parts(message, [told(message, part) for part in message.parts])
        if isinstance(message, ModelResponse)
        else message
        for message in messages
    ]


def with_fitting_ids(messages: Sequence[ModelMessage], system: str) -> list[ModelMessage]:
    """Ids of calls that every provider takes, but for those that `system` gave itself.

    Deterministic, and what follows changes no id before it: a provider's cache of the prompt stays good.
    """
    used: set[str] = set()
    current: dict[str, str] = {}  # of calls, the latest of an id: some providers number each turn's anew
    fitted: list[ModelMessage] = []
    for message in messages:
        parts: list[ModelRequestPart | ModelResponsePart] = []
        for part in message.parts:
            if isinstance(part, ToolCallPart) and isinstance(message, ModelResponse):
                ident = _fitting_id(part.tool_call_id, used, own=message.provider_name == system)
                used.add(ident)
                current[part.tool_call_id] = ident
                parts.append(_with_id(part, ident))
            elif isinstance(part, ToolReturnPart | RetryPromptPart):  # pyright: ignore[reportDeprecated]
                parts.append(_with_id(part, current.get(part.tool_call_id, part.tool_call_id)))
            else:
                parts.append(part)
        fitted.append(_with_parts(message, parts))
    return fitted


def _fitting_id(ident: str, used: set[str], own: bool) -> str:
    keeps = own and JOINT not in ident
    if ident not in used and (keeps or SAFE_ID.fullmatch(ident)):
        return ident
    found, again = _hashed(ident), 0
    while found in used:
        again += 1
        found = _hashed(f"{again}:{ident}")
    return found


def _hashed(ident: str) -> str:
    return f"call_{hashlib.sha256(ident.encode(errors='surrogatepass')).hexdigest()[:HASH_CHARS]}"


def without_images(messages: Sequence[ModelMessage], model: str) -> list[ModelMessage]:
    """Images as a note that says what was left out, and that `model` cannot see it."""

    def seen(part: ModelRequestPart) -> ModelRequestPart:
        if isinstance(part, UserPromptPart) and not isinstance(part.content, str):
            return replace(part, content=[_noted(content, model) for content in part.content])
        if isinstance(part, ToolReturnPart):
            return _result_without_images(part, model)
        return part

    return [
        _with_parts(message, [seen(part) for part in message.parts]) if isinstance(message, ModelRequest) else message
        for message in messages
    ]


def _result_without_images(part: ToolReturnPart, model: str) -> ToolReturnPart:
    """A result of a tool that is an image, or a list with some."""
    content: object = part.content
    if isinstance(content, ImageUrl | BinaryContent):
        return replace(part, content=_noted(content, model))
    if isinstance(content, list | tuple):
        items: list[object] = [*content]  # pyright: ignore[reportUnknownArgumentType]
        if any(isinstance(item, ImageUrl | BinaryContent) for item in items):
            noted = [_noted(item, model) if isinstance(item, ImageUrl | BinaryContent) else item for item in items]
            return replace(part, content=noted)
    return part


def _noted(content: UserContent, model: str) -> UserContent:
    if isinstance(content, BinaryContent) and content.is_image:
        what = f"{content.media_type}, {len(content.data):,} bytes"
    elif isinstance(content, ImageUrl):
        what = "at an address"
    else:
        return content
    return f"[An image ({what}) was left out here: {model} cannot see images]"


def _with_id(part: Any, ident: str) -> Any:
    """A call or a result with that id; the part itself where it has it: an unchanged history stays the same objects."""
    return part if part.tool_call_id == ident else replace(part, tool_call_id=ident)


def _with_parts(message: ModelMessage, parts: Sequence[object]) -> ModelMessage:
    """The message with other parts, the message itself where they are the same; None stands for one that is gone."""
    kept = [part for part in parts if part is not None]
    if len(kept) == len(message.parts) and all(new is old for new, old in zip(kept, message.parts, strict=True)):
        return message
    return replace(message, parts=kept)  # pyright: ignore[reportArgumentType]
