"""Whether an engine that was just made works: it is asked for its devices, loads a tiny model and answers with it.

It is loaded as a node would load it, in a process of its own: one that crashes, hangs or leaves a driver in a bad state
does so there. What a library writes while it fails is read for what it means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from federation.printable_text import one_line
from swarm.commands.engine_steps import StepFailed
from swarm.engines.build_choice import gpus_of
from swarm.engines.engine import EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.installed import InstalledEngine
from swarm.engines.machine_engines import meaning_of
from swarm.engines.registry import ENGINES, EngineEntry
from swarm.errors import SwarmError
from swarm.generation import Finish, GenerationRequest
from swarm.registry.embedded import embedded_folder, embedded_model_path

TRIAL_S: Final = 900.0  # a driver that compiles an engine's code for its GPU at the first start takes minutes
# What is ended then has been kept by the driver as far as it was compiled: the next start goes on from there.
FIRST_STARTS: Final = 5
LATE: Final = "was not loaded within"  # of an engine that was given up while it loaded
CONTEXT_TOKENS: Final = 512
ANSWER_TOKENS: Final = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """What an engine that works says of itself."""

    version: str
    devices: tuple[str, ...]


def try_engine(
    installed: InstalledEngine,
    needs_gpu: bool,
    limit_s: float = TRIAL_S,
    engines: Mapping[str, EngineEntry] = ENGINES,
) -> Trial:
    """Load the embedded model with it and have it answer. Blocks. Raises StepFailed with the reason and a remedy.

    `needs_gpu`: one that sees no GPU of this machine is of no use.
    """
    entry = engines.get(installed.engine)
    if entry is None:
        raise StepFailed(f"this version of the program has no engine called {installed.engine}")
    places = EnginePlaces(engines_dir=installed.folder.parent, ask_devices=True)
    build = next((build for build in entry.builds(places) if _is_of(build, installed)), None)
    if build is None:
        raise StepFailed(_explained("; ".join(entry.problems(places)) or "it cannot be started", needs_gpu))
    devices = gpus_of(build)
    if needs_gpu and not devices:
        said = "; ".join(entry.problems(places))
        raise StepFailed(_explained(f"it sees no GPU here{f': {said}' if said else ''}", needs_gpu))
    for starts_left in reversed(range(FIRST_STARTS if needs_gpu else 1)):
        try:
            asyncio.run(_answer(entry, build, limit_s))
            break
        except TimeoutError as error:
            raise StepFailed(f"it did not answer within {limit_s:g} s") from error
        except SwarmError as error:
            if not starts_left or LATE not in str(error):
                raise StepFailed(_explained(str(error), needs_gpu)) from error
    return Trial(build.version, tuple(device.description or device.name for device in devices))


def _is_of(build: EngineBuild, installed: InstalledEngine) -> bool:
    places = [path for path in (build.program, build.packages) if path is not None]
    return any(place.is_relative_to(installed.folder) for place in places)


def _explained(failure: str, needs_gpu: bool) -> str:
    meaning = meaning_of(failure)
    if meaning is None and needs_gpu and failure == "it sees no GPU here":
        meaning = "look whether the driver's own tool (nvidia-smi, rocm-smi, vulkaninfo) sees it"
    return one_line(failure if meaning is None else f"{meaning} ({failure})")


async def _answer(entry: EngineEntry, build: EngineBuild, limit_s: float) -> None:
    is_gguf = "gguf" in entry.formats
    path: Path = embedded_model_path() if is_gguf else embedded_folder() / "hf"
    spec = EngineSpec("demo", path, CONTEXT_TOKENS, slots=1, threads=1)
    async with asyncio.timeout(limit_s):
        engine = await entry.load(replace(spec, build=build), "always")
        try:
            request = GenerationRequest(
                model="demo", messages=({"role": "user", "content": "Say hello."},), max_tokens=ANSWER_TOKENS
            )
            async for event in engine.candidates(request, 1):
                if isinstance(event, Finish):
                    return
            raise StepFailed("its answer has no end")
        finally:
            await engine.aclose()
