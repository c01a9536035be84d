"""What loads are expected to take, after some were measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.workers.load_records import (
    HEADROOM_BYTES,
    MOST_MODELS,
    MOST_OPTIONS,
    MOST_SOURCES,
    START_S,
    UNKNOWN_BYTES_PER_S,
    LoadRecords,
)
from swarm.workers.model_workers import LoadProgress

GIGA = 1_000_000_000


def test_what_was_never_loaded_takes_as_long_as_its_bytes() -> None:
    records = LoadRecords()
    assert records.expected_s("a", 2 * GIGA, "own") == START_S + 2 * GIGA / UNKNOWN_BYTES_PER_S
    records.note_load("b", GIGA, "ollama", START_S + 10)
    records.note_load("c", GIGA, "own", START_S + 1)
    assert records.expected_s("a", 2 * GIGA, "own") == START_S + 2
    assert records.expected_s("a", 2 * GIGA, "ollama") == START_S + 20
    assert records.expected_s("a", 2 * GIGA, "lm studio") == START_S + 20, "no better than the slowest known"


def test_what_was_loaded_takes_about_as_long_again() -> None:
    records = LoadRecords()
    for seconds in (10.0, 5.0):
        records.note_load("a", GIGA, "own", seconds)
    assert records.expected_s("a", GIGA, "own") == pytest.approx(9.0)


def test_a_small_file_says_nothing_of_the_disk() -> None:
    records = LoadRecords()
    records.note_load("demo", 5_000_000, "embedded", 3.0)
    assert records.expected_s("demo", 5_000_000, "embedded") == 3.0
    assert records.expected_s("a", GIGA, "embedded") == START_S + GIGA / UNKNOWN_BYTES_PER_S


@pytest.mark.parametrize(
    ("estimated", "taken", "need"),
    [
        (4 * GIGA, None, 4 * GIGA),
        (4 * GIGA, 3 * GIGA, 3 * GIGA + HEADROOM_BYTES),
        (4 * GIGA, 4 * GIGA - 1, 4 * GIGA),
        (4 * GIGA, 5 * GIGA, 5 * GIGA),
    ],
)
def test_a_measure_corrects_the_estimate_of_the_same_load(estimated: int, taken: int | None, need: int) -> None:
    records = LoadRecords()
    if taken is not None:
        records.note_taken("a", 4096, 2, taken)
        records.note_taken("a", 4096, 2, taken // 2)
        records.note_taken("a", 4096, 2, 0)
    assert records.need_bytes("a", 4096, 2, estimated) == need
    assert records.need_bytes("a", 8192, 2, estimated) == estimated
    assert records.need_bytes("b", 4096, 2, estimated) == estimated


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data" / "loads.json"
    records = LoadRecords.read(path)
    assert not records.changed
    records.note_load("a", GIGA, "own", 2.5)
    records.note_taken("a", 4096, 2, GIGA)
    assert records.changed
    records.write(path)
    assert not records.changed
    again = LoadRecords.read(path)
    assert not again.changed
    assert again.expected_s("a", GIGA, "own") == 2.5
    assert again.expected_s("b", 2 * GIGA, "own") == START_S + 4
    assert again.need_bytes("a", 4096, 2, 9 * GIGA) == GIGA + HEADROOM_BYTES


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2}',
        b'{"bytes_per_s": {"own": 0}}',
        b'{"bytes_per_s": {"own": NaN}}',
        b'{"models": {"a": {"seconds": -1}}}',
        b'{"models": {"a": {"taken": {"1x1": "much"}}}}',
        b"\xff\x00",
    ],
)
def test_a_damaged_file_is_told_and_left_out(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "loads.json"
    path.write_bytes(content)
    records = LoadRecords.read(path)
    assert records.expected_s("a", 0, "own") == START_S
    assert f"{path} is not read, what loads take is measured anew" in caplog.text
    assert len(caplog.text.splitlines()) == 1
    records.note_load("a", 0, "own", 1.0)
    records.write(path)
    assert LoadRecords.read(path).expected_s("a", 0, "own") == 1.0


def test_the_file_is_bounded_and_forgets_what_was_not_used_for_longest(tmp_path: Path) -> None:
    records = LoadRecords()
    for number in range(MOST_MODELS + 1):
        records.note_load(f"m{number}", GIGA, f"s{number % (MOST_SOURCES + 1)}", 2.5)
        records.note_load("often", GIGA, "own", 7.5)
    for number in range(MOST_OPTIONS + 1):
        records.note_taken("often", number, 1, GIGA)
    path = tmp_path / "loads.json"
    records.write(path)
    again = LoadRecords.read(path)
    assert again.expected_s("often", GIGA, "own") == 7.5
    assert again.expected_s("m0", 0, "own") == START_S
    assert again.expected_s(f"m{MOST_MODELS}", 0, "own") == 2.5
    assert again.need_bytes("often", 0, 1, 9 * GIGA) == 9 * GIGA
    assert again.need_bytes("often", MOST_OPTIONS, 1, 9 * GIGA) == GIGA + HEADROOM_BYTES


@given(st.floats(0, 1e6), st.floats(0.01, 1e6))
def test_progress_is_a_share_and_what_is_left(running_s: float, expected_s: float) -> None:
    progress = LoadProgress(running_s, expected_s)
    assert progress.share is not None
    assert 0 <= progress.share <= 0.99
    left_s = progress.left_s
    assert left_s is None if running_s >= expected_s else left_s is not None and 0 < left_s <= expected_s


def test_progress_where_nothing_is_known() -> None:
    assert (LoadProgress(3.0, None).share, LoadProgress(3.0, None).left_s) == (None, None)
    assert (LoadProgress(6.2, 10.0).share, LoadProgress(6.2, 10.0).left_s) == (0.62, pytest.approx(3.8))
