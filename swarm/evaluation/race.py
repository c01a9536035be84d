"""First to be ahead by k, replayed: what it asks for, and how often it is right, beside the majority of all its seats.

As a node does it: k seats are asked, and whenever all of those asked have answered, the fewest more that can bring one
answer k votes ahead; where the seats that are left cannot, the vote is undecided and the best there is goes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.consensus.question import Question
from swarm.consensus.tally import lead_over_others, tally, wanted_more
from swarm.evaluation.early_stop import in_any_order, stop_vote
from swarm.evaluation.intervals import Estimate, mean_difference, mean_of, ratio_of_sums
from swarm.evaluation.replay import dice_for, places_of, vote
from swarm.evaluation.samples import Answered, GradedAnswer

MOST_VOTES = 9
AHEAD_BY = (2, 3, 5)


@dataclass(frozen=True, slots=True)
class RacedVote:
    """Who was asked, in order, and whether an answer came far enough ahead."""

    asked: tuple[GradedAnswer, ...]
    decided: bool


@dataclass(frozen=True, slots=True)
class Race:
    """`ahead: by` over all replays. `asked` and `tokens` are of one vote; `right` counts the undecided as they go out.

    `right_where_decided`: None where none is. `over_majority`: against the majority of `most`, on the same seats.
    """

    by: int
    asked: Estimate
    tokens: Estimate
    right: Estimate
    undecided: Estimate
    right_where_decided: Estimate | None
    over_majority: Estimate


@dataclass(frozen=True, slots=True)
class Races:
    """Every race of `model` up to `most` votes, and the majority of as many, of which the lead stop asks fewer."""

    model: str
    most: int
    majority: Estimate
    majority_asked: Estimate
    majority_tokens: Estimate
    ahead: tuple[Race, ...]


def race_vote(question: Question, answers: Sequence[GradedAnswer], by: int) -> RacedVote:
    """The race over `answers`, seats in this order."""
    places = places_of(answers)
    asked = min(by, len(answers))
    while True:
        counted = tally(question, [answer.candidate for answer in answers[:asked]], places=places)
        more = wanted_more(counted, by, 0)
        if not more or asked + more > len(answers):
            return RacedVote(tuple(answers[:asked]), decided=lead_over_others(counted) >= by)
        asked += more


def measure_races(answered: Sequence[Answered], model: str, most: int, seed: int) -> Races:
    """Every race of `model` on every problem, with at most `most` votes."""
    ballots = [list(in_any_order(one, model, most, seed)) for one in answered]
    full = [
        _mean([vote(one, answers).right for answers in several]) for one, several in zip(answered, ballots, strict=True)
    ]
    asked: list[float] = []
    tokens: list[float] = []
    for one, several in zip(answered, ballots, strict=True):
        dice = dice_for(seed, one.problem.key, "race", most)
        stops = [stop_vote(one.question, answers, [dice.expovariate(1) for _ in answers]) for answers in several]
        asked.append(_mean([len(stop.arrived) + stop.cancelled for stop in stops]))
        tokens.append(
            _mean(
                [
                    _tokens(answers) * (most - stop.never_asked) / most
                    for stop, answers in zip(stops, several, strict=True)
                ]
            )
        )
    races = tuple(_race(answered, ballots, full, by) for by in AHEAD_BY if by <= most)
    return Races(model, most, mean_of(full), mean_of(asked), mean_of(tokens), races)


def _race(
    answered: Sequence[Answered], ballots: Sequence[Sequence[Sequence[GradedAnswer]]], full: Sequence[float], by: int
) -> Race:
    runs = [
        [race_vote(one.question, answers, by) for answers in several]
        for one, several in zip(answered, ballots, strict=True)
    ]
    rights = [[vote(one, run.asked).right for run in several] for one, several in zip(answered, runs, strict=True)]
    right = [_mean(several) for several in rights]
    decided = [_mean([run.decided for run in several]) for several in runs]
    both = [
        _mean([run.decided and fine for run, fine in zip(several, fines, strict=True)])
        for several, fines in zip(runs, rights, strict=True)
    ]
    return Race(
        by=by,
        asked=mean_of([_mean([len(run.asked) for run in several]) for several in runs]),
        tokens=mean_of([_mean([_tokens(run.asked) for run in several]) for several in runs]),
        right=mean_of(right),
        undecided=mean_of([1 - share for share in decided]),
        right_where_decided=ratio_of_sums(both, decided) if any(decided) else None,
        over_majority=mean_difference(right, full),
    )


def _tokens(answers: Sequence[GradedAnswer]) -> float:
    return float(sum(answer.tokens for answer in answers))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
