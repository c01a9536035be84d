"""The race: a vote that ends when one answer is so many votes ahead of every other."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import MAX_AHEAD, Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import lead_over_others, tally, wanted_more
from swarm.consensus.verdict import decide
from swarm.generation import Candidate

ASKED = Question(Strategy.AUTO, wants_final_answer=True)


def said(*answers: int | str) -> list[Candidate]:
    return [
        Candidate(voter=f"v{n}", text=answer if isinstance(answer, str) else f"Answer: {answer}", model="m")
        for n, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("answers", "lead"),
    [
        ([], 0),
        ([1], 1),
        ([1, 1, 2], 1),
        ([1, 2], 0),
        ([1, 1, 1, 2, 3], 2),
        ([1, 1, 2, 2, 3], 0),
        ([1, 1, "no idea"], 2),
    ],
)
def test_the_lead_is_over_the_next_answer(answers: list[int | str], lead: int) -> None:
    assert lead_over_others(tally(ASKED, said(*answers))) == lead


@pytest.mark.parametrize(
    ("answers", "ahead", "outstanding", "more"),
    [
        ([], 3, 0, 3),
        ([], 3, 3, 0),
        ([1, 1, 1], 3, 0, 0),
        ([1, 1, 2], 3, 0, 2),
        ([1, 1, 2], 3, 1, 1),
        ([1, 1, 2], 3, 2, 0),
        ([1, 2], 1, 0, 1),
        (["no idea"], 2, 0, 1),
    ],
)
def test_the_least_that_can_bring_it_is_asked(
    answers: list[int | str], ahead: int, outstanding: int, more: int
) -> None:
    assert wanted_more(tally(ASKED, said(*answers)), ahead, outstanding) == more


@settings(deadline=None)
@given(answers=st.lists(st.integers(1, 4), max_size=12), ahead=st.integers(1, MAX_AHEAD), seed=st.integers(0, 99))
def test_no_order_of_arrival_matters_and_a_doubled_voter_counts_once(answers: list[int], ahead: int, seed: int) -> None:
    votes = said(*answers)
    shuffled = Random(seed).sample([*votes, *votes[:1]], len(votes) + len(votes[:1]))
    one, other = (tally(ASKED, some) for some in (votes, shuffled))
    assert lead_over_others(one) == lead_over_others(other)
    assert wanted_more(one, ahead, 0) == wanted_more(other, ahead, 0)


@settings(deadline=None)
@given(answers=st.lists(st.integers(1, 4), min_size=1, max_size=12), ahead=st.integers(1, 6))
def test_with_as_many_more_for_the_first_it_is_ahead_and_with_one_less_it_is_not(
    answers: list[int], ahead: int
) -> None:
    standing = tally(ASKED, said(*answers))
    more = wanted_more(standing, ahead, 0)
    assert standing.winner is not None
    first = standing.winner.text
    for extra in range(more + 1):
        lead = lead_over_others(tally(ASKED, said(*answers, *[first] * extra)))
        assert (lead >= ahead) == (extra == more)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [([1, 1, 1], "consensus"), ([1, 1, 2], "undecided"), ([1, 2, 3], "undecided"), ([1], "single")],
)
def test_who_is_not_far_enough_ahead_wins_nothing(answers: list[int], outcome: str) -> None:
    verdict = decide(ASKED, said(*answers), asked=len(answers), wanted=9, stopped_by="all_in", ahead=3)
    assert verdict.outcome == outcome
    assert verdict.degraded == (outcome == "undecided")
    if verdict.degraded:
        assert verdict.shortfall is not None
        assert verdict.shortfall.startswith("no answer came 3 votes ahead of the others: the first leads by ")
        assert verdict.winner is not None, "the best there is, for who takes it"


def test_seats_that_the_race_made_needless_are_no_missing_votes() -> None:
    verdict = decide(ASKED, said(1, 1, 1), asked=7, wanted=9, stopped_by="ahead", ahead=3, saved=6)
    assert (verdict.outcome, verdict.saved, verdict.margin) == ("consensus", 6, 3.0)


def test_a_weight_is_a_part_of_a_lead() -> None:
    """An answer that was cut counts half."""
    cut = Candidate(voter="x", text="Answer: 1", model="m", finish_reason="length")
    assert lead_over_others(tally(Question(Strategy.MEDOID), [cut])) == Fraction(1, 2)
