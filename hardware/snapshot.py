"""What this machine is, at one moment: frozen values, units in their names, None where nobody could tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, cast

from hardware.tool_text import JsonObject, JsonValue

SCHEMA_VERSION = 1  # raised when a field of `as_json()` changes its meaning or disappears
GIB_BYTES = 1024**3
MIB_BYTES = 1024**2

# Below this a GPU cannot hold even a small model with its context, and is left to the display.
MIN_USEFUL_VRAM_BYTES = 2 * GIB_BYTES

# Metal's recommendedMaxWorkingSetSize is 2/3 of small memories and 3/4 of larger ones. llama.cpp prints it when it
# starts ("ggml_metal_init: recommendedMaxWorkingSetSize = ..."): 11453.25 MB on 16 GiB, 22906.50 MB on 32 GiB,
# 28991.03 MB on 36 GiB, 103079.22 MB on 128 GiB. Newer versions of macOS allow more; this errs on the safe side.
# https://developer.apple.com/documentation/metal/mtldevice/recommendedmaxworkingsetsize
METAL_LARGE_MEMORY_BYTES = 36 * GIB_BYTES

GpuVendor = Literal["nvidia", "amd", "intel", "apple", "unknown"]
MemoryPool = Literal["vram", "unified", "ram"]


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor, and how much of it this process may use.

    `instruction_sets` lists only those that llama.cpp has code for, under one spelling on all systems; () is "none of
    them", None is "unknown". `quota_cores` is the container's CPU time per second. `usable_cores` is how many threads
    of heavy arithmetic make sense: physical cores, less what affinity and quota take away.
    """

    model: str | None = None
    architecture: str | None = None
    physical_cores: int | None = None
    logical_cores: int | None = None
    usable_cores: int | None = None
    quota_cores: float | None = None
    instruction_sets: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """RAM as this process may use it: `total_bytes` and `free_bytes` already respect the container's limit.

    `free_bytes` counts reclaimable caches as free. `host_total_bytes` is the whole machine, `limit_bytes` the
    tightest container limit (None: no limit below the machine's size).
    """

    total_bytes: int | None = None
    free_bytes: int | None = None
    host_total_bytes: int | None = None
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one slice of a partitioned one (`partition_index`).

    `integrated` GPUs use the machine's RAM; their own `memory_*` is the part that the firmware set aside, if any.
    `architecture` is the vendor's number for it: CUDA compute capability ("8.9") or AMD's gfx version ("gfx1100").
    """

    vendor: GpuVendor
    name: str
    index: int | None = None
    partition_index: int | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    integrated: bool | None = None
    architecture: str | None = None
    driver_version: str | None = None


@dataclass(frozen=True, slots=True)
class AppleSilicon:
    """An Apple chip, whose CPU and GPU share one memory. `wired_limit_bytes` is set where the owner set one."""

    chip: str
    machine_model: str | None = None
    memory_total_bytes: int | None = None
    gpu_cores: int | None = None
    performance_cores: int | None = None
    efficiency_cores: int | None = None
    wired_limit_bytes: int | None = None

    @property
    def gpu_limit_bytes(self) -> int | None:
        """How much of the memory Metal lets the GPU hold: the owner's limit, else the system's share."""
        if self.wired_limit_bytes is not None:
            return self.wired_limit_bytes
        total_bytes = self.memory_total_bytes
        if total_bytes is None:
            return None
        return total_bytes * 3 // 4 if total_bytes >= METAL_LARGE_MEMORY_BYTES else total_bytes * 2 // 3


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Where a model would be loaded now, and how much fits there. `gpu` is set where it is one GPU's own memory."""

    pool: MemoryPool
    free_bytes: int | None
    gpu: Gpu | None = None


@dataclass(frozen=True, slots=True)
class HardwareSnapshot:
    """All that the probe found out. `notes` say, per source, what it gave or why it gave nothing."""

    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    gpus: tuple[Gpu, ...] = ()
    apple: AppleSilicon | None = None
    operating_system: str | None = None
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def largest_gpu(self) -> Gpu | None:
        """The GPU with the most memory in all, busy or not; the first of equals."""
        return max(self.gpus, key=lambda gpu: gpu.memory_total_bytes or 0, default=None)

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus) or self.apple is not None

    @property
    def model_memory(self) -> ModelMemory:
        """The memory that a model may use now, where the engine can use a GPU."""
        return memory_for_models(self)

    def as_json(self, gpu_used: bool = True, memory: ModelMemory | None = None) -> JsonObject:
        """A JSON object of all fields, plus the derived limits; unknown values are null.

        `gpu_used`: whether the engine computes on a GPU where there is one. `model_memory` follows from that, or is
        `memory` where the engine sees some of the GPUs only.
        """
        found: JsonObject = {name: _jsonable(value) for name, value in asdict(self).items()}
        apple = found["apple"]
        if isinstance(apple, dict) and self.apple is not None:
            apple["gpu_limit_bytes"] = self.apple.gpu_limit_bytes
        found["model_memory"] = _jsonable(asdict(memory or memory_for_models(self, gpu_used)))
        found["gpu_used"] = gpu_used and self.has_gpu
        return found


def memory_for_models(snapshot: HardwareSnapshot, gpu_allowed: bool = True) -> ModelMemory:
    """Where a model would go and what is free there; `gpu_allowed=False` for an engine that computes on the CPU.

    A dedicated GPU comes before RAM, because a model runs several times faster there; of several, the one with the
    most free memory. GPUs whose free memory is unknown are not counted on.
    """
    ram = ModelMemory("ram", snapshot.memory.free_bytes)
    if not gpu_allowed:
        return ram
    if snapshot.apple is not None:
        return ModelMemory("unified", _smallest_known(snapshot.apple.gpu_limit_bytes, ram.free_bytes))
    best = _most_free(gpu for gpu in snapshot.gpus if gpu.integrated is not True)
    if best is not None and _free(best) >= MIN_USEFUL_VRAM_BYTES:
        return ModelMemory("vram", best.memory_free_bytes, best)
    integrated = _most_free(gpu for gpu in snapshot.gpus if gpu.integrated)
    if integrated is None:
        return ram
    if _free(integrated) > (ram.free_bytes or 0):  # the firmware gave the GPU the larger part of the memory
        return ModelMemory("vram", integrated.memory_free_bytes, integrated)
    return ModelMemory("unified", ram.free_bytes)


def _most_free(gpus: Iterable[Gpu]) -> Gpu | None:
    return max(gpus, key=_free, default=None)


def _free(gpu: Gpu) -> int:
    return gpu.memory_free_bytes or 0


def _smallest_known(*sizes_bytes: int | None) -> int | None:
    return min((size for size in sizes_bytes if size is not None), default=None)


def _jsonable(value: object) -> JsonValue:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return [_jsonable(item) for item in cast(tuple[object, ...], value)]
        case dict():
            return {name: _jsonable(item) for name, item in cast(dict[str, object], value).items()}
        case _:
            raise TypeError(f"a snapshot holds a {type(value).__name__}, which has no JSON form")
