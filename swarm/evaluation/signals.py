"""What log-probabilities are worth: votes weighed by confidence against plain ones, and what tells right from wrong.

Three signs that an outcome is right: how many agree, how sure the model was of one answer where it was least sure, and
both together. Several ways to put them together are tried; the one that does best on one half of the problems is
measured on the other, and the other way round.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.consensus.options import Strategy
from swarm.evaluation.agreement import LevelCount, area, auroc, summed
from swarm.evaluation.curves import scores_alone
from swarm.evaluation.intervals import Estimate, mean_difference, statistic
from swarm.evaluation.replay import held, verdict_on, vote
from swarm.evaluation.samples import Answered, GradedAnswer

MORE_VOTES = 8  # of a majority, which a smaller vote by confidence is to equal
LEVELS = 256  # that scores are sorted into: fewer change an area by less than a thousandth

Scored = Sequence[Sequence[tuple[float, bool]]]  # for each problem: the score of each outcome, and whether it is right


@dataclass(frozen=True, slots=True)
class Signals:
    """One model: `gain` is what a vote of `k` by confidence is over the majority of as many, or of `more` votes.

    Then areas under the curve (the chance that a right outcome scores above a wrong one; None without both): of the
    agreement of `k` votes, of the confidence of one sample, and of `both`, put together as `ways` says for each half of
    the problems. `sure`: the endpoint gave log-probabilities; without them there is only the agreement.
    """

    model: str
    k: int
    sure: bool
    agreement: Estimate | None
    one_answer: Estimate | None = None
    both: Estimate | None = None
    ways: tuple[str, str] | None = None
    gain: Estimate | None = None
    more: int | None = None
    gain_over_more: Estimate | None = None

    @property
    def best(self) -> Estimate | None:
        """The largest of the areas."""
        areas = [one for one in (self.agreement, self.one_answer, self.both) if one is not None]
        return max(areas, key=lambda one: one.value, default=None)


def measure_signals(answered: Sequence[Answered], model: str, k: int, samples: int, seed: int) -> Signals:
    """Votes of `k` of `model`, of which there are so many `samples`."""
    counted = [[vote(one, answers) for answers in held(one, [model], k, seed)] for one in answered]
    agreement = area_of([[(outcome.agreement, outcome.right) for outcome in row] for row in counted])
    if not all(one.knows_confidence for one in answered):
        return Signals(model, k, sure=False, agreement=agreement)
    weighed = [[confident_vote(one, answers) for answers in held(one, [model], k, seed)] for one in answered]
    both, ways = best_of_ways(weighed)
    plain = scores_alone(answered, model, k, seed, Strategy.MAJORITY)
    confident = scores_alone(answered, model, k, seed, Strategy.CONFIDENT)
    more = None if samples <= k else min(MORE_VOTES, samples)
    over_more = None if more is None else scores_alone(answered, model, more, seed, Strategy.MAJORITY)
    return Signals(
        model=model,
        k=k,
        sure=True,
        agreement=agreement,
        one_answer=area_of(
            [[(_known(answer.candidate.confidence), answer.right) for answer in one.samples[model]] for one in answered]
        ),
        both=both,
        ways=ways,
        gain=mean_difference(confident, plain),
        more=more,
        gain_over_more=None if over_more is None else mean_difference(confident, over_more),
    )


@dataclass(frozen=True, slots=True)
class SureOutcome:
    """A vote by confidence: whether its winner is right, its share of the weight, and its voters' mean confidence."""

    right: bool
    share: float
    confidence: float


def confident_vote(one: Answered, answers: Sequence[GradedAnswer]) -> SureOutcome:
    """The vote by confidence over `answers`, in the order of their seats."""
    verdict = verdict_on(one.under(Strategy.CONFIDENT), answers, seated=True)
    winners = {part.voter for part in verdict.candidates if part.group == 0}
    agreeing = [_known(answer.candidate.confidence) for answer in answers if answer.candidate.voter in winners]
    won = None if verdict.winner is None else verdict.winner.voter
    return SureOutcome(
        right=any(answer.right for answer in answers if answer.candidate.voter == won),
        share=verdict.agreement or 0.0,
        confidence=math.fsum(agreeing) / len(agreeing) if agreeing else -math.inf,
    )


def area_of(rows: Scored) -> Estimate | None:
    """The area under the curve of scores, with its interval."""
    return area(_in_levels(rows), LEVELS)


def best_of_ways(outcomes: Sequence[Sequence[SureOutcome]]) -> tuple[Estimate | None, tuple[str, str] | None]:
    """The area of agreement and confidence put together, and how: for each half as does best on the other half."""
    ways = {name: _in_levels(rows) for name, rows in _ways(outcomes).items()}
    places = [range(half, len(outcomes), 2) for half in (0, 1)]

    def best_on(half: int) -> str:
        areas = {name: auroc(summed(rows, places[half], LEVELS)) for name, rows in ways.items()}
        return max(ways, key=lambda name: areas[name] or 0.0)

    first, second = best_on(1), best_on(0)
    chosen_ways = ways[first], ways[second]

    def compute(chosen: Sequence[int]) -> float | None:
        areas = [
            auroc(summed(rows, [at for at in chosen if at % 2 == half], LEVELS))
            for half, rows in enumerate(chosen_ways)
        ]
        known = [value for value in areas if value is not None]
        return sum(known) / len(known) if known else None

    if compute(range(len(outcomes))) is None:
        return None, None
    return statistic(len(outcomes), compute), (first, second)


def _ways(outcomes: Sequence[Sequence[SureOutcome]]) -> dict[str, Scored]:
    every = [outcome for row in outcomes for outcome in row]
    shares = sorted(outcome.share for outcome in every)
    sures = sorted(outcome.confidence for outcome in every)

    def of_both(outcome: SureOutcome) -> float:
        return _rank(outcome.share, shares) + _rank(outcome.confidence, sures)

    def in_turn(outcome: SureOutcome) -> float:
        return round(outcome.share, 3) + _rank(outcome.confidence, sures) / 1e4

    return {
        "the winner's share of the weight": [[(one.share, one.right) for one in row] for row in outcomes],
        "the winners' mean confidence": [[(one.confidence, one.right) for one in row] for row in outcomes],
        "their share, then their confidence": [[(in_turn(one), one.right) for one in row] for row in outcomes],
        "the ranks of both added up": [[(of_both(one), one.right) for one in row] for row in outcomes],
    }


def _rank(value: float, among: Sequence[float]) -> float:
    return (bisect.bisect_left(among, value) + bisect.bisect_right(among, value)) / 2 / len(among)


def _known(confidence: float | None) -> float:
    return -math.inf if confidence is None else confidence


def _in_levels(rows: Scored) -> list[list[LevelCount]]:
    """The scores as levels of about as many outcomes each, equal ones on one level."""
    order = sorted(score for row in rows for score, _ in row)
    found: list[list[LevelCount]] = []
    for row in rows:
        counts: dict[int, list[int]] = {}
        for score, right in row:
            level = bisect.bisect_left(order, score) * LEVELS // len(order)
            counts.setdefault(level, [0, 0])[not right] += 1
        found.append([(level, right, wrong) for level, (right, wrong) in counts.items()])
    return found
