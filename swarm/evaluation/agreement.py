"""How far agreement can be trusted: is it higher where a vote is right, and how right are votes above a threshold.

And liars: what a vote still gets right when some of its voters always give the same wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from swarm.consensus.options import Strategy
from swarm.consensus.weights import VoterWeights, ballot_weights, source_of
from swarm.evaluation.intervals import Estimate, mean_difference, mean_of, ratio_of_sums, statistic
from swarm.evaluation.questions import Problem
from swarm.evaluation.replay import held, measured, outcome_of, vote
from swarm.evaluation.samples import Answered, GradedAnswer, VoteOutcome
from swarm.generation import Candidate, Usage
from swarm.registry.weights_file import Measurements

Counts = tuple[tuple[int, int], ...]  # (right, wrong) outcomes at each level of agreement
LevelCount = tuple[int, int, int]  # the level, how many outcomes there are right, and how many wrong

_LEVEL_DECIMALS = 6
LIAR = "liar"  # begins the node ids of those who lie
_LIES = {"number": ("987654321", "123456789"), "choice": ("A", "B")}


@dataclass(frozen=True, slots=True)
class TrustLevel:
    """The share of all votes (`coverage`) with at least this `agreement`, and the share of these that are right."""

    agreement: float
    coverage: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class AgreementSignal:
    """Votes of `k`. `auroc`: the chance that a right outcome has more agreement than a wrong one; None without both."""

    k: int
    auroc: Estimate | None
    curve: tuple[TrustLevel, ...]


def auroc(levels: Iterable[tuple[float, float]]) -> float | None:
    """The area under the curve of (right, wrong) counts in ascending order of agreement; ties count half."""
    above_wrong = wrong_so_far = right_so_far = 0.0
    for right, wrong in levels:
        above_wrong += right * (wrong_so_far + wrong / 2)
        right_so_far += right
        wrong_so_far += wrong
    return above_wrong / (right_so_far * wrong_so_far) if right_so_far and wrong_so_far else None


def measure_agreement(answered: Sequence[Answered], model: str, k: int, seed: int) -> AgreementSignal:
    """Votes of `k` of `model` on every problem."""
    return agreement_of(k, [[vote(one, chosen) for chosen in held(one, [model], k, seed)] for one in answered])


def agreement_of(k: int, outcomes: Sequence[Sequence[VoteOutcome]]) -> AgreementSignal:
    """The signal in these outcomes: several for each problem, one sequence a problem."""
    levels = sorted({_level(outcome) for row in outcomes for outcome in row})
    place = {level: at for at, level in enumerate(levels)}
    counts = [_counts(row, place) for row in outcomes]
    curve: list[TrustLevel] = []
    for at, level in enumerate(levels):
        covered = [float(sum(right + wrong for right, wrong in row[at:])) for row in counts]
        rights = [float(sum(right for right, _ in row[at:])) for row in counts]
        coverage = sum(covered) / sum(len(row) for row in outcomes)
        curve.append(TrustLevel(level, coverage, ratio_of_sums(rights, covered)))
    return AgreementSignal(k, _auroc_of(counts, len(levels)), tuple(curve))


def _auroc_of(counts: Sequence[Counts], levels: int) -> Estimate | None:
    return area([[(at, right, wrong) for at, (right, wrong) in enumerate(row)] for row in counts], levels)


def area(rows: Sequence[Sequence[LevelCount]], levels: int) -> Estimate | None:
    """The area under the curve, with its interval, of each problem's outcomes; None without right and wrong ones."""
    told = [[entry for entry in row if entry[1] or entry[2]] for row in rows]

    def compute(chosen: Sequence[int]) -> float | None:
        return auroc(summed(told, chosen, levels))

    return None if compute(range(len(told))) is None else statistic(len(told), compute)


def summed(rows: Sequence[Sequence[LevelCount]], chosen: Iterable[int], levels: int) -> Iterable[tuple[float, float]]:
    """(right, wrong) at each level, over the problems `chosen`."""
    right, wrong = [0] * levels, [0] * levels
    for problem in chosen:
        for at, more_right, more_wrong in rows[problem]:
            right[at] += more_right
            wrong[at] += more_wrong
    return zip(right, wrong, strict=True)


def _level(outcome: VoteOutcome) -> float:
    return round(outcome.agreement, _LEVEL_DECIMALS)


def _counts(row: Sequence[VoteOutcome], place: dict[float, int]) -> Counts:
    counts = [[0, 0] for _ in place]
    for outcome in row:
        counts[place[_level(outcome)]][not outcome.right] += 1
    return tuple((right, wrong) for right, wrong in counts)


@dataclass(frozen=True, slots=True)
class Liars:
    """Votes of `k`: the share that is right without liars, and what each number of liars takes from it.

    `lost_weighed`: where every node's votes weigh what it was right at on the other half of the problems.
    """

    k: int
    honest: Estimate
    lost: Mapping[int, Estimate]
    lost_weighed: Mapping[int, Estimate] = field(default_factory=dict[int, Estimate])


def lie_about(problem: Problem) -> str | None:
    """What a liar answers: the same to every problem, unless that is right; None for kinds without a common lie."""
    for text in _LIES.get(problem.kind, ()):
        if not problem.is_right(Candidate(voter="liar", text=f"Answer: {text}", finish_reason="stop")):
            return text
    return None


def with_liars(answers: Sequence[GradedAnswer], lie: str, liars: int) -> list[GradedAnswer]:
    """`answers` with the last `liars` of them replaced by the lie, under the same voters' names and the same model's.

    Each liar is a node of its own.
    """
    kept = list(answers[: len(answers) - liars])
    for seat in answers[len(kept) :]:
        lying = Candidate(
            voter=seat.candidate.voter,
            model=seat.candidate.model,
            node_id=f"{LIAR} {len(kept)}",
            text=f"Answer: {lie}",
            finish_reason="stop",
            usage=Usage(completion_tokens=1),
        )
        kept.append(GradedAnswer(lying, right=False))
    return kept


def measure_liars(answered: Sequence[Answered], model: str, k: int, counts: Sequence[int], seed: int) -> Liars | None:
    """Votes of `k` of `model` with so many liars among them; None for kinds of answers without a common lie."""
    honest: list[float] = []
    lied: dict[int, list[float]] = {count: [] for count in counts}
    weighed: dict[int, list[float]] = {count: [] for count in counts}
    halves = [measured(answered[1::2], [model]), measured(answered[::2], [model])]
    for at, one in enumerate(answered):
        lie = lie_about(one.problem)
        if lie is None:
            return None
        chosen = list(held(one, [model], k, seed))
        honest.append(_share([vote(one, answers).right for answers in chosen]))
        for count in counts:
            votes = [with_liars(answers, lie, count) for answers in chosen]
            known = [weights_of_nodes(answers, halves[at % 2]) for answers in votes]
            lied[count].append(_share([outcome_of(one.question, answers, seated=True).right for answers in votes]))
            weighed[count].append(
                _share(
                    [
                        outcome_of(one.question, answers, weights, seated=True).right
                        for answers, weights in zip(votes, known, strict=True)
                    ]
                )
            )
    lost = {count: mean_difference(lied[count], honest) for count in counts}
    lost_weighed = {count: mean_difference(weighed[count], honest) for count in counts}
    return Liars(k, mean_of(honest), lost, lost_weighed)


def weights_of_nodes(answers: Sequence[GradedAnswer], honest: Measurements) -> VoterWeights:
    """The weights of a ballot in which each node was measured: the liars wrong on as many questions as others had."""
    sources = [source_of(answer.candidate) for answer in answers]
    own = {
        source: {kind: replace(counts, correct=0) for kind, counts in honest.get(source.model, {}).items()}
        for source in sources
        if source.node.startswith(LIAR)
    }
    return ballot_weights(Strategy.AUTO, honest, sources, own=own)


def _share(rights: Sequence[bool]) -> float:
    return sum(rights) / len(rights)
