"""Which phase of a model's life follows which."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from swarm.workers.life import LEAVING, TRANSITIONS, IllegalTransition, Life, LifeEvent, Phase, check

PHASES: tuple[Phase, ...] = get_args(Phase)


def test_every_phase_has_its_row_and_a_way_to_ready_and_back_to_available() -> None:
    assert set(TRANSITIONS) == set(PHASES)
    for goal in ("ready", "available"):
        reached = {goal}
        while more := {phase for phase in PHASES if TRANSITIONS[phase] & reached} - reached:
            reached |= more
        assert reached == set(PHASES)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(PHASES, PHASES)))
def test_what_is_not_in_the_table_is_refused(before: Phase, after: Phase) -> None:
    if after in TRANSITIONS[before]:
        check(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"demo cannot be {after} after {before}: only "):
            check(before, after, "demo")


def test_what_leaves_takes_memory_and_is_not_loaded() -> None:
    assert {"draining", "unloading"} == LEAVING


def test_a_life_tells_of_each_change() -> None:
    life = Life("demo", since=1.0)
    events = [
        life.move("loading", "a request wants it", 2.0),
        life.move("failed", "the disk is full", 3.0, retry_at=8.0),
    ]
    assert events == [
        LifeEvent("demo", "available", "loading", "a request wants it", 2.0),
        LifeEvent("demo", "loading", "failed", "the disk is full", 3.0),
    ]
    assert (life.phase, life.reason, life.since, life.retry_at) == ("failed", "the disk is full", 3.0, 8.0)
    life.move("loading", "its time has come", 8.0, retry_at=9.0)
    assert life.retry_at is None


def test_an_illegal_change_leaves_it_as_it_was() -> None:
    life = Life("demo", since=1.0)
    with pytest.raises(IllegalTransition):
        life.move("ready", "by magic", 2.0)
    assert life == Life("demo", since=1.0)
