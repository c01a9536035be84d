"""`swarm engines`: what can compute models on this machine, what they see, and what makes the others ready."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hardware.probe import probe_hardware
from hardware.snapshot import HardwareSnapshot
from swarm.commands.output import say
from swarm.engines.build_choice import gpus_of
from swarm.engines.engine import EngineBuild, EnginePlaces
from swarm.engines.installed import unreadable_engines
from swarm.engines.registry import AUTO, ENGINES, EngineEntry
from swarm.node.engines import NodeEngines, builds_of, places_of, problems_of
from swarm.node.settings import Settings
from swarm.registry.catalogue import Format

FORMAT_WORDS: dict[Format, str] = {"gguf": "GGUF", "mlx": "MLX"}


@dataclass(frozen=True, slots=True)
class EngineState:
    """What there is of one engine here. `why` says why it is not ready; `problems` what was found and is no use."""

    entry: EngineEntry
    builds: tuple[EngineBuild, ...]
    problems: tuple[str, ...]
    why: str | None


def list_engines(settings: Settings, as_json: bool) -> int:
    """Print each engine: ready or not and why, its builds with the devices that they see, and what makes it ready."""
    snapshot = probe_hardware()
    places = replace(places_of(settings, snapshot), ask_devices=True)  # the probe does not know every maker's GPUs
    states = [state_of(entry, places) for entry in ENGINES.values() if entry.chosen_by_name]
    engines = NodeEngines(settings, snapshot, tuple(build for state in states for build in state.builds))
    spoilt = unreadable_engines(places.engines_dir)
    if as_json:
        say(json.dumps(listing(states, engines, spoilt), indent=2))
    else:
        say("\n".join(text_lines(states, engines, spoilt)))
    return 0


def state_of(entry: EngineEntry, places: EnginePlaces) -> EngineState:
    """Ask what there is of it. Blocks: a program may be started for that."""
    builds = builds_of(entry, places)
    return EngineState(entry, builds, problems_of(entry, places), None if builds else entry.why_not_available())


def chosen_builds(engines: NodeEngines) -> dict[Format, EngineBuild]:
    """What computes the models of each format under these settings; the formats that nothing computes are left out."""
    found: dict[Format, EngineBuild] = {}
    for model_format in FORMAT_WORDS:
        for best in engines.ranked(model_format)[:1]:
            found[model_format] = best
    return found


def text_lines(states: Sequence[EngineState], engines: NodeEngines, spoilt: Sequence[str] = ()) -> Iterator[str]:
    """The list for people."""
    chosen, settings = chosen_builds(engines), engines.settings
    how = "" if settings.engine == AUTO else f" (--engine {settings.engine})"
    yield f"this machine: {machine_words(engines.snapshot)}"
    for model_format, build in chosen.items():
        yield f"{FORMAT_WORDS[model_format]} models are computed by {build.words} {where(build)}{how}"
    embedded = engines.ranked("gguf", shipped=True)
    if embedded and embedded[0] != chosen.get("gguf"):
        yield f"the embedded models are computed by {embedded[0].words}, which starts at once"
    if not chosen:
        yield f"no model can be computed here{how}: run one of the commands below"
    if (words := engines.gpu_line) is not None:
        yield f"! {words}"
    width = max(len(state.entry.name) for state in states)
    for state in states:
        yield ""
        ready = "ready" if state.builds else "not ready"
        yield f"{state.entry.name:<{width}}  {ready:<9}  {state.entry.about}"
        for build in state.builds:
            mark = "*" if build in chosen.values() else " "
            yield f"  {mark} {build.version} {where(build)}{'' if not build.source else f', {build.source}'}"
        yield from (f"  ! {problem}" for problem in state.problems)
        if not state.builds:
            yield from [f"    {state.why}"] if state.why and not state.problems else []
            if state.entry.ready_by and state.entry.ready_by not in (state.why or ""):
                yield f"    what makes it ready: `{state.entry.ready_by}`"
    if spoilt:
        yield ""
        yield from (f"! {problem}" for problem in spoilt)
    if chosen:
        yield ""
        yield "* is what computes; --engine NAME chooses another, for one model its `engine` in the configuration file"


def machine_words(snapshot: HardwareSnapshot) -> str:
    """The processor and the GPUs that the hardware probe saw."""
    names = [gpu.name for gpu in snapshot.gpus] or ([] if snapshot.apple is None else [snapshot.apple.chip])
    return ", ".join([snapshot.cpu.model or "an unknown processor", *(names or ["no GPU found"])])


def where(build: EngineBuild) -> str:
    """On what it computes."""
    gpus = [device.description or device.name for device in gpus_of(build)]
    return f"on {' and '.join(gpus)}" if gpus else f"on the CPU{', made for this processor' if build.native else ''}"


def listing(states: Sequence[EngineState], engines: NodeEngines, spoilt: Sequence[str] = ()) -> dict[str, Any]:
    """The list for programs."""
    chosen = chosen_builds(engines)
    return {
        "engine": engines.settings.engine,
        "chosen": {model_format: build_json(build) for model_format, build in chosen.items()},
        "gpu_unused": engines.gpu_line,
        "engines": [
            {
                "name": state.entry.name,
                "about": state.entry.about,
                "formats": list(state.entry.formats),
                "ready": bool(state.builds),
                "why_not": state.why,
                "ready_by": state.entry.ready_by or None,
                "problems": list(state.problems),
                "builds": [build_json(build) | {"chosen": build in chosen.values()} for build in state.builds],
            }
            for state in states
        ],
        "problems": list(spoilt),
    }


def build_json(build: EngineBuild) -> dict[str, Any]:
    """One build; sizes in bytes, None for what is not known."""
    return {
        "engine": build.engine,
        "version": build.version,
        "devices": [
            {"name": each.name, "description": each.description, "total_bytes": each.total_bytes}
            for each in gpus_of(build)
        ],
        "native": build.native,
        "program": None if build.program is None else str(build.program),
        "packages": None if build.packages is None else str(build.packages),
        "source": build.source,
    }
