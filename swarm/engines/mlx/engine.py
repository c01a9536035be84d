"""The engine `mlx`: its builds on this machine, what a model takes of its memory, and how one is loaded.

The library is imported by child processes alone. Where it is installed in this environment (the extra `mlx`) it is one
build, and each folder that `swarm engines install mlx` made is another.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from swarm.engines.engine import Device, EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.hosted.hosted_engine import HostedEngine, HostedLibrary, load_hosted
from swarm.engines.installed import ENGINE_FILE, installed_engines
from swarm.engines.kept_answers import Answer, kept_answer
from swarm.engines.llama_cpp.demanded_answer import refuse_impossible_turns
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible
from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.engines.registry import Isolation
from swarm.errors import EngineFailed
from swarm.generation import GenerationRequest
from swarm.registry.model_memory import MIB, Load, MemoryNeed, ModelShape, memory_needed

NAME: Final = "mlx"
LIBRARY: Final = HostedLibrary(NAME, "swarm.engines.mlx.generator")
INSTALL: Final = "run swarm engines install mlx"
ASK_TIMEOUT_S: Final = 60.0  # a first import from a slow disk, with a driver that starts
# Python with the library and a tokenizer, arrays that are kept for the next step, and prompts that are kept however
# small the context is: see `generator.py`.
RESERVE_BYTES: Final = (400 + 256 + 256) * MIB


def why_not_available() -> str | None:
    """See `EngineModule`, and so for the others."""
    if find_spec("mlx") and find_spec("mlx_lm"):
        return None
    return f"mlx-lm is not installed in this environment: {INSTALL}"


def builds(places: EnginePlaces) -> tuple[EngineBuild, ...]:
    return tuple(found for found in _looked_at(places) if isinstance(found, EngineBuild))


def problems(places: EnginePlaces) -> tuple[str, ...]:
    return tuple(found for found in _looked_at(places) if isinstance(found, str))


def check(request: GenerationRequest) -> None:
    refuse_impossible(request)
    refuse_impossible_turns(request)


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    """Keys and values as the model computes them; what was read of one prompt more is kept than there are answers."""
    needed = memory_needed(shape, replace(load, slots=load.slots + 1, cache_type="f16"))
    return replace(needed, reserve_bytes=RESERVE_BYTES)


async def load(spec: EngineSpec, isolation: Isolation = "auto", limits: Limits | None = None) -> HostedEngine:
    """Always in a process of its own, whatever `isolation` says: the library ends its process where a GPU fails it."""
    if spec.path is None or not spec.path.is_dir():
        raise EngineFailed(f"{spec.path} is no folder of an MLX model: safetensors, with config.json and a tokenizer")
    return await load_hosted(LIBRARY, spec, None if spec.build is None else spec.build.packages, limits)


def _looked_at(places: EnginePlaces) -> Iterator[EngineBuild | str]:
    """Each build, or a sentence about it where it is none."""
    for installed in installed_engines(places.engines_dir, NAME):
        if installed.packages is not None:
            yield _with_devices(places, installed.build(), installed.folder / ENGINE_FILE)
    if why_not_available() is None:
        yield _with_devices(places, EngineBuild(NAME, _own_version(), source="this environment"), _own_file())


def _own_version() -> str:
    try:
        return version("mlx-lm")
    except PackageNotFoundError:  # a checkout on the path
        return "?"


def _own_file() -> Path:
    """A file that is another one with each version."""
    found = find_spec("mlx_lm")
    return Path((found and found.origin) or "mlx_lm")


def _with_devices(places: EnginePlaces, build: EngineBuild, file: Path) -> EngineBuild | str:
    """`build` with the GPUs that it sees, where there may be some; why it cannot be used where it says so."""
    if not places.ask_devices:
        return build
    answer = kept_answer(places, file, "devices", lambda: asked(build.packages))
    if "error" in answer:
        return f"mlx-lm {build.version} ({build.source}) cannot be used: {answer['error']}; {INSTALL}"
    return replace(build, devices=tuple(Device(**device) for device in answer["devices"]))


def asked(packages: Path | None) -> Answer:
    """What the library in `packages`, or in this environment, says of itself: {"devices"} or {"error"}. Blocks."""
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "swarm.engines.mlx.library"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_TIMEOUT_S,
            env=host_environment(packages),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"it does not say what it computes on: {error}"}
    try:
        return json.loads(ran.stdout)
    except ValueError:
        last = ran.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return {"error": f"it ended with {ran.returncode} while it was asked for its devices: {last[:200]}"}
