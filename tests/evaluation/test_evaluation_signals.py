"""What confidence is worth, on made-up answers whose areas and gains can be counted by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.evaluation.samples import Answered
from swarm.evaluation.signals import LEVELS, SureOutcome, area_of, best_of_ways, confident_vote, measure_signals
from tests.evaluation.made_up import RIGHT, answered

WRONG, OTHER = 7, 8


def told_apart(count: int) -> list[Answered]:
    """Samples of which the two right ones are surer than the three that agree on something wrong."""
    said = {"a": [WRONG, WRONG, RIGHT, RIGHT]}
    sure = {"a": [-2.0, -3.0, -4.0, -0.1, -0.2]}
    return [answered(said, n, greedy={"a": WRONG}, sure=sure) for n in range(count)]


def test_the_surer_minority_wins_by_confidence_alone() -> None:
    found = measure_signals(told_apart(4), "a", 5, 4, seed=1)
    assert found.sure
    assert found.gain is not None
    assert found.gain.value == 1.0
    assert found.one_answer is not None
    assert found.one_answer.value == 1.0
    assert found.agreement is None, "every vote is wrong, so there is nothing to tell apart"
    assert found.best == found.one_answer


def test_a_smaller_vote_is_held_against_a_larger_one_where_there_are_samples() -> None:
    said, sure = {"a": [RIGHT] * 8}, {"a": [-0.1 * n for n in range(1, 10)]}
    answers = [answered(said, n, sure=sure) for n in range(3)]
    assert measure_signals(answers, "a", 5, 8, seed=1).more == 8
    assert measure_signals(answers, "a", 5, 7, seed=1).more == 7
    assert measure_signals(answers, "a", 5, 5, seed=1).gain_over_more is None


def test_where_one_confidence_is_not_known_only_agreement_speaks() -> None:
    answers = [answered({"a": [RIGHT, WRONG, OTHER]}, 1), answered({"a": [RIGHT] * 3}, 2)]
    found = measure_signals([*answers, *told_apart(1)], "a", 3, 3, seed=1)
    assert not found.sure
    assert found.gain is None
    assert found.one_answer is None


def test_the_share_is_of_the_weight_and_the_confidence_of_those_who_agree() -> None:
    [one] = told_apart(1)
    outcome = confident_vote(one, [one.greedy["a"], *one.samples["a"]])
    assert outcome.right
    assert outcome.share == pytest.approx((1.6 + 1.3) / 5)
    assert outcome.confidence == pytest.approx(-0.15)


@given(st.lists(st.tuples(st.booleans(), st.floats(-9, 0)), min_size=2, max_size=LEVELS))
@settings(deadline=None, max_examples=25)
def test_an_area_of_few_scores_is_that_of_all_pairs(scored: list[tuple[bool, float]]) -> None:
    rights = [score for right, score in scored if right]
    wrongs = [score for right, score in scored if not right]
    found = area_of([[(score, right)] for right, score in scored])
    if not rights or not wrongs:
        assert found is None
        return
    pairs = [(one > other) + (one == other) / 2 for one in rights for other in wrongs]
    assert found is not None
    assert found.value == pytest.approx(sum(pairs) / len(pairs))
    assert found.low <= found.value <= found.high


def test_the_way_that_tells_is_found_on_the_other_half() -> None:
    """The share says nothing and the confidence everything: each half finds that out for the other."""
    dice = random.Random(3)
    outcomes = [
        [SureOutcome(right, dice.random(), -dice.random() - (not right)) for right in (True, False, True)]
        for _ in range(30)
    ]
    both, ways = best_of_ways(outcomes)
    assert ways == ("the winners' mean confidence",) * 2
    assert both is not None
    assert both.value == 1.0


def test_outcomes_that_are_all_right_have_no_area() -> None:
    assert best_of_ways([[SureOutcome(True, 1.0, -0.1)], [SureOutcome(True, 0.5, -0.2)]]) == (None, None)
