"""The snapshot as aligned plain text, for a person who has never seen it."""

from hardware.snapshot import (
    GIB_BYTES,
    AppleSilicon,
    Cpu,
    Gpu,
    HardwareSnapshot,
    Memory,
    ModelMemory,
    memory_for_models,
)

_LABEL_CHARS = 16  # the longest label ("  instructions") and a gap


def unused_gpu(snapshot: HardwareSnapshot) -> str | None:
    """What a node says where its engine computes on the CPU although there is a GPU; None where there is none."""
    names = [gpu.name for gpu in snapshot.gpus] or ([f"the GPU of {snapshot.apple.chip}"] if snapshot.apple else [])
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}: not used, the engine computes on the CPU"


def render(snapshot: HardwareSnapshot, gpu_used: bool = True, memory: ModelMemory | None = None) -> str:
    """Several lines, each "label  value"; sizes in GiB; ends without a newline.

    `gpu_used`: whether the engine computes on a GPU where there is one; its memory counts only then. `memory` is what
    counts where the engine sees some of the GPUs only.
    """
    rows = [
        ("System", _joined(" ", snapshot.operating_system, snapshot.cpu.architecture)),
        *_cpu_rows(snapshot.cpu),
        ("Memory", _memory(snapshot.memory)),
        *_gpu_rows(snapshot),
        ("For models", _model_memory(memory or memory_for_models(snapshot, gpu_used))),
    ]
    if not gpu_used and (words := unused_gpu(snapshot)) is not None:
        rows.append(("", words))
    lines = [f"{label:<{_LABEL_CHARS}}{value}" for label, value in rows]
    return "\n".join([*lines, *_note_lines(snapshot.notes)])


def _cpu_rows(cpu: Cpu) -> list[tuple[str, str]]:
    quota = None if cpu.quota_cores is None else f"container quota {cpu.quota_cores:g}"
    counts = (
        _counted(cpu.physical_cores, "physical"),
        _counted(cpu.logical_cores, "logical"),
        _counted(cpu.usable_cores, "usable here"),
        quota,
    )
    known = cpu.instruction_sets
    return [
        ("CPU", cpu.model or "unknown model"),
        ("  cores", _joined(", ", *counts)),
        ("  instructions", "unknown" if known is None else " ".join(known) or "none that speed up models"),
    ]


def _memory(memory: Memory) -> str:
    shown = _free_of(memory.free_bytes, memory.total_bytes)
    if memory.limit_bytes is None:
        return shown
    return f"{shown} (container limit; the machine has {_gib(memory.host_total_bytes)})"


def _gpu_rows(snapshot: HardwareSnapshot) -> list[tuple[str, str]]:
    rows = [("GPU", _apple(snapshot.apple))] if snapshot.apple is not None else []
    rows += [
        (f"GPU {gpu.vendor} {'' if gpu.index is None else gpu.index}".rstrip(), _gpu(gpu)) for gpu in snapshot.gpus
    ]
    return rows or [("GPU", "no GPU found" + (" (see the notes)" if snapshot.notes else ""))]


def _gpu(gpu: Gpu) -> str:
    size = None if gpu.memory_total_bytes is None else _free_of(gpu.memory_free_bytes, gpu.memory_total_bytes)
    if gpu.integrated:
        memory = "shares the machine's memory" + (f", {size} of its own" if size else "")
    else:
        memory = size or "memory unknown"
    driver = None if gpu.driver_version is None else f"driver {gpu.driver_version}"
    return f"{gpu.name}: {_joined(', ', memory, gpu.architecture, driver)}"


def _apple(apple: AppleSilicon) -> str:
    cores = _counted(apple.gpu_cores, "GPU cores")
    limit = "a limit set by its owner" if apple.wired_limit_bytes is not None else "macOS's default"
    shared = (
        f"{_gib(apple.memory_total_bytes)} unified memory, {_gib(apple.gpu_limit_bytes)} of it for the GPU ({limit})"
    )
    return f"{apple.chip}: {_joined(', ', cores, shared)}"


def _model_memory(memory: ModelMemory) -> str:
    where = {
        "vram": f"the memory of {memory.gpu.name}" if memory.gpu else "GPU memory",
        "unified": "memory that CPU and GPU share",
        "ram": "RAM, computed on the CPU",
    }
    return f"{_gib(memory.free_bytes)} now, in {where[memory.pool]}"


def _note_lines(notes: tuple[str, ...]) -> list[str]:
    return ["", "Notes", *(f"  {note}" for note in notes)] if notes else []


def _free_of(free_bytes: int | None, total_bytes: int | None) -> str:
    if free_bytes is None:
        return f"{_gib(total_bytes)} (free: unknown)"
    return f"{_gib(free_bytes)} free of {_gib(total_bytes)}"


def _gib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / GIB_BYTES:.1f} GiB"


def _counted(count: int | None, what: str) -> str | None:
    return None if count is None else f"{count} {what}"


def _joined(separator: str, *parts: str | None) -> str:
    return separator.join(part for part in parts if part) or "unknown"
