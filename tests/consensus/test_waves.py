"""When voters are asked: the least that can decide, and never a wave that waits for what it cannot decide."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.consensus.count import POSTERIOR_STOP, posterior
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import is_settled, tally
from swarm.consensus.waves import first_wave, may_decide_alone, patience_s, prefill_costs_more, worth_retrying
from swarm.consensus.weights import EQUAL, VoterWeights
from swarm.generation import Candidate

MAJORITY = Question(Strategy.MAJORITY)
HEAVY = VoterWeights({"number": {"big": Fraction(4), "small": Fraction(1)}})


def said(*answers: str, model: str = "m") -> list[Candidate]:
    return [
        Candidate(voter=f"v{turn}@{model}", model=model, text=f"Answer: {answer}", finish_reason="stop")
        for turn, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("seats", "min_votes", "first"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 2), (4, 1, 3), (5, 1, 3), (9, 1, 5), (5, 4, 4), (5, 5, 5), (5, 9, 5), (32, 1, 17)],
)
def test_the_first_wave_is_the_least_that_can_decide(seats: int, min_votes: int, first: int) -> None:
    assert first_wave(["m"] * seats, EQUAL, min_votes) == first


def test_a_first_wave_outweighs_the_rest() -> None:
    assert first_wave(["big", "small", "small", "small", "small"], HEAVY) == 3
    assert first_wave(["small", "small", "small", "small", "big"], HEAVY) == 5


@pytest.mark.parametrize(
    ("answers", "out", "held", "may"),
    [
        ((), 3, 2, True),
        (("1",), 2, 2, True),
        (("1", "1"), 1, 2, True),
        (("1", "2"), 1, 2, False),
        (("1", "1", "2"), 0, 2, False),
        ((), 2, 2, False),
        (("1", "2"), 3, 4, False),
        (("1", "1", "2"), 2, 4, False),
        (("1", "1", "1"), 2, 4, True),
    ],
)
def test_doubt_is_seen_at_the_first_answer_that_makes_it(
    answers: tuple[str, ...], out: int, held: int, may: bool
) -> None:
    counted = tally(MAJORITY, said(*answers))
    assert may_decide_alone(counted, ["m"] * out, ["m"] * held, EQUAL) is may


@given(
    answers=st.lists(st.sampled_from("123"), max_size=8), more=st.lists(st.sampled_from("123"), max_size=8),
    held=st.integers(1, 8),
)  # fmt: skip
def test_a_wave_is_never_given_up_that_could_still_decide(answers: list[str], more: list[str], held: int) -> None:
    if is_settled(tally(MAJORITY, said(*answers, *more)), ["m"] * held):
        before = tally(MAJORITY, said(*answers))
        assert may_decide_alone(before, ["m"] * len(more), ["m"] * held, EQUAL)


def test_the_posterior_stop_is_a_way_to_decide_too() -> None:
    counted = tally(MAJORITY, said("1", "1", "1"))
    four_of_nine = {"outstanding": ["m"], "held": ["m"] * 5, "weights": EQUAL}
    assert posterior(4, 0) >= POSTERIOR_STOP
    assert not may_decide_alone(counted, **four_of_nine)  # type: ignore[arg-type]
    assert may_decide_alone(counted, **four_of_nine, posterior_too=True)  # type: ignore[arg-type]


def test_a_race_needs_nobody_else() -> None:
    assert may_decide_alone(tally(Question(Strategy.FIRST), said("1")), [], ["m"] * 9, EQUAL)


def test_patience_shrinks_when_half_of_the_wave_has_answered() -> None:
    assert patience_s(2.0, answered=1, asked=3) == 2.0
    assert patience_s(2.0, answered=2, asked=3) == 0.5
    assert patience_s(2.0, answered=2, asked=3, in_sight=True) == 2.0


@pytest.mark.parametrize(("now", "worth"), [(0.0, True), (4.9, True), (5.0, False), (11.0, False)])
def test_a_retry_needs_over_half_of_the_time(now: float, worth: bool) -> None:
    assert worth_retrying(0.0, now, 10.0) is worth


def test_reading_a_long_prompt_again_costs_more_than_waiting() -> None:
    assert prefill_costs_more(300, 32)
    assert not prefill_costs_more(30, 200)
