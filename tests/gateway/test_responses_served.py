"""Responses of votes, of peers and of failures, from engines that say what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from openai import APIError

from federation.tasks import cancel_and_wait
from swarm.errors import EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta, ToolCallDelta
from tests.doubles.clients import Client, connect, openai_client
from tests.doubles.response_events import ended, kinds, read_events
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import Script, ScriptedEngine, Step, saying

RESPONSES = "/v1/responses"
SINGLE = {"strategy": "single"}


def sent(**fields: Any) -> dict[str, Any]:
    return {"model": "swarm", "input": "hello", "swarm": SINGLE, **fields}


@dataclass(frozen=True, slots=True)
class Stage:
    """Node "study" has an engine; node "kitchen" has none, and passes on what it is asked."""

    engine: ScriptedEngine
    clients: dict[str, Client]


@asynccontextmanager
async def staged(script: Script, pacing: Pacing | None = None) -> AsyncIterator[Stage]:
    engine, pacing = ScriptedEngine(script), pacing or Pacing()
    async with RunningNode("study", ready(engine), options=NodeOptions(pacing=pacing)) as study:
        beside = NodeOptions(pacing=pacing, peers=[study.address])
        async with (
            RunningNode("kitchen", options=beside) as kitchen,
            connect(study.url) as here,
            connect(kitchen.url) as there,
        ):
            yield Stage(engine, {"study": here, "kitchen": there})


def steps(*made: Step) -> Script:
    return lambda _, __: made


@pytest.mark.parametrize("stream", [False, True])
async def test_a_proxied_answer_is_the_same(stream: bool) -> None:
    call = Delta(tool_calls=(ToolCallDelta(0, "c1", "f", '{"a": 1}'),))
    async with staged(steps(Delta(reasoning="hm"), "one ", "two", call)) as stage:
        made: list[Any] = []
        for client in stage.clients.values():
            reply = await client.post(RESPONSES, sent(stream=stream))
            assert reply.status == 200
            made.append(ended(read_events(reply.text)).to_dict() if stream else reply.json)
        here, there = made
        assert [item["type"] for item in here["output"]] == ["reasoning", "message", "function_call"]
        for item, same in zip(here["output"], there["output"], strict=True):
            assert {**item, "id": ""} == {**same, "id": ""}
        assert here["usage"] == there["usage"]
        assert here["output"][2]["call_id"] == "c1"
        assert (here["swarm"]["coordinator"], there["swarm"]["coordinator"]) == ("study", "kitchen")
        assert there["swarm"]["winner"] == "study"


@pytest.mark.parametrize("node", ["study", "kitchen"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_vote(node: str, stream: bool) -> None:
    async with staged(saying("Answer: 16", "Answer: 18", "Answer: 16")) as stage:
        client = stage.clients[node]
        asked = sent(
            input="What is 9 + 7? End with Answer: N", stream=stream, swarm={"votes": 3, "strategy": "majority"}
        )
        reply = await client.post(RESPONSES, asked)
        response = ended(read_events(reply.text)) if stream else None
        body = response.to_dict() if response else reply.json
        text = body["output"][0]["content"][0]["text"]
        assert text == "Answer: 16"
        assert body["swarm"]["asked"] == 3
        told = body["swarm"]["outcome"], body["swarm"]["agreement"]
        assert told == (("consensus", 0.6667) if node == "study" else ("single", None)), (
            "one peer alone agrees with nobody"
        )


async def test_a_winner_that_calls_is_streamed_after_the_vote() -> None:
    async with staged(steps(Delta(tool_calls=(ToolCallDelta(0, "c1", "f", '{"a": 1}'),)))) as stage:
        tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
        reply = await stage.clients["study"].post(RESPONSES, sent(stream=True, tools=tools, swarm={"votes": 3}))
        events = read_events(reply.text)
        assert kinds(events)[2] == "output_item.added"
        (call,) = ended(events).output
        assert call.type == "function_call"


@pytest.mark.parametrize("swarm", [SINGLE, {"votes": 3}], ids=["single", "vote"])
@pytest.mark.parametrize("node", ["study", "kitchen"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_every_worker(node: str, stream: bool, swarm: Any) -> None:
    async with staged(steps("a word ", asyncio.Event())) as stage:
        client = stage.clients[node]
        asked = asyncio.create_task(client.post(RESPONSES, sent(stream=stream, swarm=swarm)))
        await stage.engine.until(lambda engine: engine.running > 0)
        asked.cancel()
        async with asyncio.timeout(1):
            await stage.engine.until(lambda engine: engine.running == 0)
        assert stage.engine.cancelled
        await cancel_and_wait(asked)


async def test_heartbeats_are_comments() -> None:
    gate = asyncio.Event()
    async with staged(steps("one ", gate, "two"), Pacing(client_beat_s=0.02)) as stage:
        client = stage.clients["study"]
        async with client.open(RESPONSES, sent(stream=True)) as response:
            seen = b""
            while b": still working" not in seen:
                seen += await response.content.readuntil(b"\n\n")
            gate.set()
            seen += await response.content.read()
        assert ended(read_events(seen.decode())).output_text == "one two"


async def test_a_long_silence_has_events() -> None:
    gate = asyncio.Event()
    async with staged(steps(gate, "done"), Pacing(client_beat_s=1 / 64, patience_s=2 / 64)) as stage:
        async with stage.clients["study"].open(RESPONSES, sent(stream=True)) as response:
            seen = b""
            while seen.count(b"event: response.in_progress") < 3:
                seen += await response.content.readuntil(b"\n\n")
            gate.set()
            seen += await response.content.read()
        assert seen.startswith(b": still working")
        assert ended(read_events(seen.decode())).output_text == "done"


async def test_a_failure_before_the_first_event_is_a_status() -> None:
    async with staged(steps(EngineFailed("broken"))) as stage:
        reply = await stage.clients["study"].post(RESPONSES, sent(stream=True))
        assert reply.status == 500
        assert reply.error["code"] == "engine_failed"


@pytest.mark.parametrize("first", ["one ", None], ids=["amid the answer", "after a heartbeat"])
async def test_a_failure_after_the_status_ends_the_stream_aloud(first: str | None) -> None:
    gate = asyncio.Event()
    said = [first] if first else []
    async with staged(steps(*said, gate, EngineFailed("broken")), Pacing(client_beat_s=0.02)) as stage:
        client = stage.clients["study"]
        async with client.open(RESPONSES, sent(stream=True)) as response:
            seen = await response.content.readuntil(b"\n\n")
            gate.set()
            seen += await response.content.read()
        events = read_events(seen.decode())
        error, failed = events[-2:]
        assert (error["type"], error["code"]) == ("error", "engine_failed")
        assert "broken" in error["message"]
        assert failed["type"] == "response.failed"
        assert failed["response"]["status"] == "failed"
        assert failed["response"]["error"]["code"] == "server_error"
        assert failed["response"]["output"] == [], "what is not whole is not passed off as such"


async def test_the_sdk_raises_what_went_wrong() -> None:
    engine = ScriptedEngine(steps("one ", EngineFailed("broken")))
    async with RunningNode("study", ready(engine)) as node, openai_client(node.url, max_retries=0) as ai:
        with pytest.raises(APIError, match="broken"):
            async with ai.responses.stream(model="swarm", input="hello", extra_body={"swarm": SINGLE}) as stream:
                await stream.get_final_response()
