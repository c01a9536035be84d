"""The whole probe with real processes, on each operating system's sources."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from hardware.command import Missing, RunTool, ToolOutcome
from hardware.probe import probe_hardware
from hardware.snapshot import MIB_BYTES, AppleSilicon
from hardware.snapshot_text import render

Recorded = Callable[[str], str]
Install = Callable[[str, str], Path]
PATIENT_S = 60.0


def show(text: str) -> str:
    """A script that prints `text`."""
    return f"cat <<'END'\n{text}END"


def test_a_linux_machine_with_both_vendors(
    recorded: Recorded, install: Install, run_fake: RunTool, tmp_path: Path
) -> None:
    install("nvidia-smi", show(recorded("nvidia/eight_gpus.csv")))
    install("rocm-smi", show(recorded("amd/rocm_6_1_rx6700xt.json")))
    snapshot = probe_hardware(PATIENT_S, run_fake, tmp_path, "Linux")
    assert [(gpu.vendor, gpu.index) for gpu in snapshot.gpus] == [*(("nvidia", n) for n in range(8)), ("amd", 0)]
    assert snapshot.model_memory.free_bytes == 81148 * MIB_BYTES
    assert snapshot.operating_system == "Linux"
    assert snapshot.memory.host_total_bytes == psutil.virtual_memory().total
    assert snapshot.apple is None
    assert snapshot.notes == ()


def test_a_mac(recorded: Recorded, install: Install, run_fake: RunTool, tmp_path: Path) -> None:
    limits, cpu = recorded("apple/limits_default_sysctl.txt"), recorded("apple/m1_sysctl.txt")
    install("sysctl", f'if [ "$1" = hw ]; then\n{show(cpu)}\nelse\n{show(limits)}\nfi')
    install("system_profiler", show(recorded("apple/m4_air.json")))
    snapshot = probe_hardware(PATIENT_S, run_fake, tmp_path, "Darwin")
    assert snapshot.apple == AppleSilicon("Apple M4", "Mac16,12", 16 * 1024**3, 10, 4, 6)
    assert snapshot.cpu.instruction_sets == ("neon", "dotprod")
    assert snapshot.gpus == ()
    assert snapshot.notes == ()


@pytest.mark.parametrize("system", ["Linux", "Windows", "Darwin", "FreeBSD", ""])
def test_a_machine_without_any_tool(install: Install, run_fake: RunTool, tmp_path: Path, system: str) -> None:
    snapshot = probe_hardware(PATIENT_S, run_fake, tmp_path, system)
    assert snapshot.gpus == ()
    assert snapshot.cpu.logical_cores
    missing = {note.split(":")[0] for note in snapshot.notes if note.endswith(": not installed")}
    assert missing == ({"sysctl", "system_profiler"} if system == "Darwin" else {"nvidia-smi", "rocm-smi"})
    assert "no GPU found" in render(snapshot)


def test_garbage_from_every_tool(install: Install, run_fake: RunTool, tmp_path: Path) -> None:
    for tool in ("nvidia-smi", "rocm-smi", "sysctl", "system_profiler"):
        install(tool, "head -c 50000 /dev/urandom; printf '\\033[2J{[<'")
    for system in ("Linux", "Darwin"):
        snapshot = probe_hardware(PATIENT_S, run_fake, tmp_path, system)
        assert snapshot.gpus == ()
        assert snapshot.apple is None
        assert snapshot.notes
        assert render(snapshot).replace("\n", "").isprintable()


def test_tools_that_hang_are_waited_for_together(install: Install, run_fake: RunTool, tmp_path: Path) -> None:
    install("nvidia-smi", "exec sleep 600")
    install("rocm-smi", "exec sleep 600")
    before = psutil.Process().num_fds(), threading.active_count()
    limit_s = 0.5
    started_s = time.monotonic()
    snapshot = probe_hardware(limit_s, run_fake, tmp_path, "Linux")
    assert limit_s <= time.monotonic() - started_s < PATIENT_S / 2
    assert snapshot.notes == ("nvidia-smi: gave up after 0.5 s", "rocm-smi: gave up after 0.5 s")
    assert (psutil.Process().num_fds(), threading.active_count()) == before
    assert psutil.Process().children() == []


def test_sources_are_asked_at_the_same_time(tmp_path: Path) -> None:
    meeting = threading.Barrier(2)

    def meet(argv: Sequence[str], timeout_s: float, /) -> ToolOutcome:
        meeting.wait(PATIENT_S)  # breaks, and fails the test, if the other one never comes
        return Missing(argv[0])

    assert len(probe_hardware(PATIENT_S, meet, tmp_path, "Linux").notes) == 2


def test_this_very_machine() -> None:
    snapshot = probe_hardware()
    assert snapshot.cpu.usable_cores is not None
    assert 1 <= snapshot.cpu.usable_cores <= (os.cpu_count() or 1)
    memory = snapshot.memory
    assert memory.total_bytes is not None
    assert memory.free_bytes is not None
    assert 0 < memory.free_bytes <= memory.total_bytes <= psutil.virtual_memory().total
    assert render(snapshot).startswith("System")
