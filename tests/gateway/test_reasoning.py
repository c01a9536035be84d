"""Thoughts go out as `reasoning_content`, come in under both names, are counted, and never show in the answer."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.generation import Delta
from tests.doubles.clients import connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

THOUGHT = (Delta(reasoning="Paris, "), Delta(reasoning="surely."), "It is ", "Paris.")
ASK = {"role": "user", "content": "Where?"}


def thinking() -> ScriptedEngine:
    return ScriptedEngine(lambda _, __: THOUGHT, model_id="scripted")


@pytest.mark.parametrize("proxied", [False, True], ids=["here", "proxied"])
@pytest.mark.parametrize("strategy", ["single", "majority"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_thoughts_and_answer_come_apart(proxied: bool, strategy: str, stream: bool) -> None:
    body: dict[str, Any] = {"model": "scripted", "stream": stream, "swarm": {"strategy": strategy}}
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with (
        RunningNode("study", ready(thinking())) as study,
        RunningNode("hall", options=NodeOptions(peers=(study.address,))) as hall,
        connect(hall.url if proxied else study.url) as client,
    ):
        reply = await client.chat(**body)
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in reply.chunks if chunk["choices"]]
        thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
        said, usage = reply.said(), reply.chunks[-1]["usage"]
    else:
        message = reply.json["choices"][0]["message"]
        thought, said, usage = message["reasoning_content"], message["content"], reply.json["usage"]
    assert (thought, said) == ("Paris, surely.", "It is Paris.")
    assert usage["completion_tokens"] == 4


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_thoughts_in_the_history_reach_the_template(name: str) -> None:
    engine = thinking()
    turns = [ASK, {"role": "assistant", "content": "Here.", name: "near"}, ASK]
    async with RunningNode("study", ready(engine)) as study, connect(study.url) as client:
        reply = await client.chat(model="scripted", messages=turns, swarm={"strategy": "single"})
    assert reply.status == 200
    messages = engine.requests[0].messages
    assert messages is not None
    assert messages[1]["reasoning_content"] == "near"
