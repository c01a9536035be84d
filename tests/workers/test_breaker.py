"""The breaker, with times from a table."""

from __future__ import annotations

import pytest

from swarm.workers.breaker import Breaker


@pytest.mark.parametrize(
    ("times", "allowed"),
    [
        ([0, 1, 2, 3], [True, True, True, False]),
        ([0, 1, 2, 3, 59.9, 60], [True, True, True, False, False, True]),
        ([0, 30, 59, 60, 61, 90], [True, True, True, True, False, True]),
        ([0, 61, 122, 183, 244], [True] * 5),
    ],
)
def test_three_starts_in_a_minute_and_no_fourth(times: list[float], allowed: list[bool]) -> None:
    breaker = Breaker(3, 60.0)
    assert [breaker.allows(now) for now in times] == allowed
