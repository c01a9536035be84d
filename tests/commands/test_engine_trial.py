"""Whether an engine that was just made is tried as a node would use it, and what is said where it does not work."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest

from swarm.commands.engine_steps import StepFailed
from swarm.commands.engine_trial import Trial, try_engine
from swarm.engines.echo import EchoEngine
from swarm.engines.engine import Device, Engine, EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.installed import InstalledEngine, installed_engines
from swarm.engines.registry import ENGINES, EngineEntry
from swarm.errors import EngineFailed
from swarm.generation import Delta

CUDA = Device("CUDA0", "NVIDIA GeForce RTX 4090")


class Endless(EchoEngine):
    async def candidates(self, request: Any, n: int) -> AsyncGenerator[Any]:  # type: ignore[override]
        yield Delta(0, "a")


@dataclass
class Module:
    """An engine's functions, as far as a trial goes. `loads` is raised, or the kind of engine."""

    devices: tuple[Device, ...] = ()
    said: tuple[str, ...] = ()
    finds: bool = True
    loads: type[Engine] | Exception = EchoEngine
    formats: tuple[str, ...] = ("gguf",)
    late: int = 0  # so many times it is
    specs: list[EngineSpec] = field(default_factory=list)

    def builds(self, places: EnginePlaces) -> tuple[EngineBuild, ...]:
        assert places.ask_devices
        own = EngineBuild("xllamacpp", "1", (CUDA,), source="this environment")  # not what was made
        made = [engine.build(self.devices) for engine in installed_engines(places.engines_dir)]
        return (own, *made) if self.finds else (own,)

    def problems(self, places: EnginePlaces) -> tuple[str, ...]:
        return self.said

    async def load(self, spec: EngineSpec, isolation: str) -> Engine:
        assert isolation == "always"
        self.specs.append(spec)
        if len(self.specs) <= self.late:
            raise EngineFailed("demo.gguf was not loaded within 60 s and was given up")
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads(spec)


@pytest.fixture
def made(tmp_path: Path) -> InstalledEngine:
    folder = tmp_path / ".making-x" / "new" / "xllamacpp-cuda"
    folder.mkdir(parents=True)
    text = '{"engine": "xllamacpp", "flavour": "cuda", "version": "2026.10.1", "packages": "."}'
    (folder / "engine.json").write_text(text)
    return installed_engines(folder.parent)[0]


def tried(module: Module, made: InstalledEngine, needs_gpu: bool = True) -> Trial:
    return try_engine(made, needs_gpu, limit_s=30, engines={"xllamacpp": cast("EngineEntry", module)})


def test_one_that_works_says_its_devices_and_was_loaded_from_its_own_folder(made: InstalledEngine) -> None:
    module = Module((CUDA, Device("CPU", "a processor")))
    assert tried(module, made) == Trial("2026.10.1", ("NVIDIA GeForce RTX 4090",))
    (spec,) = module.specs
    assert spec.build is not None
    assert spec.build.packages == made.folder
    assert tried(Module(), made, needs_gpu=False) == Trial("2026.10.1", ())


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Module(), r"nvidia-smi.* sees it \(it sees no GPU here\)"),
        (Module(said=("CUDA driver version is insufficient",)), r"update NVIDIA's driver \(it sees no GPU here: CUDA"),
        (Module(finds=False, said=("libcuda.so.1: cannot open shared object file",)), "install NVIDIA's driver"),
        (Module(finds=False), "it cannot be started"),
        (Module((CUDA,), loads=EngineFailed("no kernel image is available for execution")), "no code for this GPU"),
        (Module((CUDA,), loads=EngineFailed("it is broken")), "^it is broken$"),
        (Module((CUDA,), loads=Endless), "its answer has no end"),
    ],
)
def test_one_that_does_not_work_says_why_with_the_remedy(made: InstalledEngine, module: Module, words: str) -> None:
    with pytest.raises(StepFailed, match=words):
        tried(module, made)


def test_a_driver_that_compiles_at_the_first_start_is_given_time(made: InstalledEngine) -> None:
    module = Module((CUDA,), late=3)
    assert tried(module, made).devices
    assert len(module.specs) == 4
    for late, needs_gpu in ((99, True), (1, False)):
        with pytest.raises(StepFailed, match="was not loaded within 60 s"):
            tried(Module((CUDA,), late=late), made, needs_gpu)


def test_an_engine_of_a_later_version_of_this_program_is_said(made: InstalledEngine) -> None:
    with pytest.raises(StepFailed, match="has no engine called xllamacpp"):
        try_engine(made, False, engines={})


@pytest.mark.skipif(sys.platform == "darwin", reason="the node's own library sees a Mac's GPU")
def test_the_nodes_own_library_works_from_a_folder_of_its_own(tmp_path: Path) -> None:
    """As a wheel for a GPU would; what it says of a driver that is missing is told with the remedy."""
    folder = tmp_path / "xllamacpp-cuda"
    folder.mkdir()
    library = find_spec("xllamacpp")
    assert library is not None
    assert library.origin is not None
    (folder / "xllamacpp").symlink_to(Path(library.origin).parent)
    text = '{"engine": "xllamacpp", "flavour": "cuda", "version": "2026.10.1", "packages": "."}'
    (folder / "engine.json").write_text(text)
    made = installed_engines(tmp_path)[0]
    assert try_engine(made, needs_gpu=False) == Trial("2026.10.1", ())
    (folder / "xllamacpp").unlink()
    (folder / "xllamacpp").mkdir()
    (folder / "xllamacpp" / "__init__.py").write_text(
        "raise ImportError('libcuda.so.1: cannot open shared object file')"
    )
    with pytest.raises(StepFailed, match="install NVIDIA's driver, or give it to the container"):
        try_engine(made, needs_gpu=True)


@pytest.mark.parametrize("engine", ["llama-server", "llama-cpp-python", "mlx"])
def test_the_engines_that_the_tests_have_work(engine: str) -> None:
    folder = os.environ.get("SWARM_TEST_ENGINES")
    found = installed_engines(None if folder is None else Path(folder), engine)
    if not found or engine not in ENGINES:
        pytest.skip(f"SWARM_TEST_ENGINES has no {engine}: ./scripts/engines makes it")
    assert try_engine(found[0], needs_gpu=False).version == found[0].version
