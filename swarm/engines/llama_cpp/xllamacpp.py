"""The default engine: llama.cpp's server as a library, xllamacpp's wheel, in this process or in an engine host."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from hardware.memory import resident_bytes
from swarm.engines.engine import Device, EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.free_memory import trim
from swarm.engines.installed import ENGINE_FILE, installed_engines
from swarm.engines.kept_answers import Answer, kept_answer
from swarm.engines.llama_cpp.llama_program import why_it_ended
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.prompt_copies import with_copies
from swarm.engines.llama_cpp.server_engine import (
    LlamaServerEngine,
    check,
    connect,
    host_environment,
    load_in_host,
    model_of,
    with_saves,
)
from swarm.engines.llama_cpp.server_host import LOAD_LEAST_S, Batching, Serving
from swarm.engines.llama_cpp.xllamacpp_host import ASK, RunningServer, library, start_server
from swarm.engines.registry import Isolation
from swarm.registry.embedded import is_shipped
from swarm.registry.gguf_header import GgufModel
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape, memory_needed

__all__ = ["check", "estimate", "load", "why_not_available"]

NAME, HOST = "xllamacpp", "swarm.engines.llama_cpp.xllamacpp_host"
ASK_TIMEOUT_S = 60.0  # a GPU's driver that is asked for the first time takes seconds

_kept: list[RunningServer] = []  # their destructors might never end, and would hold the GIL all the while
_leave_to_exit = False


def leave_engines_to_exit() -> None:
    """This process is about to end: engines in it are not unloaded any more, the system takes their memory back."""
    global _leave_to_exit
    _leave_to_exit = True


def engines_left() -> bool:
    """Whether engines are still loaded that must not be unloaded: then the process ends by `os._exit`."""
    return bool(_kept)


class InThisProcess:
    """The node's own process: what hangs here cannot be ended, only left alone."""

    where = "engine in the node's process"
    given_up = "is given up, while its threads go on"

    def __init__(self, running: RunningServer, taken_bytes: int | None = None) -> None:
        self._running: RunningServer | None = running
        self.taken_bytes = taken_bytes

    async def ended(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def unload(self) -> None:
        if _leave_to_exit:
            await self.end()
        running = [self._running]
        self._running = None

        def unload() -> None:
            running.clear()  # the destructor joins llama.cpp's threads, and holds the GIL
            trim()  # glibc keeps what lies between pieces that are in use

        await asyncio.to_thread(unload)

    async def end(self) -> None:
        """Its threads go on, and its memory stays, until the process ends."""
        if self._running is not None:
            _kept.append(self._running)
            self._running = None


def why_not_available() -> str | None:
    """See `EngineModule`, and so for the others."""
    return None if find_spec("xllamacpp") else "it is not installed: pip install --force-reinstall xllamacpp"


def builds(places: EnginePlaces) -> tuple[EngineBuild, ...]:
    return tuple(one for one in _asked(places) if isinstance(one, EngineBuild))


def problems(places: EnginePlaces) -> tuple[str, ...]:
    return tuple(one for one in _asked(places) if isinstance(one, str))


def _asked(places: EnginePlaces) -> Iterator[EngineBuild | str]:
    """Each build, those in folders of their own first, and each sentence on what cannot be used."""
    for engine in installed_engines(places.engines_dir, NAME):
        answer = kept_answer(places, engine.folder / ENGINE_FILE, "devices", partial(said_by_library, engine.packages))
        if "error" in answer:
            yield f"{engine.folder} cannot be used: {answer['error']}: run `swarm engines install` again"
        else:
            yield engine.build(_devices_in(answer))
    if why_not_available() is not None:
        return
    answer: Answer = {}
    if places.ask_devices:
        answer = kept_answer(places, _library_file(), "devices", partial(said_by_library, None))
    if "error" in answer:
        yield f"xllamacpp cannot be used: {answer['error']}: pip install --force-reinstall xllamacpp"
    else:
        yield EngineBuild(NAME, version(NAME), _devices_in(answer), source="this environment")


def _devices_in(answer: Answer) -> tuple[Device, ...]:
    return tuple(Device(**device) for device in answer.get("devices", ()))


def said_by_library(packages: Path | None) -> Answer:
    """What the library in `packages`, or in this environment, says in a child: {"devices"} or {"error"}. Blocks."""
    try:
        ran = subprocess.run(
            [sys.executable, "-m", HOST, ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_TIMEOUT_S,
            env=host_environment(packages),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"it does not say what it computes on: {error}"}
    try:
        return cast("Answer", json.loads(ran.stdout))
    except ValueError:
        lines = ran.stderr.decode("utf-8", "replace").splitlines()
        return {"error": str(why_it_ended(lines, ran.returncode, "its library", None))}


def _library_file() -> Path:
    """A file that is another one with each version, and each build."""
    found = find_spec(NAME)
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent
    return next(iter(sorted(folder.glob("xllamacpp*.so")) + sorted(folder.glob("xllamacpp*.pyd"))), Path(found.origin))


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    return memory_needed(shape, load)


def runs_in_process(spec: EngineSpec, isolation: Isolation) -> bool:
    """Whether to load into the node's own process: of itself only what comes with this program. Reads the file."""
    if spec.build is not None and spec.build.packages is not None:
        return False  # this process has another one
    if isolation != "auto":
        return isolation == "never"
    return spec.path is not None and spec.projector is None and is_shipped(spec.path)


async def load(
    spec: EngineSpec,
    isolation: Isolation = "auto",
    limits: Limits | None = None,
    load_least_s: float = LOAD_LEAST_S,
) -> LlamaServerEngine:
    """Load `spec` and return it ready. Raises EngineFailed with the reason and a remedy.

    A small model may take `load_least_s` to load, in a process of its own, and does not get stuck beyond `limits`.
    """
    model, spec = await model_of(spec), await asyncio.to_thread(with_saves, spec)
    if await asyncio.to_thread(runs_in_process, spec, isolation):
        return await _load_in_process(spec, model, limits)
    return await load_in_host(NAME, HOST, spec, model, limits, load_least_s)


async def _load_in_process(spec: EngineSpec, model: GgufModel | None, limits: Limits | None) -> LlamaServerEngine:
    batching = Batching.of(spec, model and model.facts)
    with with_copies(spec, model) as spec:
        running, serving, taken_bytes = await asyncio.to_thread(_start_measured, spec, batching)
        return await connect(NAME, spec, model, serving, InThisProcess(running, taken_bytes), limits)


def _start_measured(spec: EngineSpec, batching: Batching) -> tuple[RunningServer, Serving, int | None]:
    """The server, and by how much this process has grown meanwhile: nothing else does while the GIL is held. Blocks."""
    library()  # is there for every model, and no part of this one
    before = resident_bytes()
    running = start_server(spec, batching)
    after = resident_bytes()
    serving = running.serving(spec)
    if before is None or after is None or after <= before or serving.gpu:
        return running, serving, None
    return running, serving, after - before
