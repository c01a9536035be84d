"""The Responses API as the official package uses it, against the embedded model."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel

from tests.doubles.clients import Client
from tests.doubles.response_events import ended, kinds, read_events

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
ASK = "What is the weather in Paris?"
CAPITAL = "What is the capital of France?"
SINGLE = {"swarm": {"strategy": "single"}}
BOTH_WAYS = pytest.mark.parametrize("extra", [SINGLE, {"swarm": {"votes": 3}, "seed": 7}], ids=["single", "vote"])
WORDS = ["output_item.added", "content_part.added", "output_text.delta"]
WORDS += ["output_text.done", "content_part.done", "output_item.done"]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


def sent(given: Any = CAPITAL, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "input": given, "temperature": 0, "max_output_tokens": 60, **fields}


@pytest.mark.client("openai-python", "text")
@BOTH_WAYS
async def test_a_response(ai: AsyncOpenAI, extra: dict[str, Any]) -> None:
    response = await ai.responses.create(**sent(instructions="Be brief.", metadata={"a": "b"}), extra_body=extra)
    assert "Paris" in response.output_text
    assert (response.object, response.status, response.model) == ("response", "completed", "demo")
    assert response.id.startswith("resp_")
    assert (response.instructions, response.metadata, response.error) == ("Be brief.", {"a": "b"}, None)
    (message,) = response.output
    assert message.id is not None
    assert message.id.startswith("msg_")
    usage = response.usage
    assert usage is not None
    assert usage.input_tokens > 5
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0
    body: Any = response.to_dict()
    assert body["swarm"]["votes"] == (1 if extra == SINGLE else 3)


@BOTH_WAYS
async def test_a_stream_is_the_packages_own_events(client: Client, extra: dict[str, Any]) -> None:
    reply = await client.post("/v1/responses", sent(stream=True, **extra))
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert "[DONE]" not in reply.text
    events = read_events(reply.text)
    assert kinds(events) == ["created", "in_progress", *WORDS, "completed"]
    response = ended(events)
    assert "Paris" in response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens > 0
    assert events[-1]["response"]["swarm"]["coordinator"] == "kitchen"


@pytest.mark.client("openai-python", "stream")
@BOTH_WAYS
async def test_the_stream_helper(ai: AsyncOpenAI, extra: dict[str, Any]) -> None:
    async with ai.responses.stream(**sent(), extra_body=extra) as stream:
        said = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        final = await stream.get_final_response()
    assert "Paris" in said
    assert final.output_text == said


@pytest.mark.client("openai-python", "tools")
@BOTH_WAYS
@pytest.mark.parametrize("stream", [False, True])
async def test_tools_to_the_end(ai: AsyncOpenAI, extra: dict[str, Any], stream: bool) -> None:
    history: list[Any] = [{"role": "user", "content": ASK}]
    first = await answer(ai, stream, sent(history, tools=[WEATHER]), extra)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", {"city": "Paris"}, "completed")
    history += [item.to_dict() for item in first.output]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": '{"weather": "sunny"}'})
    second = await answer(ai, stream, sent(history, tools=[WEATHER]), extra)
    assert second.output_text
    assert second.status == "completed"
    assert not [item for item in second.output if item.type == "function_call"]


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_may_be_asked_for_beside_tools(ai: AsyncOpenAI, stream: bool) -> None:
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "tools": [WEATHER]}
    response = await answer(ai, stream, sent(ASK, **fields), SINGLE)
    assert [item.name for item in response.output if item.type == "function_call"] == ["get_weather"]


async def answer(ai: AsyncOpenAI, stream: bool, fields: dict[str, Any], extra: dict[str, Any]) -> Any:
    if not stream:
        return await ai.responses.create(**fields, extra_body=extra)
    async with ai.responses.stream(**fields, extra_body=extra) as streamed:
        return await streamed.get_final_response()


async def test_a_call_streams_in_fragments(client: Client) -> None:
    reply = await client.post("/v1/responses", sent(ASK, tools=[WEATHER], stream=True, **SINGLE))
    events = read_events(reply.text)
    assert kinds(events) == ["created", "in_progress", *CALL, "completed"]
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert len(deltas) > 3
    assert json.loads("".join(deltas)) == {"city": "Paris"}
    ended(events)


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    capital: bool


@pytest.mark.client("openai-python", "structured")
async def test_a_pydantic_model_is_parsed_from_the_answer(ai: AsyncOpenAI) -> None:
    response = await ai.responses.parse(**sent(), text_format=City)
    assert isinstance(response.output_parsed, City)


@pytest.mark.client("openai-python", "structured")
async def test_a_pydantic_model_is_parsed_from_a_stream(ai: AsyncOpenAI) -> None:
    async with ai.responses.stream(**sent(), text_format=City) as stream:
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, City)


async def test_json_object_gives_a_json_object(ai: AsyncOpenAI) -> None:
    response = await ai.responses.create(**sent("hello", text={"format": {"type": "json_object"}}))
    if response.status == "completed":  # a weak model may run into the limit, and says so
        assert isinstance(json.loads(response.output_text), dict)


async def test_a_conversation_with_every_form_of_turn(ai: AsyncOpenAI) -> None:
    response = await ai.responses.create(
        **sent(
            [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "message", "role": "assistant", "content": "Hello!"},
                {"type": "message", "role": "user", "content": CAPITAL},
            ]
        )
    )
    assert "Paris" in response.output_text


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_cut_short_is_incomplete(client: Client, stream: bool) -> None:
    reply = await client.post("/v1/responses", sent(max_output_tokens=2, stream=stream, **SINGLE))
    response = ended(read_events(reply.text)).to_dict() if stream else reply.json
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 2
    assert response["output"][-1]["status"] == "incomplete"


async def test_log_probabilities_are_included_on_request(ai: AsyncOpenAI) -> None:
    response = await ai.responses.create(
        **sent(max_output_tokens=4), include=["message.output_text.logprobs"], top_logprobs=2, extra_body=SINGLE
    )
    body: Any = response.to_dict()
    part = body["output"][0]["content"][0]
    assert "".join(token["token"] for token in part["logprobs"]) == part["text"]
    assert all(len(token["top_logprobs"]) == 2 for token in part["logprobs"])


async def test_what_codex_sends(client: Client) -> None:
    body = sent(
        [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": CAPITAL}]},
        ],
        instructions="You are a coding agent.",
        tools=[
            WEATHER,
            {"type": "web_search", "external_web_access": False},
            {
                "type": "custom",
                "name": "apply_patch",
                "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'},
            },
            {"type": "local_shell"},
            {"type": "namespace", "name": "mcp", "tools": [WEATHER]},
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="0199",
        client_metadata={"x": "y"},
    )
    response = ended(read_events((await client.post("/v1/responses", body)).text))
    assert [tool.type for tool in response.tools] == ["function", "custom", "namespace"]
    assert response.usage is not None


async def test_the_unprefixed_twin(client: Client) -> None:
    reply = await client.post("/responses", sent(max_output_tokens=2))
    assert reply.json["object"] == "response"


@pytest.mark.client("openai-python", "errors")
async def test_a_refusal_reaches_the_sdk_with_the_name_of_the_field(ai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        await ai.responses.create(**sent(), previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"
    assert "send all of it as `input`" in refused.value.message


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_too_long_is_refused_with_both_numbers(client: Client, stream: bool) -> None:
    reply = await client.post("/v1/responses", sent("word " * 2000, stream=stream))
    assert reply.status == 400
    assert (reply.error["code"], reply.error["param"]) == ("context_length_exceeded", "input")
    assert reply.error["n_prompt_tokens"] > reply.error["n_ctx"] > 0


@pytest.mark.parametrize("schema", [{"type": "wat"}, {"$ref": "#/nowhere"}], ids=str)
async def test_an_impossible_schema_is_refused(client: Client, schema: dict[str, Any]) -> None:
    wanted = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    assert (await client.post("/v1/responses", sent(text=wanted))).status == 400


async def test_a_model_that_nobody_serves_is_a_404(client: Client) -> None:
    reply = await client.post("/v1/responses", sent(model="gpt-9"))
    assert reply.status == 404
    assert reply.error["code"] == "model_not_found"
