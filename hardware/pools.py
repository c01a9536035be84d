"""The pools of memory that models lie in, and what is free in each now: asked for every load, so asked quickly.

    ram        the machine's memory, as this process may use it
    unified    the same, where a GPU computes in it
    vram0      the own memory of the first GPU of the snapshot, vram1 of the second ...

RAM takes less than a millisecond. GPUs are asked by their vendor's tool, which takes some ten: only where a pool of
theirs is asked for.
"""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from hardware.amd import probe_amd
from hardware.cgroup import read_directories, read_memory_limits
from hardware.command import TOOL_TIMEOUT_S, RunTool, run_tool
from hardware.memory import host_memory, memory_within
from hardware.nvidia import probe_nvidia
from hardware.snapshot import Gpu, GpuVendor, HardwareSnapshot, ModelMemory

PoolName = str

_Probe = Callable[[RunTool, float], tuple[tuple[Gpu, ...], tuple[str, ...]]]
_PROBES: Mapping[GpuVendor, _Probe] = {"nvidia": probe_nvidia, "amd": probe_amd}
_VRAM = "vram"


def pool_of(memory: ModelMemory, snapshot: HardwareSnapshot) -> PoolName:
    """The pool that `memory`, one of `snapshot`'s, is."""
    if memory.pool != "vram" or memory.gpu is None:
        return memory.pool
    return f"{_VRAM}{snapshot.gpus.index(memory.gpu)}"


def pool_limits(snapshot: HardwareSnapshot) -> dict[PoolName, int]:
    """Bytes that may be taken of a pool in all, where the system has such a rule: Metal's, of a Mac's memory."""
    limit_bytes = None if snapshot.apple is None else snapshot.apple.gpu_limit_bytes
    return {} if limit_bytes is None else {"unified": limit_bytes}


def pool_totals(snapshot: HardwareSnapshot) -> dict[PoolName, int]:
    """The size in bytes of each pool that there is; those of unknown size are left out."""
    total_bytes = snapshot.memory.total_bytes
    totals = {} if total_bytes is None else {"ram": total_bytes, "unified": total_bytes}
    for number, gpu in enumerate(snapshot.gpus):
        if gpu.memory_total_bytes is not None:
            totals[f"{_VRAM}{number}"] = gpu.memory_total_bytes
    return totals


class FreeMemory:
    """Reads what is free. Which GPUs there are, and in which control groups this process is, is as it was at first."""

    def __init__(self, snapshot: HardwareSnapshot, run: RunTool = run_tool, root: Path = Path("/")) -> None:
        self._gpus = {f"{_VRAM}{number}": gpu for number, gpu in enumerate(snapshot.gpus)}
        self._run = run
        self._root = root
        self._groups = read_directories(root, "memory")

    def read(self, pools: Collection[PoolName], timeout_s: float = TOOL_TIMEOUT_S) -> dict[PoolName, int]:
        """Bytes free in each of `pools`; those are left out of which nobody can tell. Blocks; never raises."""
        free: dict[PoolName, int] = {}
        if not {"ram", "unified"}.isdisjoint(pools) and (ram := self._ram()) is not None:
            free |= {pool: ram for pool in ("ram", "unified") if pool in pools}
        wanted = {pool: gpu for pool, gpu in self._gpus.items() if pool in pools}
        vendors: set[GpuVendor] = {gpu.vendor for gpu in wanted.values()}
        for vendor in vendors:
            found = {_identity(gpu): gpu.memory_free_bytes for gpu in self._probed(vendor, timeout_s)}
            for pool, gpu in wanted.items():
                size = found.get(_identity(gpu))
                if size is not None:
                    free[pool] = size
        return free

    def _ram(self) -> int | None:
        limits = read_memory_limits(self._root, self._groups)
        try:
            return memory_within(*host_memory(self._root), limits).free_bytes
        except (OSError, RuntimeError):  # as `probe_memory` has it, where it is told
            return memory_within(None, None, limits).free_bytes

    def _probed(self, vendor: GpuVendor, timeout_s: float) -> tuple[Gpu, ...]:
        probe = _PROBES.get(vendor)
        return () if probe is None else probe(self._run, timeout_s)[0]


GPU_LOOK_S = 5.0  # between two questions to a vendor's tool


class PoolsNow:
    """What each pool of this machine is like now, for people to look at: (pool, size, free), None for unknown.

    RAM is read each time, in less than a millisecond; what GPUs have free at most every five seconds. Blocks.
    """

    def __init__(self, snapshot: HardwareSnapshot, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = FreeMemory(snapshot)
        self._totals = pool_totals(snapshot)
        self._clock = clock
        main = "ram" if snapshot.apple is None else "unified"
        self._pools = [main, *(pool for pool in self._totals if pool.startswith(_VRAM))]
        self._gpus_free: dict[PoolName, int] = {}
        self._asked_at: float | None = None

    def read(self) -> list[tuple[PoolName, int | None, int | None]]:
        """All pools, the machine's own memory first. Never raises."""
        gpus = self._pools[1:]
        now = self._clock()
        if gpus and (self._asked_at is None or now - self._asked_at >= GPU_LOOK_S):
            self._asked_at, self._gpus_free = now, self._free.read(gpus)
        free = {**self._free.read(self._pools[:1]), **self._gpus_free}
        return [(pool, self._totals.get(pool), free.get(pool)) for pool in self._pools]


def _identity(gpu: Gpu) -> tuple[GpuVendor, int | None, int | None]:
    return gpu.vendor, gpu.index, gpu.partition_index
