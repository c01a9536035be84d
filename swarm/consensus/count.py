"""The stages of a vote: call or words; then which tools with which arguments, or which kind of words and what they say.

Flat voting fails on tool calls: three calls of one tool with three arguments would lose to two identical refusals.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from swarm.consensus.abstention import Abstention, Reason
from swarm.consensus.auto import AUTO
from swarm.consensus.groups import Ballot, Choice, Group, Keyed, Vote, group_by, in_order, lead_of_first
from swarm.consensus.kinds import ProseKind, answer_of_kind, prose_kind
from swarm.consensus.majority import MAJORITY, most_votes
from swarm.consensus.medoid import MEDOID
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading
from swarm.consensus.tool_call_answer import ToolCallAnswer
from swarm.consensus.voting_strategy import VotingStrategy

Kind = Literal["tool_calls", "json", "code", "number", "choice", "text"]

VOTING_STRATEGIES: Mapping[str, VotingStrategy] = {"auto": AUTO, "majority": MAJORITY, "medoid": MEDOID}

_WITHOUT_THE_KIND: Mapping[ProseKind, Reason] = {
    "json": Reason.NOT_JSON,
    "code": Reason.NO_CODE,
    "final": Reason.NO_FINAL_ANSWER,
    "text": Reason.EMPTY,
}


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """How the vote stands. `groups` has the winner's first; `lead` is what may be outstanding without changing it."""

    kind: Kind
    winner: Ballot
    groups: tuple[Group, ...]
    lead: Fraction
    abstentions: tuple[Abstention, ...] = ()
    similarity: float | None = None


def count(question: Question, ballots: Sequence[Ballot]) -> Standing:
    """How the vote over `ballots` (at least one, of distinct voters) stands under a voting strategy."""
    sides = group_by(ballots, lambda ballot: ballot.reading.call is not None)
    lead = lead_of_first(sides)
    losers = tuple(ballot for side in sides[1:] for ballot in side.ballots)
    if sides[0].ballots[0].reading.call is not None:
        return _count_calls(sides[0].ballots, losers, lead)
    return _count_words(question, sides[0].ballots, losers, lead)


def kind_alone(question: Question, ballot: Ballot) -> Kind:
    """The kind of an answer that was compared with nothing."""
    if ballot.candidate.tool_calls:
        return "tool_calls"
    return _reported_kind(prose_kind(question, [ballot])[0], ballot.reading)


def _count_calls(callers: Sequence[Ballot], speakers: Sequence[Ballot], lead: Fraction) -> Standing:
    """The names with the most weight, then among those calls the arguments with the most weight."""
    by_names = group_by(callers, lambda ballot: _call(ballot).names)
    by_arguments = group_by(by_names[0].ballots, _call_key)
    lead = min(lead, lead_of_first(by_names), lead_of_first(by_arguments))
    others = [ballot for group in by_names[1:] for ballot in group.ballots]
    dissent = (*by_arguments[1:], *group_by(others, _call_key), *in_order([speakers] if speakers else []))
    return Standing("tool_calls", by_arguments[0].ballots[0], (by_arguments[0], *_ranked(dissent)), lead)


def _count_words(question: Question, speakers: Sequence[Ballot], callers: Sequence[Ballot], lead: Fraction) -> Standing:
    kind, kind_lead = prose_kind(question, speakers)
    voting = [ballot for ballot in speakers if answer_of_kind(ballot.reading, kind) is not None]
    choice = _choose(VOTING_STRATEGIES[question.strategy], kind, voting)
    winners = next(group for group in choice.groups if choice.winner in group.ballots)
    dissent = (*(group for group in choice.groups if group is not winners), *group_by(callers, _call_key))
    abstaining = (ballot for ballot in speakers if answer_of_kind(ballot.reading, kind) is None)
    return Standing(
        kind=_reported_kind(kind, choice.winner.reading),
        winner=choice.winner,
        groups=(winners, *_ranked(dissent)),
        lead=min(lead, kind_lead, choice.lead),
        abstentions=tuple(
            Abstention(ballot.candidate, Reason.CUT if ballot.reading.cut else _WITHOUT_THE_KIND[kind])
            for ballot in abstaining
        ),
        similarity=choice.similarity,
    )


def _choose(strategy: VotingStrategy, kind: ProseKind, ballots: Sequence[Ballot]) -> Choice:
    """What `strategy` chooses among `ballots`, all of which have an answer of `kind`."""
    match kind:
        case "json":
            return strategy.structured([Vote(b, answer) for b in ballots if (answer := b.reading.json) is not None])
        case "code":
            return strategy.structured([Vote(b, answer) for b in ballots if (answer := b.reading.code) is not None])
        case "final":
            finals: list[Vote[Keyed]] = [Vote(b, answer) for b in ballots if (answer := b.reading.final) is not None]
            return most_votes(finals)
        case "text":
            return strategy.prose([Vote(b, answer) for b in ballots if (answer := b.reading.text) is not None])


def _reported_kind(kind: ProseKind, winner: Reading) -> Kind:
    if kind != "final":
        return kind
    return "choice" if winner.final is not None and winner.final.kind == "choice" else "number"


def _call(ballot: Ballot) -> ToolCallAnswer:
    call = ballot.reading.call
    assert call is not None, "only callers are grouped by their calls"
    return call


def _call_key(ballot: Ballot) -> Hashable:
    return _call(ballot).key


def _ranked(groups: Sequence[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: group.rank)
