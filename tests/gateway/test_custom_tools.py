"""Tools that are no functions: free text, functions of a namespace, functions as they were before there were tools."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseCustomToolCall, ResponseFunctionToolCall

from swarm.generation import Delta, NamedToolChoice, ToolCallDelta
from tests.doubles.clients import Client, connect
from tests.doubles.response_events import ended, kinds, read_events
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import Script, ScriptedEngine, Step, ending

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
SINGLE = {"strategy": "single"}
SHELL = {"type": "custom", "custom": {"name": "shell", "description": "Runs it."}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
INPUT = 'echo "é"\n'
IN_PIECES = [json.dumps({"input": INPUT})[:9], json.dumps({"input": INPUT})[9:]]


def calling(name: str, arguments: Sequence[str], index: int = 0) -> list[Step]:
    first, *rest = arguments
    pieces = [ToolCallDelta(index, "c" * 32, name, first), *(ToolCallDelta(index, None, None, each) for each in rest)]
    return [*(Delta(tool_calls=(piece,)) for piece in pieces), ending("tool_calls")]


def playing(*steps: Step) -> Script:
    return lambda _, __: steps


@pytest.fixture
async def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda _, __: ["yes"])


@pytest.fixture
async def client(engine: ScriptedEngine) -> AsyncIterator[Client]:
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as connected:
        yield connected


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "swarm", "messages": [{"role": "user", "content": "hello"}], "swarm": SINGLE, **fields}


@pytest.mark.parametrize("votes", [SINGLE, {"votes": 2, "strategy": "majority"}], ids=["single", "vote"])
async def test_a_custom_tool_is_called_with_text(client: Client, engine: ScriptedEngine, votes: Any) -> None:
    engine.script = playing(*calling("shell", IN_PIECES))
    choice = {"type": "custom", "custom": {"name": "shell"}}
    reply = await client.post(CHAT, asked(tools=[SHELL, FUNCTION], tool_choice=choice, swarm=votes))
    calls = ChatCompletion.model_validate(reply.json).choices[0].message.tool_calls
    assert calls is not None
    call = calls[0]
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("shell", INPUT)
    request = engine.requests[0]
    assert [tool.function.name for tool in request.tools] == ["shell", "f"]
    assert isinstance(request.tool_choice, NamedToolChoice)
    assert request.tool_choice.function.name == "shell"


@pytest.mark.parametrize("votes", [SINGLE, {"votes": 2, "strategy": "majority"}], ids=["single", "vote"])
async def test_a_custom_call_streams(client: Client, engine: ScriptedEngine, votes: Any) -> None:
    engine.script = playing(*calling("shell", IN_PIECES)[:-1], *calling("f", ['{"a"', ":1}"], index=1))
    reply = await client.post(CHAT, asked(stream=True, tools=[SHELL, FUNCTION], swarm=votes))
    pieces = [
        call for chunk in reply.chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", ())
    ]
    custom = [piece for piece in pieces if piece["index"] == 0]
    assert {key: custom[0][key] for key in ("type", "custom")} == {
        "type": "custom",
        "custom": {"name": "shell", "input": ""},
    }
    assert "".join(piece["custom"]["input"] for piece in custom) == INPUT
    assert "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == 1) == '{"a":1}'
    assert [choice["finish_reason"] for chunk in reply.chunks for choice in chunk["choices"]][-1] == "tool_calls"
    assert reply.done


async def test_a_custom_input_that_is_no_object_is_what_the_model_wrote(client: Client, engine: ScriptedEngine) -> None:
    engine.script = playing(*calling("shell", ["ls -l"]))
    reply = await client.post(CHAT, asked(tools=[SHELL]))
    assert reply.json["choices"][0]["message"]["tool_calls"][0]["custom"]["input"] == "ls -l"


async def test_functions_are_called_as_they_were_offered(client: Client, engine: ScriptedEngine) -> None:
    engine.script = playing(*calling("f", ['{"a"', ":1}"]))
    fields = {"functions": [FUNCTION["function"]], "function_call": {"name": "f"}}
    choice = ChatCompletion.model_validate((await client.post(CHAT, asked(**fields))).json).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert (choice.message.function_call.name, choice.message.function_call.arguments) == ("f", '{"a":1}')
    assert isinstance(engine.requests[0].tool_choice, NamedToolChoice)
    assert not engine.requests[0].parallel_tool_calls
    reply = await client.post(CHAT, asked(stream=True, **fields))
    deltas = [choice["delta"] for chunk in reply.chunks for choice in chunk["choices"]]
    first, *rest = [delta["function_call"] for delta in deltas if "function_call" in delta]
    assert first["name"] == "f"
    assert first["arguments"] + "".join(each["arguments"] for each in rest) == '{"a":1}'
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    await client.post(CHAT, asked(functions=[FUNCTION["function"]], function_call="none"))
    assert engine.requests[-1].tools == ()


@pytest.mark.parametrize(
    ("fields", "names", "made"),
    [
        ({"mode": "required", "tools": [{"type": "custom", "custom": {"name": "shell"}}]}, ["shell"], "required"),
        ({"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "mcp"}]}, ["f"], "auto"),
    ],
    ids=str,
)
async def test_the_tools_that_are_allowed_now(
    client: Client, engine: ScriptedEngine, fields: Any, names: list[str], made: str
) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": fields}
    reply = await client.post(CHAT, asked(tools=[SHELL, FUNCTION], tool_choice=choice))
    assert reply.status == 200, reply.text
    assert [tool.function.name for tool in engine.requests[0].tools] == names
    assert engine.requests[0].tool_choice == made


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "mcp"}]}},
        {"type": "custom", "custom": {"name": "nobody"}},
        {"type": "web_search"},
    ],
    ids=str,
)
async def test_what_nobody_can_call_is_refused(client: Client, choice: Any) -> None:
    reply = await client.post(CHAT, asked(tools=[SHELL, FUNCTION, {"type": "web_search"}], tool_choice=choice))
    assert reply.status == 400
    assert "tool_choice" in reply.error["message"]


TOOLS = [
    {"type": "custom", "name": "shell"},
    {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read"}]},
]


def asked_of_responses(**fields: Any) -> dict[str, Any]:
    return {"model": "swarm", "input": "hello", "tools": TOOLS, "swarm": SINGLE, **fields}


async def test_responses_call_tools_by_the_names_of_their_caller(client: Client, engine: ScriptedEngine) -> None:
    engine.script = playing(*calling("shell", IN_PIECES)[:-1], *calling("files__read", ["{}"], index=1))
    whole = (await client.post(RESPONSES, asked_of_responses())).json["output"]
    events = read_events((await client.post(RESPONSES, asked_of_responses(stream=True))).text)
    streamed = [item.model_dump(exclude_none=True) for item in ended(events).output]
    for items in (whole, streamed):
        shell = ResponseCustomToolCall.model_validate(items[0])
        read = ResponseFunctionToolCall.model_validate(items[1])
        assert (shell.name, shell.input) == ("shell", INPUT)
        assert (read.namespace, read.name, read.arguments) == ("files", "read", "{}")
        assert (shell.call_id, str(shell.id)[:4]) == ("call_" + "c" * 32, "ctc_")
    assert [kind for kind in kinds(events) if kind.startswith("custom_tool")] == [
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
    ]
    again = [{"role": "user", "content": "hello"}, *whole]
    again += [{"type": f"{kind}_output", "call_id": item["call_id"], "output": "1"}
              for kind, item in zip(("custom_tool_call", "function_call"), whole, strict=True)]  # fmt: skip
    assert (await client.post(RESPONSES, asked_of_responses(input=again))).status == 200
    messages: Any = engine.requests[-1].messages
    calls = messages[1]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["shell", "files__read"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"input": INPUT}
