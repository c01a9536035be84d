"""A schedule is its seed's, heals everything, and never disturbs a majority."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.schedule import CALM_S, LONGEST_S, RECOVERY_S, SHORTEST_S, Event, Fault, make_schedule, minority
from tests.faults.switch import cut, lossy, one_way, rules

SEEDS = range(200)
LASTS_S = 120.0
SWARMS = (("a", "b", "c"), ("a", "b", "c", "d", "e"))


@pytest.mark.parametrize("names", SWARMS, ids=len)
def test_schedules(names: tuple[str, ...]) -> None:
    seen: Counter[Fault] = Counter()
    for seed in SEEDS:
        schedule = make_schedule(seed, names, LASTS_S)
        assert schedule == make_schedule(seed, names, LASTS_S)
        assert [event.at_s for event in schedule] == sorted(event.at_s for event in schedule)
        for event in schedule:
            assert event.at_s >= CALM_S
            assert SHORTEST_S <= event.lasts_s <= LONGEST_S
            assert event.ends_s <= LASTS_S, "everything is healed"
            assert bool(event.percent) == (event.fault is Fault.LOSS)
            assert disturbed_at(schedule, event.at_s) <= minority(names)
        seen.update(event.fault for event in schedule)
    assert seen.keys() == set(Fault), "every fault has its turn"
    assert len({make_schedule(seed, names, LASTS_S) for seed in SEEDS}) == len(SEEDS)


def disturbed_at(schedule: tuple[Event, ...], at_s: float) -> int:
    """How many nodes something is wrong with; one that two things are wrong with counts twice."""
    return sum(len(event.victims) for event in schedule if event.at_s <= at_s < event.ends_s + RECOVERY_S)


def test_too_short_a_time_has_no_faults() -> None:
    assert make_schedule(1, SWARMS[0], CALM_S) == ()


def test_the_switchs_rules() -> None:
    ports = {"a": "port1", "b": "port2", "c": "port3-far"}
    assert len(cut("a", "bc")) == 4
    assert len(lossy("abc", 10)) == 6
    text = rules(one_way("a", "b") | one_way("c", "a") | lossy("bc", 30), ports)
    assert text.splitlines()[5:-2] == [
        "type filter hook forward priority 0;",
        'iifname "port1" oifname "port2" counter name lost drop',
        'iifname "port2" oifname "port3-far" numgen random mod 100 < 30 counter name lost drop',
        'iifname "port3-far" oifname "port1" counter name lost drop',
        'iifname "port3-far" oifname "port2" numgen random mod 100 < 30 counter name lost drop',
    ]
