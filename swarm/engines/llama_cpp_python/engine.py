"""Engine llama-cpp-python: GGUF models through the package of that name, in a process of its own.

It is built on the machine that it runs on, with whatever that has: its own processor, or its GPU. So its builds differ
from machine to machine, and each is asked what it sees, by a process of its own that ends with the answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from swarm.engines.engine import Device, EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.hosted.hosted_engine import HostedEngine, HostedLibrary, load_hosted
from swarm.engines.installed import InstalledEngine, installed_engines
from swarm.engines.kept_answers import Answer, kept_answer
from swarm.engines.llama_cpp.demanded_answer import refuse_impossible_turns
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible
from swarm.engines.llama_cpp.server_engine import host_environment
from swarm.engines.llama_cpp_python.library import VERSION
from swarm.engines.registry import Isolation
from swarm.errors import EngineFailed
from swarm.generation import GenerationRequest
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape, memory_needed

NAME = "llama-cpp-python"
LIBRARY = HostedLibrary(NAME, "swarm.engines.llama_cpp_python.generator")
ASK_TIMEOUT_S = 60.0  # a CUDA driver that is asked for the first time takes seconds

INSTALL = "run swarm engines install llama-cpp"


def why_not_available() -> str | None:
    """See `EngineModule`, and so for the others."""
    if find_spec("llama_cpp") is None:
        return f"it is not installed in this environment: {INSTALL}"
    try:
        found = version("llama_cpp_python")
    except PackageNotFoundError:
        return f"a package llama_cpp is there that says no version: {INSTALL}"
    return None if found == VERSION else wrong_version(found)


def wrong_version(found: str) -> str:
    """Why a version that is not the known one is not used."""
    return (
        f"its version {found} is installed, and this program knows {VERSION}, whose structures in memory are its own: "
        f"pip install llama-cpp-python=={VERSION}, or {INSTALL}"
    )


def builds(places: EnginePlaces) -> tuple[EngineBuild, ...]:
    found: list[EngineBuild] = []
    answer: Answer
    for engine in installed_engines(places.engines_dir, NAME):
        answer = _asked(places, engine) if engine.version == VERSION else {"error": ""}
        if "error" not in answer:
            found.append(engine.build(devices_in(answer)))
    if why_not_available() is None:
        answer = kept_answer(places, _library_file(), "devices", lambda: asked(None)) if places.ask_devices else {}
        if "error" not in answer:
            found.append(EngineBuild(NAME, VERSION, devices_in(answer), source="this environment"))
    return tuple(found)


def problems(places: EnginePlaces) -> tuple[str, ...]:
    said: list[str] = []
    for engine in installed_engines(places.engines_dir, NAME):
        if engine.version != VERSION:
            said.append(
                f"{engine.folder} has llama-cpp-python {engine.version}, and this program knows {VERSION}: {INSTALL}"
            )
        elif "error" in (answer := _asked(places, engine)):
            said.append(f"{engine.folder} cannot be used: {answer['error']}; {INSTALL}")
    if find_spec("llama_cpp") is not None and (why := why_not_available()) is not None:
        said.append(f"llama-cpp-python: {why}")
    return tuple(said)


def check(request: GenerationRequest) -> None:
    refuse_impossible(request)
    refuse_impossible_turns(request)


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    return memory_needed(shape, load)


async def load(spec: EngineSpec, isolation: Isolation = "auto", limits: Limits | None = None) -> HostedEngine:
    """Always in a process of its own, whatever `isolation` says: the library holds the GIL for whole steps."""
    if spec.path is None or not spec.path.is_file():
        raise EngineFailed(f"no model file at {spec.path}")
    return await load_hosted(LIBRARY, spec, None if spec.build is None else spec.build.packages, limits)


def devices_in(answer: Answer) -> tuple[Device, ...]:
    """The devices of what a build said of itself."""
    return tuple(Device(**device) for device in answer.get("devices", ()))


def asked(packages: Path | None) -> Answer:
    """What the library in `packages`, or in this environment, says of itself: {"devices"} or {"error"}. Blocks."""
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "swarm.engines.llama_cpp_python.library"],
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


def _asked(places: EnginePlaces, engine: InstalledEngine) -> Answer:
    assert engine.packages is not None
    packages = engine.packages
    return kept_answer(places, engine.folder / "engine.json", "devices", lambda: asked(packages))


def _library_file() -> Path:
    """A file that is another one with each version, and each build."""
    found = find_spec("llama_cpp")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "lib"
    libraries = sorted(file for file in folder.iterdir() if "llama" in file.name) if folder.is_dir() else []
    return libraries[0] if libraries else Path(found.origin)
