"""Anthropic's conversations as chat templates take them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.gateway.anthropic.bodies import MessagesBody
from swarm.gateway.http.bodies import parse_body
from swarm.generation import NamedFunction, NamedToolChoice


def body(*turns: Any, **fields: Any) -> MessagesBody:
    sent = {"model": "m", "max_tokens": 9, "messages": turns or [said("user", "hello")], **fields}
    return parse_body(json.dumps(sent).encode(), MessagesBody)


def said(role: str, *content: Any) -> dict[str, Any]:
    """A turn of one string, or of blocks."""
    return {"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result(call: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content, **fields}


def image(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def part(words: str) -> dict[str, Any]:
    """A part of a turn as engines have it."""
    return {"type": "text", "text": words}


def seen(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": "é"}}
ENGINE_CALL = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([said("user", "a")], [{"role": "user", "content": "a"}]),
        ([said("user", text("a"), text("b"))], [{"role": "user", "content": "a\nb"}]),
        (
            [said("user", text("a"), image("x"), text("b")), said("user", "c")],
            [{"role": "user", "content": [part("a\n"), seen("data:image/png;base64,x"), part("\nb\nc")]}],
        ),
        (
            [said("user", result("a", [{"type": "image", "source": {"type": "url", "url": "http://x"}}]))],
            [{"role": "tool", "tool_call_id": "a", "content": [seen("http://x")]}],
        ),
        (
            [said("user", result("a", [{"type": "image"}], is_error=True))],
            [{"role": "tool", "tool_call_id": "a", "content": [part("Error: "), seen("")]}],
        ),
        ([said("user", "a"), said("user", "b")], [{"role": "user", "content": "a\nb"}]),
        (
            [said("user", "a"), said("assistant", text("b"), text("c"))],
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}],
        ),
        (
            [said("assistant", {"type": "thinking", "thinking": "hm", "signature": ""}, text("b"), CALL)],
            [{"role": "assistant", "content": "b", "reasoning_content": "hm", "tool_calls": [ENGINE_CALL]}],
        ),
        (
            [said("assistant", CALL), said("user", text("and now?"), result("toolu_1", "5"))],
            [
                {"role": "assistant", "content": "", "tool_calls": [ENGINE_CALL]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "5"},
                {"role": "user", "content": "and now?"},
            ],
        ),
        (
            [said("user", result("a", [text("1"), text("2")])), said("user", result("b", "no", is_error=True))],
            [
                {"role": "tool", "tool_call_id": "a", "content": "1\n2"},
                {"role": "tool", "tool_call_id": "b", "content": "Error: no"},
            ],
        ),
        (
            [said("user", {"type": "tool_result", "tool_use_id": "a"})],
            [{"role": "tool", "tool_call_id": "a", "content": ""}],
        ),
        ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
        (
            [said("user", "a"), said("system", text("be brief")), said("user", "b")],
            [{"role": "user", "content": "a\n<system-reminder>\nbe brief\n</system-reminder>\nb"}],
        ),
        (
            [said("user", "a"), said("system", "be brief")],
            [{"role": "user", "content": "<system-reminder>\nbe brief\n</system-reminder>\na"}],
        ),
        (
            [said("user", result("a", "1"), text("b")), said("system", "be brief")],
            [
                {"role": "tool", "tool_call_id": "a", "content": "1"},
                {"role": "user", "content": "<system-reminder>\nbe brief\n</system-reminder>\nb"},
            ],
        ),
        (
            [said("user", result("a", "1")), said("system", "be brief")],
            [
                {"role": "tool", "tool_call_id": "a", "content": "1"},
                {"role": "user", "content": "<system-reminder>\nbe brief\n</system-reminder>"},
            ],
        ),
        (
            [said("system", "be brief"), said("system", text("be kind")), said("user", "a")],
            [{"role": "system", "content": "be brief\nbe kind"}, {"role": "user", "content": "a"}],
        ),
        (
            [said("assistant", {"type": "redacted_thinking", "data": "x"}, text("a"))],
            [{"role": "assistant", "content": "a"}],
        ),
    ],
    ids=[
        "string", "blocks", "a picture", "a picture as a result", "a picture of a failure",
        "same role twice", "an answer in pieces",
        "thinking and call", "result before words", "two results", "empty result", "no blocks",
        "system in the middle", "system behind words", "system behind a result and words", "system at the end",
        "system first", "redacted",
    ],
)  # fmt: skip
def test_turns(turns: list[Any], expected: list[Any]) -> None:
    assert list(body(*turns).to_request("m").messages or ()) == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("a", "a"),
        ("", None),
        ([text("a"), text("b")], "a\nb"),
        ([text("x-anthropic-billing-header: cch=1;"), text("a")], "a"),
        ("x-anthropic-billing-header: cch=1;\n\na", "a"),
        ([text("x-anthropic-billing-header: cch=1;")], None),
        (None, None),
    ],
)
def test_the_system_prompt_is_the_first_message_without_what_changes_in_each(system: Any, expected: str | None) -> None:
    messages = body(system=system).to_request("m").messages or ()
    assert [message["content"] for message in messages] == ([] if expected is None else [expected]) + ["hello"]


TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
NAMED = NamedToolChoice(function=NamedFunction(name="f"))


@pytest.mark.parametrize(
    ("choice", "expected", "shown", "parallel"),
    [
        (None, "auto", 1, True),
        ({"type": "auto"}, "auto", 1, True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", 1, False),
        ({"type": "tool", "name": "f"}, NAMED, 1, True),
        ({"type": "none"}, "none", 0, True),
    ],
)
def test_the_choice_of_a_tool(choice: Any, expected: object, shown: int, parallel: bool) -> None:
    request = body(tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}], tool_choice=choice).to_request(
        "m"
    )
    assert (request.tool_choice, len(request.tools), request.parallel_tool_calls) == (expected, shown, parallel)


def test_every_setting_reaches_the_request() -> None:
    asked = body(
        tools=[{**TOOL, "strict": True, "cache_control": {"type": "ephemeral"}}],
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stop_sequences=["x", ""],
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"const": 1}}},
    ).to_request("other")
    assert asked.model == "other"
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.top_k, asked.stop) == (9, 0.5, 0.9, 5, ("x",))
    (tool,) = asked.tools
    assert (tool.function.name, tool.function.description, tool.function.strict) == ("f", "d", True)
    assert tool.function.parameters == {"type": "object"}
    assert asked.response_format is not None
    assert asked.response_format.json_schema is not None
    assert asked.response_format.json_schema.schema_ == {"const": 1}


@pytest.mark.parametrize(("kind", "thinks"), [("enabled", True), ("disabled", False), ("adaptive", None)])
def test_whether_to_think_is_the_clients_choice(kind: str, thinks: bool | None) -> None:
    assert body(thinking={"type": kind, "budget_tokens": 1024}).to_request("m").thinking is thinks
