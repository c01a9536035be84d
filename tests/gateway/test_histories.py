"""A history never ends a conversation: every turn, block and item that the official packages can send is taken.

The packages' own types say what that is, so what they add tomorrow is tested tomorrow. What this server cannot read is
text as far as it has any, a note, or left out.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import typing_extensions
from anthropic.types import ContentBlockParam
from anthropic.types.beta import BetaContentBlockParam
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam
from openai.types.responses import ResponseInputItemParam
from pydantic import BaseModel

from swarm.gateway.anthropic.bodies import MessagesBody
from swarm.gateway.http.bodies import parse_body
from swarm.gateway.openai.bodies import ChatCompletionBody
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.generation import JsonObject

UNIONS = (typing.Union, types.UnionType)
WRAPPERS = (typing.Annotated, typing_extensions.Required, typing_extensions.NotRequired)
MAX_LEVELS = 6
USER = {"role": "user", "content": "hello"}


def members(union: Any) -> Iterator[Any]:
    """The types that a union is of, those of unions in it, too."""
    if get_origin(union) in WRAPPERS:
        yield from members(get_args(union)[0])
    elif get_origin(union) in UNIONS:
        for member in get_args(union):
            yield from members(member)
    else:
        yield union


def fields_of(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return typing_extensions.get_type_hints(kind, include_extras=True)


def is_required(kind: Any, name: str, hint: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[name].is_required()
    return get_origin(hint) is typing_extensions.Required


def sample(hint: Any, full: bool, level: int = 0) -> Any:
    """A value of that type; `full`: with everything that may be left out."""
    hint = next((member for member in members(hint) if member is not type(None)), None)
    origin = get_origin(hint)
    if origin is Literal:
        return get_args(hint)[0]
    if origin in (list, Iterable, typing.Sequence) or (isinstance(origin, type) and issubclass(origin, Iterable)):
        if origin is dict:
            return {"key": sample(get_args(hint)[1], full, level + 1)} if level < MAX_LEVELS else {}
        return [sample(get_args(hint)[0], full, level + 1)] if level < MAX_LEVELS else []
    if hint in (str, int, float, bool):
        return {str: "some text", int: 1, float: 0.5, bool: True}[hint]
    if hint is None or hint in (object, Any):
        return None if hint is None else "some text"
    if not isinstance(hint, type) or not hasattr(hint, "__annotations__"):
        return "some text"
    wanted = {
        name: inner for name, inner in fields_of(hint).items() if (full and level < 3) or is_required(hint, name, inner)
    }
    return {name: sample(inner, full, level + 1) for name, inner in wanted.items()}


def samples(union: Any) -> list[Any]:
    """One of each member, with what it needs and with all that it may have."""
    found: dict[str, Any] = {}
    for member in members(union):
        for full in (False, True):
            made = sample(member, full)
            found.setdefault(f"{member.__name__} {json.dumps(made)}", made)
    return [pytest.param(made, id=f"{name.split()[0]}-{number}") for number, (name, made) in enumerate(found.items())]


def turns(body: type[Any], **fields: Any) -> list[JsonObject]:
    raw = json.dumps({"model": "m", "max_tokens": 9, **fields}).encode()
    parsed = parse_body(raw, body)
    request = parsed.to_request("m") if isinstance(parsed, MessagesBody) else parsed.to_request()
    return list(request.messages or ())


@pytest.mark.parametrize("message", samples(ChatCompletionMessageParam))
def test_every_message_of_a_chat_is_taken(message: Any) -> None:
    first, made, last = turns(ChatCompletionBody, messages=[USER, message, USER])
    assert (first, last) == (USER, USER)
    assert made["role"] in ("system", "user", "assistant", "tool")


@pytest.mark.parametrize("part", samples(ChatCompletionContentPartParam))
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_every_part_of_a_message_is_taken(part: Any, role: str) -> None:
    (made,) = turns(ChatCompletionBody, messages=[{"role": role, "content": [part], "tool_call_id": "x"}])
    shown = part["type"] == "image_url" and role in ("user", "tool")
    text = [{"type": "image_url", "image_url": {"url": "some text"}}] if shown else "some text"
    assert made["content"] == text or "left out" in str(made["content"])


def is_reference(item: Any) -> bool:
    """No history, but a question for what this server should have kept: that is refused, with the remedy."""
    return item.get("type") in (None, "item_reference") and "role" not in item


@pytest.mark.parametrize("item", [each for each in samples(ResponseInputItemParam) if not is_reference(each.values[0])])
def test_every_item_of_a_response_is_taken(item: Any) -> None:
    assert turns(ResponsesBody, input=[USER, item, USER])[-1] == USER


def placed(block: Any) -> Any:
    """A conversation with `block` where Anthropic has such a one: results of the client's own tools are the user's."""
    if block["type"] in ("tool_result", "image", "document", "search_result", "container_upload"):
        return [USER, {"role": "assistant", "content": "so"}, {"role": "user", "content": [block]}]
    return [USER, {"role": "assistant", "content": [{"type": "text", "text": "so"}, block]}, USER]


@pytest.mark.parametrize("block", [*samples(ContentBlockParam), *samples(BetaContentBlockParam)])
def test_every_block_of_a_message_is_taken(block: Any) -> None:
    made = turns(MessagesBody, messages=placed(block))
    assert made[0] == USER
    assert str(made[1]["content"]).startswith("so")


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "compaction", "content": "They spoke of Paris."}, "They spoke of Paris."),
        (
            {"type": "advisor_tool_result", "tool_use_id": "x", "content": {"type": "advisor_result", "text": "Go."}},
            "Go.",
        ),
        ({"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}, ""),
        ({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}, ""),
        ({"type": "a_block_of_the_future", "text": "Hm."}, "Hm."),
        (
            {"type": "a_block_of_the_future", "data": "x"},
            "[a_block_of_the_future left out: this model reads text only]",
        ),
    ],
    ids=str,
)
def test_what_is_unknown_in_a_turn_is_text_or_left_out(block: Any, said: str) -> None:
    _, made, _ = turns(MessagesBody, messages=[USER, {"role": "assistant", "content": [block]}, USER])
    assert made == {"role": "assistant", "content": said}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "D"}},
            "T\nD",
        ),
        (
            {"type": "document", "source": {"type": "base64", "data": "AA=="}},
            "[document left out: this model reads text only]",
        ),
        ({"type": "search_result", "title": "T", "source": "u", "content": [{"type": "text", "text": "D"}]}, "T\nD"),
    ],
    ids=str,
)
def test_documents_that_are_text_are_read(block: Any, said: str) -> None:
    assert turns(MessagesBody, messages=[{"role": "user", "content": [block]}]) == [{"role": "user", "content": said}]


def test_a_history_from_before_there_were_tools() -> None:
    _, call, result = turns(
        ChatCompletionBody,
        messages=[
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
            {"role": "function", "name": "f", "content": "2"},
        ],
    )
    (made,) = typing.cast("list[Any]", call["tool_calls"])
    assert made["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", made["id"], "2")


@pytest.mark.parametrize(
    ("call", "function"),
    [
        (
            {"id": "a", "type": "custom", "custom": {"name": "c", "input": "ls"}},
            {"name": "c", "arguments": '{"input": "ls"}'},
        ),
        ({"id": "a", "type": "retrieval", "files": [1]}, {"name": "retrieval", "arguments": '{"files": [1]}'}),
        ({"id": "a", "function": {"name": "f", "arguments": {"b": 1}}}, {"name": "f", "arguments": '{"b": 1}'}),
        ({"id": "a", "function": {"name": "f", "arguments": None}}, {"name": "f", "arguments": "{}"}),
    ],
    ids=str,
)
def test_calls_of_every_type_are_calls_of_functions(call: Any, function: Any) -> None:
    _, made = turns(ChatCompletionBody, messages=[USER, {"role": "assistant", "tool_calls": [call]}])
    assert made["tool_calls"] == [{"id": "a", "type": "function", "function": function}]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No."),
        ({"role": "user", "content": [{"type": "input_text", "text": "a"}]}, "a"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "[hologram left out: this model reads text only]"),
        ({"role": "critic", "content": "a"}, "a"),
        ({"role": "tool", "tool_call_id": "x", "content": None}, ""),
    ],
    ids=str,
)
def test_what_a_message_may_say(message: Any, said: str) -> None:
    _, made = turns(ChatCompletionBody, messages=[USER, message])
    assert made["content"] == said
