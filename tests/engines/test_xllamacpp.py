"""What only the llama.cpp engine has: tool calls, schemas, hosts that die, files that are no models."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.random_model import write_model
from swarm.engines.engine import Device, EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine, host_answer
from swarm.engines.llama_cpp.server_host import EMBEDDING_TEXT_TOKENS
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.engines.llama_cpp.xllamacpp_host import library
from swarm.engines.registry import Isolation
from swarm.errors import BadRequest, ContextExceeded, EngineDied, EngineFailed, Unavailable
from swarm.generation import Delta, Finish, GenerationRequest
from swarm.registry.embedded import embedded_model_path
from tests.doubles.inside_llama import busy_slots, prompt_tokens_evaluated
from tests.doubles.loop_watch import watching_the_loop
from tests.e2e.asking import rambling

ENDS_S = 10.0  # far above what an answer of two tokens takes
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def spec(path: Path, slots: int = 2) -> EngineSpec:
    return EngineSpec("demo", path, 1024, slots, threads=1)


@pytest.mark.parametrize("line", [b"", b"[New LWP 13637]\n", b"GGML_ASSERT failed\n", b"7\n", b'"no"\n', b"\xff\n"])
def test_the_last_words_of_a_host_are_no_answer(line: bytes) -> None:
    """Where gdb is installed an aborting llama.cpp had it print a page into the host's output."""
    assert host_answer(line, Path("m.gguf")) == {
        "error": "the engine host ended while loading m.gguf: its log says why, or its chat template ends it"
    }
    assert host_answer(b'{"address": "a", "key": "k"}\n', Path("m.gguf")) == {"address": "a", "key": "k"}


def chat(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0.0, **fields}
    )


async def collect(events: AsyncIterator[Delta | Finish]) -> list[Delta | Finish]:
    return [event async for event in events]


async def events_of(engine: LlamaServerEngine, request: GenerationRequest) -> list[Delta | Finish]:
    async with aclosing(engine.candidates(request, 1)) as events:
        return [event async for event in events]


@pytest.mark.parametrize(
    "said", [{"prompt": ""}, {"messages": [{"role": "user", "content": ""}]}], ids=["prompt", "messages"]
)
async def test_several_answers_to_an_empty_prompt_end(demo_model: Path, said: dict[str, object]) -> None:
    """Asked for them at once, llama.cpp keeps all but the first waiting for ever, and their slots."""
    async with aclosing(await load_xllamacpp(spec(demo_model))) as engine:
        request = GenerationRequest.model_validate({"model": "demo", "max_tokens": 2, **said})
        async with asyncio.timeout(ENDS_S), aclosing(engine.candidates(request, 2)) as events:
            ended = sorted([event.choice async for event in events if isinstance(event, Finish)])
        assert ended == [0, 1]
        assert await busy_slots(engine.http) == 0


async def test_tool_calls_come_from_the_native_parser_as_deltas(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model))) as engine:
        events = await events_of(engine, chat("What is the weather in Paris?", tools=[WEATHER]))
        calls = [call for event in events if isinstance(event, Delta) for call in event.tool_calls]
        assert calls[0].name == "get_weather"
        assert calls[0].id
        assert all(call.name is None and call.id is None for call in calls[1:])
        assert json.loads("".join(call.arguments for call in calls)) == {"city": "Paris"}
        assert not any(event.text for event in events if isinstance(event, Delta))
        assert isinstance(events[-1], Finish)
        assert events[-1].reason == "tool_calls"


async def test_a_schema_binds_the_answer(demo_model: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [41, 42]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with aclosing(await load_xllamacpp(spec(demo_model))) as engine:
        request = chat(
            "Tell me a long story",
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        )
        events = await events_of(engine, request)
        assert json.loads("".join(e.text for e in events if isinstance(e, Delta)))["n"] in (41, 42)


async def test_log_probabilities_are_passed_on(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model))) as engine:
        events = await events_of(engine, chat("hello", logprobs=True, top_logprobs=2, max_tokens=3))
        first = next(e for e in events if isinstance(e, Delta) and e.logprobs)
        assert isinstance(first.logprobs, dict)
        assert len(first.logprobs["content"][0]["top_logprobs"]) == 2  # type: ignore[index,arg-type,call-overload]


async def test_candidates_share_one_prefill(demo_model: Path) -> None:
    """Four answers to a long prompt: llama.cpp counts its prompt tokens once, not four times."""
    async with aclosing(await load_xllamacpp(spec(demo_model, slots=4))) as engine:
        request = chat("word " * 400, max_tokens=4, temperature=0.8, seed=1)
        async with aclosing(engine.candidates(request, 4)) as events:
            finishes = [event async for event in events if isinstance(event, Finish)]
        prompt = await engine.count_tokens(request)
        evaluated = await prompt_tokens_evaluated(engine.http)
        assert len(finishes) == 4
        assert evaluated < 1.5 * prompt


async def test_a_body_of_more_than_a_megabyte_is_sent_without_complaint(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model))) as engine:
        with pytest.raises(ContextExceeded) as caught:
            await events_of(engine, chat("word " * 250_000))
        assert caught.value.prompt_tokens > 250_000


async def test_a_text_too_long_to_embed_is_the_callers_mistake(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model))) as engine:
        with pytest.raises(BadRequest, match=f"701 tokens, and this model takes {EMBEDDING_TEXT_TOKENS} at once"):
            await engine.embed(["short", "word " * 700])


async def test_a_host_that_is_killed_is_reported_and_breaks_its_streams(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always")) as engine:
        (host,) = psutil.Process().children()
        host.kill()
        reason = await asyncio.wait_for(engine.failed, 2)
        assert "-9" in reason
        with pytest.raises(Unavailable):  # a request that never reached an engine has not ended one
            await events_of(engine, chat("hello"))


async def test_a_host_that_is_killed_in_mid_answer_ends_it_with_an_error(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(EngineSpec("demo", demo_model, 8192, 1, threads=1), "always")) as engine:
        (host,) = psutil.Process().children()
        endless = chat("word " * 300, **{**await asyncio.to_thread(rambling), "max_tokens": 7000})
        async with aclosing(engine.candidates(endless, 1)) as events:
            assert isinstance(await anext(events), Delta)
            host.kill()

            async def rest() -> int:
                return len([event async for event in events])

            with pytest.raises(EngineDied):
                await asyncio.wait_for(rest(), 5)


async def test_an_engine_that_is_unloaded_in_mid_answer_has_not_died_over_it(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(EngineSpec("demo", demo_model, 8192, 1, threads=1), "always")) as engine:
        endless = chat("word " * 300, **{**await asyncio.to_thread(rambling), "max_tokens": 7000})
        async with aclosing(engine.candidates(endless, 1)) as events:
            assert isinstance(await anext(events), Delta)
            await engine.aclose()
            with pytest.raises(Unavailable):
                await asyncio.wait_for(collect(events), 5)


@pytest.mark.skipif(sys.platform != "linux", reason="Unix sockets without a file are Linux's")
@pytest.mark.parametrize("isolation", ["never", "always"])
async def test_an_engine_is_asked_over_a_socket_of_its_own(isolation: Isolation, demo_model: Path) -> None:
    engine = await load_xllamacpp(EngineSpec("demo", demo_model, 512, 1, threads=1), isolation)
    try:
        engine.http._address = "http://127.0.0.1:1"  # nobody listens there
        assert (await engine.tokenize("hello", add_special=False, parse_special=False)).ids
    finally:
        await engine.aclose()


async def test_a_model_that_guesses_writes_the_same_and_is_seen_to_guess(demo_model: Path) -> None:
    """Of what was written before, and a draft model; in a host, which is told of both."""
    request = GenerationRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0.0}
    )
    texts: list[str] = []
    for guessing in (
        spec(demo_model, 1),
        replace(spec(demo_model, 1), ngram=True, draft=embedded_model_path("demo:b")),
    ):
        engine = await load_xllamacpp(guessing, "always")
        try:
            async with aclosing(engine.candidates(request, 1)) as events:
                texts.append("".join([event.text async for event in events if isinstance(event, Delta)]))
            guesses = (await engine.http._metrics()).get("spec_decode_num_draft_tokens_total", 0)
            assert (guesses > 0) == guessing.ngram
        finally:
            await engine.aclose()
    assert texts[0] == texts[1] != ""


async def test_a_host_ends_with_its_engine(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always")) as engine:
        (host,) = psutil.Process().children()
        await engine.aclose()
        assert not psutil.pid_exists(host.pid)


async def test_a_close_that_is_cancelled_leaves_no_host_behind(demo_model: Path) -> None:
    engine = await load_xllamacpp(spec(demo_model), "always")
    (host,) = psutil.Process().children()
    closing = asyncio.create_task(engine.aclose())
    await asyncio.sleep(0)  # it has begun
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not psutil.pid_exists(host.pid)
    await engine.aclose()


@pytest.mark.parametrize(("told", "policy"), [(None, "passive"), ("active", "active")])
async def test_threads_of_a_host_wait_without_spinning_unless_somebody_wants_it(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, policy: str
) -> None:
    if told is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", told)
    async with aclosing(await load_xllamacpp(spec(demo_model), "always")):
        (host,) = psutil.Process().children()
        assert host.environ()["OMP_WAIT_POLICY"] == policy


def test_threads_of_this_process_wait_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """libgomp reads it when the library is loaded: it must be set by then."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    library()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


@pytest.mark.parametrize("isolation", ["never", "always"])
async def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, isolation: str) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(EngineFailed, match=r"bad\.gguf"):
        await load_xllamacpp(spec(bad), isolation)  # type: ignore[arg-type]


async def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"nothing\.gguf"):
        await load_xllamacpp(spec(tmp_path / "nothing.gguf"))


async def test_loading_a_large_model_does_not_block_the_loop(tmp_path: Path) -> None:
    """130 MB take half a second to load; the loop must go on meanwhile, as it must for 40 GB."""
    large = tmp_path / "large.gguf"
    await asyncio.to_thread(write_model, large, layers=1)
    async with watching_the_loop() as watch:
        engine = await load_xllamacpp(spec(large))
        await engine.aclose()
    assert watch.worst_s < 0.2


@pytest.mark.parametrize("slots", [3, 5, 7])
async def test_any_number_of_slots_loads(demo_model: Path, slots: int) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model, slots=slots))) as engine:
        assert engine.loaded.slots == slots
        assert (await engine.embed(["hello"])).vectors


async def test_a_host_that_ends_over_its_first_question_says_why(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a GPU's memory runs out when it computes for the first time."""

    async def dies(*_: object) -> object:
        (host,) = psutil.Process().children()
        host.kill()
        raise EngineDied("over the first words")

    monkeypatch.setattr("swarm.engines.llama_cpp.server_engine._measured_pace", dies)
    monkeypatch.setattr("swarm.engines.llama_cpp.server_engine.log_end", lambda *_: "")
    with pytest.raises(EngineFailed, match=r"demo\.gguf was tried once it was loaded: over the first words"):
        await load_xllamacpp(spec(demo_model), "always")
    monkeypatch.setattr("swarm.engines.llama_cpp.server_engine.log_end", lambda *_: "E CUDA error: out of memory\n")
    with pytest.raises(EngineFailed, match=r"demo\.gguf does not fit into memory .*out of memory"):
        await load_xllamacpp(spec(demo_model), "always")


@pytest.mark.parametrize("isolation", ["never", "always"])
async def test_what_a_model_takes_of_a_gpu_is_not_known(
    demo_model: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process's memory says nothing of it."""
    card = Device("Vulkan0", "A card", 2**33, 2**33)
    monkeypatch.setattr("swarm.engines.llama_cpp.xllamacpp_host.devices", lambda: (card,))
    monkeypatch.setattr("swarm.engines.llama_cpp.server_engine.host_answer", _with_gpu)
    engine = await load_xllamacpp(spec(demo_model), isolation)
    assert engine.taken_bytes is None
    assert str(engine.computation).endswith(" on A card")
    await engine.aclose()


def _with_gpu(line: bytes, path: Path | None) -> dict[str, object]:
    return {**host_answer(line, path), "gpu": True, "devices": ["A card"]}
