"""How long an answer took, in llama-server's `timings`: measured where it was computed, told by whoever is asked."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from swarm.engines.assembly import timed
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.prefill import LONG_TOKENS, SlicedPrefill
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.registry import load_engine
from swarm.generation import Delta, EventStream, Finish, GenerationRequest, Timings, Usage
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import PROMPT_TOKENS, ScriptedEngine, Step
from tests.doubles.upstream_house import house
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 6}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "demo", **HELLO},
    "/v1/completions": {"model": "demo", "prompt": "One day a", "max_tokens": 6},
    "/completion": {"model": "demo", "prompt": "One day a", "n_predict": 6},
}
NAMES = [
    "cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second",
    "predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second",
]  # fmt: skip
MEASURED = Finish(0, "stop", Usage(), timings=Timings(prompt_ms=70.0, predicted_ms=20.0))


def add_up(timings: dict[str, Any], counts: dict[str, int]) -> None:
    """Asserts that `timings` are llama-server's, of an answer with these counts."""
    assert list(timings) == NAMES
    assert timings["cache_n"] + timings["prompt_n"] == counts["prompt_tokens"]
    assert timings["predicted_n"] == counts["completion_tokens"]
    assert timings["prompt_ms"] > 0
    assert timings["predicted_ms"] > 0
    assert timings["prompt_per_token_ms"] == pytest.approx(timings["prompt_ms"] / timings["prompt_n"])
    assert timings["prompt_per_second"] == pytest.approx(1000 * timings["prompt_n"] / timings["prompt_ms"])
    steps = timings["predicted_n"] - 1
    assert timings["predicted_per_token_ms"] == pytest.approx(timings["predicted_ms"] / steps)
    assert timings["predicted_per_second"] == pytest.approx(1000 * steps / timings["predicted_ms"])


def counts_of(body: dict[str, Any]) -> dict[str, int]:
    names = {"prompt_tokens": "tokens_evaluated", "completion_tokens": "tokens_predicted"}
    return {name: body[plain] if "usage" not in body else body["usage"][name] for name, plain in names.items()}


def whole(reply: Reply) -> None:
    assert reply.status == 200, reply.text
    add_up(reply.json["timings"], counts_of(reply.json))


def streamed(reply: Reply, with_usage: bool) -> None:
    """They are in the last chunk alone."""
    (last,) = [chunk for chunk in reply.chunks if "timings" in chunk]
    assert last is reply.chunks[-1]
    counts = {"prompt_tokens": last["timings"]["cache_n"] + last["timings"]["prompt_n"], "completion_tokens": 6}
    add_up(last["timings"], counts_of(last) if with_usage else counts)


@pytest.mark.parametrize("path", ASKED)
async def test_an_answer_has_them_once_where_llama_server_puts_them(client: Client, path: str) -> None:
    """In a stream in the chunk with the usage, where one was asked for; else in the one that says why it ended."""
    whole(await client.post(path, ASKED[path]))
    streamed(await client.post(path, {**ASKED[path], "stream": True}), path == "/completion")
    counted = await client.post(path, {**ASKED[path], "stream": True, "stream_options": {"include_usage": True}})
    streamed(counted, with_usage=True)
    assert path == "/completion" or not counted.chunks[-1]["choices"]


async def test_through_a_peer_they_are_what_it_measured(demo_node: RunningNode) -> None:
    async with RunningNode("study", options=NodeOptions(peers=[demo_node.address])) as node, connect(node.url) as asked:
        for path, body in ASKED.items():
            whole(await asked.post(path, body))
            streamed(await asked.post(path, {**body, "stream": True}), path == "/completion")


async def test_the_official_package_reads_the_answer_and_shows_them(ai: AsyncOpenAI) -> None:
    answer = await ai.chat.completions.create(model="demo", messages=[{"role": "user", "content": "hi"}], max_tokens=4)
    assert answer.model_extra is not None
    assert list(answer.model_extra["timings"]) == NAMES
    stream = await ai.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "hi"}], max_tokens=4, stream=True
    )
    *_, last = [chunk async for chunk in stream]
    assert list((last.model_extra or {})["timings"]) == NAMES


async def test_what_was_known_of_a_prompt_is_told_and_not_counted_as_read(client: Client) -> None:
    body = {"model": "demo", "prompt": "A story of a fox, a hen and a boat on a river in the night", "max_tokens": 3}
    first = (await client.post("/v1/completions", body)).json["timings"]
    second = (await client.post("/v1/completions", body)).json["timings"]
    assert first["cache_n"] < second["cache_n"]
    assert second["prompt_n"] == 1  # the last token is always read


async def test_of_several_prompts_each_has_its_own(client: Client) -> None:
    body = {"model": "demo", "prompt": ["One day a", "There was a small"], "max_tokens": 4}
    answer = (await client.post("/v1/completions", body)).json
    assert "timings" not in answer
    assert [list(choice["timings"]) for choice in answer["choices"]] == [NAMES, NAMES]


async def test_one_token_has_no_rate(client: Client) -> None:
    timings = (await client.post("/completion", {"model": "demo", "prompt": "One", "n_predict": 1})).json["timings"]
    assert (timings["predicted_n"], timings["predicted_per_second"], timings["predicted_per_token_ms"]) == (1, 0, 0)


async def test_a_prompt_that_is_read_in_slices_took_all_of_them(demo_model: Path) -> None:
    loaded = await load_engine("auto", EngineSpec("demo", demo_model, 2 * LONG_TOKENS, 1, threads=1))
    assert isinstance(loaded, LlamaServerEngine)
    try:
        slices: list[float] = []

        async def heard(path: str, body: Any) -> Any:
            answer = await loaded.http.ask(path, body)
            if path == "/completion":
                slices.append(answer["timings"]["prompt_ms"])
            return answer

        loaded.http.prefill = SlicedPrefill(heard, 2 * LONG_TOKENS)
        words = GenerationRequest(model="demo", prompt="one two three four " * 110, max_tokens=2)
        (end,) = [event async for event in loaded.candidates(words, 1) if isinstance(event, Finish)]
        assert slices
        assert end.timings is not None
        assert end.usage.cached_tokens < LONG_TOKENS  # of what was read to measure how fast it reads
        assert end.timings.prompt_ms > sum(slices)
    finally:
        await loaded.aclose()


async def said_by(end: Finish, **fields: Any) -> Reply:
    """The reply of a node whose voters say 16, and end so."""
    script: list[Step] = ["16", end]
    engine = ScriptedEngine(lambda _, __: script, model_id="m")
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as asked:
        return await asked.chat("What is 4 * 4?", **fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_votes_are_those_of_the_answer_that_was_chosen(stream: bool) -> None:
    chosen = Timings(prompt_ms=70.0, predicted_ms=20.0)
    ends = [Timings(prompt_ms=1.0, predicted_ms=1.0), chosen, chosen]

    def script(_: GenerationRequest, voter: int) -> list[Step]:
        return [["15", "16", "16"][voter % 3], Finish(0, "stop", Usage(), timings=ends[voter % 3])]

    engine = ScriptedEngine(script, model_id="m")
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as asked:
        reply = await asked.chat(
            "What is 4 * 4? Answer with a number.", swarm={"strategy": "majority", "votes": 3}, stream=stream
        )
    body = reply.chunks[-1] if stream else reply.json
    assert (reply.said() if stream else body["choices"][0]["message"]["content"]) == "16"
    assert body["timings"]["prompt_ms"] == 70.0
    assert body["timings"]["prompt_n"] == PROMPT_TOKENS
    assert body["timings"]["prompt_per_second"] == pytest.approx(100)


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"swarm": {"votes": 3}}, {"n": 2}])
async def test_where_nobody_measured_nothing_is_said(fields: dict[str, Any]) -> None:
    assert '"timings":{' in (await said_by(MEASURED, **fields)).text
    assert '"timings"' not in (await said_by(Finish(0, "stop", Usage()), **fields)).text


CHUNK: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "16"}, "finish_reason": None}]}
COUNTED: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
OF_NO_TIME: list[Any] = [
    None, 5, [], {}, {"prompt_ms": 1}, {"prompt_ms": "1", "predicted_ms": 1}, {"prompt_ms": -1, "predicted_ms": 1},
    {"prompt_ms": 1e300, "predicted_ms": 1}, {"prompt_ms": True, "predicted_ms": 1},
]  # fmt: skip


@pytest.mark.parametrize("timings", OF_NO_TIME)
async def test_an_older_peer_that_sends_none_and_one_that_sends_no_times_are_heard_all_the_same(timings: Any) -> None:
    told = {} if timings is None else {"timings": timings}
    chunks: list[dict[str, Any]] = [CHUNK, ending(), {**COUNTED, **told}]
    pieces = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(FakePeer("attic", *pieces, DONE))
        node = RunningNode("kitchen", options=NodeOptions(peers=[peer.address]))
        await stack.enter_async_context(node)
        asked = await stack.enter_async_context(connect(node.url))
        reply = await asked.chat(model="m")
    assert reply.json["choices"][0]["message"]["content"] == "16"
    assert "timings" not in reply.json


@pytest.mark.parametrize("told", [{}, {"timings": {"prompt_ms": 50.0, "predicted_ms": 8.0, "prompt_n": 6}}])
@pytest.mark.parametrize("stream", [False, True])
async def test_of_an_upstream_they_are_what_it_says_itself(told: dict[str, Any], stream: bool) -> None:
    """A llama-server says it; of a cloud nothing is known but how long the way there and back took."""
    pieces = (text("from ", "above"), ending(), {**usage(), **told}, DONE)
    async with UpstreamServer(pieces=pieces) as server, house(server, "only") as at:
        await at.found()
        reply = await at.client.chat(model="big", stream=stream)
    body = reply.chunks[-1] if stream else reply.json
    assert ("timings" in body) == bool(told)
    if told:
        assert (body["timings"]["prompt_ms"], body["timings"]["predicted_n"]) == (50.0, 3)
        assert (body["timings"]["cache_n"], body["timings"]["prompt_n"]) == (5, 6)


class Clock:
    """Seconds that pass with each event."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def measured(*events: Delta | Finish) -> list[Timings | None]:
    """What a clock by which each event takes a second says of the ends among `events`."""
    clock = Clock()

    async def ticking() -> EventStream:
        for event in events:
            clock.now_s += 1
            await asyncio.sleep(0)
            yield event

    return [event.timings async for event in timed(ticking(), clock) if isinstance(event, Finish)]


async def test_an_engine_that_tells_no_times_is_measured_by_the_clock() -> None:
    end = Finish(0, "stop", Usage(completion_tokens=3))
    assert await measured(Delta(0, "a"), Delta(0, "b"), end) == [Timings(prompt_ms=1000, predicted_ms=2000)]
    other = Finish(1, "stop", Usage(completion_tokens=2))
    of_two = await measured(Delta(0, "a"), Delta(1, "a"), Delta(0, "b"), Delta(1, "b"), other, end)
    assert of_two == [Timings(prompt_ms=2000, predicted_ms=3000), Timings(prompt_ms=1000, predicted_ms=5000)]
    assert await measured(Delta(0, "a"), MEASURED) == [MEASURED.timings]


async def test_an_answer_that_comes_in_one_piece_is_not_measured() -> None:
    """It was made before that: its tokens would have been written in no time."""
    assert await measured(Delta(0, "abc"), Finish(0, "stop", Usage(completion_tokens=3))) == [None]
    nothing = Finish(0, "stop", Usage(completion_tokens=0))
    assert await measured(nothing) == [Timings(prompt_ms=1000, predicted_ms=0)]
