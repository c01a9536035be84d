"""The default engine: llama.cpp's server as a library, xllamacpp's wheel, in this process or in an engine host."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from importlib.util import find_spec

from hardware.memory import resident_bytes
from swarm.engines.engine import EngineBuild, EnginePlaces, EngineSpec
from swarm.engines.free_memory import trim
from swarm.engines.llama_cpp.progress import Limits
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine, check, connect, load_in_host, model_of
from swarm.engines.llama_cpp.server_host import LOAD_LEAST_S, Batching, Serving
from swarm.engines.llama_cpp.xllamacpp_host import RunningServer, devices, library, start_server
from swarm.engines.registry import Isolation
from swarm.registry.embedded import is_shipped
from swarm.registry.gguf_header import GgufModel
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape, memory_needed

__all__ = ["check", "estimate", "load", "why_not_available"]

NAME, HOST = "xllamacpp", "swarm.engines.llama_cpp.xllamacpp_host"

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
    if why_not_available() is not None:
        return ()
    found = devices() if places.ask_devices else ()
    return (EngineBuild("xllamacpp", version("xllamacpp"), found, source="this environment"),)


def problems(places: EnginePlaces) -> tuple[str, ...]:
    return ()


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    return memory_needed(shape, load)


def runs_in_process(spec: EngineSpec, isolation: Isolation) -> bool:
    """Whether to load into the node's own process: of itself only what comes with this program. Reads the file."""
    if isolation != "auto":
        return isolation == "never"
    return spec.path is not None and is_shipped(spec.path)


async def load(
    spec: EngineSpec,
    isolation: Isolation = "auto",
    limits: Limits | None = None,
    load_least_s: float = LOAD_LEAST_S,
) -> LlamaServerEngine:
    """Load `spec` and return it ready. Raises EngineFailed with the reason and a remedy.

    A small model may take `load_least_s` to load, in a process of its own, and does not get stuck beyond `limits`.
    """
    model = await model_of(spec)
    if await asyncio.to_thread(runs_in_process, spec, isolation):
        return await _load_in_process(spec, model, limits)
    return await load_in_host(NAME, HOST, spec, model, limits, load_least_s)


async def _load_in_process(spec: EngineSpec, model: GgufModel | None, limits: Limits | None) -> LlamaServerEngine:
    batching = Batching.of(spec, model and model.facts)
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
