"""The engines that there are, each as an entry with the questions that can be asked of it before it is loaded.

An engine's own code is imported with the first question: the command line needs no more than the names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, cast

from swarm.errors import EngineFailed

if TYPE_CHECKING:
    from swarm.engines.engine import Engine, EngineBuild, EnginePlaces, EngineSpec
    from swarm.generation import GenerationRequest
    from swarm.registry.catalogue import Format
    from swarm.registry.model_memory import Load, MemoryNeed, ModelShape

Isolation = Literal["auto", "always", "never"]


class EngineModule(Protocol):
    """The functions of an engine's module. They know nothing of one loaded model: `Engine` is that."""

    def why_not_available(self) -> str | None:
        """What is missing on this machine, with the remedy; None where a model can be loaded. Imports no library."""
        ...

    def builds(self, places: EnginePlaces) -> tuple[EngineBuild, ...]:
        """The ways in which it can run on this machine, the best first; none where `why_not_available` says why.

        Blocks: it may start a program, or a child process that imports a library; none is imported here. What cannot be
        used is left out, and told by `problems`.
        """
        ...

    def problems(self, places: EnginePlaces) -> tuple[str, ...]:
        """What was found and cannot be used, each a sentence with the remedy: a program that is none of this engine's,
        one too old, a driver newer than the library. Blocks, as `builds`.
        """
        ...

    def check(self, request: GenerationRequest) -> None:
        """Raises BadRequest for what this engine can answer with no model, naming the field to blame.

        Pure; up to some 100 ms for schemas as large as they may be.
        """
        ...

    def estimate(self, shape: ModelShape, load: Load) -> MemoryNeed:
        """The memory that a model of `shape` takes here under `load`, in bytes."""
        ...

    async def load(self, spec: EngineSpec, isolation: Isolation) -> Engine:
        """The engine with its model, ready, by the build that `spec` names, else its own in this environment.

        Raises EngineFailed with the reason and a remedy, UnknownArchitecture where another engine may know the model.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One engine. `formats` of model files, the preferred first; none for one that needs no file.

    `module` has the functions of `EngineModule`; `about` says in words what the engine is, and `ready_by` is the one
    command that makes it ready. One `for_gpus` is so slow without one that `auto` then offers none of its models. Where
    not `chosen_by_name`, `--engine` does not name it. One that `guesses` heeds `draft` and `ngram` of an `EngineSpec`,
    one that `sees` its `projector`, and one that `saves` its `saves`.
    """

    name: str
    module: str
    about: str
    formats: tuple[Format, ...] = ()
    ready_by: str = ""
    for_gpus: bool = False
    chosen_by_name: bool = True
    guesses: bool = False
    sees: bool = False
    saves: bool = False

    @property
    def _functions(self) -> EngineModule:
        return cast("EngineModule", importlib.import_module(self.module))

    def why_not_available(self) -> str | None:
        """See `EngineModule`, and so for the others."""
        return self._functions.why_not_available()

    def builds(self, places: EnginePlaces) -> tuple[EngineBuild, ...]:
        return self._functions.builds(places)

    def problems(self, places: EnginePlaces) -> tuple[str, ...]:
        return self._functions.problems(places)

    def check(self, request: GenerationRequest) -> None:
        self._functions.check(request)

    def estimate(self, shape: ModelShape, load: Load) -> MemoryNeed:
        return self._functions.estimate(shape, load)

    async def load(self, spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
        if spec.build is None and (why := self.why_not_available()) is not None:
            raise EngineFailed(f"engine {self.name}: {why}")
        return await self._functions.load(spec, isolation)


LLAMA_CPP = EngineEntry(
    "xllamacpp",
    "swarm.engines.llama_cpp.xllamacpp",
    "GGUF models by llama.cpp",
    ("gguf",),
    "pip install --force-reinstall xllamacpp",
    guesses=True,
    sees=True,
    saves=True,
)
# In the order in which `auto` takes them where nothing else tells them apart: see `build_choice.py`.
ENGINES: Mapping[str, EngineEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            LLAMA_CPP,
            EngineEntry(
                "llama-server",
                "swarm.engines.llama_cpp.llama_server",
                "GGUF models by a llama.cpp server program: your own, a package's, or one made for this machine",
                ("gguf",),
                "swarm engines install native",
                guesses=True,
                sees=True,
                saves=True,
            ),
            EngineEntry(
                "llama-cpp-python",
                "swarm.engines.llama_cpp_python.engine",
                "GGUF models by llama-cpp-python, built for this machine",
                ("gguf",),
                "swarm engines install llama-cpp",
            ),
            EngineEntry(
                "mlx",
                "swarm.engines.mlx.engine",
                "MLX models by mlx-lm, on Apple Silicon",
                ("mlx",),
                "swarm engines install mlx",
                for_gpus=True,
            ),
            EngineEntry("echo", "swarm.engines.echo", "no model: echoes the last message"),
            EngineEntry(
                "upstream", "swarm.engines.upstream.upstream_engine", "another server's models", chosen_by_name=False
            ),
        )
    }
)
AUTO = "auto"
LLAMA_SERVER = "llama-server"  # the engine whose program `--llama-server` names
ENGINE_NAMES = (AUTO, *(entry.name for entry in ENGINES.values() if entry.chosen_by_name))  # of `--engine`
if TYPE_CHECKING:
    EngineName = str  # one of ENGINE_NAMES
else:
    EngineName = Literal[ENGINE_NAMES]  # which pydantic checks


def chosen_engine(name: EngineName, model_format: Format = "gguf") -> EngineEntry:
    """The engine that `--engine` names; for `auto` the first that loads `model_format` and is in this environment.

    Nothing is asked: which build of which engine computes best here is `build_choice.chosen_build`'s to say.
    """
    if name != AUTO:
        return ENGINES[name]
    able = [entry for entry in ENGINES.values() if model_format in entry.formats]
    return next((entry for entry in able if entry.why_not_available() is None), able[0])


def engine_of_replica(name: str | None) -> EngineEntry:
    """The engine behind a replica. Peers do not tell theirs: they are taken for llama.cpp, which all of them run."""
    return ENGINES.get(name or "", LLAMA_CPP)


async def load_engine(name: EngineName, spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
    """Load `spec` by the build that it names, else with the engine called `name`. Raises EngineFailed, as `load`."""
    entry = chosen_engine(name) if spec.build is None else ENGINES[spec.build.engine]
    return await entry.load(spec, isolation)
