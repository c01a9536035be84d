"""Macs: the Apple chip and its unified memory, or an Intel Mac's GPUs, through `system_profiler` and `sysctl`."""

import re
import time
from collections.abc import Sequence

from hardware.command import TOOL_TIMEOUT_S, Failed, RunTool, ToolOutput, explain
from hardware.snapshot import GIB_BYTES, MIB_BYTES, AppleSilicon, Gpu, GpuVendor
from hardware.tool_text import JsonObject, JsonValue, first_json_object, known_text, objects_in, whole_number

PROFILER_COMMAND = ("system_profiler", "SPHardwareDataType", "SPDisplaysDataType", "-json")
SYSCTL_COMMAND = ("sysctl", "machdep.cpu.brand_string", "hw.memsize", "iogpu.wired_limit_mb")

MAX_GPUS = 16  # a Mac Pro of 2019 takes four

_SIZE = re.compile(r"([0-9]{1,6}) (MB|GB|TB)")  # system_profiler means powers of 1024
_SIZE_UNITS_BYTES = {"MB": MIB_BYTES, "GB": GIB_BYTES, "TB": 1024 * GIB_BYTES}
_CORES = re.compile(r"proc ([0-9]{1,4}(?::[0-9]{1,4}){2,3})")


def parse_sysctl(text: str) -> dict[str, str]:
    """Lines "name: value" as a mapping; anything else is skipped."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def read_sysctl(run: RunTool, command: Sequence[str], timeout_s: float) -> tuple[str, tuple[str, ...]]:
    """What `command` printed ("" if nothing), and a note if it printed nothing.

    A name that this macOS does not know makes sysctl fail, but only after it printed the others.
    """
    match run(command, timeout_s):
        case ToolOutput(stdout):
            return stdout, ()
        case Failed(stdout=stdout) if stdout.strip():
            return stdout, ()
        case outcome:
            return "", (explain(outcome),)


def parse_apple_silicon(profiler: str, sysctl: str = "") -> AppleSilicon | None:
    """The Apple chip that PROFILER_COMMAND and SYSCTL_COMMAND describe, one of them suffices; None on an Intel Mac."""
    report = first_json_object(profiler) or {}
    hardware = _first(objects_in(report.get("SPHardwareDataType")))
    values = parse_sysctl(sysctl)
    chip = known_text(hardware.get("chip_type")) or known_text(values.get("machdep.cpu.brand_string"))
    if chip is None or not chip.startswith("Apple"):
        return None
    performance_cores, efficiency_cores = _core_counts(hardware.get("number_processors"))
    wired_limit_mib = whole_number(values.get("iogpu.wired_limit_mb"))  # 0: the system decides
    displays = objects_in(report.get("SPDisplaysDataType"))
    return AppleSilicon(
        chip=chip,
        machine_model=known_text(hardware.get("machine_model")),
        memory_total_bytes=whole_number(values.get("hw.memsize")) or _size_bytes(hardware.get("physical_memory")),
        gpu_cores=next((cores for gpu in displays if (cores := whole_number(gpu.get("sppci_cores")))), None),
        performance_cores=performance_cores,
        efficiency_cores=efficiency_cores,
        wired_limit_bytes=wired_limit_mib * MIB_BYTES if wired_limit_mib else None,
    )


def _first(objects: tuple[JsonObject, ...]) -> JsonObject:
    return objects[0] if objects else {}


def _core_counts(number_processors: JsonValue) -> tuple[int | None, int | None]:
    """ "proc 8:4:4" is all, performance, efficiency; newer systems put a further kind before: "proc 12:0:8:4"."""
    match = _CORES.fullmatch(known_text(number_processors) or "")
    if match is None:
        return None, None
    _, *faster, efficiency = (int(count) for count in match[1].split(":"))
    return sum(faster), efficiency


def parse_mac_gpus(profiler: str) -> tuple[Gpu, ...]:
    """The GPUs that are not part of an Apple chip; macOS does not say how much of their memory is free."""
    displays = objects_in((first_json_object(profiler) or {}).get("SPDisplaysDataType"))
    others = [display for display in displays if _vendor(display) != "apple"]
    return tuple(_gpu(index, display) for index, display in enumerate(others[:MAX_GPUS]))


def _gpu(index: int, display: JsonObject) -> Gpu:
    own_bytes = _size_bytes(display.get("spdisplays_vram"))
    shared_bytes = _size_bytes(display.get("spdisplays_vram_shared"))
    return Gpu(
        vendor=_vendor(display),
        name=known_text(display.get("sppci_model")) or known_text(display.get("_name")) or "GPU",
        index=index,
        memory_total_bytes=own_bytes,
        integrated=False if own_bytes is not None else True if shared_bytes is not None else None,
    )


def _vendor(display: JsonObject) -> GpuVendor:
    """From "sppci_vendor_Apple", "Intel", "AMD (0x1002)", "sppci_vendor_amd"."""
    said = (known_text(display.get("spdisplays_vendor")) or "").lower()
    vendors: tuple[GpuVendor, ...] = ("apple", "intel", "nvidia", "amd")
    for vendor in vendors:
        if vendor in said:
            return vendor
    return "unknown"


def _size_bytes(value: JsonValue) -> int | None:
    match = _SIZE.fullmatch(known_text(value) or "")
    return None if match is None else int(match[1]) * _SIZE_UNITS_BYTES[match[2]]


def probe_apple(
    run: RunTool, timeout_s: float = TOOL_TIMEOUT_S
) -> tuple[AppleSilicon | None, tuple[Gpu, ...], tuple[str, ...]]:
    """This Mac's chip or GPUs, and notes; both tools share `timeout_s`; never raises. For macOS only."""
    deadline_s = time.monotonic() + timeout_s
    sysctl, sysctl_notes = read_sysctl(run, SYSCTL_COMMAND, timeout_s)
    outcome = run(PROFILER_COMMAND, max(0.0, deadline_s - time.monotonic()))
    profiler = outcome.stdout if isinstance(outcome, ToolOutput) else ""
    notes = sysctl_notes if isinstance(outcome, ToolOutput) else (*sysctl_notes, explain(outcome))
    apple, gpus = parse_apple_silicon(profiler, sysctl), parse_mac_gpus(profiler)
    if apple is None and not gpus and not notes:
        notes = ("system_profiler: described neither an Apple chip nor a GPU",)
    return apple, gpus, notes
