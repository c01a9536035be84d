"""Every statistic against values computed by hand or by brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.consensus.tally import tally
from swarm.evaluation.agreement import agreement_of, auroc, measure_liars, with_liars
from swarm.evaluation.curves import (
    any_right,
    any_score,
    equal_tokens_votes,
    in_order,
    measure_member,
    measure_pool,
    scores_alone,
    scores_plain,
    vote_counts,
)
from swarm.evaluation.intervals import RESAMPLES, mean_difference, mean_of, ratio_of_sums, statistic
from swarm.evaluation.replay import (
    FEW,
    SUBSETS,
    deal,
    dice_for,
    halves,
    held,
    measured,
    outcome_of,
    plain,
    subsets,
    vote,
    weighted_vote,
    what_counts,
)
from swarm.evaluation.samples import Answered, GradedAnswer, VoteOutcome
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
    said = {"a": [RIGHT, WRONG], "b": [WRONG, RIGHT, RIGHT, WRONG]}
    missed_a, missed_b = 1 / 2, 1 / 2
    wrong = answered(said, greedy={"a": WRONG, "b": WRONG})
    assert any_score(wrong, ["a", "b"], 2) == 0.0
    assert any_score(wrong, ["a", "b"], 4) == pytest.approx(1 - missed_a * missed_b)
    assert any_score(answered(said), ["a", "b"], 2) == 1.0


# Subsets and votes


def test_few_subsets_are_all_taken_and_many_are_sampled() -> None:
    [pool] = answered({"a": range(7)}).samples.values()
    assert len(list(subsets(pool, 1, random.Random(1)))) == 7
    assert len(list(subsets(pool, 7, random.Random(1)))) == 1
    drawn = list(subsets(pool, 3, random.Random(1)))
    assert len(drawn) == SUBSETS
    assert all(len({answer.candidate.voter for answer in chosen}) == 3 for chosen in drawn)


def test_each_model_has_its_greedy_answer_in_its_first_seat_and_samples_in_the_others() -> None:
    one = answered({"a": range(4), "b": range(4), "c": range(4)})
    for chosen in held(one, ["b", "a", "c"], 5, seed=1):
        assert [answer.candidate.model for answer in chosen] == ["b", "a", "c", "b", "a"]
        assert [answer is one.greedy[answer.candidate.model] for answer in chosen] == [True] * 3 + [False] * 2
        assert len({answer.candidate.voter for answer in chosen}) == 5
    assert deal(["x"], 2) == ["x", "x"]


@given(samples=st.integers(1, 7), others=st.integers(0, 7), k=st.integers(1, 8))
@settings(deadline=None)
def test_where_there_are_few_ways_to_take_samples_each_is_taken_once(samples: int, others: int, k: int) -> None:
    one = answered({"a": range(samples), "b": range(max(others, 1))})
    models = ["a", "b"] if others else ["a"]
    taken = Counter(deal(models, k))
    if any(count - 1 > len(one.samples[model]) for model, count in taken.items()):
        return
    ways = math.prod(math.comb(len(one.samples[model]), count - 1) for model, count in taken.items())
    chosen = [frozenset(answer.candidate.voter for answer in answers) for answers in held(one, models, k, seed=1)]
    assert len(chosen) == (ways if ways <= FEW else SUBSETS)
    assert ways > FEW or len(set(chosen)) == ways


def test_the_same_seed_gives_the_same_dice_and_another_question_others() -> None:
    assert dice_for(1, "x", 5).random() == dice_for(1, "x", 5).random()
    assert dice_for(1, "x", 5).random() != dice_for(1, "y", 5).random()


@given(st.lists(st.sampled_from([RIGHT, RIGHT, 1, 2]), min_size=2, max_size=6), st.sampled_from([RIGHT, 1]))
@settings(deadline=None)
def test_a_vote_is_right_as_often_as_over_all_subsets(said: list[int], greedy: int) -> None:
    """Counted by hand: the greedy answer has the first seat, and wins wherever it is level with another."""
    one = answered({"a": said}, greedy={"a": greedy})
    rights: list[bool] = []
    for chosen in itertools.combinations(said, 2):
        counted = Counter([greedy, *chosen])
        most = max(counted.values())
        rights.append((greedy if counted[greedy] == most else counted.most_common(1)[0][0]) == RIGHT)
    assert scores_alone([one], "a", 3, seed=1) == pytest.approx((sum(rights) / len(rights),))


def test_a_vote_of_one_is_the_greedy_answer_and_a_sample_is_the_mean_of_them() -> None:
    one = answered({"a": [RIGHT, RIGHT, WRONG, RIGHT, "no idea"]}, greedy={"a": WRONG})
    assert scores_alone([one], "a", 1, seed=1) == (0.0,)
    assert scores_plain([one], "a", 1, seed=1) == pytest.approx((3 / 5,))


def test_samples_alone_have_no_greedy_answer_among_them() -> None:
    one = answered({"a": [RIGHT, RIGHT, WRONG]}, greedy={"a": WRONG})
    assert scores_plain([one], "a", 3, seed=1) == (1.0,)
    [chosen] = plain(one, "a", 3, seed=1)
    assert one.greedy["a"] not in chosen


ANSWERS = st.sampled_from([RIGHT, RIGHT, 1, 2, "no idea", "Answer: x y z", ""])


@given(said=st.lists(ANSWERS, min_size=2, max_size=7), seed=st.integers(0, 99), seated=st.booleans(), data=st.data())
@settings(deadline=None)
def test_a_vote_that_is_remembered_is_the_vote_that_was_held(
    said: list[int | str], seed: int, seated: bool, data: st.DataObject
) -> None:
    """Neither the order of the seats behind the first nor what was counted before changes how often a vote is right."""
    one = answered({"a": said}, greedy={"a": data.draw(ANSWERS)})
    strategy = data.draw(st.sampled_from([Strategy.MAJORITY, Strategy.CONFIDENT, Strategy.AUTO]))
    answers = [*([one.greedy["a"]] if seated else []), *one.samples["a"]]
    first, rest = answers[: int(seated)], answers[int(seated) :]
    votes = [[*first, *random.Random(seed + n).sample(rest, max(1, len(rest) - n % 3))] for n in range(6)]
    for chosen in votes:
        got, full = vote(one, chosen, strategy), outcome_of(one.under(strategy), chosen, seated=seated)
        assert got.agreement == full.agreement
        assert got.right == full.right or not decided(one, chosen, strategy)


def decided(one: Answered, answers: Sequence[GradedAnswer], strategy: Strategy) -> bool:
    """No two answers are level, so that it is not left to the voters' names which of them wins."""
    groups = tally(one.under(strategy), [answer.candidate for answer in answers]).groups
    return len(groups) < 2 or groups[0].weight > groups[1].weight


def test_who_voted_is_forgotten_only_where_it_does_not_matter() -> None:
    one = answered({"a": [RIGHT, RIGHT, 1, "no idea", "so it is", "hm"]})
    [first, second, third, *words] = one.samples["a"]

    def key(*answers: GradedAnswer, seated: bool = True) -> object:
        return what_counts(one.question, answers, seated=seated)

    assert key(first, third) == key(second, third)
    assert key(first, third) != key(third, first)
    assert key(first, third, seated=False) == key(third, first, seated=False)
    assert key(first, *words) == frozenset(answer.candidate.voter for answer in [first, *words])


def test_agreement_is_the_share_of_the_winners_and_nothing_alone() -> None:
    one = answered({"a": [RIGHT, RIGHT, RIGHT, WRONG]})
    assert outcome_of(one.question, one.samples["a"]) == VoteOutcome(right=True, agreement=0.75)
    assert outcome_of(one.question, one.samples["a"][:1]) == VoteOutcome(right=True, agreement=0.0)


def test_a_member_by_hand() -> None:
    answers = [
        answered({"a": [RIGHT, RIGHT, RIGHT], "b": [RIGHT, WRONG, WRONG]}, 1),
        answered({"a": [WRONG, WRONG, WRONG], "b": [RIGHT, RIGHT, RIGHT]}, 2),
    ]
    a, b = (measure_member(answers, model, (1, 3), seed=1) for model in "ab")
    assert (a.one.value, a.votes[3].value, a.plain[3].value, a.greedy.value, a.tokens) == (0.5, 0.5, 0.5, 1.0, 10.0)
    assert a.over_greedy[3].value == -0.5
    assert a.confident is None
    assert a.spent(3) == 30.0
    assert b.one.value == pytest.approx(2 / 3)
    assert b.votes[3].value == pytest.approx((2 / 3 + 1) / 2)  # the right greedy one and a right sample, in 2 of 3 ways
    assert b.over_one[3].value == pytest.approx((2 / 3 + 1) / 2 - 2 / 3)


def test_a_pool_is_held_against_the_model_that_the_other_half_calls_the_best() -> None:
    """On the even half `a` is right and on the odd one `b`: so each half takes the wrong one, and the pool neither."""
    good, bad = [RIGHT] * 3, [WRONG] * 3
    greedy = [{"a": RIGHT, "b": WRONG, "c": RIGHT}, {"a": WRONG, "b": RIGHT, "c": RIGHT}]
    answers = [
        answered({"a": bad if n % 2 else good, "b": good if n % 2 else bad, "c": good}, n, greedy=greedy[n % 2])
        for n in range(10)
    ]
    members = [measure_member(answers, model, (1, 3), seed=1) for model in "ab"]
    pool = measure_pool(answers, members, seed=1)
    assert pool.best == ("b", "a")
    assert [row.votes for row in pool.against] == [3]
    assert pool.against[0].over_best.value == 0.0, "the wrong one has two seats of three"
    three = measure_pool(answers, [measure_member(answers, model, (1, 3), seed=1) for model in "cab"], seed=1)
    assert three.best == ("c", "c")
    assert (three.against[0].right.value, three.against[0].over_greedy.value) == (1.0, 0.0)


def test_a_lone_problem_has_to_choose_for_itself() -> None:
    one = answered({"a": [WRONG] * 3, "b": [RIGHT] * 3}, greedy={"a": WRONG, "b": RIGHT})
    pool = measure_pool([one], [measure_member([one], model, (1, 3), seed=1) for model in "ab"], seed=1)
    assert pool.best == ("b", "b")
    assert pool.against[0].weighted is None
    assert pool.against[0].right.value == 1.0
    assert [len(half) for half in halves([one])] == [1, 1]


@pytest.mark.parametrize(("tokens", "votes"), [(10, 1), (35, 3), (70, 7), (1000, 9)])
def test_equal_tokens_buy_more_votes_of_a_terse_model(tokens: float, votes: int) -> None:
    best = measure_member([answered({"a": [RIGHT] * 9})], "a", (1, 3, 5, 7, 9), seed=1)
    assert equal_tokens_votes(tokens, best, (1, 3, 5, 7, 9)) == votes


def test_the_votes_looked_at_end_with_all_samples() -> None:
    assert vote_counts(4) == (1, 3, 4)
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
    said = {"a": [RIGHT] * 3, "b": [WRONG] * 3, "c": [WRONG] * 3}
    answers = [answered(said, n, greedy={"a": RIGHT, "b": WRONG, "c": WRONG}) for n in range(100)]
    [chosen] = held(answers[0], ["a", "b", "c"], 3, seed=1)
    assert not vote(answers[0], chosen).right
    assert weighted_vote(answers[0], chosen, measured(answers[1:], ["a", "b", "c"])).right
    assert in_order(answers, ["c", "b", "a"], 3, seed=1) == ["a", "c", "b"]
