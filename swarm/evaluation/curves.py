"""Accuracy against the number of votes, of one model and of several, with the baselines that a vote has to beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarm.consensus.options import Strategy
from swarm.evaluation.intervals import Estimate, mean_difference, mean_of
from swarm.evaluation.replay import deal, greedy_seats, halves, held, measured, plain, vote, weighted_vote
from swarm.evaluation.samples import Answered, GradedAnswer

VOTES = (1, 3, 5, 7, 9, 11, 15, 21, 31)  # not 2: where two differ, the first seat has it
USUAL_VOTES = 5  # a node's default: what is reported wherever one number of votes has to stand for all

Scores = tuple[float, ...]  # for each problem the share of right outcomes, 0..1


@dataclass(frozen=True, slots=True)
class Member:
    """One model alone, by the number of votes, each held as a node holds it: how often it is right.

    `one` is a sample, `plain` a vote of samples without the greedy answer, `confident` the vote under that strategy
    (None where the endpoint gave no log-probabilities), `any_of` how often any of the answers is right. `tokens`:
    what a sample costs on average, and `greedy_tokens` the greedy answer.
    """

    model: str
    tokens: float
    greedy_tokens: float
    greedy: Estimate
    one: Estimate
    votes: Mapping[int, Estimate]
    over_one: Mapping[int, Estimate]
    over_greedy: Mapping[int, Estimate]
    plain: Mapping[int, Estimate]
    confident: Mapping[int, Estimate] | None
    any_of: Mapping[int, Estimate]

    def spent(self, k: int) -> float:
        """The tokens that `k` votes cost on average."""
        return self.greedy_tokens + (k - 1) * self.tokens


@dataclass(frozen=True, slots=True)
class Against:
    """What `votes` of several models gain over the best of them alone, the greedy answer of each being among them.

    `weighted`: under measured weights; None where there are too few problems to measure any. `equal_tokens`: over as
    many votes of the best as cost the same.
    """

    votes: int
    right: Estimate
    over_best: Estimate
    over_greedy: Estimate
    weighted: Estimate | None
    weighted_over_best: Estimate | None
    weighted_over_greedy: Estimate | None
    equal_tokens_votes: int
    equal_tokens: Estimate
    any_of: Estimate
    tokens: float


@dataclass(frozen=True, slots=True)
class Pool:
    """Several models voting together, against the best of them. Which one that is, the other half of the problems says.

    `best`: for each half.
    """

    models: tuple[str, ...]
    best: tuple[str, str]
    against: tuple[Against, ...]


def vote_counts(samples: int) -> tuple[int, ...]:
    """The numbers of votes that are looked at with so many samples of each model."""
    return tuple(sorted({*(k for k in VOTES if k <= samples), samples}))


def scores_alone(
    answered: Sequence[Answered], model: str, k: int, seed: int, strategy: Strategy | None = None
) -> Scores:
    """How often a vote of `k` of `model` is right, problem by problem."""
    return tuple(_right_share(one, held(one, [model], k, seed), strategy) for one in answered)


def scores_plain(answered: Sequence[Answered], model: str, k: int, seed: int) -> Scores:
    """The same for `k` samples, the greedy answer not among them."""
    return tuple(_right_share(one, plain(one, model, k, seed)) for one in answered)


def any_right(right: int, samples: int, k: int) -> float:
    """The chance that at least one of `k` of `samples`, `right` of them right, is right: over all subsets, exactly."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def any_score(one: Answered, models: Sequence[str], k: int) -> float:
    """The most that any way to choose among `k` votes of `models`, the strongest first, could be right."""
    seats = deal(models, k)
    missed = 1.0
    sampled: Counter[str] = Counter()
    for model, greedy in zip(seats, greedy_seats(seats), strict=True):
        if not greedy:
            sampled[model] += 1
        elif one.greedy[model].right:
            return 1.0
    for model, count in sampled.items():
        answers = one.samples[model]
        missed *= 1 - any_right(sum(answer.right for answer in answers), len(answers), count)
    return 1 - missed


def measure_member(answered: Sequence[Answered], model: str, ks: Sequence[int], seed: int) -> Member:
    """Everything about `model` alone."""
    samples = [answer for one in answered for answer in one.samples[model]]
    greedy = [float(one.greedy[model].right) for one in answered]
    one_sample = scores_plain(answered, model, 1, seed)
    scores = {k: scores_alone(answered, model, k, seed) for k in ks}
    sure = all(one.knows_confidence for one in answered)
    return Member(
        model=model,
        tokens=sum(answer.tokens for answer in samples) / len(samples),
        greedy_tokens=sum(one.greedy[model].tokens for one in answered) / len(answered),
        greedy=mean_of(greedy),
        one=mean_of(one_sample),
        votes={k: mean_of(scores[k]) for k in ks},
        over_one={k: mean_difference(scores[k], one_sample) for k in ks},
        over_greedy={k: mean_difference(scores[k], greedy) for k in ks},
        plain={k: mean_of(scores_plain(answered, model, k, seed)) for k in ks},
        confident={k: mean_of(scores_alone(answered, model, k, seed, Strategy.CONFIDENT)) for k in ks}
        if sure
        else None,
        any_of={k: mean_of([any_score(one, [model], k) for one in answered]) for k in ks},
    )


def measure_pool(answered: Sequence[Answered], members: Sequence[Member], seed: int) -> Pool:
    """All `members` (two or more) together, their seats dealt in the order in which the other half has them."""
    models = tuple(member.model for member in members)
    ks = [k for k in members[0].votes if k > 1]
    orders = [in_order(half, models, min(USUAL_VOTES, max(ks)), seed) for half in halves(answered)]
    known = [measured(half, models) for half in halves(answered)] if len(answered) > 1 else None
    tokens = {member.model: member for member in members}
    alone = {(model, k): scores_alone(answered, model, k, seed) for model in models for k in ks}
    best = [orders[at % 2][0] for at in range(len(answered))]
    greedy = [float(one.greedy[model].right) for one, model in zip(answered, best, strict=True)]

    def of_best(k: int) -> list[float]:
        return [alone[model, k][at] for at, model in enumerate(best)]

    def of_all(k: int, right: Callable[[int, Answered, Sequence[GradedAnswer]], bool]) -> list[float]:
        return [
            _mean([right(at % 2, one, answers) for answers in held(one, orders[at % 2], k, seed)])
            for at, one in enumerate(answered)
        ]

    against: list[Against] = []
    for k in ks:
        scores = of_all(k, lambda _, one, answers: vote(one, answers).right)
        weighted = None
        if known is not None:
            weighted = of_all(k, lambda half, one, answers: weighted_vote(one, answers, known[half]).right)
        spent = _mean([pool_tokens(orders[0], tokens, k), pool_tokens(orders[1], tokens, k)])
        same_cost = equal_tokens_votes(spent, tokens[orders[0][0]], ks)
        against.append(
            Against(
                votes=k,
                right=mean_of(scores),
                over_best=mean_difference(scores, of_best(k)),
                over_greedy=mean_difference(scores, greedy),
                weighted=None if weighted is None else mean_of(weighted),
                weighted_over_best=None if weighted is None else mean_difference(weighted, of_best(k)),
                weighted_over_greedy=None if weighted is None else mean_difference(weighted, greedy),
                equal_tokens_votes=same_cost,
                equal_tokens=mean_difference(scores, of_best(same_cost)),
                any_of=mean_of([any_score(one, orders[at % 2], k) for at, one in enumerate(answered)]),
                tokens=spent,
            )
        )
    return Pool(models, (orders[0][0], orders[1][0]), tuple(against))


def in_order(answered: Sequence[Answered], models: Sequence[str], k: int, seed: int) -> list[str]:
    """`models`, the one first whose vote of `k` is right most often; then by the greedy answer, then as given."""

    def share(model: str) -> tuple[float, float]:
        greedy = _mean([one.greedy[model].right for one in answered])
        return -_mean(scores_alone(answered, model, k, seed)), -greedy

    return sorted(models, key=share)


def pool_tokens(models: Sequence[str], members: Mapping[str, Member], k: int) -> float:
    """What `k` votes of `models` cost on average."""
    seats = deal(models, k)
    firsts = greedy_seats(seats)
    return math.fsum(
        members[model].greedy_tokens if greedy else members[model].tokens
        for model, greedy in zip(seats, firsts, strict=True)
    )


def equal_tokens_votes(tokens: float, best: Member, ks: Sequence[int]) -> int:
    """Which of `ks` votes of the best model cost about as many tokens."""
    return min(ks, key=lambda k: (abs(best.spent(k) - tokens), k))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _right_share(one: Answered, chosen: Iterable[Sequence[GradedAnswer]], strategy: Strategy | None = None) -> float:
    return _mean([vote(one, answers, strategy).right for answers in chosen])
