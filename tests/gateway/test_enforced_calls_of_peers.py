"""`tool_choice` through a node without a model: its peer is told the choice and enforces it itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.clients import connect
from tests.doubles.running_node import NodeOptions, RunningNode

SIZE = {
    "type": "object",
    "properties": {"size": {"$ref": "#/$defs/Size"}},
    "required": ["size"],
    "$defs": {"Size": {"enum": ["small", "large"]}},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SIZE}} for name in ("set_size", "set_width")]


@pytest.mark.parametrize("strategy", ["single", "majority"])
async def test_calls_are_enforced_where_the_model_is(demo_model: Path, strategy: str) -> None:
    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("demo", demo_model, 1024, 4, threads=1))

    choice = {"type": "function", "function": {"name": "set_width"}}
    fields: dict[str, Any] = {
        "model": "demo",
        "tools": TOOLS,
        "temperature": 0.5,
        "seed": 2,
        "swarm": {"strategy": strategy},
    }
    async with (
        RunningNode("study", load) as study,
        RunningNode("hall", options=NodeOptions(peers=(study.address,), votes=3)) as hall,
        connect(hall.url) as client,
    ):
        reply = await client.chat(**fields, tool_choice=choice)
        (answer,) = reply.json["choices"]
        (call,) = answer["message"]["tool_calls"]
        assert (answer["finish_reason"], answer["message"]["content"]) == ("tool_calls", None)
        assert call["function"]["name"] == "set_width"
        assert json.loads(call["function"]["arguments"])["size"] in ("small", "large")

        reply = await client.chat(**fields, tool_choice="required", stream=True)
        deltas = [chunk["choices"][0]["delta"] for chunk in reply.chunks if chunk["choices"]]
        first, *later = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert first["id"]
        assert first["function"]["name"] in ("set_size", "set_width")
        arguments = "".join(call["function"]["arguments"] for call in (first, *later))
        assert json.loads(arguments)["size"] in ("small", "large")
        assert not reply.said()
        assert reply.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
