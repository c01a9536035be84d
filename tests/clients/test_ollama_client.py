"""The `ollama` package against scripted models: tools to the end, thoughts, images, waiting, failures, leaving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import ollama
import pytest
from pydantic import BaseModel

from swarm.errors import EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from swarm.gateway.ollama.bodies import OllamaMessage, engine_turns
from swarm.gateway.ollama.form import AnswerClock, load_ns_of
from swarm.generation import Delta, Finish, Timings, ToolCallDelta, Usage
from tests.doubles import images
from tests.doubles.clients import connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.played_node import (
    ENDLESS_TASK,
    KEY,
    MODEL,
    OBJECT_TASK,
    TEXT,
    TEXT_TASK,
    TOOL_ANSWER,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

Ollama = Any  # an `ollama.AsyncClient` or `ollama.Client`, whose own types are partly unknown
ASK = [{"role": "user", "content": "What is 2 + 3?"}]
TELL = [{"role": "user", "content": "Tell me of Paris."}]  # which is no question for a vote
CALLS = (
    "I add. ",
    Delta(tool_calls=(ToolCallDelta(0, "", "add", '{"a": 2,'), ToolCallDelta(1, None, "say", ""))),
    Delta(tool_calls=(ToolCallDelta(0, None, None, ' "b": 3}'),)),
)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def say() -> str:
    """Say it."""
    return "said"


@asynccontextmanager
async def asked(engine: ScriptedEngine, pacing: Pacing | None = None) -> AsyncGenerator[Ollama]:
    """The official package, at a node with that engine."""
    async with RunningNode("study", ready(engine), options=NodeOptions(pacing=pacing or Pacing())) as node:
        client: Ollama = ollama.AsyncClient(host=node.url, limits=httpx.Limits(max_keepalive_connections=0))
        try:
            yield client
        finally:
            await client._client.aclose()


@pytest.mark.client("ollama-python", "tools")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_tools_are_called_with_objects_and_their_results_find_their_calls(stream: bool) -> None:
    engine = ScriptedEngine(lambda request, _: ["5"] if len(request.messages or ()) > 1 else CALLS)
    async with asked(engine) as client:
        answer = await client.chat("scripted", ASK, tools=[add, say], stream=stream)
        parts = [part async for part in answer] if stream else [answer]
        (calls,) = [part.message.tool_calls for part in parts if part.message.tool_calls]
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            ("add", {"a": 2, "b": 3}),
            ("say", {}),
        ]
        assert "".join(part.message.content or "" for part in parts) == "I add. "
        assert parts[-1].done_reason == "stop"
        results = [
            {"role": "tool", "tool_name": "say", "content": say()},
            {"role": "tool", "tool_name": "add", "content": str(add(**calls[0].function.arguments))},
        ]
        turn = {"role": "assistant", "content": "I add. ", "tool_calls": [dict(call) for call in calls]}
        last = await client.chat("scripted", [*ASK, turn, *results], tools=[add, say])
    assert last.message.content == "5"
    messages: Any = engine.requests[-1].messages
    made = messages[1]["tool_calls"]
    assert [message.get("tool_call_id") for message in messages[2:]] == [made[1]["id"], made[0]["id"]]
    assert made[0]["function"]["arguments"] == '{"a": 2, "b": 3}'
    assert [tool.function.name for tool in engine.requests[-1].tools] == ["add", "say"]


@pytest.mark.client("ollama-python", "text", "stream")
@pytest.mark.parametrize(("think", "wanted"), [(True, True), (False, False), ("low", True), (None, None)])
async def test_thoughts_come_apart_from_the_answer(think: bool | str | None, wanted: bool | None) -> None:
    engine = ScriptedEngine(lambda _, __: [Delta(reasoning="Hm"), Delta(reasoning="."), "Paris."])
    async with asked(engine) as client:
        whole = await client.chat("scripted", TELL, think=think)
        parts = [
            part async for part in await client.generate("scripted", "Tell me of Paris.", think=think, stream=True)
        ]
    assert (whole.message.thinking, whole.message.content) == ("Hm.", "Paris.")
    assert "".join(part.thinking or "" for part in parts) == "Hm."
    assert "".join(part.response for part in parts) == "Paris."
    assert [request.thinking for request in engine.requests] == [wanted, wanted]


async def test_options_reach_the_engine() -> None:
    engine = ScriptedEngine(saying("a"))
    options = {
        "num_predict": 9, "stop": ["x", ""], "seed": 4, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.25,
        "repeat_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": -1.0, "num_ctx": 99, "mirostat": 1,
    }  # fmt: skip
    async with asked(engine) as client:
        await client.generate("scripted", "a", options=options, suffix="z")
        await client.generate("scripted", "a", options={"num_predict": -1, "seed": -1}, raw=True)
    first, second = engine.requests
    assert (first.max_tokens, first.stop, first.seed, first.temperature) == (9, ("x",), 4, 0.5)
    assert (first.top_k, first.top_p, first.min_p, first.repeat_penalty) == (3, 0.5, 0.25, 1.5)
    assert (first.presence_penalty, first.frequency_penalty) == (1.0, -1.0)
    assert (first.prompt, first.suffix, first.messages) == ("a", "z", None)
    assert (second.prompt, second.max_tokens, second.seed) == ("a", None, None)


async def test_images_are_shown_to_a_model_that_sees() -> None:
    engine = ScriptedEngine(saying("red"))
    engine.can["vision"] = True
    async with asked(engine) as client:
        await client.generate("scripted", "What colour?", images=[images.png()])
        turn = {"role": "user", "content": "And now?", "images": [images.png()]}
        await client.chat("scripted", [turn])
        assert "vision" in (await client.show("scripted")).capabilities
    for request in engine.requests:
        assert images.url_of(images.png()) in str(request.messages)


async def test_vectors_come_for_each_text() -> None:
    async with asked(ScriptedEngine(saying("a"))) as client:
        several = await client.embed("scripted", ["one", "two", "three"])
        assert len(several.embeddings) == 3
        assert several.prompt_eval_count
        single = await client.embeddings("scripted", "one")
        assert list(single.embedding) == list(several.embeddings[0])
        assert (await client.embed("scripted", "")).embeddings == []


async def test_a_client_that_waits_gets_lines_that_it_can_read() -> None:
    gate = asyncio.Event()
    async with asked(ScriptedEngine(lambda _, __: [gate, "late"]), Pacing(client_beat_s=0.01)) as client:
        parts = await client.chat("scripted", ASK, stream=True)
        waiting = [await anext(parts), await anext(parts)]
        gate.set()
        rest = [part async for part in parts]
    assert [(part.message.content, part.done) for part in waiting] == [("", False), ("", False)]
    assert "".join(part.message.content for part in rest) == "late"


@pytest.mark.client("ollama-python", "errors")
async def test_what_fails_in_mid_stream_is_raised() -> None:
    async with asked(ScriptedEngine(lambda _, __: ["half", EngineFailed("the engine broke")])) as client:
        said: list[str] = []

        async def read() -> None:
            said.extend([part.message.content async for part in await client.chat("scripted", ASK, stream=True)])

        with pytest.raises(ollama.ResponseError, match="the engine broke"):
            await read()


@pytest.mark.client("ollama-python", "cancel")
async def test_a_client_that_leaves_frees_its_slot() -> None:
    engine = ScriptedEngine(lambda _, __: ["first", asyncio.Event()])
    async with asked(engine) as client:
        parts = await client.chat("scripted", TELL, stream=True)
        assert (await anext(parts)).message.content == "first"
        await parts.aclose()
        await eventually(lambda: engine.cancelled == 1 and engine.running == 0)


async def test_the_load_is_told_where_there_was_one() -> None:
    machine = Machine(total=1000)
    machine.add("a", 100, load_s=4.0)
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK)
    body = {"model": "a", "messages": ASK, "stream": False}
    async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
        for turn in range(2):
            answer = (await client.post("/api/chat", body)).json
            loaded = answer["swarm"].get("loaded")
            assert (loaded is None) == bool(turn)
            assert answer["load_duration"] == (0 if turn else loaded["ms"] * 1_000_000)


MEASURED = Finish(0, "stop", Usage(), timings=Timings(prompt_ms=0.002, predicted_ms=0.003))
VOTED: dict[str, Any] = {"swarm": {"strategy": "majority", "votes": 3}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("vote", [{}, VOTED], ids=["alone", "voted"])
async def test_how_long_it_read_and_wrote_is_what_was_measured_where_it_was_made(
    vote: dict[str, Any], stream: bool
) -> None:
    """However the answer came: in one piece all of its tokens would have been written in no time."""
    async with (
        RunningNode("study", ready(ScriptedEngine(lambda _, __: ["one ", "two ", "three", MEASURED]))) as node,
        connect(node.url) as client,
    ):
        reply = await client.post("/api/chat", {"model": "scripted", "messages": TELL, "stream": stream, **vote})
    last = json.loads(reply.text.splitlines()[-1])
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (2000, 3000)
    assert last["total_duration"] > 5000


@pytest.mark.parametrize("vote", [{}, VOTED], ids=["alone", "voted"])
async def test_of_an_answer_in_one_piece_that_nobody_measured_no_reading_is_told(vote: dict[str, Any]) -> None:
    async with (
        RunningNode("study", ready(ScriptedEngine(lambda _, __: ["one ", "two ", "three"]))) as node,
        connect(node.url) as client,
    ):
        for stream in {False, bool(vote)}:
            reply = await client.post("/api/chat", {"model": "scripted", "messages": TELL, "stream": stream, **vote})
            last = json.loads(reply.text.splitlines()[-1])
            assert "prompt_eval_duration" not in last
            assert last["eval_duration"] == last["total_duration"]


def test_durations_add_up() -> None:
    clock = AnswerClock(began_ns=100, first_ns=160)
    assert clock.durations(20, 200) == {
        "total_duration": 100, "load_duration": 20, "prompt_eval_duration": 40, "eval_duration": 40,
    }  # fmt: skip
    assert AnswerClock(began_ns=100).durations(500, 200) == {
        "total_duration": 100, "load_duration": 100, "eval_duration": 0,
    }  # fmt: skip
    measured = Timings(prompt_ms=0.00003, predicted_ms=0.00002)
    assert clock.durations(20, 200, measured) == {
        "total_duration": 100, "load_duration": 20, "prompt_eval_duration": 30, "eval_duration": 20,
    }  # fmt: skip
    longer = clock.durations(20, 200, Timings(prompt_ms=1.0, predicted_ms=0.00007))  # than all of it, by another clock
    assert (longer["prompt_eval_duration"], longer["eval_duration"]) == (10, 70)
    of_one_token = clock.durations(20, 200, Timings(prompt_ms=0.00003, predicted_ms=0.0))
    assert of_one_token == clock.durations(20, 200)  # nobody divides by nothing
    assert load_ns_of({"loaded": {"ms": 3}}) == 3_000_000
    assert load_ns_of({"loaded": {"ms": None}}) == load_ns_of({}) == load_ns_of(None) == 0


def test_a_result_of_a_call_that_nobody_made_stands_alone() -> None:
    (turn,) = engine_turns([OllamaMessage(role="tool", content="5", tool_name="add")])
    assert turn == {"role": "tool", "content": "5", "tool_call_id": "", "name": "add"}


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


@pytest.fixture
def blocking(played: PlayedNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ollama]:
    """The package without `async`, which is told of the node by its two variables and nothing else."""
    monkeypatch.setenv("OLLAMA_HOST", played.url)
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    client: Ollama = ollama.Client()
    yield client
    client._client.close()


@pytest.mark.client("ollama-python", "text", "stream")
def test_the_blocking_client_asks_and_streams(blocking: Ollama) -> None:
    turns = [{"role": "user", "content": TEXT_TASK}]
    assert blocking.chat(MODEL, turns).message.content == TEXT
    pieces = [part.message.content or "" for part in blocking.chat(MODEL, turns, stream=True)]
    assert "".join(pieces) == TEXT
    assert len(pieces) > 3


@pytest.mark.client("ollama-python", "tools")
def test_a_function_is_a_tool_of_the_blocking_client(blocking: Ollama) -> None:
    """As the package's own introduction has it: the function itself is given, and its result is a turn."""

    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: its name
        """
        return f"sunny in {city}"

    turns: list[Any] = [{"role": "user", "content": TOOL_TASK}]
    first = blocking.chat(MODEL, turns, tools=[get_weather]).message
    (made,) = first.tool_calls
    result = get_weather(**made.function.arguments)
    turns += [first, {"role": "tool", "tool_name": made.function.name, "content": result}]
    assert blocking.chat(MODEL, turns, tools=[get_weather]).message.content == f"{TOOL_ANSWER}sunny in Paris"


class Place(BaseModel):
    city: str
    degrees: int


@pytest.mark.client("ollama-python", "structured")
def test_an_object_is_made_by_a_models_schema(blocking: Ollama, played: PlayedNode) -> None:
    turns = [{"role": "user", "content": OBJECT_TASK}]
    answer = blocking.chat(MODEL, turns, format=Place.model_json_schema())
    assert Place.model_validate_json(answer.message.content or "") == Place(city="Paris", degrees=21)
    assert played.asked[-1].response_format is not None


@pytest.mark.client("ollama-python", "cancel")
def test_who_leaves_without_async_frees_the_slot(blocking: Ollama, played: PlayedNode) -> None:
    parts = blocking.generate(MODEL, ENDLESS_TASK, stream=True)
    assert next(parts).response == "1"
    played.until_busy()
    parts.close()
    played.until_idle()


@pytest.mark.client("ollama-python", "errors")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_unknown_model_is_asked_for_once(blocking: Ollama, played: PlayedNode, stream: bool) -> None:
    before = played.answered(404)
    with pytest.raises(ollama.ResponseError, match=f"model '{UNKNOWN_MODEL}' not found") as raised:
        list(blocking.generate(UNKNOWN_MODEL, TEXT_TASK, stream=stream))
    assert raised.value.status_code == 404
    assert played.answered(404) == before + 1


@pytest.mark.client("ollama-python", "errors")
def test_a_missing_key_is_asked_for(blocking: Ollama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_API_KEY")
    client: Ollama = ollama.Client()
    with pytest.raises(ollama.ResponseError, match="Authorization: Bearer KEY") as raised:
        client.list()
    client._client.close()
    assert raised.value.status_code == 401
