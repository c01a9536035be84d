"""Answers in a demanded form: the SDK's `.parse()`, strict schemas, `json_object`, and schemas that cannot be."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from tests.doubles.clients import Client
from tests.doubles.schemas import IMPOSSIBLE, record

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK: list[Any] = [{"role": "user", "content": "Tell me of the weather in Paris."}]
WAYS = pytest.mark.parametrize(
    "extra", [{"swarm": {"strategy": "single"}}, {"swarm": {"votes": 3}}], ids=["single", "vote"]
)
FEW = (
    "unknown type",
    "a reference to nothing",
    "a list without an end",
    "nothing to choose from",
    "an open class as pattern",
)


class Place(BaseModel):
    kind: Literal["city", "river"]
    size: int = Field(ge=0, le=9)


class Report(BaseModel):
    sure: bool
    sky: Literal["clear", "cloudy"] | None
    place: Place
    days: list[Literal["Monday", "Tuesday"]] = Field(max_length=2)


@WAYS
async def test_parse_gives_the_pydantic_model_that_was_asked_for(ai: AsyncOpenAI, extra: Any) -> None:
    reply = await ai.chat.completions.parse(
        model="demo", messages=ASK, response_format=Report, temperature=0.8, seed=3, extra_body=extra
    )
    report = reply.choices[0].message.parsed
    assert isinstance(report, Report)
    assert reply.choices[0].finish_reason == "stop"


async def test_a_schema_streams_and_the_stream_helper_parses_it(ai: AsyncOpenAI) -> None:
    async with ai.chat.completions.stream(
        model="demo", messages=ASK, response_format=Report, temperature=0, extra_body={"swarm": {"strategy": "single"}}
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert isinstance(final.choices[0].message.parsed, Report)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_json_object_is_an_object_or_says_that_it_was_cut(ai: AsyncOpenAI, seed: int) -> None:
    reply = await ai.chat.completions.create(
        model="demo",
        messages=ASK,
        response_format={"type": "json_object"},
        temperature=1,
        seed=seed,
        max_tokens=200,
        extra_body={"swarm": {"strategy": "single"}},
    )
    choice = reply.choices[0]
    assert (choice.message.content or "").lstrip().startswith("{")
    assert choice.finish_reason in ("stop", "length")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_an_impossible_schema_is_a_400_that_names_the_field(client: Client, name: str) -> None:
    schema, words = IMPOSSIBLE[name]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for stream in (False, True):
        reply = await client.post(
            "/v1/chat/completions", {"model": "demo", "messages": ASK, "response_format": wanted, "stream": stream}
        )
        assert (reply.status, reply.error["param"]) == (400, "response_format.json_schema.schema"), words


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("choice", ["auto", "required", "none"])
async def test_impossible_parameters_are_a_400_that_names_the_tool(client: Client, name: str, choice: str) -> None:
    schema, _ = IMPOSSIBLE[name]
    body: dict[str, Any] = {"model": "demo", "messages": ASK, "tool_choice": choice, "stream": True, "max_tokens": 2}
    fine = {"type": "function", "function": {"name": "fine", "parameters": record(a={})}}
    tools = [fine, {"type": "function", "function": {"name": "f", "parameters": schema}}]
    reply = await client.post("/v1/chat/completions", {**body, "tools": tools})
    if choice == "none":  # nobody is shown such a tool
        assert reply.status == 200
    else:
        assert (reply.status, reply.error["param"]) == (400, "tools[1].function.parameters")


async def test_peers_refuse_impossible_schemas_too(client: Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}}
    request = {"model": "demo", "messages": ASK, "response_format": wanted}
    for path, body in (("candidates", {"request": request, "votes": 1}), ("generate", request)):
        reply = await client.post(f"/federation/v1/{path}", body)
        assert reply.status == 400, path
        assert "unknown type" in reply.error["message"]


async def test_rendering_and_counting_refuse_impossible_schemas_too(client: Client) -> None:
    """Tools are compiled to render a chat, too: this one would take a thread of llama.cpp's listener for ever."""
    endless = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 2**63 - 1}}}
    offered = [{"type": "function", "function": {"name": "f", "parameters": endless}}]
    chat = {"model": "demo", "messages": ASK, "tools": offered}
    counted = {"model": "demo", "messages": ASK, "tools": [{"name": "f", "input_schema": endless}]}
    for path, body in (
        ("/apply-template", chat),
        ("/v1/messages/count_tokens", counted),
        ("/federation/v1/utilities/apply-template", chat),
        ("/federation/v1/utilities/count-tokens", chat),
    ):
        reply = await client.post(path, body)
        error = json.loads(reply.text)["error"] if path.startswith("/federation/") else reply.error  # there a line
        assert error["code" if "code" in error else "type"] in ("invalid_value", "invalid_request_error"), path
        assert "cannot be enforced" in error["message"]


async def test_a_node_goes_on_after_impossible_schemas(client: Client) -> None:
    assert (
        await client.post("/v1/chat/completions", {"model": "demo", "messages": ASK, "max_tokens": 2})
    ).status == 200
