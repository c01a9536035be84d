"""What is counted of a swarm of paced nodes: `benchmarks/paced_counts.py`."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.paced_counts import SPAN_S, Lengths, Told, Window, around, late_ms, percentile
from benchmarks.paced_engine import Lateness


def test_an_answer_counts_by_its_share_within_the_window() -> None:
    window = Window(begin=10.0, window_s=10.0, clients=2)
    window.note(0, 5.0, 15.0, "a")  # half of it
    window.note(1, 12.0, 14.0, "b")
    window.note(1, 14.0, 24.0, "b")  # six tenths
    assert window.per_s == pytest.approx(0.21)
    assert window.took_s == [10.0, 2.0], "those that ended within"
    assert window.nodes == {"a": 1, "b": 1}
    assert not window.over.is_set()
    window.note(0, 15.0, 30.0, "a")
    assert window.over.is_set()


def test_a_client_that_fails_does_not_hold_the_window_open() -> None:
    window = Window(begin=0.0, window_s=10.0, clients=1)
    window.failed(0, 3.0, "refused")
    assert not window.over.is_set()
    window.failed(0, 10.5, "refused")
    assert window.over.is_set()
    assert [at for at, _ in window.failures] == [3.0, 10.5]


def test_few_lengths_are_spread_as_evenly_as_many() -> None:
    lengths = Lengths((64, 320), (12, 36))
    taken = [lengths.take() for _ in range(24)]
    assert all(64 <= prompt <= 320 and 12 <= answer <= 36 for prompt, answer in taken)
    assert statistics.mean(prompt for prompt, _ in taken) == pytest.approx(192, rel=0.08)
    assert statistics.mean(answer for _, answer in taken) == pytest.approx(24, rel=0.08)


@pytest.mark.parametrize(("share", "value"), [(0.5, 5.0), (0.9, 9.0), (0.99, 10.0), (1.0, 10.0), (0.01, 1.0)])
def test_a_percentile_is_one_of_the_samples(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(10, 0, -1)], share) == value


def test_what_engines_did_adds_up_and_is_told_since_then() -> None:
    late = Lateness()
    late.note(0.002, 99)
    before = Told(tuple(late.counts), busy_s=1.0, written=99)
    late.note(0.1)
    now = Told(tuple(late.counts), busy_s=3.0, written=100)
    assert now.since(before).written == 1
    assert now.since(before).busy_s == 2.0
    assert now.since(Told()) == now
    assert late_ms([now.since(before)]) == 128
    assert late_ms([now]) == 2
    assert late_ms([now, now.since(before)], 0.5) == 2
    assert late_ms([Told()]) == 0.0


@pytest.mark.parametrize(
    ("gap_s", "dip", "recovery"), [(0.0, 7.5, 0.0), (4.0, 0.0, 3.6), (2.0, 3.75, 1.6)], ids=["none", "four", "two"]
)
def test_an_outage_is_the_worst_span_after_it_and_lasts_until_the_rest_is_there(
    gap_s: float, dip: float, recovery: float
) -> None:
    """Ten answers a second; after a silence three quarters of that."""
    ends = [number / 10 for number in range(200)]
    ends += [20 + gap_s + number / 7.5 for number in range(300)]
    before, worst, back = around(ends, 0.0, 20.0, 50.0)
    assert before == pytest.approx(10.0)
    assert worst == pytest.approx(dip, abs=1 / SPAN_S)
    assert back == pytest.approx(recovery, abs=0.5)
