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
    from swarm.engines.engine import Engine, EngineSpec
    from swarm.generation import GenerationRequest
    from swarm.registry.catalogue import Format
    from swarm.registry.model_memory import Load, MemoryNeed, ModelShape

Isolation = Literal["auto", "always", "never"]


class EngineModule(Protocol):
    """The functions of an engine's module. They know nothing of one loaded model: `Engine` is that."""

    def why_not_available(self) -> str | None:
        """What is missing on this machine, with the remedy; None where a model can be loaded. Imports no library."""
        ...

    def uses_gpu(self) -> bool:
        """Whether models would be computed on a GPU here. Blocks: it may load the library."""
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
        """The engine with its model, ready. Raises EngineFailed with the reason and a remedy."""
        ...


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One engine. `formats` of model files, the preferred first; none for one that needs no file.

    `module` has the functions of `EngineModule`; `about` says in words what the engine is. Where not `chosen_by_name`,
    `--engine` does not name it.
    """

    name: str
    module: str
    about: str
    formats: tuple[Format, ...] = ()
    chosen_by_name: bool = True

    @property
    def _functions(self) -> EngineModule:
        return cast("EngineModule", importlib.import_module(self.module))

    def why_not_available(self) -> str | None:
        """See `EngineModule`, and so for the others."""
        return self._functions.why_not_available()

    def uses_gpu(self) -> bool:
        return self._functions.uses_gpu()

    def check(self, request: GenerationRequest) -> None:
        self._functions.check(request)

    def estimate(self, shape: ModelShape, load: Load) -> MemoryNeed:
        return self._functions.estimate(shape, load)

    async def load(self, spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
        if (why := self.why_not_available()) is not None:
            raise EngineFailed(f"engine {self.name}: {why}")
        return await self._functions.load(spec, isolation)


LLAMA_CPP = EngineEntry("xllamacpp", "swarm.engines.llama_cpp.xllamacpp", "GGUF models by llama.cpp", ("gguf",))
ENGINES: Mapping[str, EngineEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            LLAMA_CPP,
            EngineEntry("echo", "swarm.engines.echo", "no model: echoes the last message"),
            EngineEntry(
                "upstream", "swarm.engines.upstream.upstream_engine", "another server's models", chosen_by_name=False
            ),
        )
    }
)
AUTO = "auto"
ENGINE_NAMES = (AUTO, *(entry.name for entry in ENGINES.values() if entry.chosen_by_name))  # of `--engine`
if TYPE_CHECKING:
    EngineName = str  # one of ENGINE_NAMES
else:
    EngineName = Literal[ENGINE_NAMES]  # which pydantic checks


def chosen_engine(name: EngineName, model_format: Format = "gguf") -> EngineEntry:
    """The engine that `--engine` names; for `auto` the first that loads `model_format` and is available here."""
    if name != AUTO:
        return ENGINES[name]
    able = [entry for entry in ENGINES.values() if model_format in entry.formats]
    return next((entry for entry in able if entry.why_not_available() is None), able[0])


def engine_of_replica(name: str | None) -> EngineEntry:
    """The engine behind a replica. Peers do not tell theirs: they are taken for llama.cpp, which all of them run."""
    return ENGINES.get(name or "", LLAMA_CPP)


async def load_engine(name: EngineName, spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
    """Load `spec` with the engine called `name`. Raises EngineFailed with the reason and a remedy."""
    return await chosen_engine(name).load(spec, isolation)
