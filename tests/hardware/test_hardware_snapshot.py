"""Where a model would go, the JSON form, and the report for people."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from hardware.amd import parse_rocm
from hardware.apple import parse_apple_silicon
from hardware.nvidia import parse_query
from hardware.snapshot import (
    GIB_BYTES,
    MIN_USEFUL_VRAM_BYTES,
    AppleSilicon,
    Cpu,
    Gpu,
    HardwareSnapshot,
    Memory,
    ModelMemory,
    memory_for_models,
)
from hardware.snapshot_text import render

Recorded = Callable[[str], str]
RAM = Memory(total_bytes=64 * GIB_BYTES, free_bytes=40 * GIB_BYTES, host_total_bytes=64 * GIB_BYTES)


def machine(*gpus: Gpu, memory: Memory = RAM, apple: AppleSilicon | None = None) -> HardwareSnapshot:
    return HardwareSnapshot(memory=memory, gpus=gpus, apple=apple)


def gpu(free_gib: float | None, total_gib: float | None = 24, integrated: bool | None = False) -> Gpu:
    return Gpu(
        vendor="nvidia",
        name="GPU",
        memory_total_bytes=None if total_gib is None else int(total_gib * GIB_BYTES),
        memory_free_bytes=None if free_gib is None else int(free_gib * GIB_BYTES),
        integrated=integrated,
    )


class TestModelMemory:
    def test_without_a_gpu_it_is_free_ram(self) -> None:
        assert machine().model_memory == ModelMemory("ram", 40 * GIB_BYTES)
        assert HardwareSnapshot().model_memory == ModelMemory("ram", None)

    def test_a_dedicated_gpu_comes_first_although_ram_is_larger(self) -> None:
        card = gpu(20)
        assert machine(card).model_memory == ModelMemory("vram", 20 * GIB_BYTES, card)

    def test_the_idle_gpu_beats_the_larger_busy_one(self, recorded: Recorded) -> None:
        gpus = tuple(row.gpu for row in parse_query(recorded("nvidia/two_different.csv")))
        assert machine(*gpus).model_memory.gpu == gpus[1]
        busy = machine(gpu(3, total_gib=80), gpu(10, total_gib=12))
        assert busy.largest_gpu == busy.gpus[0]
        assert busy.model_memory.gpu == busy.gpus[1]

    def test_a_gpu_too_full_to_use_leaves_ram(self) -> None:
        just_enough = dataclasses.replace(gpu(0), memory_free_bytes=MIN_USEFUL_VRAM_BYTES)
        assert machine(just_enough).model_memory.pool == "vram"
        too_little = dataclasses.replace(gpu(0), memory_free_bytes=MIN_USEFUL_VRAM_BYTES - 1)
        assert machine(too_little).model_memory == ModelMemory("ram", 40 * GIB_BYTES)

    def test_unknown_free_memory_is_not_counted_on(self) -> None:
        assert machine(gpu(None)).model_memory.pool == "ram"

    def test_a_gpu_of_unknown_kind_counts_as_dedicated(self) -> None:
        assert machine(gpu(8, integrated=None)).model_memory.pool == "vram"

    def test_a_gpu_that_shares_ram_has_what_ram_has(self, recorded: Recorded) -> None:
        [row] = parse_query(recorded("nvidia/gb10.csv"))
        assert machine(row.gpu).model_memory == ModelMemory("unified", 40 * GIB_BYTES)

    def test_a_large_part_set_aside_for_the_gpu_is_used(self, recorded: Recorded) -> None:
        [apu] = parse_rocm(recorded("amd/rocm_7_strix_halo.json"))
        assert machine(apu).model_memory == ModelMemory("vram", apu.memory_free_bytes, apu)
        plenty = dataclasses.replace(RAM, free_bytes=60 * GIB_BYTES)
        assert machine(apu, memory=plenty).model_memory == ModelMemory("unified", 60 * GIB_BYTES)

    def test_a_card_beside_a_processors_gpu(self, recorded: Recorded) -> None:
        card, apu = parse_rocm(recorded("amd/rocm_6_4_card_and_apu.json"))
        assert machine(apu, card).model_memory.gpu == card

    def test_apple_is_bounded_by_metal_and_by_what_is_free(self) -> None:
        apple = AppleSilicon("Apple M3 Max", memory_total_bytes=64 * GIB_BYTES)
        idle = dataclasses.replace(RAM, free_bytes=60 * GIB_BYTES)
        assert machine(apple=apple, memory=idle).model_memory == ModelMemory("unified", 48 * GIB_BYTES)
        assert machine(apple=apple).model_memory == ModelMemory("unified", 40 * GIB_BYTES)
        assert machine(apple=apple, memory=Memory()).model_memory == ModelMemory("unified", 48 * GIB_BYTES)

    @pytest.mark.parametrize("snapshot", [machine(gpu(20)), machine(apple=AppleSilicon("Apple M1"))])
    def test_an_engine_for_the_cpu_has_ram(self, snapshot: HardwareSnapshot) -> None:
        assert memory_for_models(snapshot, gpu_allowed=False) == ModelMemory("ram", 40 * GIB_BYTES)


def test_the_largest_gpu() -> None:
    assert machine().largest_gpu is None
    unknown, small, large, same = gpu(None, None), gpu(1, 8), gpu(1, 24), gpu(2, 24)
    assert machine(unknown, small, large, same).largest_gpu is large
    assert machine(unknown).largest_gpu is unknown


def test_json_form(recorded: Recorded) -> None:
    apple = parse_apple_silicon(recorded("apple/m3_max.json"))
    snapshot = HardwareSnapshot(
        cpu=Cpu(model="Apple M3 Max", quota_cores=1.5, instruction_sets=("neon", "i8mm")),
        memory=RAM,
        gpus=(gpu(20),),
        apple=apple,
        operating_system="Darwin",
        notes=("a note",),
    )
    found = snapshot.as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["schema_version"] == 1
    assert found["cpu"]["instruction_sets"] == ["neon", "i8mm"]
    assert found["cpu"]["physical_cores"] is None
    assert found["memory"]["free_bytes"] == 40 * GIB_BYTES
    assert found["gpus"][0]["memory_free_bytes"] == 20 * GIB_BYTES
    assert found["apple"]["gpu_limit_bytes"] == 48 * GIB_BYTES
    assert found["model_memory"] == {"pool": "unified", "free_bytes": 40 * GIB_BYTES, "gpu": None}
    assert found["notes"] == ["a note"]


def test_json_form_of_nothing() -> None:
    found = HardwareSnapshot().as_json()
    assert (found["apple"], found["gpus"], found["notes"]) == (None, [], [])


class TestReport:
    def test_a_machine_with_gpus(self, recorded: Recorded) -> None:
        gpus = (
            *(row.gpu for row in parse_query(recorded("nvidia/one_gpu.csv"))),
            *parse_rocm(recorded("amd/rocm_6_4_card_and_apu.json"))[1:],
            *(row.gpu for row in parse_query(recorded("nvidia/mig.csv"))),
        )
        snapshot = HardwareSnapshot(
            cpu=Cpu("AMD Ryzen 9", "x86_64", 16, 32, 2, 2.5, ("avx2", "fma")),
            memory=Memory(8 * GIB_BYTES, 6 * GIB_BYTES, 64 * GIB_BYTES, 8 * GIB_BYTES),
            gpus=gpus[:3],
            operating_system="Linux",
            notes=("rocm-smi: something",),
        )
        assert render(snapshot).splitlines() == [
            "System          Linux x86_64",
            "CPU             AMD Ryzen 9",
            "  cores         16 physical, 32 logical, 2 usable here, container quota 2.5",
            "  instructions  avx2 fma",
            "Memory          6.0 GiB free of 8.0 GiB (container limit; the machine has 64.0 GiB)",
            "GPU nvidia 0    NVIDIA GeForce RTX 5090: 31.4 GiB free of 31.8 GiB, 12.0, driver 595.71.05",
            "GPU amd 1       Raphael: shares the machine's memory, 0.0 GiB free of 0.1 GiB of its own, gfx1036",
            "GPU nvidia 0    NVIDIA A100-SXM4-80GB: memory unknown, 8.0, driver 535.54.03",
            "For models      31.4 GiB now, in the memory of NVIDIA GeForce RTX 5090",
            "",
            "Notes",
            "  rocm-smi: something",
        ]

    def test_no_gpu_and_why(self) -> None:
        lines = render(HardwareSnapshot(memory=RAM, notes=("nvidia-smi: not installed",))).splitlines()
        assert "GPU             no GPU found (see the notes)" in lines
        assert "For models      40.0 GiB now, in RAM, computed on the CPU" in lines
        assert lines[-2:] == ["Notes", "  nvidia-smi: not installed"]

    def test_an_apple_chip(self, recorded: Recorded) -> None:
        apple = parse_apple_silicon(recorded("apple/m1_air.json"))
        text = render(HardwareSnapshot(apple=apple, memory=Memory(free_bytes=4 * GIB_BYTES)))
        assert (
            "GPU             Apple M1: 7 GPU cores, 16.0 GiB unified memory, "
            "10.7 GiB of it for the GPU (macOS's default)" in text
        )
        assert "For models      4.0 GiB now, in memory that CPU and GPU share" in text

    def test_a_machine_that_tells_nothing(self) -> None:
        assert render(HardwareSnapshot()).splitlines() == [
            "System          unknown",
            "CPU             unknown model",
            "  cores         unknown",
            "  instructions  unknown",
            "Memory          unknown (free: unknown)",
            "GPU             no GPU found",
            "For models      unknown now, in RAM, computed on the CPU",
        ]
