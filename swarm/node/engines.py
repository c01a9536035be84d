"""What computes models on this machine: the builds of engines that are here, with what the user said of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from hardware.snapshot import HardwareSnapshot, ModelMemory, memory_for_models
from hardware.snapshot_text import unused_gpu
from swarm.engines.build_choice import computes_on_gpu, formats_of, loaded_formats, memory_of, ranked, why_none
from swarm.engines.engine import EngineBuild, EnginePlaces
from swarm.engines.kept_answers import ANSWERS_FILE
from swarm.engines.registry import AUTO, ENGINES, LLAMA_SERVER, EngineEntry, EngineName
from swarm.errors import SetupError
from swarm.node.settings import Settings
from swarm.registry.catalogue import Format

GET_GPU = "`swarm engines install` gets one that uses it"

log = logging.getLogger(__name__)


def places_of(settings: Settings, snapshot: HardwareSnapshot | None = None) -> EnginePlaces:
    """Where engines are looked for, on the machine that `snapshot` shows; None: no device is asked for."""
    return EnginePlaces(
        settings.engines_path,
        settings.llama_server,
        snapshot is not None and snapshot.has_gpu,
        settings.data_path / ANSWERS_FILE,
        machine_words(snapshot or HardwareSnapshot()),
    )


def machine_words(snapshot: HardwareSnapshot) -> str:
    """The GPUs and their drivers: while they are the same, an engine sees the same devices."""
    gpus = [f"{gpu.name} {gpu.partition_index or ''} {gpu.driver_version or ''}".strip() for gpu in snapshot.gpus]
    return "; ".join(gpus if snapshot.apple is None else [*gpus, snapshot.apple.chip])


def builds_of(entry: EngineEntry, places: EnginePlaces) -> tuple[EngineBuild, ...]:
    """See `EngineModule.builds`; a defect in one engine keeps no other from being used."""
    try:
        return entry.builds(places)
    except Exception:
        log.exception("engine %s cannot be used: it could not say what is here", entry.name)
        return ()


def problems_of(entry: EngineEntry, places: EnginePlaces) -> tuple[str, ...]:
    """See `EngineModule.problems`."""
    try:
        return entry.problems(places)
    except Exception as error:
        log.exception("engine %s could not say what is here", entry.name)
        return (f"it could not say what is here: {type(error).__name__}: {error}",)


@dataclass(frozen=True, slots=True, eq=False)
class NodeEngines:
    """The builds that may compute models here, on the machine that `snapshot` shows, under these `settings`."""

    settings: Settings
    snapshot: HardwareSnapshot
    builds: tuple[EngineBuild, ...]
    _memory: dict[EngineBuild, ModelMemory] = field(default_factory=dict[EngineBuild, ModelMemory])

    @staticmethod
    def look(settings: Settings, snapshot: HardwareSnapshot) -> NodeEngines:
        """Ask what is here; only what these settings let compute a model is asked. Blocks.

        Raises SetupError for a program given with `--llama-server` that is none, or that nothing would use.
        """
        return NodeEngines(settings, snapshot, tuple(_asked(settings, places_of(settings, snapshot))))

    @property
    def formats(self) -> tuple[Format, ...]:
        """Of the models that are chosen or offered here; the preferred first."""
        return formats_of(self.settings.engine, self.builds)

    @property
    def usual(self) -> EngineBuild:
        """What computes a model of which nothing else is known. Raises SetupError where nothing is ready."""
        return self.best(self._usual_format)

    @property
    def _usual_format(self) -> Format:
        return self.formats[0] if self.formats else "gguf"

    def ranked(
        self, model_format: Format, engine: EngineName | None = None, shipped: bool = False
    ) -> tuple[EngineBuild, ...]:
        """The builds that may load such a model, the best first; `engine`: what the user decided for it."""
        name = engine or self.settings.engine
        return ranked(name, model_format, self.builds, self.snapshot, shipped, self.settings.llama_server)

    def best(self, model_format: Format, engine: EngineName | None = None, shipped: bool = False) -> EngineBuild:
        """The first of them. Raises SetupError with the one command that makes an engine ready where there is none."""
        found = self.ranked(model_format, engine, shipped)
        if not found:
            name = engine or self.settings.engine
            problems = () if name == AUTO else problems_of(ENGINES[name], places_of(self.settings, self.snapshot))
            raise SetupError(why_none(name, model_format, problems))
        return found[0]

    def memory(self, build: EngineBuild) -> ModelMemory:
        """Where a model that `build` loads goes, and what is free there."""
        if build not in self._memory:
            self._memory[build] = memory_of(build, self.snapshot)
        return self._memory[build]

    def problems(self) -> tuple[str, ...]:
        """What was found of the engines that may compute a model here, and cannot be used. Blocks."""
        places = places_of(self.settings, self.snapshot)
        return tuple(problem for entry in _wanted(self.settings) for problem in problems_of(entry, places))

    @property
    def on_gpu(self) -> bool:
        """Whether a model of which nothing else is known is computed on a GPU here."""
        found = self.ranked(self._usual_format)
        return bool(found) and computes_on_gpu(found[0])

    @property
    def usual_memory(self) -> ModelMemory:
        """Where such a model goes; RAM where nothing is ready."""
        found = self.ranked(self._usual_format)
        return self.memory(found[0]) if found else memory_for_models(self.snapshot, gpu_allowed=False)

    @property
    def gpu_line(self) -> str | None:
        """What is said of a GPU that models are not computed on; None where there is none, or no model."""
        words = unused_gpu(self.snapshot)
        return None if words is None or not self.formats or self.on_gpu else f"{words} ({GET_GPU})"


def formats_here(settings: Settings) -> tuple[Format, ...]:
    """The formats of models that something here can load, without a look at the hardware. Blocks."""
    places = places_of(settings)
    return loaded_formats(settings.engine, [build for entry in _wanted(settings) for build in builds_of(entry, places)])


def _wanted(settings: Settings) -> list[EngineEntry]:
    """The engines that may compute a model under these settings."""
    names = {settings.engine, *(model.engine for model in settings.models.values() if model.engine)}
    return [entry for entry in ENGINES.values() if entry.name in names or (AUTO in names and entry.formats)]


def _asked(settings: Settings, places: EnginePlaces) -> Iterator[EngineBuild]:
    wanted, named = _wanted(settings), settings.llama_server
    if named is not None and LLAMA_SERVER not in [entry.name for entry in wanted]:
        raise SetupError(
            f"--llama-server {named} is not used by --engine {settings.engine}: leave one of the two out, "
            f"or say --engine {LLAMA_SERVER}"
        )
    found = [build for entry in wanted for build in builds_of(entry, places)]
    if named is not None and not any(build.program == named for build in found):
        problems = [text for entry in wanted if entry.name == LLAMA_SERVER for text in problems_of(entry, places)]
        why = next((problem for problem in problems if str(named) in problem), None)
        raise SetupError(why or f"--llama-server {named} is no llama.cpp server that can be used: give the path of one")
    yield from found
