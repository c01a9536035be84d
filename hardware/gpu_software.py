"""What of a GPU's software is here: the CUDA that NVIDIA's driver runs, ROCm, a Vulkan loader, and compilers.

A build of an engine needs one of them in the right version. Nothing is loaded: files are looked at and tools are asked.
"""

import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hardware.command import (
    TOOL_TIMEOUT_S,
    Failed,
    Missing,
    RunTool,
    ToolOutput,
    default_search_path,
    explain,
    run_tool,
)
from hardware.nvidia import REPORT_COMMAND
from hardware.snapshot import HardwareSnapshot

Version = tuple[int, int]

TABLE_COMMAND: Final = ("nvidia-smi",)  # its header says the CUDA version, in drivers whose report does not

# The newest CUDA that each branch of NVIDIA's driver runs, for drivers that do not say.
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/ (table 3, "CUDA Toolkit and Corresponding Driver Versions")
_CUDA_OF_DRIVER: Final[tuple[tuple[int, Version], ...]] = (
    (595, (13, 2)), (590, (13, 1)), (580, (13, 0)), (575, (12, 9)), (570, (12, 8)), (565, (12, 7)), (560, (12, 6)),
    (555, (12, 5)), (550, (12, 4)), (545, (12, 3)), (535, (12, 2)), (530, (12, 1)), (525, (12, 0)), (520, (11, 8)),
    (515, (11, 7)), (510, (11, 6)), (470, (11, 4)), (450, (11, 0)), (440, (10, 2)),
)  # fmt: skip
_CUDA_IN_REPORT: Final = re.compile(r"<cuda(?:_umd)?_version>\s*(\d{1,3})\.(\d{1,3})")
_CUDA_IN_TABLE: Final = re.compile(r"CUDA (?:UMD )?Version\s*:\s*(\d{1,3})\.(\d{1,3})")
_NO_CUDA_IN_TABLE: Final = re.compile(r"CUDA (?:UMD )?Version\s*:\s*N/A|<cuda(?:_umd)?_version>\s*(?:\[?N/A|ERR)")
_NVCC_RELEASE: Final = re.compile(r"release (\d{1,3})\.(\d{1,3})")
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})")

_LIBRARY_FOLDERS: Final = (
    "usr/lib", "usr/lib64", "lib", "lib64", "usr/local/lib", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu",
    "usr/lib/wsl/lib",
)  # fmt: skip
_VULKAN_LOADER: Final = "libvulkan.so.1"
_VULKAN_DRIVER_FOLDERS: Final = ("usr/share/vulkan/icd.d", "etc/vulkan/icd.d", "usr/local/share/vulkan/icd.d")
_SOFTWARE_VULKAN: Final = ("lvp_", "lvp.", "swiftshader", "vk_swiftshader")  # draws on the CPU: no GPU is behind it
_CUDA_COMPILERS: Final = ("usr/local/cuda/bin/nvcc", "opt/cuda/bin/nvcc")
_MAX_FILE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class GpuSoftware:
    """`cuda`: the newest CUDA that the driver runs; `rocm`: the one installed; None for what is not here.

    `cuda_library`: whether programs find the driver's library, which containers may leave out. `vulkan`: whether there
    are a loader and a driver for a GPU. `glibc` is None on systems with another C library. `notes` say what was in the
    way of an answer.
    """

    cuda: Version | None = None
    cuda_library: bool = True
    rocm: Version | None = None
    vulkan: bool = False
    glibc: Version | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compilers:
    """Where each tool is that builds an engine; None for what is not here. nvcc builds for `cuda`."""

    cxx: str | None = None
    cmake: str | None = None
    ninja: str | None = None
    make: str | None = None
    nvcc: str | None = None
    hipcc: str | None = None
    glslc: str | None = None
    cuda: Version | None = None


def cuda_version(text: str) -> Version | None:
    """The newest CUDA that the driver runs, in what `nvidia-smi` or `nvidia-smi -q -x` printed; None if it is not."""
    found = _CUDA_IN_REPORT.search(text) or _CUDA_IN_TABLE.search(text)
    return None if found is None else (int(found[1]), int(found[2]))


def cuda_of_driver(driver_version: str | None) -> Version | None:
    """The same from the driver's own version, by NVIDIA's table; None for one that is older than all in it."""
    branch = re.match(r"\d{3}", driver_version or "")
    if branch is None:
        return None
    return next((cuda for first, cuda in _CUDA_OF_DRIVER if int(branch[0]) >= first), None)


def driver_for_cuda(cuda: Version) -> int:
    """The oldest branch of NVIDIA's driver that runs `cuda` in full."""
    return min((branch for branch, newest in _CUDA_OF_DRIVER if newest >= cuda), default=_CUDA_OF_DRIVER[0][0])


def version_in(text: str) -> Version | None:
    """The first "major.minor" in `text`."""
    found = _VERSION.search(text)
    return None if found is None else (int(found[1]), int(found[2]))


def probe_gpu_software(
    snapshot: HardwareSnapshot,
    run: RunTool = run_tool,
    root: Path = Path("/"),
    libc: Callable[[], tuple[str, str]] = platform.libc_ver,
    timeout_s: float = TOOL_TIMEOUT_S,
) -> GpuSoftware:
    """What is here for the GPUs of `snapshot`. Blocks for up to `timeout_s`; never raises for what a tool says."""
    cuda, found, notes = _probe_cuda(snapshot, run, timeout_s)
    name, version = libc()
    return GpuSoftware(
        cuda=cuda,
        cuda_library=found,
        rocm=_probe_rocm(root),
        vulkan=_has_vulkan(root),
        glibc=version_in(version) if name == "glibc" else None,
        notes=notes,
    )


def _probe_cuda(
    snapshot: HardwareSnapshot, run: RunTool, timeout_s: float
) -> tuple[Version | None, bool, tuple[str, ...]]:
    drivers = [gpu.driver_version for gpu in snapshot.gpus if gpu.vendor == "nvidia"]
    if not drivers:
        return None, True, ()
    deadline_s = time.monotonic() + timeout_s
    by_table = cuda_of_driver(drivers[0])
    notes: list[str] = []
    for command in (REPORT_COMMAND, TABLE_COMMAND):
        outcome = run(command, max(0.0, deadline_s - time.monotonic()))
        text = outcome.stdout if isinstance(outcome, ToolOutput | Failed) else ""
        if (version := cuda_version(text)) is not None:
            return version, True, ()
        if _NO_CUDA_IN_TABLE.search(text):
            return by_table, False, ()
        if not isinstance(outcome, ToolOutput):
            notes.append(explain(outcome))
            if isinstance(outcome, Missing):
                break
    return by_table, True, tuple(dict.fromkeys(notes))


def _probe_rocm(root: Path) -> Version | None:
    """Of several, the one that /opt/rocm names, else the newest."""
    versions = [_version_file(root / "opt/rocm/.info/version")]
    try:
        others = sorted(path for path in (root / "opt").glob("rocm-*/.info/version"))
    except OSError:
        others = []
    versions += sorted((_version_file(path) for path in others), key=lambda found: found or (0, 0), reverse=True)
    return next((version for version in versions if version is not None), None)


def _version_file(path: Path) -> Version | None:
    try:
        with path.open("rb") as file:
            return version_in(file.read(_MAX_FILE_BYTES).decode(errors="replace"))
    except OSError:
        return None


def _has_vulkan(root: Path) -> bool:
    if not any(_is_file(root / folder / _VULKAN_LOADER) for folder in _LIBRARY_FOLDERS):
        return False
    for folder in _VULKAN_DRIVER_FOLDERS:
        try:
            drivers = [path.name for path in (root / folder).glob("*.json")]
        except OSError:
            continue
        if any(not name.startswith(_SOFTWARE_VULKAN) for name in drivers):
            return True
    return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def find_compilers(
    which: Callable[..., str | None] = shutil.which,
    root: Path = Path("/"),
    run: RunTool = run_tool,
    timeout_s: float = TOOL_TIMEOUT_S,
) -> Compilers:
    """Where the tools are, on the PATH and where the vendors put theirs. Blocks: nvcc is asked for its version."""

    def find(*tools: str) -> str | None:
        return next((found for tool in tools if (found := which(tool, path=default_search_path()))), None)

    beside = next((str(root / place) for place in _CUDA_COMPILERS if _is_file(root / place)), None)
    nvcc = find("nvcc") or beside
    said = None if nvcc is None else run((nvcc, "--version"), timeout_s)
    release = _NVCC_RELEASE.search(said.stdout) if isinstance(said, ToolOutput) else None
    return Compilers(
        cxx=find("c++", "g++", "clang++"),
        cmake=find("cmake"),
        ninja=find("ninja"),
        make=find("make"),
        nvcc=nvcc,
        hipcc=find("hipcc"),
        glslc=find("glslc"),
        cuda=None if release is None else (int(release[1]), int(release[2])),
    )
