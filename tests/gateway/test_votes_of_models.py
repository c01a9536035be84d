"""Votes of real models on real nodes: each kind of answer, whole and streamed, asked of a swarm of three."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swarm.consensus.options import STREAM_MODES
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.anthropic_events import streamed
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.response_events import ended, read_events
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.gateway.stream_rules import heard

CHAT, SUM = "/v1/chat/completions", "Calculate 12 + 7 - 3"
NAMES = ("attic", "study", "kitchen")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED: dict[str, dict[str, Any]] = {
    "number": chat_body(SUM),
    "choice": chat_body("Is 7 more than 3? (A) yes (B) no. Reply with a single letter.", max_tokens=12),
    "json": chat_body(
        "Tom is 9 years old.",
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
        max_tokens=60,
    ),
    "tool_calls": chat_body("What is the weather in Paris?", tools=[TOOL], tool_choice="required", max_tokens=60),
    "code": chat_body("Write a Python function in a code block.", max_tokens=60),
    "text": chat_body("Tell me a story.", max_tokens=24),
}
SHOWN_LIVE = ("code", "text")  # nothing in these requests says that the answer would be acted on
# What the tiny models' answers can turn out to be: they need not do as they are told where nothing enforces it.
KINDS = {"number": {"number"}, "json": {"json"}, "tool_calls": {"tool_calls"}}


@pytest_asyncio.fixture
async def engines(demo_model: Path) -> list[Engine]:
    """One for each node, which closes it. Loaded before the test is watched: that holds the interpreter's lock."""
    spec = EngineSpec("demo", demo_model, 512, 2, threads=1)
    return [await load_engine("auto", spec) for _ in NAMES]


@asynccontextmanager
async def three_nodes(engines: list[Engine]) -> AsyncGenerator[Client]:
    """Three nodes with the embedded model, two slots each; the last one is asked."""
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        for name, engine in zip(NAMES, engines, strict=True):
            options = NodeOptions(peers=[node.address for node in nodes])
            nodes.append(await stack.enter_async_context(RunningNode(name, ready(engine), options=options)))
        yield await stack.enter_async_context(connect(nodes[-1].url))


def voted(kind: str, mode: str | None = None) -> dict[str, Any]:
    swarm: dict[str, Any] = {"votes": 3} if mode is None else {"votes": 3, "stream": mode}
    return {**ASKED[kind], "temperature": 0, "seed": 7, "swarm": swarm}


def check(kind: str, account: dict[str, Any], message: dict[str, Any]) -> None:
    assert account["kind"] in KINDS.get(kind, {"number", "choice", "json", "code", "text"})
    assert account["wanted"] == 3
    assert 2 <= account["asked"] <= 3
    assert {part["voter"].split("@")[1] for part in account["candidates"]} <= set(NAMES)
    assert account["quorum"] != account["degraded"]
    if kind == "json":
        assert set(json.loads(message["content"])) == {"name", "age"}
    if kind == "tool_calls":
        (call,) = message["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert "city" in json.loads(call["function"]["arguments"])
    if kind == "number":
        assert "Answer:" in message["content"]


@pytest.mark.parametrize("kind", ASKED)
async def test_each_kind_is_voted_on_and_streams_in_each_mode(engines: list[Engine], kind: str) -> None:
    async with three_nodes(engines) as client:
        reply = await client.post(CHAT, voted(kind))
        assert reply.status == 200, reply.text
        check(kind, reply.json["swarm"], reply.json["choices"][0]["message"])
        for mode in STREAM_MODES:
            reply = await client.post(CHAT, {**voted(kind, mode), "stream": True})
            (answer,) = heard(reply, 1, None)
            (account,) = [chunk["swarm"] for chunk in reply.chunks if "swarm" in chunk]
            calls = [{"function": {"name": name, "arguments": arguments}} for name, arguments in answer.calls]
            check(kind, account, {"content": answer.text, "tool_calls": calls})
            live = mode in ("leader", "words") and kind in SHOWN_LIVE
            assert account["stream"] == (mode if live else "buffer"), "a call comes without words, or is not shown"


@pytest.mark.parametrize("mode", STREAM_MODES)
async def test_other_apis_stream_votes_of_models_too(engines: list[Engine], mode: str) -> None:
    body: dict[str, Any] = {"model": "swarm", "stream": True, "temperature": 0, "swarm": {"votes": 3, "stream": mode}}
    async with three_nodes(engines) as client:
        reply = await client.post("/v1/responses", {**body, "input": SUM})
        response = ended(read_events(reply.text))
        assert (response.model_extra or {})["swarm"]["wanted"] == 3
        reply = await client.post("/v1/messages", {**chat_body(SUM, max_tokens=60), **body})
        message = streamed(reply.text)
        assert message.swarm is not None
        assert message.swarm["wanted"] == 3
