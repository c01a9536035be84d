"""Calls of an upstream that are not quite JSON, as every API gives them on: put right, said so, or left alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from swarm.generation import Delta, ToolCallDelta
from tests.doubles.clients import Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.scripted_engine import ending as ended
from tests.doubles.upstream_house import House, house
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, usage

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
BROKEN = "{'city': 'Paris',}"
RIGHT = {"city": "Paris"}


def calling(*pieces: str, name: str = "get_weather") -> tuple[dict[str, Any], ...]:
    """A stream of one call, whose arguments come in these pieces."""
    first: dict[str, Any] = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    return tuple({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in (first, *rest))


@pytest.fixture
async def at() -> AsyncIterator[House]:
    pieces = (*calling(*BROKEN), ending("tool_calls"), usage(), DONE)
    async with UpstreamServer(pieces=pieces) as server, house(server, "only") as house_of_one:
        yield house_of_one


def call_in(message: dict[str, Any]) -> tuple[str, str]:
    (call,) = message["tool_calls"]
    return call["function"]["name"], call["function"]["arguments"]


async def test_a_call_is_put_right_and_the_answer_says_so(at: House) -> None:
    reply = await at.client.chat(model="big", tools=[TOOL])
    name, arguments = call_in(reply.json["choices"][0]["message"])
    assert (name, json.loads(arguments)) == ("get_weather", RIGHT)
    assert reply.json["choices"][0]["message"]["tool_calls"][0]["id"] == "call_1"
    assert reply.json["swarm"]["candidates"][0]["repaired"] == ["python", "trailing_comma"]
    assert "repair" not in at.server.asked[0].body, "which is no field of OpenAI's"
    assert "swarm" not in at.server.asked[0].body


def streamed(reply: Reply) -> str:
    """The arguments of the one call in a stream."""
    choices = [choice for chunk in reply.chunks for choice in chunk["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    return "".join(call["function"].get("arguments", "") for call in calls)


async def test_a_stream_says_so_in_its_last_chunk(at: House) -> None:
    reply = await at.client.chat(model="big", tools=[TOOL], stream=True)
    assert json.loads(streamed(reply)) == RIGHT
    told = [chunk["swarm"]["candidates"][0]["repaired"] for chunk in reply.chunks if "swarm" in chunk]
    assert told == [["python", "trailing_comma"]]


async def test_a_request_may_want_it_as_it_comes(at: House) -> None:
    reply = await at.client.chat(model="big", tools=[TOOL], swarm={"repair": "off"})
    assert call_in(reply.json["choices"][0]["message"]) == ("get_weather", BROKEN)
    assert "repaired" not in reply.json["swarm"]["candidates"][0]
    reply = await at.client.chat(model="big", tools=[TOOL], swarm={"repair": "off"}, stream=True)
    assert streamed(reply) == BROKEN


async def test_a_word_that_is_none_is_refused(at: House) -> None:
    reply = await at.client.chat(model="big", tools=[TOOL], swarm={"repair": "all"})
    assert reply.status == 400
    assert reply.json["error"]["param"] == "swarm.repair"
    assert "'off' or 'safe'" in reply.json["error"]["message"]


async def test_voters_are_counted_with_their_calls_put_right(at: House) -> None:
    reply = await at.client.chat(model="big", tools=[TOOL], swarm={"votes": 3, "strategy": "majority"})
    swarm = reply.json["swarm"]
    assert (swarm["kind"], swarm["outcome"], swarm["agreement"]) == ("tool_calls", "consensus", 1.0)
    assert swarm["votes"] >= 2, "the third cannot turn it"
    assert all(candidate["repaired"] for candidate in swarm["candidates"])
    off = await at.client.chat(model="big", tools=[TOOL], swarm={"votes": 3, "strategy": "majority", "repair": "off"})
    assert off.json["swarm"]["votes"] == 0, "they abstain"


async def test_anthropic_s_and_responses_clients_get_it_right_too(at: House) -> None:
    tool = {"name": "get_weather", "input_schema": PARAMETERS}
    body = {"model": "big", "max_tokens": 50, "tools": [tool], "messages": [{"role": "user", "content": "go"}]}
    reply = await at.client.post("/v1/messages", body)
    (block,) = [block for block in reply.json["content"] if block["type"] == "tool_use"]
    assert (block["name"], block["input"]) == ("get_weather", RIGHT)
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
    reply = await at.client.post("/v1/responses", {"model": "big", "tools": [tool], "input": "go"})
    (item,) = [item for item in reply.json["output"] if item["type"] == "function_call"]
    assert json.loads(item["arguments"]) == RIGHT


async def test_a_call_that_was_cut_off_is_no_call() -> None:
    pieces = (*calling('{"city": "Par'), ending("length"), usage(), DONE)
    async with UpstreamServer(pieces=pieces) as server, house(server, "only") as at:
        reply = await at.client.chat(model="big", tools=[TOOL])
    assert call_in(reply.json["choices"][0]["message"])[1] == '{"city": "Par'
    assert reply.json["choices"][0]["finish_reason"] == "length"


async def test_a_name_with_its_namespace_is_the_tool() -> None:
    pieces = (*calling('{"city": ', '"Paris"}', name="functions.get_weather:0"), ending("stop"), usage(), DONE)
    async with UpstreamServer(pieces=pieces) as server, house(server, "only") as at:
        reply = await at.client.chat(model="big", tools=[TOOL])
    assert call_in(reply.json["choices"][0]["message"]) == ("get_weather", '{"city": "Paris"}')
    assert reply.json["swarm"]["candidates"][0]["repaired"] == ["name"]


async def test_a_model_of_the_swarm_s_own_is_left_alone_unless_a_request_says_otherwise() -> None:
    call = ToolCallDelta(0, "call_1", "get_weather", BROKEN)
    engine = ScriptedEngine(lambda _, __: [Delta(0, tool_calls=(call,)), ended("tool_calls")], model_id="m")
    async with RunningNode("study", ready(engine)) as study:
        kitchen = RunningNode("kitchen", options=NodeOptions(peers=[study.address]))
        async with kitchen, connect(study.url) as own, connect(kitchen.url) as far:
            for client in (own, far):  # of this node, and of a peer
                reply = await client.chat(model="m", tools=[TOOL], swarm={"strategy": "single"})
                assert call_in(reply.json["choices"][0]["message"])[1] == BROKEN
                reply = await client.chat(model="m", tools=[TOOL], swarm={"strategy": "single", "repair": "safe"})
                assert json.loads(call_in(reply.json["choices"][0]["message"])[1]) == RIGHT
                reply = await client.chat(model="m", tools=[TOOL], swarm={"votes": 3, "repair": "safe"})
                assert reply.json["swarm"]["votes"] >= 2
                assert all(each["repaired"] for each in reply.json["swarm"]["candidates"] if "abstained" not in each)
    assert all("repair" not in str(request.model_dump()) for request in engine.requests), "engines know none of it"
