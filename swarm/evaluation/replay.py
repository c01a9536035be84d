"""Votes held again over samples that were drawn once, counted by the product's own tally.

Measured weights are tried on problems that they were not measured on: each half of the problems weighs the other.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.verdict import decide
from swarm.consensus.weights import EQUAL, VoterWeights, ballot_weights
from swarm.evaluation.samples import Answered, GradedAnswer, VoteOutcome
from swarm.registry.weights_file import Measured, Measurements

FEW = 20  # up to so many subsets are all taken
SUBSETS = 10  # of each problem's samples: more narrows nothing, since what differs most are the problems


def vote(one: Answered, answers: Sequence[GradedAnswer]) -> VoteOutcome:
    """The outcome of a full vote over some of the answers to one problem."""
    voters = frozenset(answer.candidate.voter for answer in answers)
    outcome = one.outcomes.get(voters)
    if outcome is None:
        outcome = one.outcomes[voters] = outcome_of(one.question, answers)
    return outcome


def outcome_of(question: Question, answers: Sequence[GradedAnswer], weights: VoterWeights = EQUAL) -> VoteOutcome:
    """What the product decides when exactly these have answered."""
    candidates = [answer.candidate for answer in answers]
    asked = len(candidates)
    verdict = decide(question, candidates, asked=asked, wanted=asked, stopped_by="all_in", weights=weights)
    winner = None if verdict.winner is None else verdict.winner.voter
    right = any(answer.right for answer in answers if answer.candidate.voter == winner)
    return VoteOutcome(right, verdict.agreement or 0.0)


def dice_for(seed: int, *about: object) -> random.Random:
    """Random numbers for one purpose alone, so that no figure changes when another one is added."""
    return random.Random(hashlib.sha256("/".join(map(str, (seed, *about))).encode()).digest())


def subsets(pool: Sequence[GradedAnswer], k: int, dice: random.Random) -> Iterator[list[GradedAnswer]]:
    """Every subset of `k` answers where those are few, else so many random ones."""
    if math.comb(len(pool), k) <= FEW:
        yield from map(list, itertools.combinations(pool, k))
        return
    for _ in range(SUBSETS):
        yield dice.sample(pool, k)


def mixed_subsets(pools: Sequence[Sequence[GradedAnswer]], k: int, dice: random.Random) -> Iterator[list[GradedAnswer]]:
    """Random subsets of `k` answers, dealt over the pools in turn as seats are dealt over nodes.

    Where `k` is no multiple of the number of pools, chance decides who has one more.
    """
    for _ in range(SUBSETS):
        order = dice.sample(range(len(pools)), len(pools))
        seats = [order[seat % len(pools)] for seat in range(k)]
        yield [answer for at in order for answer in dice.sample(pools[at], seats.count(at))]


def alone(answered: Answered, model: str, k: int, seed: int) -> Iterator[list[GradedAnswer]]:
    """The subsets of one model's answers to one problem."""
    return subsets(answered.samples[model], k, dice_for(seed, answered.problem.key, model, k))


def together(answered: Answered, models: Sequence[str], k: int, seed: int) -> Iterator[list[GradedAnswer]]:
    """The subsets of several models' answers to one problem."""
    pools = [answered.samples[model] for model in models]
    return mixed_subsets(pools, k, dice_for(seed, answered.problem.key, *models, k))


def measured(answered: Sequence[Answered], models: Sequence[str]) -> Measurements:
    """How many first samples of each model are right, by kind; one a problem, since a second one is no new evidence."""
    by_kind: dict[str, list[Answered]] = {}
    for one in answered:
        by_kind.setdefault(one.problem.kind, []).append(one)
    return {
        model: {
            kind: Measured(
                correct=sum(one.samples[model][0].right for one in ones),
                asked=len(ones),
                options=min(one.problem.options for one in ones),
            )
            for kind, ones in by_kind.items()
        }
        for model in models
    }


def weighted_scores(answered: Sequence[Answered], models: Sequence[str], k: int, seed: int) -> tuple[float, ...]:
    """How often `k` samples dealt over `models` are right under weights that the other half of the problems gave."""
    halves = [measured(answered[1::2], models), measured(answered[::2], models)]
    shares: list[float] = []
    for at, one in enumerate(answered):
        rights: list[bool] = []
        for answers in together(one, models, k, seed):
            weights = ballot_weights(Strategy.WEIGHTED, halves[at % 2], [answer.candidate.model for answer in answers])
            asked = [answer for answer in answers if weights.of(answer.candidate.model, one.problem.kind) > 0]
            rights.append(outcome_of(one.question, asked, weights).right)
        shares.append(sum(rights) / len(rights))
    return tuple(shares)
