"""Long prompts in slices: whoever leaves meanwhile frees the slot, and nothing else is different."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_model import Shape, write_model
from federation.tasks import cancel_and_wait
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.llama_cpp.prefill import Slice, SlicedPrefill, is_long, least_tokens, slice_tokens
from swarm.engines.llama_cpp.prompt_slots import PromptSlots, common_prefix
from swarm.engines.llama_cpp.saved_prompts import SavedPrompts, forget
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import BadRequest, EngineDied
from swarm.generation import Delta, Finish, GenerationRequest, Usage
from tests.doubles.clients import connect
from tests.doubles.inside_llama import busy_slots, prompt_tokens_evaluated
from tests.doubles.running_node import RunningNode
from tests.doubles.waiting import eventually

CONTEXT_TOKENS = 4096
SLICE_TOKENS = 64
WORDS = 2000  # a token each: some 30 slices


def chat(words: int = WORDS, first: str = "word", **fields: object) -> GenerationRequest:
    content = first + " word" * words
    return GenerationRequest.model_validate(
        {"model": "long", "messages": [{"role": "user", "content": content}], "temperature": 0.0, **fields}
    )


@pytest.mark.parametrize(
    ("left", "tokens_per_s", "size"),
    [
        (256, None, 0),
        (257, None, 256),
        (10_000, None, 256),
        (10_000, 1000.0, 500),
        (500, 1000.0, 0),
        (501, 1000.0, 500),
        (10_000, 1.0, 64),
        (10_000, 1e9, 8192),
        (0, None, 0),
    ],
)
def test_a_slice_is_as_much_as_takes_half_a_second(left: int, tokens_per_s: float | None, size: int) -> None:
    assert slice_tokens(left, tokens_per_s) == size


def test_slices_grow_with_what_is_known_of_the_depth_of_a_prompt() -> None:
    """Half a second at the speed of the first tokens is many at that of the last."""
    sizes = [slice_tokens(10_000, 1e9, before=before) for before in (0, 256, 512, 6000)]
    assert sizes == [128, 512, 1024, 8192]
    assert Slice(0, 500, seconds=2.0).slower(10_000.0) == 250.0
    assert Slice(0, 500, seconds=0.01).slower(1000.0) == 1000.0
    assert Slice(500, 1, seconds=0.5).slower(1000.0) == 1000.0, "one token says nothing of many"
    assert Slice(0, 500, seconds=1.0).slower(None) is None


@pytest.mark.parametrize(
    ("least", "made", "before", "expected"),
    [
        pytest.param(64, (250, 0.5), (500, 0.55), 500, id="half as many took as long: not smaller than before"),
        pytest.param(64, (250, 0.5), (500, 1.0), 64, id="half as many took half as long"),
        pytest.param(64, (500, 1.0), (500, 0.5), 64, id="somebody else is read beside it: it may be smaller"),
        pytest.param(64, (64, 0.6), None, 128, id="the smallest are tried at twice their size"),
        pytest.param(128, (128, 0.65), (64, 0.6), 256, id="which took little longer: on to larger ones"),
        pytest.param(128, (128, 1.2), (64, 0.6), 64, id="which took twice as long: back to smaller ones"),
        pytest.param(256, (400, 0.6), (200, 0.55), 512, id="no larger than a step of llama.cpp"),
        pytest.param(64, (1, 0.5), (500, 0.5), 64, id="one token says nothing"),
    ],
)
def test_slices_are_not_made_so_small_that_their_number_takes_the_time(
    least: int, made: tuple[int, float], before: tuple[int, float] | None, expected: int
) -> None:
    last = None if before is None else Slice(0, before[0], seconds=before[1])
    assert least_tokens(least, Slice(0, made[0], seconds=made[1]), last) == expected


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [
        ([], [], 0),
        ([1], [], 0),
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3], [1, 2], 2),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1], [2], 0),
    ],
)
def test_a_common_prefix(one: list[int], other: list[int], length: int) -> None:
    assert common_prefix(array("i", one), array("i", other)) == length
    assert common_prefix(array("i", other), array("i", one)) == length


def test_short_prompts_are_not_even_counted() -> None:
    assert not is_long(chat(100))
    assert is_long(chat(1000))
    assert is_long(GenerationRequest(model="m", prompt="word " * 1000))
    tool = {"function": {"name": "f", "description": "word " * 500}}
    assert is_long(chat(1, tools=[tool]))


class Server:
    """A llama.cpp that answers `/tokenize` with `tokens` and holds one prompt, unless it `forgets`."""

    def __init__(self, tokens: list[int], forgets: bool = False) -> None:
        self.tokens = tokens
        self.forgets = forgets
        self.held: list[int] = []
        self.sizes: list[int] = []

    async def ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        if path == "/tokenize":
            return {"tokens": self.tokens}
        if path == "/apply-template":
            raise BadRequest("no template")
        assert body is not None
        prompt: list[int] = body["prompt"]
        cached = common_prefix(prompt, self.held) if body["cache_prompt"] and not self.forgets else 0
        self.held = prompt
        self.sizes.append(len(prompt))
        return {"timings": {"cache_n": cached, "prompt_n": len(prompt) - cached}}


async def read(prefill: SlicedPrefill, body: Mapping[str, Any], answered: int = 0) -> int | None:
    """What was in the cache of a request whose answer has so many tokens."""
    async with prefill.reading(body) as reading:
        reading.finished(0, answered)
        return reading.cached


async def test_a_conversation_that_goes_on_is_continued_and_never_cut() -> None:
    server = Server(list(range(1000)))
    warmer = SlicedPrefill(server.ask, CONTEXT_TOKENS, SLICE_TOKENS)
    assert await read(warmer, {"prompt": "x"}, answered=50) == 0
    assert server.sizes == list(range(64, 961, 64))
    server.held, server.sizes = list(range(1050)), []  # the request itself, and its answer
    server.tokens = list(range(1200))
    assert await read(warmer, {"prompt": "x"}) == 1050
    assert server.sizes == [1114, 1178]


async def test_what_is_to_be_read_anew_is_read_once_all_the_same() -> None:
    server = Server(list(range(1000)))
    server.held = server.tokens
    warmer = SlicedPrefill(server.ask, CONTEXT_TOKENS, SLICE_TOKENS)
    async with warmer.reading({"prompt": "x", "cache_prompt": False}) as reading:
        assert (reading.cached, reading.anew) == (0, False), "and the request itself takes what is there now"
    assert server.sizes == list(range(64, 961, 64))


async def test_an_answer_that_is_complete_leaves_its_prompt_to_the_next_wave_of_a_vote() -> None:
    """The others of its call may take long yet. Its slot is not given back twice: by then it is somebody else's."""
    warmer = SlicedPrefill(Server([]).ask, CONTEXT_TOKENS, SLICE_TOKENS)
    warmer.slots = PromptSlots(3)
    async with warmer.reading({}, "a question", 2, is_long=False) as first:
        assert first.slot is not None
        first.finished(0, 5)
        async with warmer.reading({}, "a question", 1, is_long=False) as second:
            assert second.slot is first.slot
            first.end()
            assert first.slot.busy
        assert not first.slot.busy


@pytest.mark.parametrize("length", [512, CONTEXT_TOKENS])
async def test_short_prompts_and_those_that_do_not_fit_are_left_to_the_request(length: int) -> None:
    server = Server(list(range(length)))
    assert await read(SlicedPrefill(server.ask, CONTEXT_TOKENS, SLICE_TOKENS), {"prompt": "x"}) is None
    assert server.sizes == []


async def test_a_cache_that_cannot_be_continued_is_found_out() -> None:
    server = Server(list(range(1000)), forgets=True)
    warmer = SlicedPrefill(server.ask, CONTEXT_TOKENS, SLICE_TOKENS)
    for turn in range(5):
        server.tokens = [turn, *range(1000)]
        await read(warmer, {"prompt": "x"})
    assert len(server.sizes) == 2 * 3, "two slices in each of three requests, then none"


async def test_what_is_wrong_with_a_request_is_left_for_it_to_say() -> None:
    assert await read(SlicedPrefill(Server([]).ask, CONTEXT_TOKENS, SLICE_TOKENS), {"messages": [], "n": 1}) is None


async def test_an_engine_that_ends_over_the_prefill_has_ended_over_the_request() -> None:
    """Else the request itself would find nobody listening, and be asked of the next engine."""

    async def ends(path: str, _: Mapping[str, Any] | None) -> Any:
        raise EngineDied(f"over {path}")

    with pytest.raises(EngineDied, match="over /tokenize"):
        await read(SlicedPrefill(ends, CONTEXT_TOKENS), {"prompt": "x"})


async def test_a_request_that_ends_after_the_engine_leaves_no_task(tmp_path: Path) -> None:
    """It is cut off by the end: what it read is not waited for to be saved."""
    server = Server(list(range(1000)))
    prefill = SlicedPrefill(server.ask, CONTEXT_TOKENS, SLICE_TOKENS)
    prefill.saved = SavedPrompts.open(tmp_path / "kv", 2**30, "key")
    before = asyncio.all_tasks()
    async with prefill.reading({"prompt": "x"}):
        await prefill.aclose()
    assert prefill.slots.slots[0].unsaved
    assert asyncio.all_tasks() == before


async def test_what_is_to_be_forgotten_while_it_is_read_is_not_saved(tmp_path: Path) -> None:
    server = Server(list(range(1000)))

    async def ask(path: str, body: Mapping[str, Any] | None) -> Any:
        if len(server.sizes) == 3:
            await asyncio.to_thread(forget, tmp_path)
        return await server.ask(path, body)

    prefill = SlicedPrefill(ask, CONTEXT_TOKENS, SLICE_TOKENS)
    saved = prefill.saved = SavedPrompts.open(tmp_path, 2**30, "key")
    (slot,) = prefill.slots.slots
    async with prefill.reading({"prompt": "x"}):
        assert len(slot.tokens) == 1000
        assert saved.is_forgotten(slot.read_at)
        await prefill.aclose()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LlamaServerEngine]:
    """A tiny model of random weights with a long context, prefilled in small slices."""
    shape = Shape(hidden=128, heads=2, kv_heads=1, feed_forward=256, vocabulary=8192)
    path = tmp_path / "long.gguf"
    await asyncio.to_thread(write_model, path, 2, shape=shape)
    loaded = await load_xllamacpp(EngineSpec("long", path, CONTEXT_TOKENS, 2, threads=1))
    loaded.http.prefill.most_slice_tokens = SLICE_TOKENS  # however fast this machine is
    yield loaded
    await loaded.aclose()


async def answer(engine: Engine, request: GenerationRequest, n: int = 1) -> tuple[list[str], list[Usage]]:
    texts = [""] * n
    usages: list[Usage] = [Usage()] * n
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            if isinstance(event, Finish):
                usages[event.choice] = event.usage
            else:
                assert isinstance(event, Delta)
                texts[event.choice] += event.text
    return texts, usages


async def until_read(engine: LlamaServerEngine, asked: asyncio.Task[Any]) -> None:
    """Until a part of a prompt has been read. A slice is one step: a look at the slots would mostly find them idle."""
    while not await prompt_tokens_evaluated(engine.http):
        assert not asked.done(), asked
        await asyncio.sleep(0)


async def until_idle(engine: LlamaServerEngine) -> None:
    while await busy_slots(engine.http):  # noqa: ASYNC110 - llama.cpp has no event for it
        await asyncio.sleep(0)


@pytest.mark.parametrize("n", [1, 2])
async def test_slices_change_nothing_that_is_said(engine: LlamaServerEngine, n: int) -> None:
    sliced, usages = await answer(engine, chat(max_tokens=8), n)
    engine.http.prefill.long_tokens = CONTEXT_TOKENS
    other = chat(first="other", max_tokens=8)
    await answer(engine, other, n)
    whole, as_whole = await answer(engine, chat(max_tokens=8), n)
    assert sliced == whole
    assert [usage.model_copy(update={"cached_tokens": 0}) for usage in as_whole] == usages, "slices are no cache hits"
    assert usages[0].prompt_tokens > WORDS


async def test_a_prompt_asked_again_is_reported_as_cached(engine: LlamaServerEngine) -> None:
    await answer(engine, chat(max_tokens=1))
    _, (usage,) = await answer(engine, chat(max_tokens=1))
    assert usage.cached_tokens > WORDS
    _, (longer,) = await answer(engine, chat(WORDS + 600, max_tokens=1))
    assert longer.cached_tokens > WORDS - 10


@pytest.mark.parametrize(("n", "first"), [(1, None), (2, None), (2, 0.5)], ids=["one", "two", "two samplings"])
async def test_who_leaves_during_a_long_prefill_frees_the_slot_long_before_its_end(
    engine: LlamaServerEngine, n: int, first: float | None
) -> None:
    asked = asyncio.create_task(answer(engine, chat(max_tokens=1, first_temperature=first), n))
    await until_read(engine, asked)
    await cancel_and_wait(asked)
    assert engine.http.prefill.slots.is_idle
    await until_idle(engine)
    _, (usage,) = await answer(engine, chat(max_tokens=1))
    assert usage.cached_tokens < WORDS / 2, "this much was prefilled for nobody"


@pytest.mark.parametrize("swarm", [{"strategy": "single"}, {"votes": 2}], ids=["single", "vote"])
async def test_a_client_that_leaves_during_a_long_prefill_frees_its_workers(
    engine: LlamaServerEngine, swarm: dict[str, Any]
) -> None:
    async def load() -> Engine:
        return engine

    async with RunningNode("kitchen", load) as node, connect(node.url) as client:
        asked = asyncio.create_task(client.chat("word" + " word" * WORDS, stream=True, max_tokens=1, swarm=swarm))
        await until_read(engine, asked)
        await cancel_and_wait(asked)
        await until_idle(engine)
        await eventually(lambda: node.pool.states()[0].slots_free == 2)
        _, (usage,) = await answer(engine, chat(max_tokens=1))
        assert usage.cached_tokens < WORDS / 2
