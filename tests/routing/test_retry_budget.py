"""How many requests are asked again."""

from __future__ import annotations

import pytest

from swarm.errors import BadRequest, ContextExceeded, EngineFailed, PeerFailed, SwarmError, Unavailable
from swarm.routing.router import FLOOR_PER_S, MAX_SAVED, RETRY_FLOOR, RETRY_SHARE, RetryBudget, costs_a_retry
from tests.doubles.replicas import Clock, replica


def used_up(budget: RetryBudget) -> int:
    retries = 0
    while budget.allows_a_retry():
        retries += 1
    return retries


def test_a_share_of_the_requests_may_be_retried_beyond_the_floor() -> None:
    budget = RetryBudget(Clock())
    retried = 0
    for _ in range(1000):
        budget.attempt()
        retried += budget.allows_a_retry()
    assert retried == pytest.approx(RETRY_FLOOR + 1000 * RETRY_SHARE, abs=2)


def test_the_floor_comes_back_with_time_and_no_more_than_the_floor() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert used_up(budget) == RETRY_FLOOR
    clock.now += 5 / FLOOR_PER_S
    assert used_up(budget) == 5
    clock.now += 10_000
    assert used_up(budget) == RETRY_FLOOR


def test_a_busy_node_saves_up_for_the_loss_of_a_peer_within_a_bound() -> None:
    budget = RetryBudget(Clock())
    for _ in range(100_000):
        budget.attempt()
    assert used_up(budget) == MAX_SAVED


@pytest.mark.parametrize(
    ("node", "error", "costs"),
    [
        ("a", PeerFailed("a", "broke off"), True),
        ("a", Unavailable("busy"), True),
        ("here", EngineFailed("broke"), True),
        ("here", Unavailable("busy"), False),
        ("a", ContextExceeded(9, 8), False),
    ],
)
def test_what_counts_as_a_retry(node: str, error: SwarmError, costs: bool) -> None:
    assert costs_a_retry(replica(node), error) is costs
    assert not isinstance(error, BadRequest) or not costs
