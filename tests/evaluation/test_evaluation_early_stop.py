"""The replay of the lead stop: it ends where a person would say it must, and never with another answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.evaluation.early_stop import measure_stop, same_answer, stop_vote
from tests.evaluation.made_up import RIGHT, answered

ONE, TWO, THREE = 1, 2, 3


def stopped(said: list[int | str], takes: list[float]) -> tuple[int, int, int, float, float]:
    one = answered({"a": said})
    got = stop_vote(one.question, one.samples["a"], takes)
    return len(got.arrived), got.cancelled, got.never_asked, got.tokens, got.ended_at


def test_three_of_five_that_agree_leave_two_unasked() -> None:
    assert stopped([ONE] * 5, [10, 20, 30, 40, 50]) == (3, 0, 2, 60, 30)


def test_the_rest_is_asked_as_soon_as_the_wave_cannot_decide_alone() -> None:
    """The second voter disagrees at 20, so the last two start then; the third makes 2:1, the fourth 3:1 at 25."""
    assert stopped([ONE, TWO, ONE, ONE, ONE], [10, 20, 22, 5, 50]) == (4, 1, 0, 10 + 20 + 22 + 5 + 5, 25)


def test_without_agreement_all_are_heard() -> None:
    assert stopped([ONE, TWO, THREE, 4, 5], [1, 2, 3, 4, 5]) == (5, 0, 0, 15, 2 + 5)


def test_an_abstention_is_no_vote_for_the_leader() -> None:
    arrived, _, never_asked, _, _ = stopped(["hm", ONE, ONE, ONE, ONE], [1, 2, 3, 4, 5])
    assert never_asked == 0
    assert arrived >= 4


@settings(deadline=None)
@given(
    said=st.lists(st.sampled_from([ONE, TWO, THREE, "hm", "Answer: x y z"]), min_size=1, max_size=9),
    takes=st.lists(st.floats(0.1, 100), min_size=9, max_size=9),
    strategy=st.sampled_from([Strategy.MAJORITY, Strategy.AUTO]),
)
def test_stopping_early_changes_no_answer_and_loses_no_seat(
    said: list[int | str], takes: list[float], strategy: Strategy
) -> None:
    one = answered({"a": said}, strategy=strategy)
    answers = one.samples["a"]
    got = stop_vote(one.question, answers, takes[: len(said)])
    assert same_answer(one.question, got.arrived, answers)
    assert len(got.arrived) + got.cancelled + got.never_asked == len(said)
    assert got.tokens <= sum(takes[: len(said)]) + 1e-6


def test_another_answer_would_be_noticed() -> None:
    one = answered({"a": [ONE, TWO, TWO]})
    answers = one.samples["a"]
    assert not same_answer(one.question, answers[:1], answers)
    assert same_answer(one.question, answers[1:2], answers)


def test_savings_by_hand() -> None:
    """One problem where all agree (2 of 5 never asked), one where nobody does (nothing saved)."""
    answers = [answered({"a": [RIGHT] * 4}, 1), answered({"a": [1, 2, 3, 4]}, 2)]
    stop = measure_stop(answers, "a", 5, waves=True, seed=1)
    assert stop.changed == 0
    assert stop.votes == 2 * 2
    assert stop.saved.value == pytest.approx((0.4 + 0) / 2)
    assert stop.never_asked.value == pytest.approx(0.2)
    assert stop.tokens_saved.value == pytest.approx(1 - (30 + 50) / 100)
    assert stop.time_saved.value == pytest.approx(1 - (10 + 20) / 20)


def test_asked_all_at_once_a_vote_takes_no_second_round() -> None:
    answers = [answered({"a": [RIGHT] * 4}, 1), answered({"a": [1, 2, 3, 4]}, 2)]
    stop = measure_stop(answers, "a", 5, waves=False, seed=1)
    assert (stop.changed, stop.never_asked.value, stop.time_saved.value) == (0, 0, 0)
    assert stop.saved.value == pytest.approx((0.4 + 0) / 2)
    assert stop.tokens_saved.value == 0  # all five were written when the third came in
