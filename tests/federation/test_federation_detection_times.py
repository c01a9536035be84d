"""The promises, on a simulated network with the production timing: out in 6 s, back in 5 s, no false evictions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.peer import Change, PeerJoined, PeerLeft
from tests.doubles.simulated_network import LossyTcp, simulate


def first(kind: type, seen: list[tuple[float, Change]], after: float) -> float:
    return next(at for at, change in seen if isinstance(change, kind) and at >= after)


def evictions(seen: list[tuple[float, Change]]) -> int:
    return sum(isinstance(change, PeerLeft) for _, change in seen)


phases = st.floats(5.0, 7.5)
seeds = st.integers(0, 2**32)


@given(phases, seeds)
def test_a_frozen_or_unplugged_peer_is_out_within_6_s(at: float, seed: int) -> None:
    seen = simulate(lambda t, _: 0.001 if t < at else "silence", at + 10, seed)
    assert first(PeerLeft, seen, at) - at <= 5.6


@given(phases, seeds)
def test_a_killed_peer_is_out_within_2_s(at: float, seed: int) -> None:
    seen = simulate(lambda t, _: 0.001 if t < at else "refused", at + 10, seed)
    assert first(PeerLeft, seen, at) - at <= 1.5


@given(st.floats(8.0, 300.0), st.sampled_from(["silence", "refused"]), seeds)
@settings(max_examples=50)
def test_a_lost_peer_is_back_within_5_s_of_answering(down_s: float, how: str, seed: int) -> None:
    back = 5.0 + down_s
    seen = simulate(lambda t, _: 0.001 if not 5.0 <= t < back else how, back + 10, seed)
    assert first(PeerLeft, seen, 5.0) < back
    assert first(PeerJoined, seen, back) - back <= 4.5


@given(st.lists(st.floats(0.0, 4.3), min_size=1, max_size=60), seeds)
@settings(max_examples=50)
def test_any_schedule_of_delays_below_the_bound_evicts_nobody(delays_s: list[float], seed: int) -> None:
    """However late each answer comes, as long as it comes before the verdict."""
    schedule = iter(delays_s * 20)
    assert not evictions(simulate(lambda *_: next(schedule, 0.001), 60.0, seed))


@pytest.mark.parametrize(("loss", "round_trip_s"), [(0.1, 0.001), (0.0, 0.2), (0.0, 0.4), (0.0, 0.7), (0.02, 0.2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_an_hour_of_loss_or_delay_evicts_nobody(loss: float, round_trip_s: float, seed: int) -> None:
    seen = simulate(LossyTcp(seed, loss, round_trip_s), until=3600.0, seed=seed)
    assert [type(change) for _, change in seen if isinstance(change, PeerJoined)] == [PeerJoined]
    assert not evictions(seen)


@pytest.mark.parametrize("seed", range(5))
def test_five_nodes_at_10_percent_loss_evict_nobody_in_10_minutes(seed: int) -> None:
    pairs = range(5 * 4)  # each node watches each other one
    assert not sum(evictions(simulate(LossyTcp(100 * seed + pair, 0.1, 0.001), 600.0, pair)) for pair in pairs)


def test_at_30_percent_loss_an_eviction_is_rare() -> None:
    """Three an hour for each pair of nodes, give or take; with one connection at a time it was 24."""
    assert sum(evictions(simulate(LossyTcp(seed, 0.3, 0.001), 3600.0, seed)) for seed in range(6)) <= 6
