"""The state of one vote after any number of arrivals, recomputed from scratch each time, and whether it may stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from swarm.consensus.abstention import Abstention, Flaw, Reason
from swarm.consensus.count import Kind, count, kind_alone
from swarm.consensus.groups import ZERO, Ballot, Group, total_weight, weight_of
from swarm.consensus.question import Question
from swarm.consensus.race import race
from swarm.consensus.reading import read
from swarm.generation import Candidate

MAX_CANDIDATES = 128  # MAX_VOTES voters, each replaced once

_ROUNDING = Fraction(1) + Fraction(1, 2**40)  # a caller adds up to 64 floats: their sum may be short by this factor


@dataclass(frozen=True, slots=True)
class Tally:
    """How a vote stands. `groups` has the winner's first and is empty while there is no valid ballot.

    `lead`: as long as less weight than this is outstanding, from voters not yet counted, neither the answer nor its
    kind nor the quorum can change; None: nothing can change it (a race is over).
    """

    kind: Kind
    winner: Candidate | None
    groups: tuple[Group, ...]
    abstentions: tuple[Abstention, ...]
    lead: Fraction | None
    similarity: float | None = None

    @property
    def votes(self) -> int:
        """Valid ballots."""
        return sum(len(group.ballots) for group in self.groups)

    @property
    def voting_weight(self) -> Fraction:
        return sum((group.weight for group in self.groups), ZERO)


def tally(question: Question, candidates: Sequence[Candidate], weights: Mapping[str, float] | None = None) -> Tally:
    """Count `candidates` under `question`. `weights` are by voter id, 1 where absent; 0 or less has no vote.

    The result is the same for every order of `candidates`, except that `first` and `single` take the first usable one.
    A voter given twice counts once. Raises ValueError for more than MAX_CANDIDATES.
    """
    if len(candidates) > MAX_CANDIDATES:
        raise ValueError(f"{len(candidates)} candidates: ask at most {MAX_CANDIDATES}")
    weights = weights or {}
    if question.strategy in ("first", "single"):
        return _race_tally(question, *race(question, candidates, weights))
    ballots, abstentions = _admit(question, sorted(candidates, key=_content), weights)
    if not ballots:
        return _nothing_valid(question, tuple(abstentions))
    standing = count(question, _with_confidence(ballots))
    groups, abstained = standing.groups, (*abstentions, *standing.abstentions)
    return Tally(
        kind=standing.kind,
        winner=standing.winner.candidate,
        groups=groups,
        abstentions=abstained,
        lead=min(standing.lead, _quorum_lead(groups, abstained, weights)),
        similarity=standing.similarity,
    )


def lead_is_unbeatable(tally: Tally, outstanding_weight: float) -> bool:
    """Nothing that ballots of `outstanding_weight` in all could say would change the result, so the vote may stop.

    Exact for everything that is counted; an answer chosen by likeness is only sure when nothing is outstanding.
    """
    if tally.winner is None:
        return False
    if tally.lead is None or outstanding_weight <= 0:
        return True
    return math.isfinite(outstanding_weight) and tally.lead > Fraction(outstanding_weight) * _ROUNDING


def _admit(
    question: Question, candidates: Sequence[Candidate], weights: Mapping[str, float]
) -> tuple[list[Ballot], list[Abstention]]:
    """Who votes and who abstains. Of a voter that occurs twice, only the first candidate that can vote does."""
    ballots: dict[str, Ballot] = {}
    abstentions: list[Abstention] = []
    for candidate in candidates:
        weight = weight_of(candidate.voter, weights)
        reading = read(question, candidate)
        if isinstance(reading, Flaw):
            abstentions.append(Abstention(candidate, reading.reason, reading.detail))
        elif weight == ZERO:
            abstentions.append(Abstention(candidate, Reason.NO_WEIGHT))
        elif candidate.voter in ballots:
            abstentions.append(Abstention(candidate, Reason.DUPLICATE))
        else:
            ballots[candidate.voter] = Ballot(candidate, reading, weight / 2 if reading.cut else weight, -math.inf)
    return list(ballots.values()), abstentions


def _content(candidate: Candidate) -> tuple[str | int | float, ...]:
    """Orders candidates by what they are, so that nothing after it can depend on when they came."""
    calls = (part for call in candidate.tool_calls for part in (call.name, call.arguments))
    return (
        candidate.voter,
        candidate.error or "",
        candidate.finish_reason or "",
        candidate.text,
        candidate.model,
        candidate.node,
        -_logprob(candidate),
        candidate.elapsed_ms,
        candidate.usage.completion_tokens,
        len(candidate.tool_calls),
        *calls,
    )


def _with_confidence(ballots: Sequence[Ballot]) -> list[Ballot]:
    """The ballots with their mean log-probabilities, which mean something only between answers of one model."""
    if len({ballot.candidate.model for ballot in ballots}) > 1:
        return list(ballots)
    return [replace(ballot, confidence=_logprob(ballot.candidate)) for ballot in ballots]


def _logprob(candidate: Candidate) -> float:
    logprob = candidate.mean_logprob
    return logprob if logprob is not None and math.isfinite(logprob) else -math.inf


def _quorum_lead(groups: Sequence[Group], abstentions: Sequence[Abstention], weights: Mapping[str, float]) -> Fraction:
    """The weight that may still abstain with half of all the weight asked having voted."""
    voted = [ballot for group in groups for ballot in group.ballots]
    heard = {ballot.candidate.voter for ballot in voted} | {entry.candidate.voter for entry in abstentions}
    return 2 * total_weight(voted) - sum((weight_of(voter, weights) for voter in heard), ZERO)


def _race_tally(question: Question, winner: Ballot | None, abstentions: tuple[Abstention, ...]) -> Tally:
    if winner is None:
        return _nothing_valid(question, abstentions)
    return Tally(kind_alone(question, winner), winner.candidate, (Group((winner,)),), abstentions, lead=None)


def _nothing_valid(question: Question, abstentions: tuple[Abstention, ...]) -> Tally:
    return Tally("json" if question.wants_json else "text", None, (), abstentions, ZERO)
