"""When a failing place is left alone and tried again: the machine, event by event and at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.routing.replicas import CircuitState
from swarm.routing.router import FAILURES_TO_OPEN, FIRST_PAUSE_S, MAX_CIRCUITS, MAX_PAUSE_S, Circuit, Circuits
from tests.doubles.replicas import Clock

PLACE = ("a", "m")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuits(clock: Clock) -> Circuits:
    return Circuits(clock)


def broken(circuits: Circuits) -> None:
    assert [circuits.failed(PLACE) for _ in range(FAILURES_TO_OPEN)] == [False] * (FAILURES_TO_OPEN - 1) + [True]


def test_failures_in_a_row_open_it_and_an_answer_between_does_not(circuits: Circuits) -> None:
    for _ in range(5):
        for _ in range(FAILURES_TO_OPEN - 1):
            assert not circuits.failed(PLACE)
        circuits.answered(PLACE)
    assert circuits.routable(PLACE) == "closed"
    broken(circuits)
    assert circuits.routable(PLACE) == "open"
    assert not circuits.begin(PLACE), "whoever asks it all the same, as the last resort, is no trial"
    assert not circuits.failed(PLACE), "it is open already"


def test_one_trial_at_a_time_closes_it(circuits: Circuits, clock: Clock) -> None:
    broken(circuits)
    clock.now += FIRST_PAUSE_S
    assert circuits.routable(PLACE) == "half_open"
    assert circuits.begin(PLACE)
    assert circuits.routable(PLACE) == "open", "one trial, and nobody else"
    assert circuits.by_node() == {"a": "half_open"}
    assert not circuits.begin(PLACE)
    circuits.answered(PLACE)
    assert circuits.routable(PLACE) == "closed"
    assert circuits.by_node() == {}


def test_a_failed_trial_doubles_the_pause_up_to_a_bound(circuits: Circuits, clock: Clock) -> None:
    broken(circuits)
    pauses: list[float] = []
    for _ in range(8):
        before = clock.now
        while circuits.routable(PLACE) != "half_open":
            clock.now += 0.5
        pauses.append(clock.now - before)
        assert circuits.begin(PLACE)
        assert circuits.failed(PLACE, trial=True)
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == MAX_PAUSE_S


def test_a_trial_whose_client_left_says_nothing(circuits: Circuits, clock: Clock) -> None:
    broken(circuits)
    clock.now += FIRST_PAUSE_S
    assert circuits.begin(PLACE)
    circuits.given_up(PLACE)
    assert circuits.routable(PLACE) == "half_open"
    circuits.given_up(("never", "failed"))


def test_a_node_is_as_ill_as_its_worst_model(circuits: Circuits) -> None:
    circuits.failed(("a", "other"))
    assert circuits.by_node() == {"a": "closed"}
    broken(circuits)
    assert circuits.by_node() == {"a": "open"}
    assert circuits.routable(("a", "other")) == "closed", "another model there is none the worse"


def test_what_is_remembered_is_bounded(circuits: Circuits) -> None:
    for number in range(MAX_CIRCUITS + 5):
        circuits.failed((f"n{number}", "m"))
    assert len(circuits.by_node()) == MAX_CIRCUITS


@given(st.lists(st.sampled_from(["ask", "answer", "fail", "leave", "wait"]), max_size=60))
def test_there_is_never_more_than_one_trial_and_never_an_end_without_a_way_out(events: list[str]) -> None:
    circuit, now, trials = Circuit(), 0.0, 0
    seen: set[CircuitState] = set()
    for event in events:
        match event:
            case "ask":
                began = circuit.begin(now)
                assert not (began and trials)
                trials += began
            case "fail":
                circuit.fail(now, trial=trials > 0)
                trials = 0
            case "leave" if trials:
                circuit.give_up()
                trials = 0
            case "answer":
                circuit, trials = Circuit(), 0
            case _:
                now += 0.7
        seen.add(circuit.routable(now))
        assert (circuit.routable(now) == "closed") == (circuit.retry_at is None)
    circuit.give_up()
    assert circuit.routable(now + MAX_PAUSE_S) in ("closed", "half_open")
