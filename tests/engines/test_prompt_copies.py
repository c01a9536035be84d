"""Answers drawn apart share one reading of their prompt: it is read in one slot, and copied to others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.llama_cpp import prompt_copies
from swarm.engines.llama_cpp.prompt_copies import MOST_BYTES, PromptCopies, copies_pay, with_copies
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.engines.registry import load_engine
from swarm.errors import EngineDied, EngineFailed
from swarm.generation import Finish, GenerationRequest
from tests.doubles.inside_llama import busy_slots, prompt_tokens_evaluated
from tests.doubles.made_engines import made_engine

SLOTS, CONTEXT_TOKENS = 6, 2048
ANSWER_TOKENS = 8
TIMEOUT_S = 10.0
# Its greedy answer does not hang on the last bit of a sum, which is another beside other answers.
SURE = "What is the capital of France? "
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "n",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a copy pays is a matter of speed, and so of what else runs here."""
    monkeypatch.setattr(prompt_copies, "copies_pay", lambda *_: True)
    monkeypatch.setattr(prompt_copies, "copy_seconds", lambda *_: 0.0)


@pytest.fixture(params=["in process", "in a host", "llama-server"])
async def engine(request: pytest.FixtureRequest, demo_model: Path) -> AsyncIterator[LlamaServerEngine]:
    async with aclosing(await loaded(demo_model, request.param)) as engine:
        yield engine


async def loaded(model: Path, where: str = "in process", **fields: Any) -> LlamaServerEngine:
    spec = EngineSpec("demo", model, CONTEXT_TOKENS, SLOTS, threads=1, **fields)
    if where == "llama-server":
        made: Engine = await load_engine(where, replace(spec, build=made_engine(where)))
        assert isinstance(made, LlamaServerEngine)
        return made
    return await load_xllamacpp(spec, "never" if where == "in process" else "always")


def chat(times: int, begins: str = "", **fields: object) -> GenerationRequest:
    said = {"messages": [{"role": "user", "content": begins + SURE * times}]}
    sampled = {"temperature": 2.0, "first_temperature": 0.0, "seed": 7, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    return GenerationRequest.model_validate({"model": "demo", **said, **sampled, "max_tokens": ANSWER_TOKENS, **fields})


def greedy(request: GenerationRequest) -> GenerationRequest:
    return request.model_copy(update={"temperature": 0.0, "first_temperature": None})


async def read(engine: LlamaServerEngine, request: GenerationRequest, n: int = 1) -> tuple[list[str], list[Finish]]:
    """The answers, with whatever is in them, and their ends."""
    texts, ends = [""] * n, dict[int, Finish]()
    async with aclosing(engine.candidates(request, n)) as events:
        async for event in events:
            if isinstance(event, Finish):
                ends[event.choice] = event
            else:
                calls = "".join((call.name or "") + call.arguments for call in event.tool_calls)
                texts[event.choice] += event.text + calls
    return texts, [ends[choice] for choice in range(n)]


async def evaluated_by(engine: LlamaServerEngine, request: GenerationRequest, n: int) -> int:
    before = await prompt_tokens_evaluated(engine.http)
    await read(engine, request, n)
    return await prompt_tokens_evaluated(engine.http) - before


async def until_idle(engine: LlamaServerEngine) -> None:
    assert engine.http.prefill.slots.is_idle
    async with asyncio.timeout(TIMEOUT_S):
        while await busy_slots(engine.http):  # noqa: ASYNC110 - llama.cpp has no event for it
            await asyncio.sleep(0)


@pytest.mark.parametrize("times", [20, 60], ids=["short", "in slices"])
async def test_a_prompt_is_read_once_for_both_samplings(engine: LlamaServerEngine, times: int) -> None:
    request = chat(times)
    tokens = await engine.count_tokens(request)
    before = await prompt_tokens_evaluated(engine.http)
    texts, ends = await read(engine, request, 5)
    assert await prompt_tokens_evaluated(engine.http) - before == tokens + 1  # its last one, in each of two slots
    assert [end.usage.prompt_tokens for end in ends] == [tokens] * 5
    assert [end.usage.cached_tokens for end in ends] == [0] * 5
    assert len(set(texts)) > 2
    await until_idle(engine)
    alone, _ = await read(engine, greedy(request))
    assert texts[0] == alone[0]


@pytest.mark.parametrize("n", [2, 3, 4, 6])
async def test_any_number_of_answers(demo_model: Path, n: int) -> None:
    async with aclosing(await loaded(demo_model)) as engine:
        request = chat(15)
        alone, _ = await read(engine, greedy(request))
        other = chat(15, "Another one. ")
        tokens = await engine.count_tokens(other)
        assert await evaluated_by(engine, other, n) <= tokens + 1
        texts, ends = await read(engine, request, n)
        assert (texts[0], len(ends)) == (alone[0], n)
        # The conversation goes on in a slot that has its prompt, whichever answer it was.
        assert await evaluated_by(engine, greedy(request), 1) == 1
        await until_idle(engine)


async def test_the_others_are_drawn_as_if_they_were_alone(demo_model: Path) -> None:
    """With the seeds that they would have in any batch: the second has the request's and one."""
    async with aclosing(await loaded(demo_model)) as engine:
        request = chat(15)
        texts, _ = await read(engine, request, 3)
        beside = request.model_copy(update={"first_temperature": None, "seed": 8})
        assert (await read(engine, beside, 2))[0] == texts[1:]


async def test_what_is_short_is_not_worth_a_copy(demo_model: Path) -> None:
    async with aclosing(await loaded(demo_model)) as engine:
        request = chat(1)
        tokens = await engine.count_tokens(request)
        before = await prompt_tokens_evaluated(engine.http)
        texts, _ = await read(engine, request, 3)
        assert await prompt_tokens_evaluated(engine.http) - before == 2 * tokens
        assert texts[:1] == (await read(engine, greedy(request)))[0]


@pytest.mark.parametrize(
    "fields",
    [{"logprobs": True}, {"tools": [WEATHER]}, {"tools": [WEATHER], "tool_choice": "required"},
     {"response_format": SCHEMA}, {"tools": [WEATHER], "logprobs": True}],
    ids=["logprobs", "tools", "a call", "schema", "whole"],
)  # fmt: skip
async def test_whatever_is_asked_the_prompt_is_read_once(demo_model: Path, fields: dict[str, object]) -> None:
    async with aclosing(await loaded(demo_model)) as engine:
        request = chat(25, max_tokens=40, **fields)
        tokens = await engine.count_tokens(request)
        before = await prompt_tokens_evaluated(engine.http)
        texts, _ = await read(engine, request, 4)
        # What could not be read is sampled again, from a cache: each sample has the last token to evaluate.
        assert await prompt_tokens_evaluated(engine.http) - before <= tokens + 32
        await until_idle(engine)
        assert "logprobs" not in fields or texts[0] == (await read(engine, greedy(request)))[0][0]


async def test_whole_answers_of_one_sampling_share_a_prompt_too(demo_model: Path) -> None:
    """With tools and log-probabilities llama.cpp answers one at a time: each had read the whole prompt."""
    async with aclosing(await loaded(demo_model)) as engine:
        request = chat(25, tools=[WEATHER], logprobs=True, temperature=0.0, first_temperature=None)
        tokens = await engine.count_tokens(request)
        assert await evaluated_by(engine, request, 4) <= tokens + 8


async def test_on_a_disk_that_is_to_keep_prompts_a_copy_leaves_nothing(demo_model: Path, tmp_path: Path) -> None:
    async with aclosing(await loaded(demo_model, saves=tmp_path / "kv", saves_bytes=10**9)) as engine:
        request = chat(15)
        tokens = await engine.count_tokens(request)
        assert await evaluated_by(engine, request, 3) == tokens + 1
        assert not list((tmp_path / "kv").glob("*.kv"))


async def test_where_nothing_can_be_copied_the_answers_are_the_same(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = chat(15)
    async with aclosing(await loaded(demo_model)) as engine:
        tokens = await engine.count_tokens(request)
        texts, _ = await read(engine, request, 4)
    monkeypatch.delattr(os, "memfd_create")
    async with aclosing(await loaded(demo_model)) as engine:
        before = await prompt_tokens_evaluated(engine.http)
        assert (await read(engine, request, 4))[0][0] == texts[0]
        assert await prompt_tokens_evaluated(engine.http) - before == 2 * tokens


async def test_a_copy_that_fails_costs_a_second_reading(demo_model: Path) -> None:
    async with aclosing(await loaded(demo_model)) as engine:
        copies = engine.http.prefill.copies
        engine.http.prefill.copies = PromptCopies(engine.http.ask, os.open(os.devnull, os.O_RDONLY), 1)
        try:
            for place in range(4):
                request = chat(15, f"{place} ")
                texts, _ = await read(engine, request, 3)
                assert texts[0] == (await read(engine, greedy(request)))[0][0]
                await until_idle(engine)
            assert not engine.http.prefill.copies.pay(1000, 1, 1.0, 100.0)
        finally:
            engine.http.prefill.copies = copies


# What is decided, and told


def test_it_pays_where_reading_takes_longer() -> None:
    assert copies_pay(300, 1, 0.05, 1000.0)
    assert not copies_pay(300, 1, 0.5, 1000.0)
    assert copies_pay(300, 2, 0.5, 1000.0)
    assert copies_pay(300, 1, 9.9, None)


class Slots:
    """A server that saves and restores `tokens`, or `fails`."""

    def __init__(self, number: int, tokens: int, fails: Exception | None = None) -> None:
        self.number, self.tokens, self.fails = number, tokens, fails
        self.asked: list[str] = []

    async def ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        self.asked.append(path)
        assert body is not None
        assert body["filename"] == str(self.number)
        if "restore" in path:
            if self.fails is not None:
                raise self.fails
            return {"n_restored": self.tokens}
        os.write(self.number, b"state")
        return {"n_written": 5, "n_saved": self.tokens}


@pytest.mark.parametrize(
    ("held", "fails", "copied"), [(10, None, True), (11, None, False), (10, EngineFailed("no"), False)]
)
async def test_a_copy_is_what_was_read_or_none(held: int, fails: Exception | None, copied: bool) -> None:
    number = os.memfd_create("copy")
    slots = Slots(number, held, fails)
    copies = PromptCopies(slots.ask, number, 1)
    assert await copies.copy(3, [4, 5], 10, None) == copied
    assert slots.asked[:2] == ["/slots/3?action=save", "/slots/4?action=restore"]
    assert os.fstat(number).st_size == 0
    copies.close()
    copies.close()
    assert not copies.in_memory


async def test_an_engine_that_ends_meanwhile_is_no_failed_copy() -> None:
    number = os.memfd_create("copy")
    copies = PromptCopies(Slots(number, 10, EngineDied("gone")).ask, number, 1)
    with pytest.raises(EngineDied):
        await copies.copy(3, [4], 10, None)
    copies.close()


async def test_what_would_fill_the_memory_is_not_copied() -> None:
    copies = PromptCopies(Slots(0, 0).ask, 0, MOST_BYTES // 100)
    assert copies.pay(100, 1, None, 10.0)
    assert not copies.pay(102, 1, None, 10.0)
    assert not copies.pay(100, 1, None, -1.0)


def test_a_file_is_closed_where_loading_fails(demo_model: Path) -> None:
    spec = EngineSpec("demo", demo_model, 1024, 2, threads=1)
    with with_copies(spec, None) as without:
        assert without.copies is None
    with with_copies(replace(spec, slots=1), None) as without:
        assert without.copies is None
