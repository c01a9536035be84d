"""Calls read back from JSON text that a schema of the call made, however the text is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.engines.llama_cpp.demanded_answer import CallReader, QuotedText, call_grammar
from swarm.errors import EngineFailed
from swarm.generation import Delta, Finish, FinishReason, GenerationRequest, Usage

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
JSON_MODE = {"type": "json_object"}


def tool(name: str, parameters: Any = PARAMETERS) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def request(**fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {"model": "m", "messages": ({"role": "user", "content": "x"},), "tools": (tool("f"),)}
    return GenerationRequest.model_validate({**given, **fields})


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def read(pieces: list[str], reason: FinishReason = "stop", **fields: Any) -> tuple[str, list[Any], FinishReason]:
    grammar = call_grammar(request(**fields))
    assert grammar is not None
    reader = CallReader(grammar)
    text, calls = "", []
    for piece in pieces:
        shown = reader.read(Delta(0, piece))
        if isinstance(shown, Delta):
            text += shown.text
            calls += shown.tool_calls
    finish = reader.read(Finish(0, reason, Usage()))
    assert isinstance(finish, Finish)
    return text, calls, finish.reason


@pytest.mark.parametrize(
    ("fields", "names", "required"),
    [
        ({"tool_choice": "required"}, ("f",), True),
        ({"tool_choice": "required", "tools": (tool("f"), tool("g"))}, ("f", "g"), True),
        ({"tool_choice": named("g"), "tools": (tool("f"), tool("g"))}, ("g",), True),
        ({"tool_choice": "required", "response_format": JSON_MODE}, ("f",), True),
        ({"tool_choice": "auto", "response_format": JSON_MODE}, ("f",), False),
    ],
)
def test_what_is_enforced(fields: dict[str, Any], names: tuple[str, ...], required: bool) -> None:
    grammar = call_grammar(request(**fields))
    assert grammar is not None
    assert (grammar.names, grammar.required) == (names, required)


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "auto"},
        {"tool_choice": "none", "response_format": JSON_MODE},
        {"tools": (), "response_format": JSON_MODE},
        {"response_format": {"type": "text"}},
    ],
)
def test_everything_else_is_left_to_llama_cpp(fields: dict[str, Any]) -> None:
    assert call_grammar(request(**fields)) is None


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        ({}, {"type": "object", "properties": {}, "const": {}}),
        ({"type": "object"}, {"type": "object", "properties": {}, "const": {}}),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "const": {}}),
        ({"description": "none"}, {"description": "none", "type": "object", "properties": {}, "const": {}}),
        ({"additionalProperties": True}, {"type": "object"}),
        (PARAMETERS, PARAMETERS),
        (
            {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}]},
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        ),
    ],
)
def test_arguments_are_an_object_whatever_the_parameters_leave_unsaid(parameters: Any, schema: Any) -> None:
    grammar = call_grammar(request(tools=(tool("f", parameters),), tool_choice="required"))
    assert grammar is not None
    assert grammar.schema["$defs"] == {"arguments0": schema}


def test_each_tool_keeps_its_own_definitions() -> None:
    def tree(kind: str) -> dict[str, Any]:
        defs = {"V": {"type": kind}, "N": {"properties": {"v": {"$ref": "#/$defs/V"}, "n": {"$ref": "#"}}}}
        return {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "$defs": defs}

    tools = (tool("f", tree("string")), tool("g", tree("integer")))
    grammar = call_grammar(request(tools=tools, tool_choice="required"))
    assert grammar is not None
    definitions: Any = grammar.schema["$defs"]
    for number, kind in enumerate(("string", "integer")):
        assert definitions[f"arguments{number}xV"] == {"type": kind}
        assert definitions[f"arguments{number}xN"]["properties"] == {
            "v": {"$ref": f"#/$defs/arguments{number}xV"},
            "n": {"$ref": f"#/$defs/arguments{number}xroot"},
        }
    assert '"$ref": "#"' not in json.dumps(grammar.schema)


CALLS = [
    ('{"name": "f", "arguments": {"city": "Paris"}}', "f", '{"city": "Paris"}'),
    ('{\n\n  "name" :\t"f" , "arguments": { }\n}\n', "f", "{ }"),
    ('{"name":"f","arguments":{"a":"}]\\"{\\\\","b":[{"c":[1]}]}}  ', "f", '{"a":"}]\\"{\\\\","b":[{"c":[1]}]}'),
    ('{"name":"say \\"hi\\"","arguments":{"a":{}}}', 'say "hi"', '{"a":{}}'),
    ('{"name":"größe €","arguments":{"x":"\\\\"}}', "größe €", '{"x":"\\\\"}'),
]


@pytest.mark.parametrize(("text", "name", "arguments"), CALLS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_call_is_read_whole_however_it_is_cut(text: str, name: str, arguments: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    said, (first, *later), reason = read(pieces, tools=(tool(name),), tool_choice="required")
    assert (said, reason, first.index, first.name) == ("", "tool_calls", 0, name)
    assert first.id.startswith("call_")
    assert all((call.index, call.id, call.name) == (0, None, None) for call in later)
    assert "".join(call.arguments for call in (first, *later)) == arguments


@pytest.mark.parametrize(("reason", "told"), [("length", "length"), ("stop", "length")])
def test_a_call_that_was_cut_does_not_claim_to_be_whole(reason: FinishReason, told: str) -> None:
    text, calls, ended = read(['{"name": "f", "arguments": {"city": "Pa'], reason, tool_choice="required")
    assert (text, ended) == ("", told)
    assert [call.arguments for call in calls] == ['{"city": "Pa']


@pytest.mark.parametrize("text", ["", "{", '{"name": "f"', '{"name": "f", "arguments":'])
def test_half_a_head_is_neither_a_call_nor_text(text: str) -> None:
    assert read([text], "length", tool_choice="required") == ("", [], "length")


@pytest.mark.parametrize(
    "text",
    [
        '{"answer": "yes"}',
        '{ "name": "Ada", "age": 36 }',
        '{"name": "f", "age": 36}',
        '{"name": "f", "arguments": "none"}',
        "[]",
        '"f"',
    ],
)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_where_json_is_wanted_too_what_is_no_call_is_text(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    pieces = [piece for piece in (text[:cut], text[cut:]) if piece]
    assert read(pieces, response_format={"type": "json_schema", "json_schema": {"schema": {}}}) == (text, [], "stop")


def test_where_json_is_wanted_too_a_call_is_a_call() -> None:
    text, calls, reason = read(['{"name": "f", "arguments": {}}'], response_format=JSON_MODE)
    assert (text, len(calls), reason) == ("", 1, "tool_calls")


def test_an_engine_that_does_not_make_the_required_call_is_told_on() -> None:
    with pytest.raises(EngineFailed, match="required"):
        read(["Well, "], tool_choice="required")


def test_thoughts_before_a_call_stay_thoughts() -> None:
    grammar = call_grammar(request(tool_choice="required"))
    assert grammar is not None
    thought = Delta(0, reasoning="Paris, then")
    assert CallReader(grammar).read(thought) == thought


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=12), ascii_only=st.booleans(), data=st.data())
def test_a_text_is_read_out_of_its_quotes_however_it_is_cut(text: str, ascii_only: bool, data: st.DataObject) -> None:
    whole = f" {json.dumps(text, ensure_ascii=ascii_only)}\n"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    reader = QuotedText()
    shown = [reader.read(Delta(0, whole[a:b])) for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert "".join(event.text for event in shown if isinstance(event, Delta)) == text
