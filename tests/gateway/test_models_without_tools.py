"""A model whose chat template knows no tools, nor a system turn, nor two turns of one role: every API works with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.chat_templates import TEMPLATES
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.tiny_models import write_templated_model

PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Weather of a city", "parameters": PARAMETERS}
CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


@pytest.fixture(scope="module")
def strict_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("models") / "strict.gguf"
    write_templated_model(model, TEMPLATES["roles alternate, no system"])
    return model


@asynccontextmanager
async def strict_swarm(model: Path, through_a_peer: bool) -> AsyncIterator[Client]:
    """The node that has the model, or another one that passes requests on to it."""

    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("strict", model, 1024, 2, threads=1), "never")

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(RunningNode("study", load))
        if through_a_peer:
            options = NodeOptions(peers=[node.address])
            node = await stack.enter_async_context(RunningNode("kitchen", options=options))
        yield await stack.enter_async_context(connect(node.url))


EITHER_WAY = pytest.mark.parametrize("through_a_peer", [False, True])


@EITHER_WAY
async def test_it_is_told_what_the_model_can(strict_model: Path, through_a_peer: bool) -> None:
    async with strict_swarm(strict_model, through_a_peer) as asked:
        listed = (await asked.get("/v1/models")).json["data"]
        assert [(model["id"], model["tools"]) for model in listed] == [("swarm", "general"), ("strict", "general")]
        assert (await asked.get("/v1/props?model=strict")).json["swarm"]["can"]["tools"] is False


@EITHER_WAY
async def test_chat(strict_model: Path, through_a_peer: bool) -> None:
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": "And in Rome?"},
    ]
    tools = [{"type": "function", "function": FUNCTION}]
    body = {"model": "strict", "messages": turns, "tools": tools, "max_tokens": 40}
    async with strict_swarm(strict_model, through_a_peer) as asked:
        reply = await asked.post("/v1/chat/completions", {**body, "tool_choice": "required"})
        assert reply.status == 200, reply.text
        (call,) = reply.json["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")
        assert (await asked.post("/v1/chat/completions", body)).status == 200
        prompt = (await asked.post("/v1/apply-template", body)).json["prompt"]
        for text in ("Weather?", "Be brief.", '"city": "Paris"', "rain", "And in Rome?", "Weather of a city"):
            assert text in prompt


@EITHER_WAY
async def test_messages(strict_model: Path, through_a_peer: bool) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}}
    body: dict[str, Any] = {
        "model": "strict",
        "max_tokens": 40,
        "system": "Be kind.",
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "rain"}]},
            {"role": "system", "content": "Be brief."},
        ],
        "tools": [{"name": "weather", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "any"},
    }
    async with strict_swarm(strict_model, through_a_peer) as asked:
        reply = await asked.post("/v1/messages", body)
        assert reply.status == 200, reply.text
        assert [block["type"] for block in reply.json["content"]] == ["tool_use"]


@EITHER_WAY
async def test_responses(strict_model: Path, through_a_peer: bool) -> None:
    body: dict[str, Any] = {
        "model": "strict",
        "max_output_tokens": 40,
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": "Weather?"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "And in Rome?"},
        ],
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": "required",
    }
    async with strict_swarm(strict_model, through_a_peer) as asked:
        reply = await asked.post("/v1/responses", body)
        assert reply.status == 200, reply.text
        assert [item["type"] for item in reply.json["output"]] == ["function_call"]
