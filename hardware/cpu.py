"""The processor: its name, its cores, and the instruction sets that decide which llama.cpp code runs."""

import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from hardware.apple import parse_sysctl, read_sysctl
from hardware.cgroup import read_cpu_quota_cores, read_text
from hardware.command import TOOL_TIMEOUT_S, RunTool
from hardware.snapshot import Cpu
from hardware.tool_text import known_text

SYSCTL_COMMAND = ("sysctl", "hw", "machdep.cpu")

# What llama.cpp has separate code for (the GGML_* options in ggml/src/ggml-cpu/CMakeLists.txt), in the order shown.
INSTRUCTION_SETS = (
    "sse4_2",
    "avx",
    "avx2",
    "f16c",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "dotprod",
    "i8mm",
    "sve",
)

# Spellings of Linux (/proc/cpuinfo) and macOS (sysctl) that differ from ours.
_LINUX_NAMES = {"asimd": "neon", "asimddp": "dotprod"}
_SYSCTL_NAMES = {
    "hw.optional.sse4_2": "sse4_2",
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.f16c": "f16c",
    "hw.optional.fma": "fma",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SVE": "sve",
}
_INTEL_FEATURE_NAMES = {"SSE4.2": "sse4_2", "AVX1.0": "avx", "AVX2": "avx2", "F16C": "f16c", "FMA": "fma"}


@dataclass(frozen=True, slots=True)
class CpuKind:
    """What a system's own description says of the processor."""

    model: str | None = None
    instruction_sets: tuple[str, ...] | None = None


def parse_cpuinfo(text: str) -> CpuKind:
    """/proc/cpuinfo of x86 and ARM, from its first processor; ARM kernels seldom name the model."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features"))
    model = fields.get("model name") or fields.get("Model") or fields.get("Hardware")
    return CpuKind(
        model=known_text(model),
        instruction_sets=None if flags is None else _ordered(_LINUX_NAMES.get(flag, flag) for flag in flags.split()),
    )


def parse_cpu_sysctl(text: str) -> CpuKind:
    """`sysctl hw machdep.cpu` of macOS, Apple or Intel."""
    values = parse_sysctl(text)
    if not values:
        return CpuKind()
    intel = " ".join(values.get(key, "") for key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"))
    optional = [name for key, name in _SYSCTL_NAMES.items() if values.get(key) == "1"]
    model = values.get("machdep.cpu.brand_string")
    return CpuKind(
        model=known_text(model),
        instruction_sets=_ordered([*optional, *(_INTEL_FEATURE_NAMES.get(word, "") for word in intel.split())]),
    )


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    present = frozenset(names)
    return tuple(name for name in INSTRUCTION_SETS if name in present)


def count_usable_cores(
    physical: int | None, logical: int | None, allowed: int | None, quota_cores: float | None
) -> int | None:
    """Threads of heavy arithmetic worth running: physical cores, within CPU affinity and the container's quota.

    A quota is rounded down: threads that wait for one another lose more to a throttled one than a fraction of a core
    brings. None if nothing is known.
    """
    quota = None if quota_cores is None else max(1, math.floor(quota_cores))
    return min((count for count in (physical or logical, allowed, quota) if count), default=None)


def probe_cpu(root: Path, system: str, run: RunTool, timeout_s: float = TOOL_TIMEOUT_S) -> tuple[Cpu, tuple[str, ...]]:
    """Read the processor of this machine; `root` is where Linux's files lie; never raises."""
    kind, notes = _describe(root, system, run, timeout_s)
    physical, logical = _count(logical=False), _count(logical=True)
    quota_cores = read_cpu_quota_cores(root)
    cpu = Cpu(
        model=kind.model,
        architecture=platform.machine() or None,
        physical_cores=physical,
        logical_cores=logical,
        usable_cores=count_usable_cores(physical, logical, _allowed_cpus(), quota_cores),
        quota_cores=quota_cores,
        instruction_sets=kind.instruction_sets,
    )
    if quota_cores is None:
        return cpu, notes
    return cpu, (*notes, f"cpu: this process's container may use {quota_cores:g} cores (cgroup quota)")


def _describe(root: Path, system: str, run: RunTool, timeout_s: float) -> tuple[CpuKind, tuple[str, ...]]:
    if system == "Darwin":
        text, notes = read_sysctl(run, SYSCTL_COMMAND, timeout_s)
        return parse_cpu_sysctl(text), notes
    if system == "Linux":
        kind = parse_cpuinfo(read_text(root / "proc/cpuinfo") or "")
        board = known_text(read_text(root / "proc/device-tree/model"))  # "Raspberry Pi 5 Model B Rev 1.0"
        return CpuKind(kind.model or board, kind.instruction_sets), ()
    return CpuKind(known_text(platform.processor())), (f"cpu: instruction sets are not read on {system}",)


def _count(logical: bool) -> int | None:
    try:
        return psutil.cpu_count(logical=logical)
    except (OSError, RuntimeError):  # /proc hidden, or a platform that psutil cannot read
        return None


def _allowed_cpus() -> int | None:
    """How many CPUs this process may run on (taskset, cpuset); None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
