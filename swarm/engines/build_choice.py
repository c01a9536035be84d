"""Which build of an engine computes a model on this machine, by what the builds and the hardware probe say. Pure.

Of `auto` the best is taken: what the user named, a GPU that the build really sees before the processor (a card of its
own memory before one that shares the machine's; its maker's library before a general one), what was made for this very
processor before what runs on any, and then the order of `ENGINES`. The embedded models stay where they start at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from hardware.snapshot import (
    MIN_USEFUL_VRAM_BYTES,
    Gpu,
    GpuVendor,
    HardwareSnapshot,
    ModelMemory,
    memory_for_models,
)
from swarm.engines.engine import Device, EngineBuild
from swarm.engines.registry import AUTO, ENGINES, LLAMA_CPP, EngineEntry, EngineName
from swarm.errors import SetupError
from swarm.registry.catalogue import Format

# Of a device's name without its number: these compute on the processor, or on other machines.
_NO_GPU: Final = frozenset({"cpu", "blas", "accelerate", "amx", "rpc", "zdnn", "zendnn", "kleidiai"})
_OF_VENDOR: Final[dict[str, GpuVendor]] = {
    "cuda": "nvidia", "rocm": "amd", "hip": "amd", "mtl": "apple", "metal": "apple", "sycl": "intel",
}  # fmt: skip
_GENERAL: Final = frozenset({"vulkan", "opencl", "webgpu"})  # on anybody's GPU, and slower than its maker's library
_IN_WORDS: Final[tuple[tuple[GpuVendor, re.Pattern[str]], ...]] = (
    ("nvidia", re.compile(r"nvidia|geforce|quadro|tesla|\b[rg]tx\b", re.IGNORECASE)),
    ("amd", re.compile(r"\bamd\b|radeon|radv|\bgfx[0-9]", re.IGNORECASE)),
    ("intel", re.compile(r"intel", re.IGNORECASE)),
    ("apple", re.compile(r"\bapple\b", re.IGNORECASE)),
)
_SOFTWARE: Final = re.compile(r"llvmpipe|lavapipe|softpipe|swiftshader|software", re.IGNORECASE)
# Those inside a processor, where the probe does not know them: "Intel(R) UHD Graphics 770", "AMD Radeon 780M Graphics".
_INTEGRATED: Final = re.compile(r"\b(u?hd|iris|xe)\b.*graphics|radeon.*\bgraphics\b|\bgraphics\b$", re.IGNORECASE)


def gpus_of(build: EngineBuild) -> tuple[Device, ...]:
    """The devices of `build` that are GPUs: no renderer in software, no library for the processor."""
    return tuple(
        device
        for device in build.devices
        if _kind(device) not in _NO_GPU and not _SOFTWARE.search(f"{device.name} {device.description}")
    )


def seen_by(build: EngineBuild, snapshot: HardwareSnapshot) -> HardwareSnapshot:
    """`snapshot` with those of its GPUs alone that `build` sees: of two cards one may be hidden from it, or not its."""
    free = list(snapshot.gpus)
    seen: list[Gpu] = []
    devices = gpus_of(build)
    for exactly in (True, False):  # a card goes to the device that has its name, the others to their maker's rest
        for device in devices:
            same = [gpu for gpu in free if gpu.vendor == _vendor(device) and (not exactly or _is_called(gpu, device))]
            if same and (exactly or not any(_is_called(gpu, device) for gpu in seen)):
                best = max(same, key=lambda gpu: gpu.memory_free_bytes or 0)
                free.remove(best)
                seen.append(best)
    apple = snapshot.apple if any(_vendor(device) == "apple" for device in devices) else None
    return replace(snapshot, gpus=tuple(gpu for gpu in snapshot.gpus if gpu in seen), apple=apple)


def memory_of(build: EngineBuild, snapshot: HardwareSnapshot) -> ModelMemory:
    """Where a model that `build` loads goes: a GPU's own memory counts only where the build sees the GPU."""
    seen = seen_by(build, snapshot)
    return memory_for_models(seen, gpu_allowed=seen.has_gpu)


def computes_on_gpu(build: EngineBuild) -> bool:
    return bool(gpus_of(build))


def formats_of(name: EngineName, builds: Sequence[EngineBuild]) -> tuple[Format, ...]:
    """The formats of models that are chosen or offered under `--engine name`, the preferred first.

    Under `auto` those that a build here loads, but for formats that are far too slow without a GPU; else the engine's.
    """
    able = [build for build in builds if computes_on_gpu(build) or not ENGINES[build.engine].for_gpus]
    return loaded_formats(name, able)


def loaded_formats(name: EngineName, builds: Sequence[EngineBuild]) -> tuple[Format, ...]:
    """The formats that can be loaded under `--engine name`, however slow: of what is named, or brought."""
    if name != AUTO:
        return ENGINES[name].formats
    here = {build.engine for build in builds}
    return tuple(dict.fromkeys(each for entry in ENGINES.values() if entry.name in here for each in entry.formats))


def ranked(
    name: EngineName,
    model_format: Format,
    builds: Sequence[EngineBuild],
    snapshot: HardwareSnapshot,
    shipped: bool = False,
    named: Path | None = None,
) -> tuple[EngineBuild, ...]:
    """The builds that may load a model of `model_format` under `--engine name`, the best first.

    `shipped`: the model comes with this program; `named` is the program that the user named with `--llama-server`.
    """
    order = {engine: number for number, engine in enumerate(ENGINES)}
    able = [
        build
        for build in builds
        if (entry := ENGINES.get(build.engine)) is not None
        and (name in (AUTO, entry.name) and model_format in entry.formats)
    ]

    def rank(build: EngineBuild) -> tuple[bool, bool, int, bool, bool, int]:
        own = build.engine == LLAMA_CPP.name and build.packages is None
        return (
            named is None or build.program != named,
            shipped and name == AUTO and not own,
            -_worth(build, snapshot),
            _is_general(build),
            not build.native,
            order[build.engine],
        )

    return tuple(sorted(able, key=rank))


def chosen_build(
    name: EngineName,
    model_format: Format,
    builds: Sequence[EngineBuild],
    snapshot: HardwareSnapshot,
    shipped: bool = False,
    named: Path | None = None,
) -> EngineBuild:
    """The first of `ranked`. Raises SetupError with the one command that makes an engine ready where there is none."""
    found = ranked(name, model_format, builds, snapshot, shipped, named)
    if not found:
        raise SetupError(why_none(name, model_format))
    return found[0]


def why_none(name: EngineName, model_format: Format, problems: Sequence[str] = ()) -> str:
    """Why no build is there for `name`, as a sentence with the remedy; `problems` are what was found and is no use."""
    able = [entry for entry in ENGINES.values() if model_format in entry.formats]
    if name == AUTO:
        ways = " or ".join(f"`{entry.ready_by}`" for entry in able if entry.ready_by)
        return f"no engine that runs such models is ready here{f': run {ways}' if ways else ''}"
    if ENGINES[name] not in able:
        ways = ", ".join(entry.name for entry in able)
        return f"engine {name} runs no such models" + (f": leave out --engine, or name {ways}" if ways else "")
    return not_ready(ENGINES[name], problems)


def not_ready(entry: EngineEntry, problems: Sequence[str] = ()) -> str:
    """Why `entry` has no build here, and the one command that makes it ready."""
    why = "; ".join(problems) or entry.why_not_available() or "no build of it was found"
    remedy = "" if not entry.ready_by or entry.ready_by in why else f": run `{entry.ready_by}`"
    return f"engine {entry.name} is not ready here: {why}{remedy}"


def _worth(build: EngineBuild, snapshot: HardwareSnapshot) -> int:
    """2 for a GPU that models run much faster on, 1 for one that shares the processor's memory, 0 for none."""
    seen = seen_by(build, snapshot)
    worths = [2] if seen.apple is not None else []
    worths += [_worth_of(gpu.integrated, gpu.memory_total_bytes) for gpu in seen.gpus]
    known = {gpu.vendor for gpu in snapshot.gpus}  # the probe does not know all makers, and not without their tools
    others = [device for device in gpus_of(build) if _vendor(device) not in known]
    worths += [_worth_of(bool(_INTEGRATED.search(each.description)), each.total_bytes) for each in others]
    return max(worths, default=0)


def _worth_of(integrated: bool | None, total_bytes: int | None) -> int:
    if integrated:
        return 1
    return 2 if total_bytes is None or total_bytes >= MIN_USEFUL_VRAM_BYTES else 0


def _is_general(build: EngineBuild) -> bool:
    return any(_kind(device) in _GENERAL for device in gpus_of(build))


def _kind(device: Device) -> str:
    """ "CUDA0" is of kind cuda, "RPC[10.0.0.1:50052]" of rpc."""
    found = re.match(r"[a-z]+", device.name.lower())
    return found[0] if found else ""


def _vendor(device: Device) -> GpuVendor:
    """Whose GPU it is: by its library, else by what it is called."""
    words = f"{device.name} {device.description}"
    said: GpuVendor | None = next((name for name, pattern in _IN_WORDS if pattern.search(words)), None)
    kind = _OF_VENDOR.get(_kind(device))
    if kind == "apple":  # Metal computes on the AMD cards of Intel Macs, too
        return said or kind
    return kind or said or "unknown"


def _is_called(gpu: Gpu, device: Device) -> bool:
    return gpu.name.casefold() in device.description.casefold() or device.description.casefold() == gpu.name.casefold()
