"""How a vote is counted, stage by stage, and how far each stage is from being turned.

The stages: call or words; then which tools with which arguments, or which kind of words and what they say. Flat voting
fails on tool calls: three calls of one tool with three arguments would lose to two identical refusals. Which kind of
answer replies in words are compared as is a stage of its own, by heads.

Each stage reports a `Lead`. The posterior stop (opt-in, for many samples) asks for less than an unbeatable one: after
`a` votes for the first answer and `b` for the second, P is the probability that the first is the more likely of the two
under a uniform prior (adaptive consistency, arXiv 2305.11860). It may change an outcome: in up to one vote of twenty,
by its own account.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from swarm.consensus.answers import AbstainReason, Abstention
from swarm.consensus.final_answer import Frame, frame_of, framed
from swarm.consensus.json_answer import ToolCallAnswer
from swarm.consensus.judge import JUDGE
from swarm.consensus.options import Kind, Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading
from swarm.consensus.strategies import (
    AUTO,
    CASCADE,
    MAJORITY,
    MEDOID,
    WEIGHTED,
    ZERO,
    Ballot,
    Chosen,
    Group,
    Vote,
    VotingStrategy,
    group_by,
    in_order,
    lead_of_first,
    most_votes,
)
from swarm.consensus.weights import EQUAL, KnownSource, VoterWeights, source_of

POSTERIOR_STOP = 0.95  # stops at 4-0, 6-1, 8-2, 9-3
MIN_VOTES_FOR_POSTERIOR = 8  # with fewer the unbeatable lead is nearly as early, and exact
ProseKind = Literal["json", "code", "final", "text"]
_KINDS: Mapping[ProseKind, tuple[Kind, ...]] = {
    "json": ("json",),
    "code": ("code",),
    "final": ("number", "choice"),
    "text": ("text",),
}
_IN_ORDER: tuple[ProseKind, ...] = ("json", "code", "final")
_IN_ORDER_WHERE_ASKED: tuple[ProseKind, ...] = ("json", "final", "code")  # code beside a demanded answer is the working
VOTING_STRATEGIES: Mapping[Strategy, VotingStrategy] = {
    Strategy.AUTO: AUTO,
    Strategy.MAJORITY: MAJORITY,
    Strategy.WEIGHTED: WEIGHTED,
    Strategy.CONFIDENT: WEIGHTED,  # by other weights: each ballot's own (`tally.py`)
    Strategy.MEDOID: MEDOID,
    Strategy.JUDGE: JUDGE,
    Strategy.CASCADE: CASCADE,
}
_CALLS: tuple[Kind, ...] = ("tool_calls",)
_WITHOUT_THE_KIND: Mapping[ProseKind, AbstainReason] = {
    "json": AbstainReason.NOT_JSON,
    "code": AbstainReason.NO_CODE,
    "final": AbstainReason.NO_FINAL_ANSWER,
    "text": AbstainReason.EMPTY,
}


@dataclass(frozen=True, slots=True)
class Lead:
    """One stage stays as it is as long as less than `ahead` is outstanding.

    Ballots are measured as the stage counts them: by their weight as an answer of `kinds` (the heaviest of them, where
    it is not known yet which they will be), or by heads where there are none.
    """

    ahead: Fraction
    kinds: tuple[Kind, ...] = ()


def stands(leads: Sequence[Lead], outstanding: Sequence[KnownSource], weights: VoterWeights) -> bool:
    """No stage can be turned by the seats outstanding."""
    return all(lead.ahead > weights.outstanding(outstanding, lead.kinds) for lead in leads)


def posterior(first: int, second: int) -> float:
    """P that the answer with `first` votes is more likely than the one with `second`."""
    votes = first + second + 1
    return sum(math.comb(votes, j) for j in range(first + 1)) / 2**votes


def answer_of_kind(reading: Reading, kind: ProseKind) -> object | None:
    """What `reading` offers as an answer of `kind`, if anything."""
    match kind:
        case "json":
            return reading.json
        case "code":
            return reading.code
        case "final":
            return reading.final
        case "text":
            return reading.text


def kinds_counted(kind: ProseKind) -> tuple[Kind, ...]:
    """The kinds by which answers of `kind` are weighed: numbers and choices stand against each other."""
    return _KINDS[kind]


def weight_as(ballot: Ballot, kind: ProseKind, weights: VoterWeights) -> Fraction:
    """What `ballot` weighs where `kind` is counted; a final answer by the kind that it is."""
    kinds = _KINDS[kind]
    if kind == "final" and ballot.reading.final is not None:
        kinds = (ballot.reading.final.kind,)
    return ballot.votes * weights.at_most(source_of(ballot.candidate), kinds)


def prose_kind(question: Question, ballots: Sequence[Ballot], weights: VoterWeights) -> tuple[ProseKind, Fraction]:
    """The first kind that over half of `ballots` carry, by heads, else text; and its lead.

    By heads, because what form replies take is no matter of being right; an answer without weight in its kind carries
    nothing. The lead is exact: with fewer heads outstanding, no further ballots can change the kind. Where JSON was
    demanded every ballot is JSON, now and later.
    """
    heads = sum((ballot.heads for ballot in ballots), ZERO)
    if question.wants_json:
        return "json", heads
    lead = heads
    for kind in _IN_ORDER_WHERE_ASKED if question.wants_final_answer else _IN_ORDER:
        carried = sum((ballot.heads for ballot in ballots if _carries(ballot, kind, weights)), ZERO)
        if 2 * carried > heads:
            return kind, min(lead, 2 * carried - heads)
        lead = min(lead, heads - 2 * carried)
    return "text", lead


def _carries(ballot: Ballot, kind: ProseKind, weights: VoterWeights) -> bool:
    return answer_of_kind(ballot.reading, kind) is not None and weight_as(ballot, kind, weights) > ZERO


@dataclass(frozen=True, slots=True, eq=False)
class VoteCount:
    """How the vote stands. `groups` has the winner's first; `kinds` are those that its ballots were weighed by.

    `winner` is None where no ballot has weight in the kind that is counted. `mute` ballots are in words, but give no
    answer of that kind.
    """

    kind: Kind
    kinds: tuple[Kind, ...]
    winner: Ballot | None
    groups: tuple[Group, ...]
    leads: tuple[Lead, ...]
    abstentions: tuple[Abstention, ...] = ()
    mute: int = 0
    similarity: float | None = None


def count(question: Question, ballots: Sequence[Ballot], weights: VoterWeights) -> VoteCount:
    """How the vote over `ballots` (at least one, of distinct voters) stands under a voting strategy."""
    if not question.tools:
        return _count_words(question, ballots, (), (), weights)
    voting, weightless = _weighed(
        ballots, lambda ballot: ballot.votes * weights.of(source_of(ballot.candidate), _CALLS[0])
    )
    if not voting:
        return VoteCount(_CALLS[0], _CALLS, None, (), (), weightless)
    sides = group_by(voting, lambda ballot: ballot.reading.call is not None)
    leads = (Lead(lead_of_first(sides), _CALLS),)
    losers = tuple(ballot for side in sides[1:] for ballot in side.ballots)
    if sides[0].ballots[0].reading.call is not None:
        return _count_calls(sides[0].ballots, losers, leads, weightless)
    standing = _count_words(question, sides[0].ballots, losers, leads, weights)
    return replace(standing, abstentions=(*weightless, *standing.abstentions))


def kind_alone(question: Question, ballot: Ballot) -> Kind:
    """The kind of an answer that was compared with nothing."""
    if ballot.candidate.tool_calls:
        return "tool_calls"
    return _reported_kind(prose_kind(question, [ballot], EQUAL)[0], ballot.reading)


def _weighed(
    ballots: Sequence[Ballot], weight: Callable[[Ballot], Fraction]
) -> tuple[list[Ballot], tuple[Abstention, ...]]:
    """The ballots with the weights of this stage, and those that have none."""
    weighed = [replace(ballot, weight=weight(ballot)) for ballot in ballots]
    weightless = (ballot for ballot in weighed if ballot.weight == ZERO)
    return (
        [ballot for ballot in weighed if ballot.weight > ZERO],
        tuple(Abstention(ballot.candidate, AbstainReason.NO_WEIGHT) for ballot in weightless),
    )


def _count_calls(
    callers: Sequence[Ballot], speakers: Sequence[Ballot], leads: tuple[Lead, ...], weightless: tuple[Abstention, ...]
) -> VoteCount:
    """The names with the most weight, then among those calls the arguments with the most weight."""
    by_names = group_by(callers, lambda ballot: _call(ballot).names)
    by_arguments = group_by(by_names[0].ballots, _call_key)
    others = [ballot for group in by_names[1:] for ballot in group.ballots]
    dissent = (*by_arguments[1:], *group_by(others, _call_key), *in_order([speakers] if speakers else []))
    return VoteCount(
        kind=_CALLS[0],
        kinds=_CALLS,
        winner=by_arguments[0].ballots[0],
        groups=(by_arguments[0], *_ranked(dissent)),
        leads=(*leads, Lead(lead_of_first(by_names), _CALLS), Lead(lead_of_first(by_arguments), _CALLS)),
        abstentions=weightless,
    )


def _count_words(
    question: Question,
    speakers: Sequence[Ballot],
    callers: Sequence[Ballot],
    leads: tuple[Lead, ...],
    weights: VoterWeights,
) -> VoteCount:
    """What kind of answer most replies are, then the answer that the strategy chooses among those."""
    kind, kind_lead = prose_kind(question, speakers, weights)
    kinds = kinds_counted(kind)
    mute = [ballot for ballot in speakers if answer_of_kind(ballot.reading, kind) is None]
    voting, weightless = _weighed(
        [ballot for ballot in speakers if answer_of_kind(ballot.reading, kind) is not None],
        lambda ballot: weight_as(ballot, kind, weights),
    )
    abstentions = (*weightless, *(_without(kind, ballot) for ballot in mute))
    if not voting:
        return VoteCount(kinds[0], kinds, None, (), (), abstentions)
    frame = _frame(voting)
    choice = _choose(question, kind, voting, frame)
    winners = next(group for group in choice.groups if choice.winner in group.ballots)
    others, weightless_callers = _weighed(callers, lambda ballot: weight_as(ballot, kind, weights))
    dissent = (*(group for group in choice.groups if group is not winners), *group_by(others, _call_key))
    return VoteCount(
        kind=_reported_kind(kind, choice.winner.reading),
        kinds=kinds,
        winner=choice.winner,
        groups=(winners, *_ranked(dissent)),
        leads=(*leads, Lead(min(kind_lead, frame.lead) if kind == "final" else kind_lead), Lead(choice.lead, kinds)),
        abstentions=(*abstentions, *weightless_callers),
        mute=len(mute),
        similarity=choice.similarity,
    )


def _without(kind: ProseKind, ballot: Ballot) -> Abstention:
    return Abstention(ballot.candidate, AbstainReason.CUT if ballot.reading.cut else _WITHOUT_THE_KIND[kind])


def _frame(ballots: Sequence[Ballot]) -> Frame:
    """How the units of the final answers in `ballots` are read."""
    return frame_of(
        [(ballot.reading.final.unit, ballot.heads) for ballot in ballots if ballot.reading.final is not None]
    )


def _choose(question: Question, kind: ProseKind, ballots: Sequence[Ballot], frame: Frame) -> Chosen:
    """What the strategy chooses among `ballots`, all of which have an answer of `kind`."""
    strategy, known = VOTING_STRATEGIES[question.strategy], question.likenesses
    match kind:
        case "json":
            objects = [Vote(b, answer) for b in ballots if (answer := b.reading.json) is not None]
            return strategy.structured(objects, known)
        case "code":
            programs = [Vote(b, answer) for b in ballots if (answer := b.reading.code) is not None]
            return strategy.structured(programs, known)
        case "final":
            finals = [(b, answer) for b in ballots if (answer := b.reading.final) is not None]
            return most_votes([Vote(b, framed(answer, frame)) for b, answer in finals], known)
        case "text":
            return strategy.prose([Vote(b, answer) for b in ballots if (answer := b.reading.text) is not None], known)


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
