"""Engines that stop computing, made with the real one: seen, ended, and everybody who waits is told."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from federation.tasks import cancel_and_wait
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.engines.llama_cpp.xllamacpp import runs_in_process
from swarm.errors import EngineDied, EngineFailed
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.tiny_models import write_infill_model, write_reranker, write_templated_model
from tests.doubles.wedges import QUICK, listener_of, send_wedge

SEEN_S = 120.0  # far above the four that it takes here
ENDLESS = "{% for a in range(10000) %}" * 3 + "{% endfor %}" * 3
BOTTOMLESS = "{% macro deeper(x) %}{{ deeper(x) }}{% endmacro %}{{ deeper(1) }}"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def spec(path: Path, slots: int = 2) -> EngineSpec:
    return EngineSpec("demo", path, 1024, slots, threads=1)


def chat(text: str, **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": [{"role": "user", "content": text}], "temperature": 0.0, **fields}
    )


async def answer(engine: LlamaServerEngine, request: GenerationRequest) -> list[Delta | Finish]:
    async with asyncio.timeout(SEEN_S), aclosing(engine.candidates(request, 1)) as events:
        return [event async for event in events]


async def until_stalled(engine: LlamaServerEngine) -> str:
    async with asyncio.timeout(SEEN_S):
        while engine.stalled is None:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0)
    return engine.stalled


async def test_a_wedge_is_doubted_then_ended_and_who_waits_is_told(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always", QUICK)) as engine:
        (host,) = psutil.Process().children()
        assert engine.stalled is None
        wedge = asyncio.create_task(send_wedge(*listener_of(engine.http)))
        assert "has made no step for" in await until_stalled(engine)
        assert not engine.failed.done(), "a doubt is no verdict"
        with pytest.raises(EngineDied):
            await answer(engine, chat("hello"))
        assert "(its limit is 4 s) and was ended" in await asyncio.wait_for(engine.failed, SEEN_S)
        assert not psutil.pid_exists(host.pid)
        await wedge


async def test_a_wedge_is_seen_after_its_client_has_left(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always", QUICK)) as engine:
        wedge = asyncio.create_task(send_wedge(*listener_of(engine.http)))
        await until_stalled(engine)
        await cancel_and_wait(wedge)
        await asyncio.wait_for(engine.failed, SEEN_S)


async def test_an_engine_that_is_closed_in_its_wedge_is_gone_at_once(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always", QUICK)) as engine:
        (host,) = psutil.Process().children()
        wedge = asyncio.create_task(send_wedge(*listener_of(engine.http)))
        await until_stalled(engine)
        await engine.aclose()
        assert not psutil.pid_exists(host.pid)
        assert not engine.failed.done()
        await wedge


async def test_a_host_that_freezes_is_ended_and_reported(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always", QUICK)) as engine:
        (host,) = psutil.Process().children()
        host.suspend()
        with pytest.raises(EngineDied):
            await answer(engine, chat("hello"))
        assert "made no step" in await asyncio.wait_for(engine.failed, SEEN_S)
        assert not psutil.pid_exists(host.pid)


async def test_a_host_that_freezes_for_a_moment_lives_on(demo_model: Path) -> None:
    async with aclosing(await load_xllamacpp(spec(demo_model), "always", QUICK)) as engine:
        (host,) = psutil.Process().children()
        host.suspend()
        await until_stalled(engine)
        host.resume()
        assert isinstance((await answer(engine, chat("hello", max_tokens=2)))[-1], Finish)
        async with asyncio.timeout(SEEN_S):
            while engine.stalled is not None:  # noqa: ASYNC110 - the engine tells nobody
                await asyncio.sleep(0)
        assert not engine.failed.done()


@pytest.mark.parametrize("kind", ["writes", "embeds", "ranks"])
async def test_honest_work_of_every_kind_is_progress(tmp_path: Path, demo_model: Path, kind: str) -> None:
    """Longer than the limit, without a doubt: on a busy machine, too, where each step is slow."""
    patient = replace(QUICK, steps=Limits().steps, expected=Limits().expected)
    model = demo_model
    if kind == "ranks":
        model = tmp_path / "rank.gguf"
        await asyncio.to_thread(write_reranker, model)
    async with aclosing(await load_xllamacpp(spec(model), "always", patient)) as engine:
        ends = asyncio.get_running_loop().time() + 4.5
        rounds = 0
        while asyncio.get_running_loop().time() < ends:
            rounds += 1
            match kind:
                case "writes":
                    await answer(engine, chat(f"{rounds} " + "word " * 200, max_tokens=100))
                case "embeds":
                    await engine.embed([f"{rounds} {number} " + "word " * 200 for number in range(20)])
                case _:
                    await engine.rerank("which one", [f"{rounds} {number} " + "word " * 100 for number in range(20)])
            assert engine.stalled is None
        assert not engine.failed.done()
        before = (await engine.http.loop_counts()).steps
        assert before > rounds, "each kind of work counts as steps"


@pytest.mark.parametrize("template", [ENDLESS, BOTTOMLESS], ids=["endless", "bottomless"])
async def test_a_template_that_hangs_or_kills_at_load_costs_the_child_alone(tmp_path: Path, template: str) -> None:
    """H6: llama.cpp renders it once while it loads."""
    model = tmp_path / "hostile.gguf"
    await asyncio.to_thread(write_templated_model, model, template)
    with pytest.raises(EngineFailed, match=r"hostile\.gguf.*template"):
        async with asyncio.timeout(SEEN_S):
            await load_xllamacpp(spec(model), load_least_s=2.0)


@pytest.mark.parametrize("template", [ENDLESS, BOTTOMLESS], ids=["endless", "bottomless"])
async def test_a_template_that_waits_for_its_message_costs_the_child_alone(tmp_path: Path, template: str) -> None:
    """The main loop goes on meanwhile: it is the listener's thread that hangs."""
    defined, _, used = template.rpartition("{{") if "macro" in template else ("", "", "")
    hostile = f"{{{{{used}" if used else template
    model = tmp_path / "sleeper.gguf"
    text = f"{defined}{{% if messages[-1].content == 'now' %}}{hostile}{{% endif %}}{PLAIN}"
    await asyncio.to_thread(write_templated_model, model, text)
    async with aclosing(await load_xllamacpp(spec(model), limits=QUICK)) as engine:
        assert isinstance((await answer(engine, chat("hello", max_tokens=2)))[-1], Finish)
        with pytest.raises(EngineDied):
            await answer(engine, chat("now", max_tokens=2))
        reason = await asyncio.wait_for(engine.failed, SEEN_S)
        assert "without an answer" in reason or "ended with" in reason


def test_only_files_of_ours_load_into_the_nodes_own_process(tmp_path: Path, demo_model: Path) -> None:
    copy, changed = tmp_path / "copy.gguf", tmp_path / "changed.gguf"
    whole = demo_model.read_bytes()
    copy.write_bytes(whole)
    changed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    other = tmp_path / "other.gguf"
    write_infill_model(other)
    assert runs_in_process(spec(demo_model), "auto")
    assert runs_in_process(spec(copy), "auto"), "it is the same, whatever it is called"
    assert not any(runs_in_process(spec(path), "auto") for path in (changed, other, tmp_path / "none.gguf"))
    assert runs_in_process(spec(other), "never")
    assert not runs_in_process(spec(demo_model), "always")
