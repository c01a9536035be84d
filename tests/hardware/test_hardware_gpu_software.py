"""The drivers' CUDA, ROCm, Vulkan and compilers: recorded answers of tools, and folders as systems have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardware.command import Failed, Missing, RunTool, TimedOut, ToolOutcome, ToolOutput
from hardware.gpu_software import (
    TABLE_COMMAND,
    Compilers,
    GpuSoftware,
    cuda_of_driver,
    cuda_version,
    driver_for_cuda,
    find_compilers,
    probe_gpu_software,
)
from hardware.nvidia import REPORT_COMMAND
from hardware.snapshot import Gpu, HardwareSnapshot

HEADER = (
    "| NVIDIA-SMI 570.124.06             Driver Version: 570.124.06     CUDA Version: 12.8     |\n"
    "|-----------------------------------------+------------------------+----------------------+\n"
)
RTX = HardwareSnapshot(gpus=(Gpu("nvidia", "NVIDIA GeForce RTX 4090", driver_version="570.124.06"),))


def probe(tmp_path: Path, snapshot: HardwareSnapshot = RTX, run: Any = None, libc: str = "2.36") -> GpuSoftware:
    def nothing(argv: Any, timeout_s: float) -> ToolOutcome:
        return Missing(argv[0])

    return probe_gpu_software(snapshot, run or nothing, tmp_path, lambda: ("glibc", libc) if libc else ("", ""))


def test_the_cuda_version_is_read_in_every_form_that_drivers_write(recorded: Callable[[str], str]) -> None:
    assert cuda_version(HEADER) == (12, 8)
    assert cuda_version(recorded("nvidia/mig.xml")) == (12, 2)
    assert cuda_version("| KMD Version: 596.21   CUDA UMD Version: 13.2 |") == (13, 2)
    assert cuda_version("<cuda_umd_version>13.2</cuda_umd_version>") == (13, 2)
    for other in ("", "CUDA Version: N/A", "Segmentation fault", "CUDA Version: 99999999999.1"):
        assert cuda_version(other) is None


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("595.71.05", (13, 2)),
        ("580.65.06", (13, 0)),
        ("570.124.06", (12, 8)),
        ("552.22", (12, 4)),
        ("535.183.01", (12, 2)),
        ("470.256.02", (11, 4)),
        ("390.157", None),
        ("unknown", None),
        (None, None),
    ],
)
def test_a_driver_that_does_not_say_is_looked_up(driver: str | None, cuda: tuple[int, int] | None) -> None:
    assert cuda_of_driver(driver) == cuda


def test_the_driver_to_update_to() -> None:
    assert [driver_for_cuda(cuda) for cuda in ((12, 0), (12, 8), (13, 0), (13, 2), (99, 0))] == [
        525,
        570,
        580,
        595,
        595,
    ]


@pytest.mark.parametrize(
    ("report", "table", "cuda", "library", "notes"),
    [
        (ToolOutput("<cuda_version>13.0</cuda_version>"), ToolOutput(""), (13, 0), True, ()),
        (ToolOutput("<nvidia_smi_log/>"), ToolOutput(HEADER), (12, 8), True, ()),
        (ToolOutput("<cuda_version>N/A</cuda_version>"), ToolOutput(HEADER), (12, 8), False, ()),
        (ToolOutput("gibberish"), ToolOutput("of another world"), (12, 8), True, ()),
        (
            TimedOut("nvidia-smi", 3.0),
            TimedOut("nvidia-smi", 0.0),
            (12, 8),
            True,
            ("nvidia-smi: gave up after 3 s", "nvidia-smi: gave up after 0 s"),
        ),
        (Failed("nvidia-smi", 9, HEADER, "one GPU is lost"), ToolOutput(""), (12, 8), True, ()),
        (Missing("nvidia-smi"), Missing("nvidia-smi"), (12, 8), True, ("nvidia-smi: not installed",)),
    ],
)
def test_tools_that_hang_fail_or_lie_leave_the_drivers_own_version(
    tmp_path: Path,
    scripted: Callable[[dict[Any, ToolOutcome]], RunTool],
    report: ToolOutcome,
    table: ToolOutcome,
    cuda: tuple[int, int],
    library: bool,
    notes: tuple[str, ...],
) -> None:
    found = probe(tmp_path, run=scripted({REPORT_COMMAND: report, TABLE_COMMAND: table}))
    assert (found.cuda, found.cuda_library, found.notes) == (cuda, library, notes)


def test_without_nvidias_gpus_no_tool_is_asked(
    tmp_path: Path, scripted: Callable[[dict[Any, ToolOutcome]], RunTool]
) -> None:
    assert probe(tmp_path, HardwareSnapshot(), scripted({})) == GpuSoftware(glibc=(2, 36))
    assert probe(tmp_path, HardwareSnapshot(), libc="").glibc is None  # musl


@pytest.mark.parametrize(
    ("files", "rocm"),
    [
        ({"opt/rocm/.info/version": "6.4.1-83\n"}, (6, 4)),
        ({"opt/rocm-6.4.1/.info/version": "6.4.1", "opt/rocm-7.2.4/.info/version": "7.2.4-12"}, (7, 2)),
        ({"opt/rocm/.info/version": "6.4.1", "opt/rocm-7.2.4/.info/version": "7.2.4"}, (6, 4)),
        ({"opt/rocm/.info/version": "\0\0"}, None),
        ({}, None),
    ],
)
def test_rocm_says_its_version_in_a_file(tmp_path: Path, files: dict[str, str], rocm: tuple[int, int] | None) -> None:
    put(tmp_path, files)
    assert probe(tmp_path).rocm == rocm


@pytest.mark.parametrize(
    ("files", "vulkan"),
    [
        (["usr/lib/x86_64-linux-gnu/libvulkan.so.1", "usr/share/vulkan/icd.d/nvidia_icd.json"], True),
        (["usr/lib64/libvulkan.so.1", "etc/vulkan/icd.d/radeon_icd.x86_64.json"], True),
        (["usr/lib64/libvulkan.so.1", "usr/share/vulkan/icd.d/lvp_icd.x86_64.json"], False),  # draws on the CPU
        (["usr/lib64/libvulkan.so.1"], False),
        (["usr/share/vulkan/icd.d/nvidia_icd.json"], False),
    ],
)
def test_vulkan_is_a_loader_and_a_driver(tmp_path: Path, files: list[str], vulkan: bool) -> None:
    put(tmp_path, dict.fromkeys(files, ""))
    assert probe(tmp_path).vulkan is vulkan


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_compilers_are_found_on_the_path_and_where_nvidia_puts_its_own(
    tmp_path: Path, scripted: Callable[[dict[Any, ToolOutcome]], RunTool]
) -> None:
    here = {"g++": "/usr/bin/g++", "cmake": "/usr/bin/cmake", "make": "/usr/bin/make"}
    nvcc = str(tmp_path / "usr/local/cuda/bin/nvcc")
    says: dict[Any, ToolOutcome] = {
        (nvcc, "--version"): ToolOutput("Copyright (c) 2005-2025\nCuda compilation tools, release 13.0, V13.0.88\n")
    }

    def find(tools: dict[str, str]) -> Compilers:
        return find_compilers(lambda tool, path=None: tools.get(tool), tmp_path, scripted(says))

    assert find(here) == Compilers(cxx="/usr/bin/g++", cmake="/usr/bin/cmake", make="/usr/bin/make")
    put(tmp_path, {"usr/local/cuda/bin/nvcc": ""})
    assert find({}) == Compilers(nvcc=nvcc, cuda=(13, 0))
    says[nvcc, "--version"] = TimedOut(nvcc, 3.0)
    assert find({}) == Compilers(nvcc=nvcc)
