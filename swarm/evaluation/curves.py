"""Accuracy against the number of votes, with the four baselines that a vote has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarm.evaluation.intervals import Estimate, mean_difference, mean_of
from swarm.evaluation.replay import alone, together, vote, weighted_scores
from swarm.evaluation.samples import Answered, GradedAnswer

VOTES = (1, 2, 3, 5, 7, 9, 11, 15, 21, 31)

Scores = tuple[float, ...]  # for each problem the share of right outcomes, 0..1


@dataclass(frozen=True, slots=True)
class Member:
    """One model alone, by the number of votes: how often its vote is right, and by how much more than one sample.

    `any_of` is how often at least one of as many samples is right; `tokens` what a sample costs on average.
    """

    model: str
    tokens: float
    greedy: Estimate
    votes: Mapping[int, Estimate]
    over_one: Mapping[int, Estimate]
    over_greedy: Mapping[int, Estimate]
    any_of: Mapping[int, Estimate]

    @property
    def one(self) -> Estimate:
        return self.votes[1]


@dataclass(frozen=True, slots=True)
class Against:
    """What a vote of several models gains over the best of them alone: with as many votes, and with as many tokens.

    `weighted`: the same as `equal_votes` under measured weights; None where there are too few problems to measure any.
    """

    votes: int
    equal_votes: Estimate
    weighted: Estimate | None
    equal_tokens_votes: int
    equal_tokens: Estimate


@dataclass(frozen=True, slots=True)
class Pool:
    """Several models voting together, against the one of them whose own vote is right most often."""

    models: tuple[str, ...]
    best: str
    votes: Mapping[int, Estimate]
    any_of: Mapping[int, Estimate]
    against: tuple[Against, ...]


def vote_counts(samples: int) -> tuple[int, ...]:
    """The numbers of votes that are looked at with so many samples of each model."""
    return tuple(sorted({*(k for k in VOTES if k <= samples), samples}))


def scores_alone(answered: Sequence[Answered], model: str, k: int, seed: int) -> Scores:
    """How often a vote of `k` samples of `model` is right, problem by problem."""
    return tuple(_right_share(one, alone(one, model, k, seed)) for one in answered)


def scores_together(answered: Sequence[Answered], models: Sequence[str], k: int, seed: int) -> Scores:
    """The same for `k` samples dealt over `models`."""
    return tuple(_right_share(one, together(one, models, k, seed)) for one in answered)


def any_right(right: int, samples: int, k: int) -> float:
    """The chance that at least one of `k` of `samples`, `right` of them right, is right: over all subsets, exactly."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def any_scores(answered: Sequence[Answered], models: Sequence[str], k: int) -> Scores:
    """The most that any way to choose among `k` samples, dealt over `models`, could be right."""
    shares: list[float] = []
    for one in answered:
        missed = 1.0
        for at, model in enumerate(models):
            answers = one.samples[model]
            mine = k // len(models) + (at < k % len(models))
            missed *= 1 - any_right(sum(answer.right for answer in answers), len(answers), mine)
        shares.append(1 - missed)
    return tuple(shares)


def measure_member(answered: Sequence[Answered], model: str, ks: Sequence[int], seed: int) -> Member:
    """Everything about `model` alone; `ks` begins with 1."""
    samples = [answer for one in answered for answer in one.samples[model]]
    greedy = [float(one.greedy[model].right) for one in answered]
    scores = {k: scores_alone(answered, model, k, seed) for k in ks}
    return Member(
        model=model,
        tokens=sum(answer.tokens for answer in samples) / len(samples),
        greedy=mean_of(greedy),
        votes={k: mean_of(scores[k]) for k in ks},
        over_one={k: mean_difference(scores[k], scores[1]) for k in ks},
        over_greedy={k: mean_difference(scores[k], greedy) for k in ks},
        any_of={k: mean_of(any_scores(answered, [model], k)) for k in ks},
    )


def measure_pool(answered: Sequence[Answered], members: Sequence[Member], seed: int) -> Pool:
    """All `members` (two or more) together. The best is chosen on the same problems: that flatters it, not the pool."""
    models = tuple(member.model for member in members)
    ks = tuple(members[0].votes)
    best = max(members, key=lambda member: (member.votes[ks[-1]].value, member.greedy.value))
    scores = {k: scores_together(answered, models, k, seed) for k in ks}
    tokens = sum(member.tokens for member in members) / len(members)
    against: list[Against] = []
    for k in (k for k in ks if k % len(models) == 0):
        same_cost = equal_tokens_votes(k, tokens, best.tokens, ks[-1])
        alone_of_best = scores_alone(answered, best.model, k, seed)
        weighted = weighted_scores(answered, models, k, seed) if len(answered) > 1 else None
        against.append(
            Against(
                votes=k,
                equal_votes=mean_difference(scores[k], alone_of_best),
                weighted=None if weighted is None else mean_difference(weighted, alone_of_best),
                equal_tokens_votes=same_cost,
                equal_tokens=mean_difference(scores[k], scores_alone(answered, best.model, same_cost, seed)),
            )
        )
    return Pool(
        models=models,
        best=best.model,
        votes={k: mean_of(scores[k]) for k in ks},
        any_of={k: mean_of(any_scores(answered, models, k)) for k in ks},
        against=tuple(against),
    )


def equal_tokens_votes(k: int, pool_tokens: float, best_tokens: float, samples: int) -> int:
    """How many votes of the best model cost what `k` votes of the pool do: at least one, at most what was drawn."""
    return max(1, min(samples, round(k * pool_tokens / best_tokens))) if best_tokens else min(k, samples)


def _right_share(one: Answered, chosen: Iterable[Sequence[GradedAnswer]]) -> float:
    rights = [vote(one, answers).right for answers in chosen]
    return sum(rights) / len(rights)
