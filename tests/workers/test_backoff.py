"""How long to wait before something that broke is started again, with times from a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.workers.model_workers import MOST_S, RAN_WELL_S, BackOff


@pytest.mark.parametrize(
    ("lives_s", "waits_s"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]),
        ([59, 59, 59], [1, 2, 4]),
        ([60, 60, 60], [1, 1, 1]),
        ([0, 0, 0, 61, 0], [1, 2, 4, 1, 2]),
        ([None, None, 100, None], [1, 2, 1, 2]),  # None: it could not be started at all
    ],
)
def test_the_wait_doubles_until_it_has_run_well(lives_s: list[float | None], waits_s: list[float]) -> None:
    backoff, now, waits = BackOff(), 1000.0, []
    for life_s in lives_s:
        if life_s is not None:
            backoff.started(now)
            now += life_s
        waits.append(backoff.broke(now))
        now += waits[-1]
    assert waits == waits_s


def test_what_breaks_three_times_in_a_row_is_suspect_until_it_runs_well() -> None:
    backoff = BackOff()
    told = []
    for now in range(3):
        backoff.broke(now)
        told.append(backoff.suspect)
    assert told == [False, False, True]
    backoff.started(10)
    assert backoff.suspect
    backoff.broke(10 + RAN_WELL_S)
    assert not backoff.suspect


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=2000))
def test_it_is_always_started_again_within_five_minutes(lives_s: list[float | None]) -> None:
    backoff, now = BackOff(), 0.0
    for life_s in lives_s:
        if life_s is not None:
            backoff.started(now)
            now += life_s
        assert 1 <= backoff.broke(now) <= MOST_S
