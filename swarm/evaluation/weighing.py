"""What a model weighs by its samples, and what weights do for several: never on the problems they come from."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.consensus.weights import ballot_weights
from swarm.evaluation.replay import outcome_of, together
from swarm.evaluation.samples import Answered
from swarm.registry.measured import Measured, Measurements


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
            weights = ballot_weights("weighted", halves[at % 2], [answer.candidate.model for answer in answers])
            asked = [answer for answer in answers if weights.of(answer.candidate.model, one.problem.kind) > 0]
            rights.append(outcome_of(one.question, asked, weights).right)
        shares.append(sum(rights) / len(rights))
    return tuple(shares)
