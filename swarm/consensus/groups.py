"""Ballots, the groups they fall into, and the one order of precedence that settles every tie.

Ties: summed weight, then the best single voter's weight, then the mean log-probability (where one model gave all the
answers), then the voter's id. The order of arrival never counts. Weights are exact fractions: sums of floats depend on
the order of their terms.

What a kind of answer must offer to be counted, and to be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

from swarm.consensus.answers import Keyed
from swarm.consensus.reading import Reading
from swarm.generation import Candidate

ZERO = Fraction(0)
_ONE, _HALF = Fraction(1), Fraction(1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Ballot:
    """One candidate that votes. `confidence` is its mean log-probability where comparable, else minus infinity.

    `weight` is what it weighs at the stage that is being counted; before any weights, what it counts by heads.
    """

    candidate: Candidate
    reading: Reading
    weight: Fraction
    confidence: float

    @property
    def heads(self) -> Fraction:
        """One voter; half of one where the answer was cut by length."""
        return _HALF if self.reading.cut else _ONE

    @property
    def rank(self) -> tuple[bool, Fraction, float, str]:
        """Sorts the best representative of equal answers first; a complete answer before one that was cut."""
        return self.reading.cut, -self.weight, -self.confidence, self.candidate.voter


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Ballots that give the same answer, the best representative first."""

    ballots: tuple[Ballot, ...]

    @property
    def weight(self) -> Fraction:
        """The votes for this answer."""
        return total_weight(self.ballots)

    @property
    def rank(self) -> tuple[Fraction, Fraction, float, str]:
        """Sorts the group that wins first."""
        return (
            -self.weight,
            -max(ballot.weight for ballot in self.ballots),
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
class Choice:
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
