"""Votes held again over samples that were drawn once, counted by the product's own tally.

A vote of k is held as a node holds it: seats are dealt over the models in turn, the first of each has its greedy
answer, the others samples, and a tie goes to the first seat. A plain vote has samples alone: a baseline. Whatever is
measured to choose by (weights, the best model) is tried on problems that it was not measured on: each half decides for
the other.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence

from swarm.consensus.answers import Flaw
from swarm.consensus.confidence import DOUBTFUL, weights_by_rank
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import read
from swarm.consensus.strategies import Place
from swarm.consensus.tally import confidence_of
from swarm.consensus.verdict import Verdict, decide
from swarm.consensus.waves import Voter, first_seats
from swarm.consensus.weights import EQUAL, VoterWeights, ballot_weights
from swarm.evaluation.samples import Answered, GradedAnswer, VoteOutcome
from swarm.registry.weights_file import Measured, Measurements

FEW = 20  # up to so many subsets are all taken
SUBSETS = 10  # of each problem's samples: more narrows nothing, since what differs most are the problems

_WORDS, _FLAWED = "words", "flawed"
_FIRST_SEAT: Place = (0, "")
_OTHER_SEAT: Place = (1, "")


def vote(one: Answered, answers: Sequence[GradedAnswer], strategy: Strategy | None = None) -> VoteOutcome:
    """The outcome of a full vote over some of the answers to one problem, given in the order of their seats."""
    question, seated = one.under(strategy), _is_held(one, answers)
    key = question.strategy, seated, what_counts(question, answers, seated=seated)
    outcome = one.outcomes.get(key)
    if outcome is None:
        outcome = one.outcomes[key] = outcome_of(question, answers, seated=seated)
    return outcome


def weighted_vote(one: Answered, answers: Sequence[GradedAnswer], known: Measurements) -> VoteOutcome:
    """The outcome under the weights that `known` gives; who has none, is not asked."""
    weights = ballot_weights(Strategy.WEIGHTED, known, [answer.candidate.model for answer in answers])
    asked = [answer for answer in answers if weights.of(answer.candidate.model, one.problem.kind) > 0]
    return outcome_of(one.question, asked, weights, seated=True)


def outcome_of(
    question: Question, answers: Sequence[GradedAnswer], weights: VoterWeights = EQUAL, *, seated: bool = False
) -> VoteOutcome:
    """What the product decides when exactly these have answered. `seated`: the first of them has the first seat."""
    verdict = verdict_on(question, answers, weights, seated=seated)
    winner = None if verdict.winner is None else verdict.winner.voter
    right = any(answer.right for answer in answers if answer.candidate.voter == winner)
    return VoteOutcome(right, verdict.agreement or 0.0)


def verdict_on(
    question: Question, answers: Sequence[GradedAnswer], weights: VoterWeights = EQUAL, *, seated: bool = False
) -> Verdict:
    """The product's verdict when exactly these have answered."""
    asked = len(answers)
    return decide(
        question,
        [answer.candidate for answer in answers],
        asked=asked,
        wanted=asked,
        stopped_by="all_in",
        weights=weights,
        places=places_of(answers) if seated else {},
    )


def places_of(answers: Sequence[GradedAnswer]) -> dict[str, Place]:
    """Whose place goes first in a tie: the first one's."""
    return {answer.candidate.voter: _OTHER_SEAT if seat else _FIRST_SEAT for seat, answer in enumerate(answers)}


def what_counts(question: Question, answers: Sequence[GradedAnswer], *, seated: bool) -> Hashable:
    """The same for two votes that must end alike: all that the tally sees of them but names, where that can be told.

    Calls and final answers are counted by what they say. Who has them matters where a tie is settled by names (which
    say nothing of an answer), where prose may win, or where not all confidences differ: there the voters are the key.
    """
    told = [_as_counted(question, answer) for answer in answers]
    words = sum(sort == _WORDS for sort in told)
    valid = sum(sort != _FLAWED for sort in told)
    sure = question.by_confidence
    confidences = {answer.candidate.confidence for answer in answers}
    ranked = len(confidences) == len(answers) and None not in confidences
    if None in told or 2 * words >= valid or (sure and not (ranked and _of_one_model(answers))):
        return frozenset(answer.candidate.voter for answer in answers)
    if sure:
        order = sorted(range(len(answers)), key=lambda seat: answers[seat].candidate.confidence or 0.0)
        weights = weights_by_rank({each.voter: confidence_of(each) for each in (one.candidate for one in answers)})
        doubted = [weights[answer.candidate.voter] == DOUBTFUL for answer in answers]
        return tuple((told[seat], seated and seat == 0, doubted[seat]) for seat in order)
    return told[0] if seated else None, frozenset(Counter(told).items())


def _as_counted(question: Question, answer: GradedAnswer) -> Hashable:
    """What an answer says, and whether that is right; None where several things in it may be counted."""
    reading = read(question, answer.candidate)
    if isinstance(reading, Flaw):
        return _FLAWED
    if reading.call is not None:
        return reading.call.key, answer.right
    if reading.cut or reading.json is not None or reading.code is not None:
        return None
    if question.tools or reading.final is None:
        return _WORDS
    return (reading.final, answer.right) if question.wants_final_answer else None


def _is_held(one: Answered, answers: Sequence[GradedAnswer]) -> bool:
    """Whether the first of them is its model's greedy answer."""
    return bool(answers) and answers[0] is one.greedy.get(answers[0].candidate.model)


def _of_one_model(answers: Sequence[GradedAnswer]) -> bool:
    return len({answer.candidate.model for answer in answers}) == 1


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


def deal(models: Sequence[str], k: int) -> list[str]:
    """The model of each of `k` seats: over all of `models` in turn, the strongest first."""
    return [models[seat % len(models)] for seat in range(k)]


def held(one: Answered, models: Sequence[str], k: int, seed: int) -> Iterator[list[GradedAnswer]]:
    """Votes of `k` by one model or several, as a node holds them: the answers in the order of their seats."""
    seats = deal(models, k)
    firsts = greedy_seats(seats)
    sampled = Counter(model for model, greedy in zip(seats, firsts, strict=True) if not greedy)
    for chosen in _samples_of_each(one, sampled, dice_for(seed, one.problem.key, *models, k)):
        yield [
            one.greedy[model] if greedy else chosen[model].pop() for model, greedy in zip(seats, firsts, strict=True)
        ]


def greedy_seats(models: Sequence[str]) -> list[bool]:
    """Which seats, given by their models, have their model's greedy answer: those that have it on a node."""
    firsts = first_seats([Voter(model) for model in models])
    return [seat in firsts for seat in range(len(models))]


def _samples_of_each(
    one: Answered, wanted: Mapping[str, int], dice: random.Random
) -> Iterator[dict[str, list[GradedAnswer]]]:
    """So many samples of each model: every way to take them where those are few, else some at random."""
    pools = [(model, one.samples[model], count) for model, count in wanted.items()]
    if math.prod(math.comb(len(pool), count) for _, pool, count in pools) <= FEW:
        ways = [[(model, way) for way in itertools.combinations(pool, count)] for model, pool, count in pools]
        yield from ({model: list(way) for model, way in chosen} for chosen in itertools.product(*ways))
        return
    for _ in range(SUBSETS):
        yield {model: dice.sample(pool, count) for model, pool, count in pools}


def plain(one: Answered, model: str, k: int, seed: int) -> Iterator[list[GradedAnswer]]:
    """Subsets of `k` samples of one model, without its greedy answer."""
    return subsets(one.samples[model], k, dice_for(seed, one.problem.key, model, k))


def halves(answered: Sequence[Answered]) -> tuple[Sequence[Answered], Sequence[Answered]]:
    """For the problems at even and at odd places, those to choose by: the others; a lone problem has to do itself."""
    return answered[1::2] or answered, answered[::2]


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
