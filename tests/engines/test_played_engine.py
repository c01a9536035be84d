"""The engine that plays parts, behind a real node: turns by the conversation, and voters that dissent where told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from swarm.engines.engine import EngineSpec
from tests.doubles.clients import Client, connect
from tests.doubles.played_engine import Call, PlayedEngine, Say, Turn, call, calls, in_turn
from tests.doubles.running_node import RunningNode, ready

pytestmark = pytest.mark.asyncio(loop_scope="module")

RIGHT, WRONG = call("look", path="here"), call("look", path="there")
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}
PARTS = {
    "agree": in_turn(RIGHT, Say("found it")),
    "one dissents": in_turn(Turn((RIGHT, WRONG, RIGHT)), Say("found it")),
    "the greedy one dissents": in_turn(Turn((WRONG, RIGHT)), Say("found it")),
    "split": in_turn(Turn((RIGHT, WRONG), again=True)),
    "think": in_turn(calls(Call("look", {"path": "here"}), text="I look.", thinking="Where can it be?")),
}


@dataclass(frozen=True, slots=True)
class Stage:
    client: Client
    engine: PlayedEngine

    async def ask(self, *messages: dict[str, Any], swarm: dict[str, Any], **fields: Any) -> Any:
        body = {"model": "swarm", "messages": messages, "tools": [TOOL], "swarm": swarm, **fields}
        reply = await self.client.post("/v1/chat/completions", body)
        assert reply.status == 200, reply.text
        return reply.json


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    engine = PlayedEngine(EngineSpec("played", None, 8192, 8, threads=1), PARTS)
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        yield Stage(client, engine)


def said(task: str) -> dict[str, Any]:
    return {"role": "user", "content": task}


def called(answer: Any) -> Any:
    [found] = answer["choices"][0]["message"]["tool_calls"]
    return json.loads(found["function"]["arguments"])


async def test_the_next_turn_follows_from_the_conversation(stage: Stage) -> None:
    first = await stage.ask(said("agree"), swarm={"votes": 3})
    assert called(first) == {"path": "here"}
    message = first["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "it is here"}
    second = await stage.ask(said("agree"), message, result, swarm={"votes": 3})
    assert second["choices"][0]["message"]["content"] == "found it"
    assert called(await stage.ask(said("agree"), swarm={"votes": 3})) == {"path": "here"}


@pytest.mark.parametrize("task", ["one dissents", "the greedy one dissents"])
async def test_a_voter_that_dissents_is_outvoted(stage: Stage, task: str) -> None:
    answer = await stage.ask(said(task), swarm={"votes": 5})
    assert called(answer) == {"path": "here"}
    assert answer["swarm"]["outcome"] != "unanimous"
    assert len({each["group"] for each in answer["swarm"]["candidates"] if each["group"] is not None}) == 2
    assert stage.engine.voters(task) >= 4


async def test_a_split_is_never_decided(stage: Stage) -> None:
    answer = await stage.ask(said("split"), swarm={"stop": {"ahead": 3}})
    assert answer["swarm"]["outcome"] == "undecided"


async def test_thoughts_and_words_come_before_the_call(stage: Stage) -> None:
    message = (await stage.ask(said("think"), swarm={"strategy": "single"}))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Where can it be?", "I look.")
    assert len(message["tool_calls"]) == 1


async def test_what_no_part_is_written_for_is_echoed(stage: Stage) -> None:
    message = (await stage.ask(said("who is there"), swarm={"strategy": "single"}))["choices"][0]["message"]
    assert message["content"] == "who is there"


async def test_a_part_that_is_over_is_an_error(stage: Stage) -> None:
    turns = [said("think"), {"role": "assistant", "content": "I look."}, said("again")]
    body = {"model": "swarm", "messages": turns, "swarm": {"strategy": "single"}}
    reply = await stage.client.post("/v1/chat/completions", body)
    assert reply.status >= 500
    assert "the part has 1 turns" in reply.error["message"]
