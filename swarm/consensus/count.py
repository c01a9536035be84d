"""The stages of a vote: call or words; then which tools with which arguments, or which kind of words and what they say.

Flat voting fails on tool calls: three calls of one tool with three arguments would lose to two identical refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from swarm.consensus.answers import Abstention, Reason
from swarm.consensus.final_answer import framed
from swarm.consensus.groups import ZERO, Ballot, Choice, Group, Vote, group_by, in_order, lead_of_first
from swarm.consensus.judge import JUDGE
from swarm.consensus.kinds import ProseKind, answer_of_kind, kinds_counted, prose_kind, weight_as
from swarm.consensus.options import Kind, Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading
from swarm.consensus.stopping import Lead
from swarm.consensus.strategies import AUTO, MAJORITY, MEDOID, WEIGHTED, VotingStrategy, most_votes
from swarm.consensus.tool_call_answer import ToolCallAnswer
from swarm.consensus.units import Frame, frame_of
from swarm.consensus.weights import EQUAL, VoterWeights

VOTING_STRATEGIES: Mapping[Strategy, VotingStrategy] = {
    Strategy.AUTO: AUTO,
    Strategy.MAJORITY: MAJORITY,
    Strategy.WEIGHTED: WEIGHTED,
    Strategy.MEDOID: MEDOID,
    Strategy.JUDGE: JUDGE,
}

_CALLS: tuple[Kind, ...] = ("tool_calls",)
_WITHOUT_THE_KIND: Mapping[ProseKind, Reason] = {
    "json": Reason.NOT_JSON,
    "code": Reason.NO_CODE,
    "final": Reason.NO_FINAL_ANSWER,
    "text": Reason.EMPTY,
}


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
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


def count(question: Question, ballots: Sequence[Ballot], weights: VoterWeights) -> Standing:
    """How the vote over `ballots` (at least one, of distinct voters) stands under a voting strategy."""
    if not question.tools:
        return _count_words(question, ballots, (), (), weights)
    voting, weightless = _weighed(ballots, lambda ballot: ballot.heads * weights.of(ballot.candidate.model, _CALLS[0]))
    if not voting:
        return Standing(_CALLS[0], _CALLS, None, (), (), weightless)
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
        tuple(Abstention(ballot.candidate, Reason.NO_WEIGHT) for ballot in weightless),
    )


def _count_calls(
    callers: Sequence[Ballot], speakers: Sequence[Ballot], leads: tuple[Lead, ...], weightless: tuple[Abstention, ...]
) -> Standing:
    """The names with the most weight, then among those calls the arguments with the most weight."""
    by_names = group_by(callers, lambda ballot: _call(ballot).names)
    by_arguments = group_by(by_names[0].ballots, _call_key)
    others = [ballot for group in by_names[1:] for ballot in group.ballots]
    dissent = (*by_arguments[1:], *group_by(others, _call_key), *in_order([speakers] if speakers else []))
    return Standing(
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
) -> Standing:
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
        return Standing(kinds[0], kinds, None, (), (), abstentions)
    frame = _frame(voting)
    choice = _choose(question, kind, voting, frame)
    winners = next(group for group in choice.groups if choice.winner in group.ballots)
    others, weightless_callers = _weighed(callers, lambda ballot: weight_as(ballot, kind, weights))
    dissent = (*(group for group in choice.groups if group is not winners), *group_by(others, _call_key))
    return Standing(
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
    return Abstention(ballot.candidate, Reason.CUT if ballot.reading.cut else _WITHOUT_THE_KIND[kind])


def _frame(ballots: Sequence[Ballot]) -> Frame:
    """How the units of the final answers in `ballots` are read."""
    return frame_of(
        [(ballot.reading.final.unit, ballot.heads) for ballot in ballots if ballot.reading.final is not None]
    )


def _choose(question: Question, kind: ProseKind, ballots: Sequence[Ballot], frame: Frame) -> Choice:
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
