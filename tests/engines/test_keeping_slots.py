"""Further slots, which only keep what was read: how many, for which models, and that they share the cells of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.random_model import Shape, write_model
from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.llama_cpp import server_host
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.server_host import MOST_SLOTS, Batching, keeping_slots
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.engines.registry import load_engine
from swarm.generation import Finish, GenerationRequest, Usage
from swarm.registry.gguf_header import GgufFacts
from swarm.registry.model_memory import CacheShape, LayerGroup
from tests.doubles.inside_llama import prompt_tokens_evaluated
from tests.doubles.made_engines import made_engine

SPEC = EngineSpec("m", Path("m.gguf"), 8192, 2, threads=1)
LARGE = LayerGroup(layers=36, kv_heads=8, key_length=128, value_length=128)  # 144 KiB a token
SMALL = LayerGroup(layers=4, kv_heads=1, key_length=64, value_length=64)
FACTS = GgufFacts(
    parts=(), size_bytes=1, architecture="qwen3", name=None, quant=None, params=1, active_params=1, layers=36,
    context_tokens=32_768, embedding_length=2560, vocab_size=1000, cache=CacheShape((LARGE,)), has_chat_template=True,
    pooling_type=None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("answering", "slots"), [(1, 4), (2, 4), (3, 8), (4, 8), (5, 16), (32, 64), (128, 256), (129, 129)]
)
def test_there_are_twice_as_many_as_answer_at_once_and_four_at_least(answering: int, slots: int) -> None:
    assert keeping_slots(answering) == slots <= MOST_SLOTS
    batching = Batching.of(replace(SPEC, slots=answering, context_tokens=2048), FACTS)
    assert batching.slots in (0, slots)  # one alone is small enough for llama.cpp's own memory
    assert batching.step_tokens % (batching.slots or answering) == batching.step_tokens % answering == 0


@pytest.mark.parametrize(
    ("facts", "spec", "keeps"),
    [
        pytest.param(FACTS, SPEC, True, id="a large cache"),
        pytest.param(replace(FACTS, cache=CacheShape((SMALL,))), SPEC, False, id="one that llama.cpp keeps in memory"),
        pytest.param(FACTS, replace(SPEC, context_tokens=512), False, id="a short one"),
        pytest.param(
            replace(FACTS, cache=CacheShape((replace(LARGE, window_tokens=1024),))), SPEC, False, id="a window"
        ),
        pytest.param(replace(FACTS, cache=CacheShape((LARGE,), 2**20)), SPEC, False, id="a state of each slot"),
        pytest.param(replace(FACTS, cache=None), SPEC, False, id="nothing known"),
        pytest.param(replace(FACTS, pooling_type=4), SPEC, False, id="a reranker"),
        pytest.param(replace(FACTS, architecture="nomic-bert"), SPEC, False, id="an encoder"),
        pytest.param(FACTS, replace(SPEC, draft=Path("d")), False, id="a draft model"),
        pytest.param(FACTS, replace(SPEC, ngram=True), False, id="guesses"),
    ],
)
def test_they_are_for_models_where_they_bring_something_and_take_nothing(
    facts: GgufFacts, spec: EngineSpec, keeps: bool
) -> None:
    assert bool(Batching.of(spec, facts).slots) is keeps


CONTEXT_TOKENS = 32_768


@pytest.fixture(params=["xllamacpp", "llama-server"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LlamaServerEngine]:
    """One answer at a time, and a cache of more than llama.cpp keeps in memory of prompts that left their slot."""
    path = tmp_path / "wide.gguf"
    shape = Shape(hidden=512, heads=2, kv_heads=2, feed_forward=64, vocabulary=2048)
    await asyncio.to_thread(write_model, path, 3, shape=shape)
    spec = EngineSpec("m", path, CONTEXT_TOKENS, 1, threads=1, cache_type="f32")
    if request.param == "llama-server":
        spec = replace(spec, build=made_engine(request.param))
    made: Engine = await load_engine(request.param, spec)
    assert isinstance(made, LlamaServerEngine)
    async with aclosing(made):
        yield made


async def answer(engine: LlamaServerEngine, begins: str, words: int, max_tokens: int = 2) -> Usage:
    said = [{"role": "user", "content": begins + " word" * words}]
    request = GenerationRequest.model_validate(
        {"model": "m", "messages": said, "max_tokens": max_tokens, "temperature": 0.0}
    )
    async with aclosing(engine.candidates(request, 1)) as events:
        (end,) = [event async for event in events if isinstance(event, Finish)]
    return end.usage


async def test_a_conversation_stays_beside_others_and_gives_way_where_there_is_no_room(
    engine: LlamaServerEngine,
) -> None:
    slots = engine.http.prefill.slots
    assert (engine.loaded.slots, len(slots.slots), slots.cells) == (1, 4, CONTEXT_TOKENS)
    slots.cells = 3000  # as if the cache were smaller: reading is what takes time here
    await answer(engine, "agent", 700)
    await answer(engine, "title", 20)
    await answer(engine, "chat", 600)
    assert (await answer(engine, "agent", 720)).cached_tokens > 700
    assert [len(slot.tokens) > 600 for slot in slots.slots].count(True) == 2
    before = await prompt_tokens_evaluated(engine.http)
    await answer(engine, "long", 1200)  # beside the other two it has no room: the chat was used before the agent
    told = await engine.http.ask("/slots", None)
    held = sorted(slot.get("n_prompt_tokens", 0) for slot in told)
    assert sum(held) < 3000
    assert (await answer(engine, "long", 1210)).cached_tokens > 1200
    assert await prompt_tokens_evaluated(engine.http) - before < 1400
    assert (await answer(engine, "chat", 600)).cached_tokens < 20


async def test_a_text_that_is_embedded_may_take_a_slot_and_is_asked_after(engine: LlamaServerEngine) -> None:
    """llama.cpp chooses where: what it emptied for that is not believed to be there."""
    engine.http.prefill.slots.cells = 0  # no other reason to ask
    for name in ("one", "two", "three", "four"):
        await answer(engine, name, 520)
    for _ in range(4):
        await engine.embed(["a text"])
    await answer(engine, "one", 520)
    told = {slot["id"]: slot.get("n_prompt_tokens", 0) for slot in await engine.http.ask("/slots", None)}
    believed = {slot.id: len(slot.tokens) for slot in engine.http.prefill.slots.slots}
    assert all(believed[slot] <= told[slot] for slot in told), (believed, told)
    assert sum(believed.values()) > 500


def _always(_spec: EngineSpec, _facts: GgufFacts) -> bool:
    return True


async def test_where_answers_need_more_than_there_is_llama_cpp_takes_it_from_what_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end well. What was emptied is not believed to be there once it is asked after."""
    monkeypatch.setattr(server_host, "may_keep", _always)
    path, context_tokens = tmp_path / "small.gguf", 1024
    await asyncio.to_thread(
        write_model, path, 2, shape=Shape(hidden=128, heads=2, kv_heads=2, feed_forward=64, vocabulary=2048)
    )
    spec = EngineSpec("m", path, context_tokens, 2, threads=1)
    async with aclosing(await load_xllamacpp(spec, "never")) as engine:
        slots = engine.http.prefill.slots
        assert (len(slots.slots), slots.cells) == (4, 2 * context_tokens)
        slots.cells *= 10  # so that nothing is emptied beforehand
        await answer(engine, "idle", 900)
        long = await asyncio.gather(*(answer(engine, name, 100, 800) for name in ("one", "two")))
        assert [usage.completion_tokens for usage in long] == [800, 800]
        (idle,) = [slot for slot in slots.slots if len(slot.tokens) > 800]
        slots.doubted = True
        assert (await answer(engine, "other", 600)).cached_tokens < 20
        assert not idle.tokens
        before = await prompt_tokens_evaluated(engine.http)
        again = await answer(engine, "idle", 900)
        assert await prompt_tokens_evaluated(engine.http) - before == again.prompt_tokens - again.cached_tokens > 850
