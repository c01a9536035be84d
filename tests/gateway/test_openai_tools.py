"""Tool calls through the official package, and the ways in which other servers got them wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.doubles.clients import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SINGLE = {"swarm": {"strategy": "single"}}
BOTH_WAYS = pytest.mark.parametrize("extra", [SINGLE, {}], ids=["single", "vote"])


async def ask(ai: AsyncOpenAI, messages: list[Any] = ASK, **fields: Any) -> Any:
    return await ai.chat.completions.create(
        model="demo", messages=messages, temperature=0, seed=7, tools=fields.pop("tools", [WEATHER]), **fields
    )


@BOTH_WAYS
async def test_a_call_comes_as_a_call_and_not_as_text(ai: AsyncOpenAI, extra: dict[str, Any]) -> None:
    choice = (await ask(ai, extra_body=extra)).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "get_weather",
        {"city": "Paris"},
    )
    assert call.id.startswith("call_")
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"


@BOTH_WAYS
async def test_a_streamed_call_opens_once_and_then_only_grows(ai: AsyncOpenAI, extra: dict[str, Any]) -> None:
    chunks = [chunk async for chunk in await ask(ai, stream=True, extra_body=extra)]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    first, *later = deltas
    assert (first.index, first.type, first.function.name) == (0, "function", "get_weather")
    assert first.id.startswith("call_")
    assert chunks[0].choices[0].delta.content is None, "a call has no text, not an empty one"
    assert all((call.index, call.id, call.type, call.function.name) == (0, None, None, None) for call in later)
    assert json.loads("".join(call.function.arguments for call in deltas)) == {"city": "Paris"}
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]


async def test_tools_do_not_turn_streaming_off(ai: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await ask(ai, stream=True, extra_body=SINGLE)]
    assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in chunks) > 3, "argument fragments as they come"


async def test_the_sdks_stream_helper_sees_the_call(ai: AsyncOpenAI) -> None:
    async with ai.chat.completions.stream(
        model="demo", messages=ASK, temperature=0, tools=[WEATHER], extra_body=SINGLE
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}


async def test_usage_comes_with_calls_too(ai: AsyncOpenAI) -> None:
    options = {"include_usage": True}
    chunks = [chunk async for chunk in await ask(ai, stream=True, stream_options=options, extra_body=SINGLE)]
    assert chunks[-1].usage.completion_tokens > 5


async def test_a_result_is_answered_in_words(ai: AsyncOpenAI) -> None:
    call = (await ask(ai)).choices[0].message
    turns = [*ASK, call, {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": '{"weather": "sunny"}'}]
    choice = (await ask(ai, turns)).choices[0]
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert not choice.message.tool_calls


@pytest.mark.parametrize("arguments", ['{"city": ', "Paris", "[1]", "", "null"])
async def test_malformed_arguments_in_the_history_do_not_fail_the_next_turn(ai: AsyncOpenAI, arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    turns = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert (await ask(ai, turns, max_tokens=5)).choices[0].finish_reason in ("stop", "length")


async def test_with_tool_choice_none_nothing_is_called_and_no_call_leaks_into_the_text(ai: AsyncOpenAI) -> None:
    message = (await ask(ai, tool_choice="none")).choices[0].message
    assert not message.tool_calls
    assert "get_weather" not in message.content


async def test_tools_that_are_no_functions_are_left_out(client: Client) -> None:
    tools = [{"type": "web_search"}, {"type": "custom", "custom": {"name": "x"}}, WEATHER]
    body = {"model": "demo", "messages": ASK, "temperature": 0, "tools": tools, **SINGLE}
    reply = await client.post("/v1/chat/completions", body)
    assert reply.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "names 'other', which is not among"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "needs tools of type function"),
        ({"tools": [{"type": "function"}]}, r"tools\[0\].function: this field is required"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "wat"}}}]}, "wat"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}, "parameters"),
    ],
    ids=["unknown choice", "nothing to require", "no function", "unknown type", "parameters no object"],
)
async def test_tools_that_cannot_work_are_refused(client: Client, fields: dict[str, Any], message: str) -> None:
    reply = await client.post("/v1/chat/completions", {"model": "demo", "messages": ASK, "tools": [WEATHER], **fields})
    assert reply.status == 400
    assert re.search(message, reply.error["message"])


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_with_tools(client: Client, choice: str, stream: bool) -> None:
    """Of every token: llama.cpp refuses them in a stream, and its parser of calls drops most."""
    body = {"model": "demo", "messages": ASK, "temperature": 0, "tools": [WEATHER], "tool_choice": choice, **SINGLE}
    sent = {**body, "logprobs": True, "top_logprobs": 2, "stream": stream, "stream_options": {"include_usage": True}}
    reply = await client.post("/v1/chat/completions", sent if stream else {**sent, "stream_options": None})
    assert reply.status == 200, reply.text
    chunks = reply.chunks if stream else [reply.json]
    choices = [each for chunk in chunks for each in chunk["choices"]]
    entries = [entry for each in choices if each.get("logprobs") for entry in each["logprobs"]["content"]]
    said = [each["delta" if stream else "message"] for each in choices]
    assert any(each.get("tool_calls") for each in said)
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert len(entries) == chunks[-1]["usage"]["completion_tokens"]
    assert all(entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in entries)


async def test_log_probabilities_alone_have_no_alternatives(client: Client) -> None:
    reply = await client.chat(model="demo", logprobs=True, max_tokens=4, swarm={"strategy": "single"})
    entries = reply.json["choices"][0]["logprobs"]["content"]
    assert len(entries) == 4
    assert all(entry["top_logprobs"] == [] for entry in entries)
