"""What is free in each pool of memory, read again and again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from hardware.command import Missing, RunTool, ToolOutcome, ToolOutput
from hardware.memory import mapped_file_bytes
from hardware.nvidia import QUERY_COMMAND
from hardware.pools import FreeMemory, pool_limits, pool_of, pool_totals
from hardware.snapshot import GIB_BYTES, MIB_BYTES, AppleSilicon, Gpu, HardwareSnapshot, Memory, memory_for_models

Recorded = Callable[[str], str]
GROUP = "sys/fs/cgroup"
NVIDIA = Gpu("nvidia", "RTX", index=0, memory_total_bytes=24 * GIB_BYTES, memory_free_bytes=20 * GIB_BYTES)
LARGER = Gpu("nvidia", "A100", index=1, memory_total_bytes=80 * GIB_BYTES, memory_free_bytes=70 * GIB_BYTES)
SLICE = Gpu("nvidia", "A100 MIG 1", index=1, partition_index=1, memory_total_bytes=GIB_BYTES, memory_free_bytes=0)
MEMORY = Memory(64 * GIB_BYTES, 32 * GIB_BYTES)


def no_tools(argv: Sequence[str], timeout_s: float, /) -> ToolOutcome:
    return Missing(argv[0])


def nvidia_smi(*lines: str) -> RunTool:
    def run(argv: Sequence[str], timeout_s: float, /) -> ToolOutcome:
        return ToolOutput("\n".join(lines)) if tuple(argv) == QUERY_COMMAND else Missing(argv[0])

    return run


@pytest.mark.parametrize(
    ("meminfo", "mapped_bytes"),
    [
        ("", 0),
        ("Mapped:            22960 kB\nShmem:              8872 kB\n", (22960 - 8872) * 1024),
        ("Shmem:             22960 kB\nMapped:             8872 kB\n", 0),
        ("MemTotal:       24684084 kB\nMapped:            100 kB\n", 100 * 1024),
        ("ShmemPmdMapped:            100 kB\n", 0),
    ],
)
def test_mapped_files(meminfo: str, mapped_bytes: int) -> None:
    assert mapped_file_bytes(meminfo) == mapped_bytes


def test_what_programs_have_mapped_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    free = FreeMemory(HardwareSnapshot(), no_tools, tmp_path)
    whole = psutil.virtual_memory().total
    (tmp_path / "proc/meminfo").write_text(f"Mapped: {whole // 1024} kB\n")
    assert free.read(["ram"]) == {"ram": 0}


@pytest.mark.parametrize(
    ("stat", "free_mib"),
    [
        ("inactive_file 300\nactive_file 100", 500),
        ("inactive_file 300\nactive_file 100\nfile_mapped 0", 500),
        ("inactive_file 300\nactive_file 100\nfile_mapped 100", 500),  # those may all be on the active list
        ("inactive_file 300\nactive_file 100\nfile_mapped 350", 250),
        ("inactive_file 300\nactive_file 100\nfile_mapped 900", 200),
    ],
)
def test_a_groups_mapped_files_are_in_use(recorded: Recorded, tmp_path: Path, stat: str, free_mib: int) -> None:
    lines = [line.split() for line in stat.splitlines()]
    files = {
        "proc/self/mountinfo": recorded("linux/mountinfo_v2_host.txt"),
        "proc/self/cgroup": "0::/",
        f"{GROUP}/memory.max": str(1000 * MIB_BYTES),
        f"{GROUP}/memory.current": str(800 * MIB_BYTES),
        f"{GROUP}/memory.stat": "".join(f"{name} {int(size) * MIB_BYTES}\n" for name, size in lines),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    free = FreeMemory(HardwareSnapshot(), no_tools, tmp_path)
    assert free.read(["ram", "unified"]) == {"ram": free_mib * MIB_BYTES, "unified": free_mib * MIB_BYTES}
    (tmp_path / GROUP / "memory.current").write_text(str(1000 * MIB_BYTES))
    assert free.read(["ram"]) == {"ram": (free_mib - 200) * MIB_BYTES}


def test_a_system_that_hides_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert FreeMemory(HardwareSnapshot(), no_tools, tmp_path).read(["ram"]) == {}


def test_each_gpu_is_a_pool_and_only_its_vendor_is_asked() -> None:
    snapshot = HardwareSnapshot(memory=MEMORY, gpus=(NVIDIA, LARGER))
    run = nvidia_smi(
        "0, GPU-a, RTX, 550.54, 24564, 9000, 8.9, [N/A]", "1, GPU-b, A100, 550.54, 81920, 100, 8.0, Disabled"
    )
    free = FreeMemory(snapshot, run)
    assert free.read(["vram1"]) == {"vram1": 100 * MIB_BYTES}
    assert free.read(["vram0", "vram1", "vram2"]) == {"vram0": 9000 * MIB_BYTES, "vram1": 100 * MIB_BYTES}
    assert set(free.read(["ram", "vram0"])) == {"ram", "vram0"}


def test_a_gpu_that_is_lost_and_a_slice_that_is_not_there_are_left_out() -> None:
    free = FreeMemory(HardwareSnapshot(gpus=(NVIDIA, SLICE)), nvidia_smi("1, GPU-b, A100, 550, 81920, 100, 8.0, N/A"))
    assert free.read(["vram0", "vram1"]) == {}
    assert FreeMemory(HardwareSnapshot(gpus=(NVIDIA,)), no_tools).read(["vram0"]) == {}
    assert FreeMemory(HardwareSnapshot(gpus=(Gpu("intel", "Arc"),)), no_tools).read(["vram0"]) == {}


def test_the_pool_that_a_model_would_go_to() -> None:
    both = HardwareSnapshot(memory=MEMORY, gpus=(NVIDIA, LARGER))
    assert pool_of(memory_for_models(both), both) == "vram1"
    assert pool_of(memory_for_models(both, gpu_allowed=False), both) == "ram"
    apple = HardwareSnapshot(memory=MEMORY, apple=AppleSilicon("Apple M4", memory_total_bytes=64 * GIB_BYTES))
    assert pool_of(memory_for_models(apple), apple) == "unified"
    assert pool_limits(apple) == {"unified": 48 * GIB_BYTES}
    assert pool_limits(both) == {}
    assert pool_totals(both) == {
        "ram": 64 * GIB_BYTES,
        "unified": 64 * GIB_BYTES,
        "vram0": 24 * GIB_BYTES,
        "vram1": 80 * GIB_BYTES,
    }
    assert pool_totals(HardwareSnapshot(gpus=(Gpu("intel", "Arc"),))) == {}
