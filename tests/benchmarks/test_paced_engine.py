"""The engine that is paced, behind its contract and in a node: `benchmarks/paced_engine.py`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import aiohttp
import pytest

from benchmarks.paced_engine import LATE_MS, Lateness, PacedEngine, loader, share_within
from benchmarks.paced_time import Pace
from swarm.engines.engine import EngineSpec
from swarm.errors import Unavailable
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.waiting import eventually

FAST = Pace((0.002, 0.003), ((1, 0.0001),))
SLOTS = 2


def spec(slots: int = SLOTS) -> EngineSpec:
    return EngineSpec("echo", None, 512, slots, threads=1)


def chat(text: str, *before: dict[str, str], **fields: object) -> GenerationRequest:
    messages = [*before, {"role": "user", "content": text}]
    return GenerationRequest.model_validate({"model": "echo", "messages": messages, **fields})


async def answered(engine: PacedEngine, request: GenerationRequest, n: int = 1) -> tuple[str, Finish]:
    """The last choice's text and end."""
    text, end = "", None
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            if event.choice == n - 1 and isinstance(event, Delta):
                text += event.text
            elif isinstance(event, Finish):
                end = event
    assert end is not None
    return text, end


async def test_tokens_come_no_sooner_than_they_are_due() -> None:
    loop, engine = asyncio.get_running_loop(), PacedEngine(spec(), FAST)
    begun = loop.time()
    text, end = await answered(engine, chat("one two three four"))
    assert text == "one two three four"
    assert loop.time() - begun >= FAST.reading_s(5) + 3 * FAST.writing_s(1)
    assert end.usage.prompt_tokens == await engine.count_tokens(chat("one two three four"))
    assert end.timings is not None
    assert end.timings.predicted_ms > 0
    assert sum(engine.lateness.counts) == 4
    await engine.aclose()


async def test_a_conversation_that_goes_on_is_not_read_again() -> None:
    engine = PacedEngine(spec(), FAST)
    question = {"role": "user", "content": "tell me of a long river"}
    text, _ = await answered(engine, chat(question["content"]))
    _, end = await answered(engine, chat("and more", question, {"role": "assistant", "content": text}))
    assert end.usage.cached_tokens == 7  # but for the answer's role, which stands before its words now
    await engine.aclose()


@pytest.mark.parametrize("tools", [False, True])
async def test_the_prompt_has_as_many_words_as_are_counted(tools: bool) -> None:
    engine = PacedEngine(spec(), FAST)
    offered = [{"type": "function", "function": {"name": "look", "parameters": {}}}] if tools else []
    for request in (
        chat("what  now ?", {"role": "system", "content": "be short"}, tools=offered),
        GenerationRequest.model_validate({"model": "echo", "prompt": "one two"}),
    ):
        assert len(engine._prompt_tokens(request)) == await engine.count_tokens(request)
    await engine.aclose()


async def test_whoever_leaves_frees_the_machine() -> None:
    engine = PacedEngine(spec(1), Pace((0.001,), ((1, 0.001),)))
    async with aclosing(engine.candidates(chat("a b c d e f g h"), 1)) as events:
        await anext(events)
    text, _ = await answered(engine, chat("done"))
    assert text == "done"
    assert engine.tokens_generated < 9
    await engine.aclose()


async def test_closing_ends_what_runs_with_an_error() -> None:
    engine = PacedEngine(spec(), Pace((3600.0,), ((1, 3600.0),)))
    running = asyncio.create_task(answered(engine, chat("hello")))
    await eventually(lambda: engine.machine.next_due is not None)
    await engine.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await running
    with pytest.raises(Unavailable, match="closed"):
        await answered(engine, chat("hello"))


async def test_its_loader_stands_for_the_echo_engines() -> None:
    made: list[PacedEngine] = []
    engine = await loader(FAST, made.append)(spec(), "auto")
    assert made == [engine]
    assert engine.name == "echo"
    assert engine.computation.engine == "paced"
    await engine.aclose()


async def test_a_vote_of_three_in_a_node() -> None:
    engine = PacedEngine(spec(3), FAST)
    async with RunningNode("kitchen", ready(engine)) as node, aiohttp.ClientSession() as session:
        body = {
            "model": "echo",
            "messages": [{"role": "user", "content": "42"}],
            "swarm": {"strategy": "majority", "votes": 3},
        }
        async with session.post(f"{node.url}/v1/chat/completions", json=body) as response:
            said = await response.json()
    assert said["choices"][0]["message"]["content"] == "42"
    assert said["swarm"]["agreement"] == 1
    assert said["swarm"]["asked"] == 2  # the third could change nothing


@pytest.mark.parametrize(
    ("late_ms", "share", "bound"),
    [
        ([], 0.5, None),
        ([0.1], 0.99, 0.25),
        ([0.1, 0.1, 5.0], 0.5, 0.25),
        ([0.1, 5.0], 0.99, 6),
        ([9e9], 0.5, float("inf")),
    ],
)
def test_lateness_is_told_as_the_bound_that_a_share_stays_within(
    late_ms: list[float], share: float, bound: float | None
) -> None:
    lateness = Lateness()
    for ms in late_ms:
        lateness.note(ms / 1000)
    assert share_within(lateness.counts, share) == bound
    assert len(lateness.counts) == len(LATE_MS) + 1
