"""What this node has asked corrects what a peer told: the sums, and the ledger that keeps them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.routing.observations import MAX_ENDED, NOTHING, Outstanding, SlotsSince, corrected
from swarm.routing.preference import by_preference
from swarm.routing.replicas import Replica
from tests.doubles.replicas import Clock, replica

PLACE = ("a", "m")


@pytest.mark.parametrize(
    ("told", "since", "free", "waiting"),
    [
        (replica("a"), SlotsSince(), 4, 0),
        (replica("a"), SlotsSince(begun=1, running=1), 3, 0),
        (replica("a"), SlotsSince(begun=6, running=6), 0, 2),
        (replica("a", free=2), SlotsSince(begun=1, running=1), 1, 0),
        (replica("a", free=2), SlotsSince(ended=1), 3, 0),
        (replica("a", free=0, waiting=3), SlotsSince(ended=2), 0, 1),
        (replica("a", free=2), SlotsSince(begun=1, ended=1, running=1), 2, 0),
        (replica("a"), SlotsSince(running=3), 1, 0),
        (replica("a"), SlotsSince(ended=9), 4, 0),
        (replica("a", free=0, suspect=True), SlotsSince(begun=1, running=1), 0, 0),
    ],
    ids=[
        "nothing asked", "one more", "more than it has", "beside others", "one of ours is over", "the queue moves up",
        "one came, one went", "it told before ours came in", "never below nothing", "a suspect stays busy",
    ],
)  # fmt: skip
def test_what_was_told_is_corrected(told: Replica, since: SlotsSince, free: int, waiting: int) -> None:
    now = corrected(told, since)
    assert (now.slots_free, now.waiting) == (free, waiting)


def test_the_wait_that_was_told_grows_and_shrinks_with_the_queue() -> None:
    told = replica("a", free=0, waiting=1, wait_s=4.0)
    assert corrected(told, SlotsSince(begun=2, running=2)).wait_s == 8.0
    assert corrected(told, SlotsSince(ended=1)).wait_s == 2.0
    assert corrected(told, SlotsSince(ended=3)).wait_s is None
    assert corrected(told, NOTHING).wait_s == 4.0


@given(
    slots=st.integers(1, 8), free=st.integers(0, 8), waiting=st.integers(0, 8), begun=st.integers(0, 9),
    ended=st.integers(0, 9), older=st.integers(0, 9),
)  # fmt: skip
def test_a_correction_is_always_a_possible_load(
    slots: int, free: int, waiting: int, begun: int, ended: int, older: int
) -> None:
    told = replica("a", slots=slots, free=min(free, slots), waiting=waiting)
    now = corrected(told, SlotsSince(begun, ended, begun + older))
    assert 0 <= now.slots_free <= slots
    assert now.load >= begun + older
    assert now.slots_free == 0 or now.waiting in (0, told.waiting)


def test_the_ledger_tells_what_came_and_went_since() -> None:
    clock = Clock()
    ledger = Outstanding(clock)
    with ledger.asked(PLACE, 2):
        clock.now = 101
        with ledger.asked(PLACE):
            assert ledger.since(PLACE, 100) == SlotsSince(begun=3, running=3)
            assert ledger.since(PLACE, 100.5) == SlotsSince(begun=1, running=3)
            assert ledger.since(PLACE, 101.5) == SlotsSince(running=3)
            clock.now = 102
        assert ledger.since(PLACE, 101.5) == SlotsSince(ended=1, running=2)
        assert ledger.since(PLACE, 100.5) == SlotsSince(running=2), "it came and went"
    assert ledger.since(PLACE, 101.5) == SlotsSince(ended=3)
    assert ledger.since(PLACE, 103) == NOTHING
    assert ledger.since(("b", "m"), 0) == NOTHING


def test_a_failed_call_is_over_too() -> None:
    ledger = Outstanding(Clock())
    with pytest.raises(ValueError, match="x"), ledger.asked(PLACE):
        raise ValueError("x")
    assert ledger.since(PLACE, 0).running == 0


def test_what_is_remembered_is_bounded_and_of_peers_only_that_are_there() -> None:
    ledger = Outstanding(Clock())
    for _ in range(2 * MAX_ENDED):
        with ledger.asked(PLACE):
            pass
    assert len(ledger._calls[PLACE].ended) == MAX_ENDED  # pyright: ignore[reportPrivateUsage]
    with ledger.asked(("b", "m")):
        ledger.keep({PLACE})
        assert ledger.since(("b", "m"), 0).running == 1, "what runs is never forgotten"
    ledger.keep({PLACE})
    assert set(ledger._calls) == {PLACE}  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("order", [lambda told: told, lambda told: told[::-1]], ids=["as told", "reversed"])
def test_a_burst_between_two_probes_spreads_over_all(order: Callable[[list[Replica]], list[Replica]]) -> None:
    """Nobody tells anything new while 24 requests go out, and still no node has more than its share."""
    clock, ledger = Clock(), Outstanding(Clock())
    told = [replica(name, reported_at=clock.now - 0.5) for name in ("a", "b", "c")]
    asked = dict.fromkeys("abc", 0)
    with ExitStack() as stack:
        for _ in range(24):
            now = [corrected(one, ledger.since(one.key, one.reported_at)) for one in order(told)]
            first = by_preference(now)[0]
            stack.enter_context(ledger.asked(first.key))
            asked[first.node] += 1
    assert asked == {"a": 8, "b": 8, "c": 8}
