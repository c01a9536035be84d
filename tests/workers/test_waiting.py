"""The estimate of a wait, and what the refused are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.moving_mean import moving_mean
from swarm.workers.slots import expected_wait_s, retry_after_s


@pytest.mark.parametrize(
    ("wanted", "idle", "queued", "slots", "service_s", "expected"),
    [
        (1, 4, 0, 4, 10.0, 0.0),  # free
        (1, 4, 0, 4, None, 0.0),
        (4, 4, 0, 4, 10.0, 0.0),
        (1, 0, 0, 4, None, None),  # nothing measured: nobody is refused for it
        (1, 0, 0, 1, 10.0, 10.0),  # the one that runs
        (1, 0, 0, 4, 10.0, 2.5),  # the first of four to end
        (1, 0, 7, 4, 10.0, 20.0),  # two rounds of four
        (4, 0, 0, 4, 10.0, 10.0),  # all of them
        (4, 3, 0, 4, 10.0, 10.0),  # three idle ones do not serve four
        (1, 0, 63, 1, 0.5, 32.0),
    ],
)
def test_the_expected_wait(
    wanted: int, idle: int, queued: int, slots: int, service_s: float | None, expected: float | None
) -> None:
    assert expected_wait_s(wanted, idle, queued, slots, service_s) == expected


@pytest.mark.parametrize(
    ("held_s", "queued", "expected"),
    [
        ([], 0, 1.0),
        ([3.0, 3.0, 7.9, 8.0], 0, 1.0),  # as usual
        ([80.0, 80.0, 80.0, 80.0], 0, 20.0),  # four long ones
        ([80.0, 80.0, 80.0, 80.0], 3, 80.0),
        ([80.0, 1.0, 1.0, 1.0], 0, 1 / (3 / 4 + 1 / 80)),  # the others go on as usual
        ([80.0, 80.0, 80.0], 0, 1 / (1 / 4 + 3 / 80)),  # as of a worker that nobody holds, and that is promised
    ],
)
def test_who_holds_workers_for_long_is_not_taken_for_the_average(
    held_s: list[float], queued: int, expected: float
) -> None:
    assert expected_wait_s(1, 0, queued, 4, 4.0, held_s) == pytest.approx(expected)


def test_a_wait_is_known_also_where_answers_took_no_time() -> None:
    assert expected_wait_s(1, 0, 0, 2, 0.0, [5.0, 5.0]) == pytest.approx(2.5)
    assert expected_wait_s(1, 0, 0, 2, 0.0, [5.0, 0.0]) == pytest.approx(0.001, rel=0.01)
    assert expected_wait_s(1, 0, 0, 2, None, [5.0, 5.0]) is None


@given(held_s=st.lists(st.floats(0, 1e6), max_size=8), longer=st.floats(0, 1e6), service_s=st.floats(0.01, 1000))
def test_longer_held_never_shortens_it(held_s: list[float], longer: float, service_s: float) -> None:
    now = expected_wait_s(1, 0, 2, 8, service_s, held_s)
    later = expected_wait_s(1, 0, 2, 8, service_s, [each + longer for each in held_s])
    assert now is not None
    assert later is not None
    assert later >= now * (1 - 1e-9) >= 3 * service_s / 8 * (1 - 2e-9)


@given(
    wanted=st.integers(1, 8),
    queued=st.integers(0, 100),
    slots=st.integers(1, 64),
    service_s=st.floats(0, 1000),
)
def test_more_people_ahead_never_shorten_it(wanted: int, queued: int, slots: int, service_s: float) -> None:
    now = expected_wait_s(wanted, 0, queued, slots, service_s)
    behind = expected_wait_s(wanted, 0, queued + 1, slots, service_s)
    assert now is not None
    assert behind is not None
    assert 0 <= now <= behind


@pytest.mark.parametrize(
    ("wait_s", "seconds"), [(None, 2), (0.0, 1), (0.2, 1), (1.01, 2), (59.5, 60), (3600.0, 60), (float("inf"), 60)]
)
def test_retry_after_is_the_wait_within_a_minute(wait_s: float | None, seconds: int) -> None:
    assert retry_after_s(wait_s) == seconds


def test_a_mean_that_moves() -> None:
    mean = moving_mean(None, 10.0)
    assert mean == 10.0
    for _ in range(20):
        mean = moving_mean(mean, 2.0)
    assert 2.0 < mean < 2.2, "old figures fade"
