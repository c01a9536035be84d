"""What mlx is on a machine: its builds and what they see, by stand-ins for the library; what its models take."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from swarm.engines.engine import Device, Engine, EnginePlaces, EngineSpec
from swarm.engines.hosted.json_forms import Form
from swarm.engines.mlx.engine import RESERVE_BYTES, asked, builds, estimate, load, problems, why_not_available
from swarm.engines.mlx.sampling import HeldToForm
from swarm.engines.registry import ENGINES, chosen_engine, load_engine
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import Delta, GenerationRequest
from swarm.registry.embedded import embedded_folder
from swarm.registry.mlx_folder import read_mlx
from swarm.registry.model_memory import Load, memory_needed
from tests.doubles.made_engines import made_engine

HF = embedded_folder() / "hf"
MODULES = ("generate", "models/cache", "sample_utils", "tokenizer_utils", "utils")
# As `mlx.core` documents what it says of a device.
CORE = """
import sys
class metal:
    is_available = staticmethod(lambda: {metal})
gpu = "gpu"
is_available = lambda device: {gpu}
device_info = lambda device: {info}
"""
METAL = CORE.format(metal=True, gpu=True, info={"device_name": "Apple M4 Max", "memory_size": 64 << 30})
CUDA = CORE.format(metal=False, gpu=True, info={"device_name": "NVIDIA H200", "total_memory": 141 << 30})
CPU = CORE.format(metal=False, gpu=False, info={})
BROKEN = "raise ImportError('libcuda.so.1: cannot open shared object file')"


def made(folder: Path, core: str, engine: str = "mlx") -> Path:
    """An engines directory with one engine, whose library is a stand-in."""
    packages = folder / "mlx-metal"
    for name in ("mlx/core", *(f"mlx_lm/{module}" for module in MODULES)):
        file = packages / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(core if name == "mlx/core" else "")
    said = {
        "engine": engine,
        "flavour": "metal",
        "version": "0.32.2",
        "packages": ".",
        "program": None,
        "native": False,
    }
    (packages / "engine.json").write_text(json.dumps({**said, "made": "2026-11-30", "with": "pip"}))
    return folder


@pytest.mark.parametrize(
    ("core", "devices"),
    [
        (METAL, (Device("Metal", "Apple M4 Max", 64 << 30),)),
        (CUDA, (Device("CUDA0", "NVIDIA H200", 141 << 30),)),
        (CPU, ()),
    ],
    ids=["metal", "cuda", "cpu"],
)
def test_a_build_says_what_it_computes_on(tmp_path: Path, core: str, devices: tuple[Device, ...]) -> None:
    places = EnginePlaces(made(tmp_path, core), ask_devices=True, answers=tmp_path / "engines.json")
    (build,) = builds(places)
    assert (build.engine, build.version, build.devices) == ("mlx", "0.32.2", devices)
    assert build.packages == tmp_path / "mlx-metal"
    assert problems(places) == ()
    (tmp_path / "mlx-metal" / "mlx" / "core.py").write_text(BROKEN)
    assert builds(places) == (build,)  # it is not asked twice


def test_what_cannot_be_used_is_said_and_left_out(tmp_path: Path) -> None:
    places = EnginePlaces(made(tmp_path, BROKEN), ask_devices=True)
    assert builds(places) == ()
    (problem,) = problems(places)
    assert problem.startswith(f"mlx-lm 0.32.2 (installed in {tmp_path / 'mlx-metal'}) cannot be used: ")
    assert "libcuda.so.1: cannot open" in problem
    assert problem.endswith("; run swarm engines install mlx")


def test_nothing_is_asked_where_there_is_no_gpu(tmp_path: Path) -> None:
    (build,) = builds(EnginePlaces(made(tmp_path, BROKEN)))
    assert build.devices == ()


def test_other_engines_are_not_it(tmp_path: Path) -> None:
    assert builds(EnginePlaces(made(tmp_path, CPU, engine="llama-server"))) == ()
    assert builds(EnginePlaces(tmp_path / "nowhere")) == ()


@pytest.mark.skipif(why_not_available() is None, reason="mlx-lm is installed in this environment")
def test_it_is_chosen_for_its_format_alone() -> None:
    assert chosen_engine("auto", "mlx") is ENGINES["mlx"]
    assert chosen_engine("auto") is not ENGINES["mlx"]
    with pytest.raises(EngineFailed, match=r"engine mlx: mlx-lm is not installed .*: run swarm engines install mlx"):
        asyncio.run(load_engine("mlx", EngineSpec("m", HF, 1024, 1, threads=1)))


def test_a_file_is_no_folder_of_a_model() -> None:
    spec = EngineSpec("m", HF / "config.json", 1024, 1, threads=1)
    with pytest.raises(EngineFailed, match=r"config.json is no folder of an MLX model: safetensors, with config.json"):
        asyncio.run(load(spec))


def test_one_conversation_more_is_kept_than_there_are_answers() -> None:
    shape = read_mlx(HF).facts.shape
    need, usual = estimate(shape, Load(1024, 3, "q8_0")), memory_needed(shape, Load(1024, 4))
    assert need.kv_bytes == usual.kv_bytes
    assert (need.weights_bytes, need.reserve_bytes) == (shape.weights_bytes, RESERVE_BYTES)
    assert not need.estimated


async def test_the_real_library_sees_what_is_here_and_takes_what_was_estimated() -> None:
    build = made_engine("mlx")
    answer = await asyncio.to_thread(asked, build.packages)
    assert [device["name"] for device in answer["devices"]] in ([], ["Metal"], ["CUDA0"])
    spec = EngineSpec("m", HF, 1024, 4, threads=1, build=replace(build))
    engine = await load_engine("mlx", spec)
    try:
        assert engine.name == "mlx"
        assert engine.computation.version.startswith(build.version)
        assert engine.computation.layers == 4
        if not answer["devices"]:
            assert engine.taken_bytes is not None
            assert engine.taken_bytes <= estimate(read_mlx(HF).facts.shape, Load(1024, 4)).total_bytes
    finally:
        await engine.aclose()


async def test_a_thought_that_the_template_begins_is_parted_from_the_answer(tmp_path: Path) -> None:
    """The embedded model with two of its tokens renamed: it has no thoughts of its own."""
    build = made_engine("mlx")
    folder = Path(shutil.copytree(HF, tmp_path / "thinking"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text().replace("<tool_response>", "<think>").replace("</tool_response>", "</think>")
        begun = "<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}"
        text = text.replace("<|im_start|>assistant\\n' }}\n{%- endif %}", begun)
        (folder / name).write_text(text)
    said = {"model": "m", "messages": [{"role": "user", "content": "What is 2+3?"}], "temperature": 0.0}
    thinking = GenerationRequest.model_validate(said)
    closing = GenerationRequest.model_validate({**said, "logit_bias": {"2047": 100.0}, "max_tokens": 3})
    schema = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    held = GenerationRequest.model_validate({**said, "response_format": schema})
    engine = await load_engine("mlx", EngineSpec("m", folder, 1024, 1, threads=1, build=build))
    try:
        assert (await engine.prompt_text(thinking)).endswith("<think>\n")
        thought, answer = await parts(engine, thinking)
        assert (bool(thought), answer) == (True, "")
        assert await parts(engine, closing) == ("", "</think></think>")
        assert (await parts(engine, held))[1] in ('"yes"', '"no"')
    finally:
        await engine.aclose()


async def parts(engine: Engine, request: GenerationRequest) -> tuple[str, str]:
    """What was thought, and what was answered."""
    async with aclosing(engine.candidates(request, 1)) as events:
        deltas = [event async for event in events if isinstance(event, Delta)]
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas)


def test_a_form_that_is_given_up_in_mid_answer_is_said_and_ends_no_other() -> None:
    """Raised within a step of the batch it would end all of them, and the process."""

    class GivenUp(Form):
        def __init__(self) -> None:
            """It has no matcher: it has given up."""

        def allowed(self, size: int) -> Any:
            raise BadRequest(f"the schema cannot be kept within an answer of {size} tokens")

    held = HeldToForm(None, GivenUp(), ())
    logits = numpy.zeros((1, 7))
    assert held(numpy.array([3]), logits) is logits
    assert held.broken == "the schema cannot be kept within an answer of 7 tokens"
