"""Every statistic against values computed by hand or by brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.evaluation.agreement import agreement_of, auroc, measure_liars, with_liars
from swarm.evaluation.curves import (
    any_right,
    any_scores,
    equal_tokens_votes,
    measure_member,
    measure_pool,
    scores_alone,
    scores_together,
    vote_counts,
)
from swarm.evaluation.intervals import RESAMPLES, mean_difference, mean_of, ratio_of_sums, statistic
from swarm.evaluation.replay import SUBSETS, dice_for, measured, mixed_subsets, outcome_of, subsets, weighted_scores
from swarm.evaluation.samples import VoteOutcome
from swarm.registry.weights_file import Measured
from tests.evaluation.made_up import RIGHT, answered

WRONG = 7


# Intervals


def test_a_mean_of_equal_values_is_certain() -> None:
    estimate = mean_of([0.25] * 10)
    assert (estimate.value, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


def test_the_interval_of_a_share_is_the_normal_one() -> None:
    values = [1.0] * 180 + [0.0] * 120
    estimate = mean_of(values)
    half = 1.96 * math.sqrt(0.6 * 0.4 / 300)
    assert estimate.value == pytest.approx(0.6)
    assert estimate.low == pytest.approx(0.6 - half, abs=0.01)
    assert estimate.high == pytest.approx(0.6 + half, abs=0.01)


def test_pairing_takes_out_what_problems_have_in_common() -> None:
    dice = random.Random(3)
    hard = [float(dice.random() < 0.5) for _ in range(200)]
    better = [value if at % 20 else 1.0 for at, value in enumerate(hard)]
    gain = mean_difference(better, hard)
    assert gain.value == pytest.approx(sum(better) / 200 - sum(hard) / 200)
    assert gain.low >= 0
    assert gain.high < 0.08


def test_a_ratio_of_sums_is_no_mean_of_ratios() -> None:
    assert ratio_of_sums([1.0, 8.0], [2.0, 8.0]).value == pytest.approx(0.9)


def test_resamples_without_a_value_are_skipped() -> None:
    estimate = statistic(3, lambda chosen: None if 0 not in chosen else 5.0)
    assert (estimate.value, estimate.low, estimate.high) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="not defined"):
        statistic(3, lambda _: None)
    with pytest.raises(ValueError, match="no problem"):
        mean_of([])
    assert RESAMPLES >= 1000


# Any of k


@given(samples=st.integers(1, 8), data=st.data())
def test_any_of_k_is_the_share_of_subsets_with_a_right_one(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(0, samples))
    pool = [True] * right + [False] * (samples - right)
    chosen = list(itertools.combinations(pool, k))
    assert any_right(right, samples, k) == pytest.approx(sum(any(one) for one in chosen) / len(chosen))


def test_any_of_k_over_two_models_is_one_less_both_missing() -> None:
    one = answered({"a": [RIGHT, WRONG], "b": [WRONG, RIGHT, RIGHT, WRONG]})
    missed_a, missed_b = 1 / 2, 1 / 2
    assert any_scores([one], ["a", "b"], 2) == pytest.approx((1 - missed_a * missed_b,))


# Subsets and votes


def test_few_subsets_are_all_taken_and_many_are_sampled() -> None:
    [pool] = answered({"a": range(7)}).samples.values()
    assert len(list(subsets(pool, 1, random.Random(1)))) == 7
    assert len(list(subsets(pool, 7, random.Random(1)))) == 1
    drawn = list(subsets(pool, 3, random.Random(1)))
    assert len(drawn) == SUBSETS
    assert all(len({answer.candidate.voter for answer in chosen}) == 3 for chosen in drawn)


def test_mixed_subsets_deal_the_seats_evenly_over_the_models() -> None:
    one = answered({"a": range(4), "b": range(4), "c": range(4)})
    for chosen in mixed_subsets([one.samples[model] for model in "abc"], 5, random.Random(1)):
        counted = Counter(answer.candidate.model for answer in chosen)
        assert sorted(counted.values()) == [1, 2, 2]


def test_the_same_seed_gives_the_same_dice_and_another_question_others() -> None:
    assert dice_for(1, "x", 5).random() == dice_for(1, "x", 5).random()
    assert dice_for(1, "x", 5).random() != dice_for(1, "y", 5).random()


@given(st.lists(st.sampled_from([RIGHT, RIGHT, 1, 2]), min_size=3, max_size=4))
def test_a_vote_is_right_as_often_as_over_all_subsets(said: list[int]) -> None:
    """Where a plain count has a single winner; ties are settled by names, which say nothing of the answer."""
    one = answered({"a": said})
    subsets_of_3 = list(itertools.combinations(said, 3))
    counted = [Counter(chosen).most_common(2) for chosen in subsets_of_3]
    if any(len(top) > 1 and top[0][1] == top[1][1] for top in counted):
        return
    expected = sum(top[0][0] == RIGHT for top in counted) / len(counted)
    assert scores_alone([one], "a", 3, seed=1) == pytest.approx((expected,))


def test_a_vote_of_one_is_the_mean_of_the_samples() -> None:
    one = answered({"a": [RIGHT, RIGHT, WRONG, RIGHT, "no idea"]})
    assert scores_alone([one], "a", 1, seed=1) == pytest.approx((3 / 5,))


def test_the_votes_of_all_samples_are_one_vote() -> None:
    one = answered({"a": [RIGHT, RIGHT, WRONG], "b": [WRONG, WRONG, WRONG]})
    assert scores_alone([one], "a", 3, seed=1) == (1.0,)
    assert scores_together([one], ["a", "b"], 6, seed=1) == (0.0,)


def test_agreement_is_the_share_of_the_winners_and_nothing_alone() -> None:
    one = answered({"a": [RIGHT, RIGHT, RIGHT, WRONG]})
    assert outcome_of(one.question, one.samples["a"]) == VoteOutcome(right=True, agreement=0.75)
    assert outcome_of(one.question, one.samples["a"][:1]) == VoteOutcome(right=True, agreement=0.0)


def test_a_member_and_a_pool_by_hand() -> None:
    answers = [
        answered({"a": [RIGHT, RIGHT, RIGHT], "b": [RIGHT, WRONG, WRONG]}, 1),
        answered({"a": [WRONG, WRONG, WRONG], "b": [RIGHT, RIGHT, RIGHT]}, 2),
    ]
    a, b = (measure_member(answers, model, (1, 2, 3), seed=1) for model in "ab")
    assert (a.one.value, a.votes[3].value, a.greedy.value, a.tokens) == (0.5, 0.5, 1.0, 10.0)
    assert b.one.value == pytest.approx(2 / 3)
    assert b.over_one[3].value == pytest.approx(0.5 - 2 / 3)
    assert a.over_greedy[3].value == -0.5
    pool = measure_pool(answers, [a, b], seed=1)
    assert pool.best == "a"  # as often right as b, and named first
    assert [row.votes for row in pool.against] == [2]
    assert pool.against[0].equal_tokens_votes == 2


@pytest.mark.parametrize(
    ("k", "pool", "best", "samples", "votes"),
    [
        (3, 80.0, 80.0, 15, 3),
        (3, 100.0, 50.0, 15, 6),
        (3, 10.0, 100.0, 15, 1),
        (9, 100.0, 50.0, 15, 15),
        (3, 1, 0, 2, 2),
    ],
)
def test_equal_tokens_buy_more_votes_of_a_terse_model(
    k: int, pool: float, best: float, samples: int, votes: int
) -> None:
    assert equal_tokens_votes(k, pool, best, samples) == votes


def test_the_votes_looked_at_end_with_all_samples() -> None:
    assert vote_counts(4) == (1, 2, 3, 4)
    assert vote_counts(15)[-1] == 15


# What agreement tells


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_area_is_the_chance_that_a_right_one_is_above_a_wrong_one(outcomes: list[tuple[bool, int]]) -> None:
    rights = [level for right, level in outcomes if right]
    wrongs = [level for right, level in outcomes if not right]
    levels = [(rights.count(level), wrongs.count(level)) for level in range(5)]
    if not rights or not wrongs:
        assert auroc(levels) is None
        return
    pairs = [(one > other) + (one == other) / 2 for one in rights for other in wrongs]
    assert auroc(levels) == pytest.approx(sum(pairs) / len(pairs))


def test_risk_and_coverage_by_hand() -> None:
    outcomes = [[VoteOutcome(True, 1.0), VoteOutcome(True, 0.6)], [VoteOutcome(False, 0.6), VoteOutcome(False, 0.4)]]
    trust = agreement_of(5, outcomes)
    assert [(row.agreement, row.coverage, row.accuracy.value) for row in trust.curve] == [
        (0.4, 1.0, 0.5),
        (0.6, 0.75, pytest.approx(2 / 3)),
        (1.0, 0.25, 1.0),
    ]
    assert trust.auroc is not None
    assert trust.auroc.value == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_agreement_has_nothing_to_tell_where_all_are_right() -> None:
    assert agreement_of(5, [[VoteOutcome(True, 1.0)]]).auroc is None


# Liars


def test_liars_replace_voters_and_agree() -> None:
    one = answered({"a": [RIGHT] * 5})
    lied = with_liars(one.samples["a"], "99", 2)
    assert [answer.right for answer in lied] == [True, True, True, False, False]
    assert len({answer.candidate.voter for answer in lied}) == 5
    assert outcome_of(one.question, lied) == VoteOutcome(right=True, agreement=0.6)


def test_what_liars_cost_by_hand() -> None:
    """Four of five right survive one liar and two; a bare majority survives neither."""
    answers = [answered({"a": [RIGHT] * 5}, 1), answered({"a": [RIGHT, RIGHT, RIGHT, RIGHT, RIGHT]}, 2)]
    liars = measure_liars(answers, "a", 5, (1, 2, 3), seed=1)
    assert liars is not None
    assert liars.honest.value == 1.0
    assert {count: lost.value for count, lost in liars.lost.items()} == {1: 0.0, 2: 0.0, 3: -1.0}


# Weights


def test_first_samples_are_counted_once_a_problem() -> None:
    answers = [answered({"a": [RIGHT, WRONG, WRONG]}, 1), answered({"a": [WRONG, RIGHT, RIGHT]}, 2)]
    assert measured(answers, ["a"]) == {"a": {"number": Measured(correct=1, asked=2, options=5)}}


def test_weights_let_the_good_model_outvote_two_bad_ones() -> None:
    """One is always right, two agree on something wrong: 1:2 by heads, 4:2 by what the other half measured."""
    answers = [answered({"a": [RIGHT] * 3, "b": [WRONG] * 3, "c": [WRONG] * 3}, n) for n in range(100)]
    assert set(scores_together(answers, ["a", "b", "c"], 3, seed=1)) == {0.0}
    assert set(weighted_scores(answers, ["a", "b", "c"], 3, seed=1)) == {1.0}
