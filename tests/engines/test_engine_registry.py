"""The engines that there are: what each entry answers before anything is loaded, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from swarm.engines import echo
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp import llama_server, xllamacpp
from swarm.engines.llama_cpp_python import engine as llama_cpp_python
from swarm.engines.registry import (
    ENGINE_NAMES,
    ENGINES,
    LLAMA_CPP,
    EngineModule,
    EngineName,
    chosen_engine,
    engine_of_replica,
    load_engine,
)
from swarm.engines.upstream import upstream_engine as upstream
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import GenerationRequest
from swarm.registry.model_memory import Load, ModelShape

SHAPE = ModelShape(10**9, True, 1.0, 4096, None, None)
CHAT = ({"role": "user", "content": "hi"},)
BEGUN = (*CHAT, {"role": "assistant", "content": "I"})
SAYS_NOTHING = ({"role": "assistant", "content": ""},)
WANTED = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}}


def test_every_engine_has_the_functions_that_its_entry_calls() -> None:
    modules: tuple[EngineModule, ...] = (xllamacpp, llama_server, llama_cpp_python, echo, upstream)
    known = {module.__name__: module for module in modules}  # type: ignore[attr-defined]
    for entry in ENGINES.values():
        module = known.get(entry.module) or import_module(entry.module)
        assert all(callable(getattr(module, name)) for name in vars(EngineModule) if not name.startswith("_"))


def test_the_command_line_and_settings_take_the_names_in_the_registry() -> None:
    assert ENGINE_NAMES[:2] == ("auto", "xllamacpp")
    assert {"llama-server", "llama-cpp-python", "echo"} < set(ENGINE_NAMES)
    checker = TypeAdapter(EngineName)
    assert [checker.validate_python(name) for name in ENGINE_NAMES] == list(ENGINE_NAMES)
    for name in ("upstream", "vllm"):
        with pytest.raises(ValidationError, match=r"'auto', 'xllamacpp', .* 'echo'"):
            checker.validate_python(name)


def test_the_names_are_there_without_any_engine_and_without_pydantic() -> None:
    """`swarm --help` needs them, and is to be quick."""
    script = "import sys; from swarm.engines.registry import ENGINE_NAMES; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"pydantic", "aiohttp", "xllamacpp", *(entry.module for entry in ENGINES.values())}
    assert not heavy & set(loaded)


def test_auto_is_the_first_that_loads_the_format_and_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_engine("auto") is LLAMA_CPP
    monkeypatch.setattr(xllamacpp, "why_not_available", lambda: "it is not installed")
    assert chosen_engine("auto") is LLAMA_CPP  # which says why it cannot


async def test_an_engine_that_is_missing_says_so_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, demo_model: Path
) -> None:
    monkeypatch.setattr(xllamacpp, "find_spec", lambda _: None)
    with pytest.raises(EngineFailed, match="engine xllamacpp: it is not installed: pip install"):
        await load_engine("auto", EngineSpec("demo", demo_model, 512, 1, threads=1))


def test_only_what_loads_weights_takes_memory_for_them() -> None:
    needs = {name: entry.estimate(SHAPE, Load(4096, 4)).total_bytes for name, entry in ENGINES.items()}
    assert needs["xllamacpp"] > SHAPE.weights_bytes
    assert needs["echo"] == needs["upstream"] == 0


@pytest.mark.parametrize(
    ("fields", "refused_by"),
    [
        ({"messages": CHAT}, set()),
        ({"messages": BEGUN}, set()),
        ({"messages": CHAT, "response_format": WANTED}, set(ENGINES)),
        ({"messages": SAYS_NOTHING}, {*ENGINES} - {"upstream"}),
        ({"messages": BEGUN, "response_format": {"type": "json_object"}}, {*ENGINES} - {"upstream"}),
    ],
)
def test_each_engine_refuses_what_it_could_never_answer(fields: dict[str, object], refused_by: set[str]) -> None:
    request = GenerationRequest.model_validate({"model": "m", **fields})

    def refuses(name: str) -> bool:
        try:
            ENGINES[name].check(request)
        except BadRequest as error:
            return error.param is not None
        return False

    assert {name for name in ENGINES if refuses(name)} == refused_by


def test_a_peer_is_taken_for_llama_cpp() -> None:
    assert engine_of_replica(None) is LLAMA_CPP
    assert engine_of_replica("of the future") is LLAMA_CPP
    assert engine_of_replica("echo").name == "echo"
