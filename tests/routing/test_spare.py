"""What is spare: not what is idle at one instant, but what the clients of the last moments leave."""

from __future__ import annotations

import pytest

from swarm.routing.observations import DEMAND_WINDOW_S, MAX_NOTED, Demand
from swarm.routing.policy import Asking, Defaults, VoteOptions, make_plan, spare_slots
from swarm.routing.replicas import Replica


def replica(free: int, url: str | None = None, slots: int = 4) -> Replica:
    return Replica("n" if url is None else url, "n", "m", slots=slots, slots_free=free, url=url)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_peak_is_that_of_the_last_moments() -> None:
    clock = Clock()
    demand = Demand(clock)
    with demand.request(), demand.request():
        clock.now += 10 * DEMAND_WINDOW_S
        assert demand.peak() == 2, "both still run"
    assert demand.peak() == 2
    clock.now += DEMAND_WINDOW_S / 2
    with demand.request():
        assert demand.peak() == 2
    clock.now += DEMAND_WINDOW_S * 0.75
    assert demand.peak() == 1
    clock.now += DEMAND_WINDOW_S
    assert demand.peak() == 0


def test_what_is_remembered_is_bounded() -> None:
    demand = Demand(Clock())
    for _ in range(2 * MAX_NOTED):
        with demand.request():
            pass
    assert demand.peak() == 1


@pytest.mark.parametrize(
    ("free", "peak", "spare"),
    [(4, 0, 4), (4, 1, 4), (4, 2, 3), (4, 4, 1), (4, 9, 1), (2, 1, 2), (1, 1, 1), (0, 1, 0)],
    ids=["nobody", "one after the other", "two", "as many as slots", "more", "busy", "nearly full", "full"],
)
def test_a_request_leaves_the_others_of_late_their_slots(free: int, peak: int, spare: int) -> None:
    assert spare_slots(replica(free), peak) == spare


def test_clients_that_are_all_ready_at_once_get_one_slot_each() -> None:
    plan = make_plan([replica(4)], VoteOptions(), Defaults(5), Asking(10), peak_requests=4)
    assert (plan.mode, plan.asked, plan.wanted) == ("single", 1, 5)


def test_what_peers_leave_idle_is_theirs_to_say() -> None:
    plan = make_plan([replica(4), replica(3, "http://a")], VoteOptions(), Defaults(5), Asking(10), peak_requests=4)
    assert plan.asked == 2, "three idle ones there; but beside one here they would outvote it"
    two = [replica(4), replica(3, "http://a"), replica(3, "http://b")]
    assert make_plan(two, VoteOptions(), Defaults(5), Asking(10), peak_requests=4).asked == 3


def test_an_explicit_number_is_honoured_whatever_the_demand() -> None:
    plan = make_plan([replica(0)], VoteOptions(votes=3), Defaults(5), Asking(10), peak_requests=9)
    assert (plan.asked, plan.idle_only) == (3, False)
