"""What a vote decided, in terms a client can check: who won, how many agreed, who disagreed, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from swarm.consensus.answers import AbstainReason
from swarm.consensus.cascade import Cascade, share_agreeing, why_no_answer_stands, with_the_strongest
from swarm.consensus.judge import disputed, judged
from swarm.consensus.options import Kind, Strategy
from swarm.consensus.question import Question
from swarm.consensus.strategies import Ballot, Group, Place
from swarm.consensus.tally import Tally, lead_over_others, tally, voters_counted
from swarm.consensus.weights import EQUAL, Basis, KnownSource, VoterWeights
from swarm.generation import Candidate

StoppedBy = Literal[
    "all_in", "unbeatable_lead", "posterior", "ahead", "out_of_reach", "agreed", "strongest", "deadline", "first",
    "single",
]  # fmt: skip
VerdictOutcome = Literal["consensus", "plurality", "undecided", "degraded", "single"]

MAJORITY = 0.5  # of the votes counted, and of their weight: an answer needs more than this to be a consensus

# Without one valid ballot the least flawed answer is still better than none; the order is how usable it is as it is.
_BEST_EFFORT = (
    AbstainReason.CUT,
    AbstainReason.NO_WEIGHT,
    AbstainReason.BREAKS_SCHEMA,
    AbstainReason.NOT_JSON,
    AbstainReason.TOO_LARGE,
    AbstainReason.UNCLOSED_REASONING,
    AbstainReason.FILTERED,
    AbstainReason.EMPTY,
    AbstainReason.MALFORMED_ARGUMENTS,
    AbstainReason.UNKNOWN_TOOL,
)


@dataclass(frozen=True, slots=True)
class CandidateSummary:
    """One candidate's part in the vote. `group` counts from the winner's, 0; None where it `abstained` for a reason.

    `temperature` is None where its engine's own was left to it. `repaired`: what was put right of its calls.
    """

    voter: str
    model: str
    group: int | None
    weight: float
    tokens: int
    elapsed_ms: int
    abstained: str | None = None
    temperature: float | None = None
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CascadeOutcome:
    """What became of a cascade: whether the `strong` model was `asked`, and the small ones' agreement, 0..1.

    That is what their answer had to reach, the `threshold`, to stand; None where none of them voted. `strong` is None
    where no model was stronger than the others, and `why_not` says so: they held a plain vote.
    """

    strong: str | None
    asked: bool = False
    agreement: float | None = None
    threshold: float | None = None
    measured: bool = False
    why_not: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The outcome of a vote. `winner` is a voter's own answer, unchanged; None if every candidate failed.

    `votes` counts valid ballots of `asked` voters, where `wanted` were hoped for. `agreement` is the winning group's
    share of the voting weight, 0..1 (for text: of answers in nearly the same words); None where nothing was compared:
    a race, a lone ballot, ballots of one peer alone, or no quorum. `margin` is the weight by which the winning group
    leads the next; negative where the most central answer won over a more frequent one, or the judge chose a rarer one.
    `similarity`: the mean likeness of the others to the winner, 0..1, where likeness decided. `degraded`: this is no
    consensus, and `shortfall` says why: no quorum, or less agreement than was asked for. `weights`: whether ballots
    weighed what was measured. `judge`: the voter that picked the answer, if one did. `saved`: seats planned that did
    not have to answer. `wasted_tokens`: what cancelled voters had generated, as far as known; None where nothing is.
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
    weights: Basis = "equal"
    judge: str | None = None
    saved: int = 0
    wasted_tokens: int | None = None
    shortfall: str | None = None
    undecided: bool = False
    cascade: CascadeOutcome | None = None

    @property
    def outcome(self) -> VerdictOutcome:
        """`consensus`: more than half of the votes counted agree, and have more than half of the weight.

        `plurality`: they were compared, and no answer has that. `single`: one answer stands for itself, or all are of
        one party. `undecided`: a quorum, and no answer came as far ahead as was asked for. `degraded`: no quorum, or
        less agreement than was asked for.
        """
        if self.undecided:
            return "undecided"
        if self.degraded:
            return "degraded"
        if self.agreement is None:
            return "single"
        agreeing = sum(part.group == 0 for part in self.candidates)
        return "consensus" if self.agreement > MAJORITY and agreeing > MAJORITY * self.votes else "plurality"


def decide(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    asked: int,
    wanted: int,
    stopped_by: StoppedBy,
    weights: VoterWeights = EQUAL,
    outstanding: Sequence[KnownSource] | None = None,
    min_votes: int = 1,
    min_agreement: float | None = None,
    ahead: int | None = None,
    judge: Candidate | None = None,
    saved: int = 0,
    wasted_tokens: int | None = None,
    peers: Mapping[str, str] = MappingProxyType({}),
    places: Mapping[str, Place] = MappingProxyType({}),
    cascade: Cascade | None = None,
    escalated: bool = False,
    final: bool = True,
) -> Verdict:
    """The verdict on `candidates`, those that failed included, of `asked` voters; `weights`, `places` as for `tally`.

    `outstanding` has whose the seats are that were asked and have not answered (by default none is known). `judge`
    is the reply of the voter that was shown the answers where they were `disputed`. Where no ballot is valid, the least
    flawed answer wins, and the verdict is degraded. `peers` has the party of every node but this one, by the name in
    its candidates: answers of one peer alone agree with nobody, however many they are. `ahead`: by how many votes the
    winner has to lead every other answer, else the verdict is undecided. In a `cascade` that has `escalated` the
    strongest was asked: its answer wins, and where a `final` verdict has none of it that is degraded.
    """
    races = not question.strategy.compares
    counted = tally(question, candidates, weights, places)
    ruled = None if judge is None or question.strategy != Strategy.JUDGE else _ruled(counted, judge)
    topped = None if cascade is None or cascade.strong is None else _topped(question, candidates, counted, cascade)
    counted = topped or ruled or counted
    if topped is not None:
        short = _too_few(counted, min_votes)
    else:
        short = _shortfall(counted, _unanswered(counted, asked, outstanding, stopped_by), min_votes, races)
    if cascade is not None and cascade.strong is not None and topped is None and final and stopped_by != "agreed":
        short = short or why_no_answer_stands(cascade.strong, escalated)
    alone = _of_one_peer(counted, peers)
    compared = short is None and not races and counted.votes > 1 and not alone
    undecided = undecided_at(counted, ahead) if compared else None
    flawed = undecided or disagreement(counted, min_agreement, alone)
    spent = candidates if judge is None else (*candidates, judge)
    return Verdict(
        winner=counted.winner or _least_flawed(counted, in_given_order=races),
        strategy=question.strategy,
        kind=counted.kind,
        votes=counted.votes,
        asked=asked,
        wanted=wanted,
        agreement=float(counted.groups[0].weight / counted.voting_weight) if compared else None,
        margin=float(lead_over_others(counted)),
        stopped_by=stopped_by,
        quorum=short is None,
        degraded=short is not None or flawed is not None,
        dissent=counted.groups[1:],
        candidates=_summaries(counted),
        total_completion_tokens=sum(candidate.usage.completion_tokens for candidate in spent),
        similarity=counted.similarity,
        weights=_basis(counted),
        judge=None if judge is None or ruled is None else judge.voter,
        saved=saved,
        wasted_tokens=wasted_tokens,
        shortfall=short or flawed,
        undecided=undecided is not None,
        cascade=None if cascade is None else _cascaded(question, candidates, cascade, escalated),
    )


def _of_one_peer(counted: Tally, peers: Mapping[str, str]) -> bool:
    """Whether every valid ballot is of one peer, or of several behind one address of an open swarm."""
    nodes = {ballot.candidate.node for group in counted.groups for ballot in group.ballots}
    return bool(nodes) and nodes <= peers.keys() and len({peers[node] for node in nodes}) == 1


def _ruled(counted: Tally, judge: Candidate) -> Tally | None:
    """The tally with the judge's choice for its winner; None where there was nothing to judge, or nothing readable."""
    if judge.error is not None or not disputed(counted.groups):
        return None
    index = judged(judge.text, counted.groups)
    if index is None:
        return None
    chosen = counted.groups[index]
    others = sorted((group for group in counted.groups if group is not chosen), key=lambda group: group.rank)
    return replace(counted, winner=chosen.ballots[0].candidate, groups=(chosen, *others), similarity=None)


def _topped(question: Question, candidates: Sequence[Candidate], counted: Tally, cascade: Cascade) -> Tally | None:
    """The tally with the strongest model's answer for its winner; None where it gave none that counts."""
    own = [candidate for candidate in candidates if candidate.model == cascade.strong]
    return with_the_strongest(counted, tally(question, own)) if own else None


def _cascaded(question: Question, candidates: Sequence[Candidate], cascade: Cascade, escalated: bool) -> CascadeOutcome:
    if cascade.strong is None:
        return CascadeOutcome(None, why_not=cascade.why_not)
    small = tally(question, [candidate for candidate in candidates if candidate.model != cascade.strong])
    threshold = cascade.threshold(small.kind)
    return CascadeOutcome(
        cascade.strong,
        asked=escalated,
        agreement=float(share_agreeing(small)) if small.groups else None,
        threshold=float(threshold.agreement),
        measured=threshold.measured,
    )


def _too_few(counted: Tally, min_votes: int) -> str | None:
    if counted.votes >= min_votes:
        return None
    return f"{counted.votes} voters gave a valid answer, and min_votes is {min_votes}"


def _unanswered(
    counted: Tally, asked: int, outstanding: Sequence[KnownSource] | None, stopped_by: StoppedBy
) -> Sequence[KnownSource]:
    """The seats that count as asked although they did not answer.

    None where the votes themselves said that they are enough, and not a share of the seats.
    """
    if stopped_by in ("posterior", "ahead", "agreed", "strongest"):
        return ()
    if outstanding is not None:
        return outstanding
    known = voters_counted(counted.groups, counted.abstentions, EQUAL)
    return (None,) * max(0, asked - len(known))


def _shortfall(counted: Tally, unheard: Sequence[KnownSource], min_votes: int, races: bool) -> str | None:
    if races:
        return None if counted.winner is not None else "no voter gave a valid answer"
    return no_quorum(counted, unheard, min_votes)


def _basis(counted: Tally) -> Basis:
    return "measured" if any(counted.weights.basis(kind) == "measured" for kind in counted.kinds) else "equal"


def _least_flawed(counted: Tally, *, in_given_order: bool) -> Candidate | None:
    """The best of the candidates that abstained, failures excluded."""
    usable = [entry for entry in counted.abstentions if entry.reason in _BEST_EFFORT]
    if in_given_order:
        return usable[0].candidate if usable else None
    order = sorted(usable, key=lambda entry: (_BEST_EFFORT.index(entry.reason), entry.candidate.voter))
    return order[0].candidate if order else None


def undecided_at(counted: Tally, ahead: int | None) -> str | None:
    """Why the winner is not `ahead` by as many votes as was asked for; None where it is, or nothing was asked."""
    lead = lead_over_others(counted)
    if ahead is None or lead >= ahead:
        return None
    return f"no answer came {ahead} votes ahead of the others: the first leads by {float(lead):g} of {counted.votes}"


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
        temperature=candidate.temperature,
        abstained=abstained,
        repaired=candidate.repaired,
    )


def no_quorum(counted: Tally, outstanding: Sequence[KnownSource], min_votes: int) -> str | None:
    """Why the valid ballots are no quorum; None if they are one.

    A quorum is half of the voters asked and half of their weight, and `min_votes` where so many were asked. Those
    `outstanding` (None: not known, so the heaviest) were asked and have not voted.
    """
    asked = [*voters_counted(counted.groups, counted.abstentions, counted.weights), *outstanding]
    needed = max((len(asked) + 1) // 2, min(min_votes, len(asked)), 1)
    if counted.votes < needed:
        return f"{counted.votes} of {len(asked)} voters gave a valid answer, and a quorum is {needed}"
    if 2 * counted.voting_weight < counted.weights.outstanding(asked, counted.kinds):
        return f"the {counted.votes} valid answers of {len(asked)} voters have less than half of the weight asked"
    return None


def disagreement(counted: Tally, min_agreement: float | None, one_peer: bool = False) -> str | None:
    """Why a verdict on tool calls is not agreed on as widely as was asked for; None if it is, or is no call.

    A lone call is agreed on by nobody, and neither are those of `one_peer`: `min_agreement` asks for a second opinion
    before a tool runs.
    """
    if not min_agreement or counted.kind != "tool_calls" or not counted.groups:
        return None
    if counted.votes == 1:
        return f"one voter alone made this call, and min_agreement is {min_agreement:g}"
    if one_peer:
        return f"one peer alone made these calls, and min_agreement is {min_agreement:g}"
    agreement = float(counted.groups[0].weight / counted.voting_weight)
    if agreement >= min_agreement:
        return None
    return f"{agreement:.2f} of the votes agree on the call, and min_agreement is {min_agreement:g}"
