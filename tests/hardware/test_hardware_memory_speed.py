"""How fast weights are read: measured where the CPU computes, by class where a card does, by name for Apple's chips."""

from __future__ import annotations

import pytest

from hardware import memory_speed
from hardware.memory_speed import CORE_BYTES_PER_S, MEMORY_SHARE, PLAIN_CORE_BYTES_PER_S, weights_bytes_per_s
from hardware.snapshot import GIB_BYTES, AppleSilicon, Cpu, Gpu, HardwareSnapshot, ModelMemory

RAM = ModelMemory("ram", 8 * GIB_BYTES)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """40 GB/s, with however many threads; notes how many measured."""
    asked: list[int] = []

    def copied(threads: int, touched_bytes: int) -> float:
        asked.append(threads)
        return 40e9

    monkeypatch.setattr(memory_speed, "copied_bytes_per_s", copied)
    return asked


@pytest.mark.parametrize(
    ("cores", "sets", "threads", "expected"),
    [
        (2, ("avx2",), None, CORE_BYTES_PER_S),  # one core computes, and memory could do more
        (2, ("avx2",), 2, 2 * CORE_BYTES_PER_S),
        (16, ("avx2",), None, MEMORY_SHARE * 40e9),
        (4, ("neon",), None, MEMORY_SHARE * 40e9),
        (4, ("sse4_2",), None, 3 * PLAIN_CORE_BYTES_PER_S),
        (4, (), None, 3 * PLAIN_CORE_BYTES_PER_S),
        (None, None, None, CORE_BYTES_PER_S),
    ],
)
def test_the_slower_of_memory_and_arithmetic_counts(
    copies: list[int], cores: int | None, sets: tuple[str, ...] | None, threads: int | None, expected: float
) -> None:
    snapshot = HardwareSnapshot(Cpu(usable_cores=cores, instruction_sets=sets))
    assert weights_bytes_per_s(snapshot, RAM, threads) == expected
    assert max(copies) <= memory_speed.MOST_COPIERS


@pytest.mark.parametrize(
    ("cores", "sets", "expected"),
    [
        (2, ("avx2", "avx512_vnni"), MEMORY_SHARE * 40e9),  # one core takes all that the memory gives
        (2, ("avx2",), CORE_BYTES_PER_S),
        (2, None, CORE_BYTES_PER_S),
    ],
)
def test_a_build_for_this_machine_uses_what_its_cores_have(
    copies: list[int], cores: int, sets: tuple[str, ...] | None, expected: float
) -> None:
    snapshot = HardwareSnapshot(Cpu(usable_cores=cores, instruction_sets=sets))
    assert weights_bytes_per_s(snapshot, RAM, native=True) == expected


@pytest.mark.parametrize(
    ("size_gib", "least", "most"), [(8, 100e9, 200e9), (16, 150e9, 300e9), (48, 400e9, 800e9), (141, 1000e9, 5000e9)]
)
def test_a_card_is_as_fast_as_the_slowest_of_its_size(
    copies: list[int], size_gib: int, least: float, most: float
) -> None:
    gpu = Gpu("nvidia", "card", memory_total_bytes=size_gib * GIB_BYTES)
    assert least < weights_bytes_per_s(HardwareSnapshot(), ModelMemory("vram", 1, gpu)) < most
    assert copies == []


@pytest.mark.parametrize(("chip", "measured"), [("Apple M1", 0), ("Apple M4 Pro", 0), ("Apple M9", 1)])
def test_apples_chips_are_known_and_newer_ones_measured(copies: list[int], chip: str, measured: int) -> None:
    snapshot = HardwareSnapshot(Cpu(usable_cores=8), apple=AppleSilicon(chip))
    assert 20e9 < weights_bytes_per_s(snapshot, ModelMemory("unified", 1)) < 1000e9
    assert len(copies) == measured


def test_the_copying_is_real_and_done_once() -> None:
    first = memory_speed.copied_bytes_per_s(1, 2**20)
    assert 1e8 < first < 1e13
    assert memory_speed.copied_bytes_per_s(1, 2**20) == first
