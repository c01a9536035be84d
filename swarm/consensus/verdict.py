"""What a vote decided, in terms a client can check: who won, how many agreed, who disagreed, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from pydantic import JsonValue

from swarm.consensus.abstention import Reason
from swarm.consensus.count import Kind
from swarm.consensus.groups import ZERO, Ballot, Group, weight_of
from swarm.consensus.question import Question, Strategy
from swarm.consensus.tally import Tally, tally
from swarm.generation import Candidate, JsonObject

StoppedBy = Literal["all_in", "unbeatable_lead", "deadline", "first", "single"]

_DECIMALS = 4  # of every share and weight reported

# Without one valid ballot the least flawed answer is still better than none; the order is how usable it is as it is.
_BEST_EFFORT = (
    Reason.CUT,
    Reason.NO_WEIGHT,
    Reason.BREAKS_SCHEMA,
    Reason.NOT_JSON,
    Reason.TOO_LARGE,
    Reason.UNCLOSED_REASONING,
    Reason.FILTERED,
    Reason.EMPTY,
    Reason.MALFORMED_ARGUMENTS,
    Reason.UNKNOWN_TOOL,
)


@dataclass(frozen=True, slots=True)
class CandidateSummary:
    """One candidate's part in the vote. `group` counts from the winner's, 0; None where it `abstained` for a reason."""

    voter: str
    model: str
    group: int | None
    weight: float
    tokens: int
    elapsed_ms: int
    abstained: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The outcome of a vote. `winner` is a voter's own answer, unchanged; None if every candidate failed.

    `votes` counts valid ballots of `asked` voters, where `wanted` were hoped for. `agreement` is the winning group's
    share of the voting weight, 0..1 (for text: of answers in nearly the same words); None where nothing was compared:
    a race, a lone ballot, or no quorum. `margin` is the weight by which the winning group leads the next; negative
    where the most central answer won over a more frequent one. `similarity`: the mean likeness of the others to the
    winner, 0..1, where likeness decided. `degraded`: there was no quorum, so this is no consensus.
    """

    winner: Candidate | None
    strategy: Strategy
    kind: Kind
    votes: int
    asked: int
    wanted: int
    agreement: float | None
    margin: float
    stopped_by: StoppedBy
    quorum: bool
    degraded: bool
    dissent: tuple[Group, ...]
    candidates: tuple[CandidateSummary, ...]
    total_completion_tokens: int
    similarity: float | None = None


def decide(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    asked: int,
    wanted: int,
    stopped_by: StoppedBy,
    weights: Mapping[str, float] | None = None,
) -> Verdict:
    """The verdict on `candidates`, those that failed included, of `asked` voters; `weights` as for `tally`.

    Quorum: half of those asked, and half of the asked weight. Where no ballot is valid, the least flawed answer wins,
    and the verdict is degraded.
    """
    counted = tally(question, candidates, weights)
    races = question.strategy in ("first", "single")
    winner = counted.winner or _least_flawed(counted, in_given_order=races, candidates=candidates)
    quorum = counted.winner is not None and (races or _has_quorum(counted, candidates, asked, weights or {}))
    compared = quorum and not races and counted.votes > 1
    return Verdict(
        winner=winner,
        strategy=question.strategy,
        kind=counted.kind,
        votes=counted.votes,
        asked=asked,
        wanted=wanted,
        agreement=float(counted.groups[0].weight / counted.voting_weight) if compared else None,
        margin=_margin(counted),
        stopped_by=stopped_by,
        quorum=quorum,
        degraded=not quorum,
        dissent=counted.groups[1:],
        candidates=_summaries(counted),
        total_completion_tokens=sum(candidate.usage.completion_tokens for candidate in candidates),
        similarity=counted.similarity,
    )


def swarm_object(verdict: Verdict, *, coordinator: str, elapsed_ms: int) -> JsonObject:
    """The `swarm` object of a response, as clients see it."""
    shown: JsonObject = {
        "strategy": verdict.strategy,
        "kind": verdict.kind,
        "votes": verdict.votes,
        "asked": verdict.asked,
        "wanted": verdict.wanted,
        "agreement": None if verdict.agreement is None else round(verdict.agreement, _DECIMALS),
        "margin": _tidy(verdict.margin),
        "stopped_by": verdict.stopped_by,
        "quorum": verdict.quorum,
        "degraded": verdict.degraded,
        "winner": None if verdict.winner is None else verdict.winner.voter,
        "coordinator": coordinator,
        "elapsed_ms": elapsed_ms,
        "total_completion_tokens": verdict.total_completion_tokens,
        "candidates": [_shown(summary) for summary in verdict.candidates],
    }
    if verdict.similarity is not None:
        shown["similarity"] = round(verdict.similarity, _DECIMALS)
    return shown


def _has_quorum(counted: Tally, candidates: Sequence[Candidate], asked: int, weights: Mapping[str, float]) -> bool:
    """Half of the voters asked and half of their weight have voted; one not heard from counts 1."""
    heard = {candidate.voter for candidate in candidates}
    asked_weight = sum((weight_of(voter, weights) for voter in heard), Fraction(max(0, asked - len(heard))))
    return counted.votes >= math.ceil(asked / 2) and 2 * counted.voting_weight >= asked_weight


def _least_flawed(counted: Tally, *, in_given_order: bool, candidates: Sequence[Candidate]) -> Candidate | None:
    """The best of the candidates that abstained, failures excluded."""
    usable = [entry for entry in counted.abstentions if entry.reason in _BEST_EFFORT]
    if in_given_order:
        return usable[0].candidate if usable else None
    order = sorted(usable, key=lambda entry: (_BEST_EFFORT.index(entry.reason), entry.candidate.voter))
    return order[0].candidate if order else None


def _margin(counted: Tally) -> float:
    """The winning group's lead in weight over the heaviest other group."""
    if not counted.groups:
        return 0.0
    return float(counted.groups[0].weight - max((group.weight for group in counted.groups[1:]), default=ZERO))


def _summaries(counted: Tally) -> tuple[CandidateSummary, ...]:
    """Everybody's part: groups in order, then who abstained, by voter."""
    voted = [
        _summary(ballot.candidate, index, ballot)
        for index, group in enumerate(counted.groups)
        for ballot in sorted(group.ballots, key=lambda ballot: ballot.candidate.voter)
    ]
    abstained = sorted(counted.abstentions, key=lambda entry: (entry.candidate.voter, entry.reason))
    return (*voted, *(_summary(entry.candidate, None, None, str(entry)) for entry in abstained))


def _summary(
    candidate: Candidate, group: int | None, ballot: Ballot | None, abstained: str | None = None
) -> CandidateSummary:
    return CandidateSummary(
        voter=candidate.voter,
        model=candidate.model,
        group=group,
        weight=float(ballot.weight) if ballot is not None else 0.0,
        tokens=candidate.usage.completion_tokens,
        elapsed_ms=candidate.elapsed_ms,
        abstained=abstained,
    )


def _shown(summary: CandidateSummary) -> JsonObject:
    shown: JsonObject = {
        "voter": summary.voter,
        "model": summary.model,
        "group": summary.group,
        "weight": round(summary.weight, _DECIMALS),
        "tokens": summary.tokens,
        "ms": summary.elapsed_ms,
    }
    if summary.abstained is not None:
        shown["abstained"] = summary.abstained
    return shown


def _tidy(number: float) -> JsonValue:
    """Whole numbers without a decimal point, the rest rounded."""
    return int(number) if number.is_integer() else round(number, _DECIMALS)
