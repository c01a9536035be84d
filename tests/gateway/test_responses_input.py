"""What the Responses API is sent: items become turns, and what cannot work is refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BadRequest
from swarm.gateway.http.bodies import compact, parse_body
from swarm.gateway.openai.bodies import MAX_TOOL_CALLS
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.gateway.responses.input_items import MAX_ITEMS
from swarm.gateway.responses.response_object import ResponseObject
from swarm.generation import NamedToolChoice

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "b"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
OTHER = {"type": "function", "name": "g"}


def parse(**fields: Any) -> ResponsesBody:
    return parse_body(json.dumps({"model": "m", "input": "hi", **fields}).encode(), ResponsesBody)


def turns(given: Any, **fields: Any) -> list[dict[str, Any]]:
    return [dict(turn) for turn in parse(input=given, **fields).to_request().messages or ()]


def called(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def said(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text}


def a_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
SUMMED = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "xyz"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}

SEEN = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hi", [USER]),
        ([USER], [USER]),
        ([{"type": "message", "status": "completed", **USER}], [USER]),
        ([{"role": "user", "content": [said("input_text", "h"), said("text", "i")]}], [USER]),
        (
            [USER, {"role": "assistant", "id": "m", "content": [{**said("output_text", "yes"), "annotations": []}]}],
            [USER, {"role": "assistant", "content": "yes"}],
        ),
        (
            [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
            [USER, {"role": "assistant", "content": "no"}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}, said("input_text", "?")]}],
            [{"role": "user", "content": [SEEN, {"type": "text", "text": "?"}]}],
        ),
        (
            [USER, called("c1"), {**OUTPUT, "output": [{"type": "input_image", "image_url": "x"}]}],
            [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [a_call("c1")]},
                {"role": "tool", "tool_call_id": "c1", "content": [SEEN]},
            ],
        ),
        (
            [USER, called("c1"), OUTPUT],
            [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [a_call("c1")]},
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ],
        ),
        (
            [USER, THOUGHT, {"role": "assistant", "content": "so"}, called("c1"), called("c2")],
            [
                USER,
                {
                    "role": "assistant",
                    "content": "so",
                    "reasoning_content": "hm",
                    "tool_calls": [a_call("c1"), a_call("c2")],
                },
            ],
        ),
        (
            [USER, SUMMED, called("c1"), THOUGHT, {"role": "assistant", "content": "so"}],
            [
                USER,
                {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [a_call("c1")]},
                {"role": "assistant", "content": "so", "reasoning_content": "hm"},
            ],
        ),
        ([USER, THOUGHT], [USER]),
        ([THOUGHT, USER], [USER]),
        (
            [USER, {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "ls"}],
            [USER, {"role": "assistant", "content": "", "tool_calls": [a_call("c1", '{"input": "ls"}')]}],
        ),
        (
            [USER, called("c1", arguments='{"a'), {**OUTPUT, "output": [{"type": "input_text", "text": "x"}]}],
            [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [a_call("c1", '{"arguments": "{\\"a"}')]},
                {"role": "tool", "tool_call_id": "c1", "content": "x"},
            ],
        ),
        ([USER, {"type": "web_search_call", "id": "ws_1", "status": "completed"}, {"type": "ghost_snapshot"}], [USER]),
        (
            [{"role": "developer", "content": "a"}, SYSTEM, USER, SYSTEM],
            [{"role": "system", "content": "a\n\nb"}, USER, SYSTEM],
        ),
    ],
)  # fmt: skip
def test_items_become_turns(given: Any, expected: list[dict[str, Any]]) -> None:
    assert turns(given) == expected


def test_instructions_are_one_system_turn_with_those_that_lead() -> None:
    assert turns([{"role": "developer", "content": "b"}, USER], instructions="a") == [
        {"role": "system", "content": "a\n\nb"},
        USER,
    ]
    assert turns("hi", instructions="a") == [{"role": "system", "content": "a"}, USER]


def test_more_calls_in_a_row_than_a_turn_holds_are_several_turns() -> None:
    made = turns([USER, *(called(f"c{i}") for i in range(MAX_TOOL_CALLS + 1))])
    assert [len(turn.get("tool_calls", ())) for turn in made] == [0, MAX_TOOL_CALLS, 1]


def test_what_is_asked_reaches_the_request() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    request = parse(
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        parallel_tool_calls=False,
        tools=[FUNCTION, {"type": "web_search"}, {"type": "a_tool_of_the_future", "name": 5}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        top_logprobs=2,
        seed=1,
        stop=["x"],
    ).to_request()
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (50, 0.5, 0.9, 1)
    assert request.stop == ("x",)
    assert not request.parallel_tool_calls
    (tool,) = request.tools
    assert (tool.function.name, tool.function.parameters, tool.function.strict) == ("f", {"type": "object"}, True)
    assert isinstance(request.tool_choice, NamedToolChoice)
    assert request.tool_choice.function.name == "f"
    assert request.response_format is not None
    assert request.response_format.json_schema is not None
    assert request.response_format.json_schema.schema_ == schema
    assert request.response_format.json_schema.strict
    assert request.logprobs
    assert request.top_logprobs == 2


@pytest.mark.parametrize(
    ("choice", "names", "made"),
    [
        (None, ["f", "g"], "auto"),
        ("required", ["f", "g"], "required"),
        ("none", [], "none"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]},
            ["g"],
            "required",
        ),
    ],
    ids=str,
)
def test_the_choice_among_tools(choice: Any, names: list[str], made: str) -> None:
    request = parse(tools=[FUNCTION, OTHER], tool_choice=choice).to_request()
    assert [tool.function.name for tool in request.tools] == names
    assert request.tool_choice == made


def test_tools_that_are_no_functions_become_functions() -> None:
    patch = {
        "type": "custom",
        "name": "patch",
        "description": "Edits.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"},
    }
    number = {
        "type": "custom",
        "name": "dial",
        "format": {"type": "grammar", "syntax": "regex", "definition": "[0-9]|x"},
    }
    space = {
        "type": "namespace",
        "name": "mcp__files__",
        "description": "Files",
        "tools": [OTHER, patch, {"type": "mcp"}],
    }
    body = parse(tools=[patch, number, space, {"type": "namespace", "name": "n", "tools": [OTHER]}])
    specs = {tool.function.name: tool.function for tool in body.to_request().tools}
    assert list(specs) == ["patch", "dial", "mcp__files__g", "mcp__files__patch", "n__g"]
    assert specs["patch"].description == "Edits.\n\nThe input follows this grammar (lark):\nstart: A"
    assert specs["patch"].parameters["required"] == ["input"]
    assert specs["dial"].parameters["properties"] == {"input": {"type": "string", "pattern": "^(?:[0-9]|x)$"}}
    offered = {name: (tool.name, tool.custom, tool.namespace) for name, (tool, _) in body.offered.items()}
    assert offered["mcp__files__patch"] == ("patch", True, "mcp__files__")
    assert offered["n__g"] == ("g", False, "n")


@pytest.mark.parametrize(
    ("choice", "names", "made"),
    [
        ({"type": "custom", "name": "c"}, ["f", "c", "n__g"], "c"),
        ({"type": "function", "name": "g"}, ["f", "c", "n__g"], "n__g"),
        ({"type": "function", "name": "g", "namespace": "n"}, ["f", "c", "n__g"], "n__g"),
        ({"type": "allowed_tools", "tools": [{"type": "custom", "name": "c"}]}, ["c"], "auto"),
        ({"type": "allowed_tools", "tools": [{"type": "namespace", "name": "n"}, {"type": "mcp"}]}, ["n__g"], "auto"),
    ],
    ids=str,
)
def test_the_choice_among_tools_of_every_kind(choice: Any, names: list[str], made: str) -> None:
    space = {"type": "namespace", "name": "n", "tools": [OTHER]}
    request = parse(tools=[FUNCTION, {"type": "custom", "name": "c"}, space], tool_choice=choice).to_request()
    assert [tool.function.name for tool in request.tools] == names
    chosen = request.tool_choice
    assert (chosen.function.name if isinstance(chosen, NamedToolChoice) else chosen) == made


def test_tools_that_come_with_the_input_are_offered() -> None:
    added = {"type": "additional_tools", "role": "developer", "tools": [OTHER, {"type": "web_search"}]}
    request = parse(input=[USER, added], tools=[FUNCTION], tool_choice={"type": "function", "name": "g"}).to_request()
    assert [tool.function.name for tool in request.tools] == ["f", "g"]


def test_a_call_of_a_namespace_is_shown_under_the_name_that_the_model_knows() -> None:
    call = {**called("c1"), "namespace": "mcp__files__"}
    (made,) = turns([USER, call, OUTPUT])[1]["tool_calls"]
    assert made["function"]["name"] == "mcp__files__f"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"type": "wat"}, []),
        ({"type": "wat", "text": "so"}, [{"role": "user", "content": "so"}]),
        (
            {"type": "agent_message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
            [{"role": "assistant", "content": "so"}],
        ),
        ({"type": "agent_message", "author": "x", "content": [{"type": "encrypted_content", "data": "x"}]}, []),
        ({"type": "configuration_update", "reasoning": {"effort": "low"}}, []),
        ({"role": "critic", "content": "no"}, [{"role": "user", "content": "no"}]),
        (
            {"role": "user", "content": [{"type": "smell"}, {"type": "note", "text": "so"}]},
            [{"role": "user", "content": "[smell left out: this model reads text only]so"}],
        ),
        ({**OUTPUT, "output": {"a": 1}}, [{"role": "tool", "tool_call_id": "c1", "content": '{"a": 1}'}]),
    ],
    ids=str,
)
def test_what_is_unknown_in_a_history_is_text_or_left_out(item: Any, expected: list[dict[str, Any]]) -> None:
    assert turns([USER, item]) == [USER, *expected]


def test_what_clients_send_beside_the_question_is_taken() -> None:
    parse(
        store=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        client_metadata={"x": "y"},
        metadata={"a": "b"},
        user="me",
        truncation="auto",
        service_tier="auto",
        reasoning={"effort": "medium", "summary": "auto"},
        stream_options={"include_obfuscation": False},
        previous_response_id=None,
        background=False,
        a_field_of_the_future=[1],
    )


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": ""}, "model", ""),
        ({"input": None}, "input", ""),
        ({"input": 5}, "input", ""),
        ({"input": []}, "input", ""),
        ({"input": [5]}, "input[0]", ""),
        ({"input": ["hello"]}, "input[0]", ""),
        ({"input": [{"type": "message"}]}, "input[0].role", "required|content"),
        ({"input": [{"role": "", "content": "x"}]}, "input[0].role", ""),
        ({"input": [{"role": 5, "content": "x"}]}, "input[0].role", ""),
        ({"input": [{"role": "user"}]}, "input[0].content", "required"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", ""),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "required"),
        ({"input": [{"role": "user", "content": [{"type": 5}]}]}, "input[0].content[0].type", ""),
        ({"input": [USER, {"type": "item_reference", "id": "msg_1"}]}, "input[1].type", "send the item itself"),
        ({"input": [USER, {"id": "msg_1"}]}, "input[1]", "send the item itself"),
        ({"input": [USER, {"type": 5}]}, "input[1].type", ""),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "required"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", "required"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]}, "input[0].output", ""),
        ({"input": [{"type": "web_search_call"}, THOUGHT]}, "input", "anything that a model reads"),
        ({"instructions": 5}, "instructions", ""),
        ({"max_output_tokens": -1}, "max_output_tokens", ""),
        ({"temperature": 3}, "temperature", ""),
        ({"temperature": "1"}, "temperature", ""),
        ({"top_p": 2}, "top_p", ""),
        ({"stream": "yes"}, "stream", ""),
        ({"top_logprobs": 21}, "top_logprobs", ""),
        ({"metadata": {"a": 1}}, "metadata.a", ""),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", ""),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "required"),
        ({"tools": [{"type": "function", "name": ""}]}, "tools[0].name", ""),
        ({"tools": [{"type": "web_search"}, {"type": "custom"}]}, "tools[1].name", "required"),
        ({"tools": [{"type": "custom", "name": "c", "format": {"type": "grammar"}}]}, "tools[0].format", "definition"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]},
            "tools[0].tools[0].name",
            "",
        ),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [OTHER, OTHER]}]}, "tools", "two tools .* 'n__g'"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 5}]}, "tools[0].parameters", ""),
        ({"tools": [5]}, "tools[0]", ""),
        ({"tools": [{**FUNCTION, "parameters": {"minimum": float("inf")}}]}, "tools", "not finite"),
        ({"tool_choice": "perhaps"}, "tool_choice", ""),
        ({"tool_choice": "required"}, "tool_choice", "needs tools of type function"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", ""),
        ({"tools": [OTHER], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "names 'f'"),
        ({"tools": [OTHER], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice", "allows none"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", ""),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format", "needs a schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {"a": float("inf")}}}}, "text.format", "not finite"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "keeps no state.*send all of it as `input`"),
        ({"conversation": "conv_1"}, "conversation", "keeps no state"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "keeps no state"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "keeps no state"),
        ({"background": True}, "background", "no responses to fetch later"),
        ({"swarm": {"votes": 0}}, "swarm.votes", ""),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_by_name(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(**fields)
    assert refused.value.param == param, str(refused.value)
    assert re.search(message, str(refused.value)), str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"), [("input", [USER] * (MAX_ITEMS + 1)), ("tools", [OTHER] * 257)], ids=["input", "tools"]
)
def test_too_many_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(**{field: value})
    assert refused.value.param == field


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
texts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image", "wat"])},
    optional={"text": st.text(max_size=3) | anything, "refusal": st.text(max_size=3)},
)
contents = st.text(max_size=3) | st.lists(texts | anything, max_size=3)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "reasoning", "function_call", "custom_tool_call", "function_call_output"])
        | st.sampled_from(["item_reference", "web_search_call", "wat"])
        | anything,
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]) | anything,
        "id": st.text(max_size=2),
        "content": contents | anything,
        "summary": contents | anything,
        "output": contents | anything,
        "call_id": st.text(max_size=2) | anything,
        "name": st.text(max_size=2) | anything,
        "arguments": st.text(max_size=5) | anything,
        "input": st.text(max_size=5) | anything,
    },
)
fields_of_any_kind = st.fixed_dictionaries(
    {},
    optional={
        "input": st.lists(items | anything, max_size=4) | anything,
        "instructions": anything,
        "tools": st.lists(anything | st.just(FUNCTION), max_size=3) | anything,
        "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "name": "f"}]) | anything,
        "text": st.fixed_dictionaries({"format": anything | st.fixed_dictionaries({"schema": anything})}) | anything,
        "include": anything,
        "reasoning": anything,
        "metadata": anything,
        "store": anything,
    },
)


@settings(deadline=None)
@given(fields_of_any_kind)
def test_any_body_is_read_or_refused_and_never_breaks(fields: dict[str, Any]) -> None:
    try:
        body = parse(**fields)
    except BadRequest:
        return
    assert body.to_request().messages
    compact(ResponseObject(body).begun()).encode()


@settings(deadline=None)
@given(st.lists(st.sampled_from([USER, SYSTEM, THOUGHT, OUTPUT, called("c1"), {"role": "assistant", "content": "a"}])))
def test_nothing_that_was_said_is_lost(given_items: list[dict[str, Any]]) -> None:
    made = turns([USER, *given_items])
    said = [item for item in given_items if "role" in item]
    assert len([turn for turn in made if turn["role"] == "tool"]) == given_items.count(OUTPUT)
    assert sum(len(turn.get("tool_calls", ())) for turn in made) == given_items.count(called("c1"))
    assert "".join(turn["content"] for turn in made if turn["role"] != "tool") == "hi" + "".join(
        item["content"] for item in said
    )
