"""The processor: recorded descriptions, and how many of its cores are ours."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.command import Missing, ToolOutput
from hardware.cpu import SYSCTL_COMMAND, CpuKind, count_usable_cores, parse_cpu_sysctl, parse_cpuinfo, probe_cpu

Recorded = Callable[[str], str]
INTEL_SETS = ("sse4_2", "avx", "avx2", "f16c", "fma")


@pytest.mark.parametrize(
    ("file", "model", "instruction_sets"),
    [
        ("amd_epyc", "AMD EPYC", (*INTEL_SETS, "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16")),
        ("ampere_altra", None, ("neon", "dotprod")),
        ("jetson_tx2", "ARMv8 Processor rev 3 (v8l)", ("neon",)),
    ],
)
def test_linux(recorded: Recorded, file: str, model: str | None, instruction_sets: tuple[str, ...]) -> None:
    assert parse_cpuinfo(recorded(f"linux/cpuinfo_{file}.txt")) == CpuKind(model, instruction_sets)


@pytest.mark.parametrize(
    ("file", "model", "instruction_sets"),
    [
        ("m1", "Apple M1", ("neon", "dotprod")),
        ("m2", "Apple M2", ("neon", "dotprod", "i8mm")),
        ("intel", "Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz", INTEL_SETS),
    ],
)
def test_macos(recorded: Recorded, file: str, model: str, instruction_sets: tuple[str, ...]) -> None:
    assert parse_cpu_sysctl(recorded(f"apple/{file}_sysctl.txt")) == CpuKind(model, instruction_sets)


def test_amx_and_a_newer_arm() -> None:
    assert parse_cpuinfo("flags\t\t: fpu amx_bf16 amx_tile amx_int8").instruction_sets == ("amx_int8",)
    assert parse_cpuinfo("Features\t: fp asimd asimddp sve i8mm").instruction_sets == ("neon", "dotprod", "i8mm", "sve")


def test_none_and_unknown_are_different() -> None:
    assert parse_cpuinfo("model name\t: 386\nflags\t\t: fpu").instruction_sets == ()
    assert parse_cpuinfo("") == CpuKind(None, None)
    assert parse_cpu_sysctl("") == CpuKind(None, None)


@pytest.mark.parametrize(
    ("physical", "logical", "allowed", "quota", "usable"),
    [
        (8, 16, 16, None, 8),
        (None, 16, 16, None, 16),
        (8, 16, 2, None, 2),
        (8, 16, 16, 2.0, 2),
        (8, 16, 16, 2.9, 2),
        (8, 16, 16, 0.5, 1),
        (8, 16, 16, 64.0, 8),
        (None, None, None, 3.0, 3),
        (None, None, None, None, None),
    ],
)
def test_usable_cores(
    physical: int | None, logical: int | None, allowed: int | None, quota: float | None, usable: int | None
) -> None:
    assert count_usable_cores(physical, logical, allowed, quota) == usable


def test_this_machine_with_a_recorded_description(recorded: Recorded, scripted: type, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(recorded("linux/cpuinfo_ampere_altra.txt"))
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    cpu, notes = probe_cpu(tmp_path, "Linux", scripted({}))
    assert cpu.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert cpu.logical_cores == psutil.cpu_count()
    assert cpu.usable_cores is not None
    assert 1 <= cpu.usable_cores <= (cpu.logical_cores or 0)
    assert notes == ()


def test_other_systems_do_not_break_it(recorded: Recorded, scripted: type, tmp_path: Path) -> None:
    mac, mac_notes = probe_cpu(
        tmp_path, "Darwin", scripted({SYSCTL_COMMAND: ToolOutput(recorded("apple/m2_sysctl.txt"))})
    )
    assert (mac.model, mac_notes) == ("Apple M2", ())
    broken, broken_notes = probe_cpu(tmp_path, "Darwin", scripted({SYSCTL_COMMAND: Missing("sysctl")}))
    assert (broken.model, broken.instruction_sets, broken_notes) == (None, None, ("sysctl: not installed",))
    windows, windows_notes = probe_cpu(tmp_path, "Windows", scripted({}))
    assert windows.instruction_sets is None
    assert windows_notes == ("cpu: instruction sets are not read on Windows",)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    parse_cpuinfo(text)
    parse_cpuinfo(f"flags: {text}\nmodel name: {text}")
    parse_cpu_sysctl(f"machdep.cpu.features: {text}\nmachdep.cpu.brand_string: {text}")
