"""How an answer is chosen: ballots, the groups they fall into, and two rules for each strategy.

A strategy is one rule for structured answers (JSON, code) and one for prose. Tool calls and final answers need no rule
of their own: equal or not, they are counted under every strategy.

| strategy          | chooses                                                                                      |
|-------------------|----------------------------------------------------------------------------------------------|
| `auto`            | counts what can be counted; where no answer has over half the weight, the most central one   |
| `majority`        | the answer with the most weight, word for word in prose (self-consistency, arXiv 2203.11171) |
| `weighted`        | as `majority`, by measured weights; in prose the answer most like the rest, because words    |
|                   | hardly ever agree: a plain count would hand every vote to the heaviest voter                 |
| `confident`       | as `majority`, each ballot by how sure its model was (`confidence.py`); prose as `weighted`   |
| `medoid`          | the real answer that is most like all the others, weighted by who gave them                  |
| `judge`           | as `auto`, until a judge has spoken (`judge.py`)                                             |
| `cascade`         | as `majority`, of the small models; where they do not agree, the strongest one's answer      |
|                   | (`cascade.py`); prose as `weighted`                                                          |
| `first`, `single` | no vote: the first usable answer in the order given; nothing is compared                     |

Ties: summed weight, then the best single voter's weight, then the mean log-probability (where one model gave all the
answers), then the voter's id. The place of the seat goes before the last two, which depend on who was free: the
strongest model's greedy answer before all others, and where a question is to be answered alike whenever it is asked,
each seat before the next. The order of arrival never counts. Weights are exact fractions: sums
of floats depend on the order of their terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

from swarm.consensus.answers import AbstainReason, Abstention, Comparable, Flaw, Keyed
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading, read
from swarm.consensus.text_answer import NEAR_IDENTICAL, Likenesses, TextAnswer
from swarm.generation import Candidate

ZERO = Fraction(0)
_ONE, _HALF = Fraction(1), Fraction(1, 2)

Place = tuple[int, str]  # the number of the batch, then what stands for the answer's words
NO_PLACE: Place = (0, "")


@dataclass(frozen=True, slots=True, eq=False)
class Ballot:
    """One candidate that votes. `confidence` is its mean log-probability where comparable, else minus infinity.

    `sureness` is what it weighs by its model's confidence, 1 where that does not count.
    `weight` is what it weighs at the stage that is being counted; before any weights, what it counts by heads. `place`
    orders ballots that are otherwise alike, where that is not left to their voters' names.
    """

    candidate: Candidate
    reading: Reading
    weight: Fraction
    confidence: float
    place: Place = NO_PLACE
    sureness: Fraction = _ONE

    @property
    def heads(self) -> Fraction:
        """One voter; half of one where the answer was cut by length."""
        return _HALF if self.reading.cut else _ONE

    @property
    def votes(self) -> Fraction:
        """What it counts by before any measured weight."""
        return self.heads * self.sureness

    @property
    def rank(self) -> tuple[bool, Fraction, Place, float, str]:
        """Sorts the best representative of equal answers first; a complete answer before one that was cut."""
        return self.reading.cut, -self.weight, self.place, -self.confidence, self.candidate.voter


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Ballots that give the same answer, the best representative first."""

    ballots: tuple[Ballot, ...]

    @property
    def weight(self) -> Fraction:
        """The votes for this answer."""
        return total_weight(self.ballots)

    @property
    def rank(self) -> tuple[Fraction, Fraction, Place, float, str]:
        """Sorts the group that wins first."""
        return (
            -self.weight,
            -max(ballot.weight for ballot in self.ballots),
            min(ballot.place for ballot in self.ballots),
            -max(ballot.confidence for ballot in self.ballots),
            min(ballot.candidate.voter for ballot in self.ballots),
        )


K = TypeVar("K", bound=Keyed, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Vote(Generic[K]):
    """A ballot as a vote for one kind of answer."""

    ballot: Ballot
    answer: K


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What a rule chose. `groups` are in order of rank; the winner's need not be the first.

    `lead`: as long as less than this weight is outstanding, no further votes can change the answer chosen.
    `similarity`: the winner's mean likeness to the other answers, where the rule is one of likeness.
    """

    winner: Ballot
    groups: tuple[Group, ...]
    lead: Fraction
    similarity: float | None = None


def total_weight(ballots: Iterable[Ballot]) -> Fraction:
    return sum((ballot.weight for ballot in ballots), ZERO)


def group_weight(groups: Iterable[Group]) -> Fraction:
    return sum((group.weight for group in groups), ZERO)


def group_by(ballots: Iterable[Ballot], key: Callable[[Ballot], Hashable]) -> tuple[Group, ...]:
    """The ballots in groups of equal `key`, by rank."""
    members: dict[Hashable, list[Ballot]] = {}
    for ballot in ballots:
        members.setdefault(key(ballot), []).append(ballot)
    return in_order(members.values())


def equal_answers(votes: Sequence[Vote[Keyed]]) -> tuple[Group, ...]:
    """The votes in groups of equal answers, by rank."""
    members: dict[Hashable, list[Ballot]] = {}
    for vote in votes:
        members.setdefault(vote.answer.key, []).append(vote.ballot)
    return in_order(members.values())


def in_order(groups: Iterable[Iterable[Ballot]]) -> tuple[Group, ...]:
    """Groups by rank, their ballots by rank."""
    made = (Group(tuple(sorted(ballots, key=lambda ballot: ballot.rank))) for ballots in groups)
    return tuple(sorted(made, key=lambda group: group.rank))


def lead_of_first(groups: Sequence[Group]) -> Fraction:
    """By how much the first of `groups` is ahead of the second."""
    return groups[0].weight - (groups[1].weight if len(groups) > 1 else ZERO)


C = TypeVar("C", bound=Comparable)


class StructuredRule(Protocol):
    """Chooses among JSON answers or among code answers; `votes` is not empty."""

    def __call__(self, votes: Sequence[Vote[C]], likenesses: Likenesses, /) -> Chosen: ...


@dataclass(frozen=True, slots=True)
class VotingStrategy:
    """How one strategy chooses. Both rules are pure and give the same choice for every order of the votes."""

    structured: StructuredRule
    prose: Callable[[Sequence[Vote[TextAnswer]], Likenesses], Chosen]


def most_votes(votes: Sequence[Vote[Keyed]], _: Likenesses) -> Chosen:
    """The answer with the most weight behind it; settled once its lead exceeds what is outstanding."""
    groups = equal_answers(votes)
    return Chosen(groups[0].ballots[0], groups, lead_of_first(groups))


MAJORITY = VotingStrategy(structured=most_votes, prose=most_votes)


def race(question: Question, candidates: Sequence[Candidate]) -> tuple[Ballot | None, tuple[Abstention, ...]]:
    """The winner, if any is usable, and everybody else. `first` skips what could not vote, `single` only failures."""
    winner: Ballot | None = None
    abstentions: list[Abstention] = []
    for candidate in candidates:
        reading = _usable(question, candidate)
        if isinstance(reading, Flaw):
            abstentions.append(Abstention(candidate, reading.reason, reading.detail))
        elif winner is not None:
            abstentions.append(Abstention(candidate, AbstainReason.OUTRUN))
        else:
            winner = Ballot(candidate, reading, Fraction(1), -math.inf)
    return winner, tuple(abstentions)


def _usable(question: Question, candidate: Candidate) -> Reading | Flaw:
    """As `read`; but a lone answer is returned as it is, cut or malformed, like any server would."""
    reading = read(question, candidate)
    lone = question.strategy == Strategy.SINGLE and candidate.error is None
    return Reading() if isinstance(reading, Flaw) and lone else reading


def most_alike(votes: Sequence[Vote[C]], likenesses: Likenesses) -> Chosen:
    """The medoid of structured answers. Never settled early: each further answer moves the centre."""
    return _most_central(votes, equal_answers(votes), likenesses)


def most_alike_prose(votes: Sequence[Vote[TextAnswer]], likenesses: Likenesses) -> Chosen:
    """The medoid of prose, with nearly identical answers as one group."""
    return _most_central(votes, _near_identical(votes, likenesses), likenesses)


def _most_central(votes: Sequence[Vote[C]], groups: tuple[Group, ...], likenesses: Likenesses) -> Chosen:
    """argmax over i of the sum over j≠i of w_j·likeness(i, j); an answer that was cut wins only where all were."""
    whole = any(not vote.ballot.reading.cut for vote in votes)
    support = _support(votes, likenesses)
    ranks = {id(ballot): group.rank for group in groups for ballot in group.ballots}
    order = sorted(
        (index for index, vote in enumerate(votes) if not (whole and vote.ballot.reading.cut)),
        key=lambda index: (-support[index], ranks[id(votes[index].ballot)], votes[index].ballot.rank),
    )
    winner = votes[order[0]].ballot
    others = sum((vote.ballot.weight for vote in votes if vote.ballot is not winner), ZERO)
    return Chosen(winner, groups, ZERO, min(1.0, support[order[0]] / float(others)) if others else None)


def _support(votes: Sequence[Vote[C]], likenesses: Likenesses) -> list[float]:
    """What each answer's likeness to the others adds up to; `fsum` rounds once, so no order of terms matters."""
    weights = [float(vote.ballot.weight) for vote in votes]
    terms: list[list[float]] = [[] for _ in votes]
    for i, one in enumerate(votes):
        for j in range(i):
            alike = likenesses.of(one.answer, votes[j].answer)
            terms[i].append(alike * weights[j])
            terms[j].append(alike * weights[i])
    return [math.fsum(term) for term in terms]


def _near_identical(votes: Sequence[Vote[TextAnswer]], likenesses: Likenesses) -> tuple[Group, ...]:
    """Single linkage over `_near`: the same groups in whatever order the answers came."""
    clusters: list[list[Vote[TextAnswer]]] = []
    for vote in votes:
        near = [cluster for cluster in clusters if any(_near(vote, member, likenesses) for member in cluster)]
        clusters = [cluster for cluster in clusters if all(cluster is not other for other in near)]
        clusters.append([vote, *(member for cluster in near for member in cluster)])
    return in_order(_ballots(cluster) for cluster in clusters)


def _near(one: Vote[TextAnswer], other: Vote[TextAnswer], likenesses: Likenesses) -> bool:
    """The same answer in nearly the same words."""
    return one.answer.concludes_like(other.answer) and likenesses.of(one.answer, other.answer) >= NEAR_IDENTICAL


def _ballots(votes: Sequence[Vote[TextAnswer]]) -> list[Ballot]:
    return [vote.ballot for vote in votes]


MEDOID = VotingStrategy(structured=most_alike, prose=most_alike_prose)


def majority_or_most_alike(votes: Sequence[Vote[C]], likenesses: Likenesses) -> Chosen:
    """The answer with over half the weight, settled once it must keep that; else the medoid."""
    counted = most_votes(votes, likenesses)
    ahead_of_the_rest = 2 * counted.groups[0].weight - sum((vote.ballot.weight for vote in votes), ZERO)
    if ahead_of_the_rest > 0:
        return Chosen(counted.winner, counted.groups, ahead_of_the_rest)
    return most_alike(votes, likenesses)


AUTO = VotingStrategy(structured=majority_or_most_alike, prose=most_alike_prose)


WEIGHTED = VotingStrategy(structured=most_votes, prose=most_alike_prose)
CASCADE = WEIGHTED  # of the small models; until the strongest was asked
