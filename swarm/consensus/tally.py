"""The state of one vote after any number of arrivals, recomputed from scratch each time, and whether it may stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from swarm.consensus.answers import AbstainReason, Abstention, Flaw
from swarm.consensus.confidence import Confidence, weights_by_rank
from swarm.consensus.count import POSTERIOR_STOP, Lead, VoteCount, count, kind_alone, posterior, stands
from swarm.consensus.options import Kind, Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import read
from swarm.consensus.strategies import NO_PLACE, ZERO, Ballot, Group, Place, group_weight, race
from swarm.consensus.weights import EQUAL, KnownSource, VoterSource, VoterWeights, source_of
from swarm.generation import Candidate

MAX_CANDIDATES = 128  # MAX_VOTES voters, each replaced once


@dataclass(frozen=True, slots=True)
class Tally:
    """How a vote stands. `groups` has the winner's first and is empty while there is no valid ballot.

    `kinds` are those that ballots are weighed by, under `weights`. `leads`: as long as less than these is outstanding,
    from voters not yet counted, neither the answer nor its kind nor the quorum can change; None: nothing can change it
    (a race is over). `mute` ballots are no answer of the kind that is counted.
    """

    kind: Kind
    kinds: tuple[Kind, ...]
    winner: Candidate | None
    groups: tuple[Group, ...]
    abstentions: tuple[Abstention, ...]
    leads: tuple[Lead, ...] | None
    weights: VoterWeights
    mute: int = 0
    similarity: float | None = None

    @property
    def votes(self) -> int:
        """Valid ballots."""
        return sum(len(group.ballots) for group in self.groups)

    @property
    def voting_weight(self) -> Fraction:
        return group_weight(self.groups)


def tally(
    question: Question,
    candidates: Sequence[Candidate],
    weights: VoterWeights = EQUAL,
    places: Mapping[str, Place] = MappingProxyType({}),
) -> Tally:
    """Count `candidates` under `question`; `weights` are by voter and kind, and without weight there is no vote.

    `places` of voters go before their names where answers are otherwise alike.

    The result is the same for every order of `candidates`, except that `first` and `single` take the first usable one.
    A voter given twice counts once. Raises ValueError for more than MAX_CANDIDATES.
    """
    if len(candidates) > MAX_CANDIDATES:
        raise ValueError(f"{len(candidates)} candidates: ask at most {MAX_CANDIDATES}")
    if not question.strategy.compares:
        return _race_tally(question, *race(question, candidates))
    ballots, abstentions = _admit(question, sorted(candidates, key=_content), places, weights)
    if not ballots:
        return _nothing_valid(question, tuple(abstentions))
    sure = question.by_confidence
    standing = count(question, _by_confidence(ballots) if sure else _with_confidence(ballots), weights)
    abstained = (*abstentions, *standing.abstentions)
    leads = () if standing.winner is None else (*standing.leads, *_quorum_leads(standing, abstained, weights))
    if standing.winner is not None and question.strategy == Strategy.JUDGE:
        leads = (*leads, _lead_over_all(standing))
    if sure and standing.winner is not None:
        leads = (Lead(ZERO),)  # a further answer may change the rank of every other: nothing is sure before the last
    return Tally(
        kind=standing.kind,
        kinds=standing.kinds,
        winner=None if standing.winner is None else standing.winner.candidate,
        groups=standing.groups,
        abstentions=abstained,
        leads=leads,
        weights=weights,
        mute=standing.mute,
        similarity=standing.similarity,
    )


def is_unanimous(tally: Tally) -> bool:
    """Everybody known gave the same answer, and nobody failed or abstained."""
    return tally.winner is not None and len(tally.groups) == 1 and not tally.abstentions


def is_settled(tally: Tally, outstanding: Sequence[KnownSource]) -> bool:
    """Nothing that the seats outstanding could say would change the result, so the vote may stop.

    `outstanding` has of each such seat what is known of whose it is. Exact for everything that is counted; an
    answer chosen by likeness is only sure when nothing is outstanding.
    """
    if tally.winner is None:
        return False
    return tally.leads is None or not outstanding or stands(tally.leads, outstanding, tally.weights)


def _admit(
    question: Question, candidates: Sequence[Candidate], places: Mapping[str, Place], weights: VoterWeights
) -> tuple[list[Ballot], list[Abstention]]:
    """Who votes and who abstains. Of a voter that occurs twice, only the first candidate that can vote does."""
    ballots: dict[str, Ballot] = {}
    abstentions: list[Abstention] = []
    for candidate in candidates:
        reading = read(question, candidate)
        if isinstance(reading, Flaw):
            abstentions.append(Abstention(candidate, reading.reason, reading.detail))
        elif candidate.voter in ballots:
            abstentions.append(Abstention(candidate, AbstainReason.DUPLICATE))
        elif weights.has_no_say(source_of(candidate)):  # not even in what kind of answer is counted
            abstentions.append(Abstention(candidate, AbstainReason.NO_WEIGHT))
        else:
            ballot = Ballot(candidate, reading, Fraction(1), -math.inf, places.get(candidate.voter, NO_PLACE))
            ballots[candidate.voter] = replace(ballot, weight=ballot.heads)
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


def _by_confidence(ballots: Sequence[Ballot]) -> list[Ballot]:
    """The ballots, each weighed by how sure its model was of it, among those of the same model on the same node."""
    weights = weights_by_rank({ballot.candidate.voter: confidence_of(ballot.candidate) for ballot in ballots})
    sure = [replace(ballot, sureness=weights[ballot.candidate.voter]) for ballot in _with_confidence(ballots)]
    return [replace(ballot, weight=ballot.votes) for ballot in sure]


def confidence_of(candidate: Candidate) -> Confidence:
    """How sure `candidate`'s model was of it, among the answers of that model on that node."""
    return Confidence(
        (candidate.node_id or candidate.node, candidate.model), candidate.confidence, greedy=candidate.temperature == 0
    )


def _logprob(candidate: Candidate) -> float:
    logprob = candidate.mean_logprob
    return logprob if logprob is not None and math.isfinite(logprob) else -math.inf


def voters_counted(
    groups: Sequence[Group], abstentions: Sequence[Abstention], weights: VoterWeights
) -> list[VoterSource]:
    """Whose every voter is that has a part in the vote, one for each; who gave way has none, nor who has no say."""
    stayed = (entry.candidate for entry in abstentions if entry.reason != AbstainReason.GAVE_WAY)
    by_voter = {candidate.voter: source_of(candidate) for candidate in stayed}
    by_voter.update(
        (ballot.candidate.voter, source_of(ballot.candidate)) for group in groups for ballot in group.ballots
    )
    return [source for source in by_voter.values() if not weights.has_no_say(source)]


def _quorum_leads(standing: VoteCount, abstentions: Sequence[Abstention], weights: VoterWeights) -> tuple[Lead, Lead]:
    """What may still abstain with half of those asked, and half of their weight, having voted."""
    counted = voters_counted(standing.groups, abstentions, weights)
    votes = sum(len(group.ballots) for group in standing.groups)
    weight = 2 * group_weight(standing.groups) - weights.outstanding(counted, standing.kinds)
    return Lead(Fraction(2 * votes - len(counted))), Lead(weight, standing.kinds)


def _lead_over_all(standing: VoteCount) -> Lead:
    """What may go to others with over half the weight still on one answer, so that no judge is asked."""
    return Lead(max(ZERO, 2 * standing.groups[0].weight - group_weight(standing.groups)), standing.kinds)


def _race_tally(question: Question, winner: Ballot | None, abstentions: tuple[Abstention, ...]) -> Tally:
    if winner is None:
        return _nothing_valid(question, abstentions)
    kind = kind_alone(question, winner)
    return Tally(kind, (kind,), winner.candidate, (Group((winner,)),), abstentions, leads=None, weights=EQUAL)


def _nothing_valid(question: Question, abstentions: tuple[Abstention, ...]) -> Tally:
    kind: Kind = "json" if question.wants_json else "text"
    return Tally(kind, (kind,), None, (), abstentions, leads=(), weights=EQUAL)


def lead_over_others(tally: Tally) -> Fraction:
    """The winning group's lead in weight over the heaviest other one, or over those in words that answer otherwise.

    0 without a group; below 0 where an answer won that is not the commonest.
    """
    if not tally.groups:
        return ZERO
    others = (group.weight for group in tally.groups[1:])
    return tally.groups[0].weight - max(others, default=ZERO)


def wanted_more(tally: Tally, ahead: int, outstanding: int) -> int:
    """How many more votes are asked for so that one answer may come `ahead` by so many: the least that can do it.

    0 while those `outstanding` may still do it, or when it is done. An answer that lost may catch up: only the lead
    counts, whoever has it.
    """
    return max(0, math.ceil(ahead - max(lead_over_others(tally), ZERO)) - outstanding)


def posterior_stops(tally: Tally) -> bool:
    """The vote may stop: the answer was chosen by counting, and is ahead with POSTERIOR_STOP.

    Ballots that turned out to be no answer of the kind that is counted are against it, as if they were one answer.
    """
    if tally.winner is None or tally.leads is None or tally.similarity is not None:
        return False
    against = [len(group.ballots) for group in tally.groups[1:]]
    return posterior(len(tally.groups[0].ballots), max([*against, tally.mute])) >= POSTERIOR_STOP
