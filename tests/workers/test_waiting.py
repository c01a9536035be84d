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
