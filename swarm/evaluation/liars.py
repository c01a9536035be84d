"""What a vote still gets right when some of its seats belong to nodes that always answer the same wrong thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.evaluation.intervals import Estimate, mean_difference, mean_of
from swarm.evaluation.questions import Problem
from swarm.evaluation.replay import alone, outcome_of, vote
from swarm.evaluation.samples import Answer, Answered
from swarm.generation import Candidate, Usage

_LIES = {"number": ("987654321", "123456789"), "choice": ("A", "B")}


@dataclass(frozen=True, slots=True)
class Liars:
    """Votes of `k`: how often they are right with nobody lying, and what so many liars among the seats cost."""

    k: int
    honest: Estimate
    lost: Mapping[int, Estimate]


def lie_about(problem: Problem) -> str | None:
    """What a liar answers: the same to every problem, unless that happens to be right; None for other kinds."""
    for text in _LIES.get(problem.kind, ()):
        if not problem.is_right(Candidate(voter="liar", text=f"Answer: {text}", finish_reason="stop")):
            return text
    return None


def with_liars(answers: Sequence[Answer], lie: str, liars: int) -> list[Answer]:
    """`answers` with the last `liars` of them replaced; a liar takes the seat's name."""
    kept = list(answers[: len(answers) - liars])
    for seat in answers[len(kept) :]:
        told = Candidate(
            voter=seat.candidate.voter,
            model=seat.candidate.model,
            text=f"Answer: {lie}",
            finish_reason="stop",
            usage=Usage(completion_tokens=1),
        )
        kept.append(Answer(told, right=False))
    return kept


def measure_liars(answered: Sequence[Answered], model: str, k: int, counts: Sequence[int], seed: int) -> Liars | None:
    """Votes of `k` of `model` with so many liars among them; None for kinds of answers without a common lie."""
    honest: list[float] = []
    lied: dict[int, list[float]] = {count: [] for count in counts}
    for one in answered:
        lie = lie_about(one.problem)
        if lie is None:
            return None
        chosen = list(alone(one, model, k, seed))
        honest.append(_share([vote(one, answers).right for answers in chosen]))
        for count in counts:
            votes = (with_liars(answers, lie, count) for answers in chosen)
            lied[count].append(_share([outcome_of(one.question, answers).right for answers in votes]))
    lost = {count: mean_difference(lied[count], honest) for count in counts}
    return Liars(k, mean_of(honest), lost)


def _share(rights: Sequence[bool]) -> float:
    return sum(rights) / len(rights)
