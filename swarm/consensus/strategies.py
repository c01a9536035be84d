"""The seam between strategies and kinds: a strategy is two rules, one for structured answers and one for prose.

Tool calls and final answers need no rule of their own: equal or not, they are counted under every strategy.

`majority`: the answer that the most weight gives, word for word in prose (self-consistency, arXiv 2203.11171).

`first` and `single`: no vote. The first usable answer in the order given is the answer; nothing is compared.

`medoid`: the real answer that is most like all the others, weighted by who gave them.

`auto`: count what can be counted; only where no answer has over half the weight, take the most central one.

`weighted`: as `majority`, with the weights that were measured; prose goes to the answer most like the rest.

Words for word, prose hardly ever agrees: a plain count would hand every vote to the heaviest voter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

from swarm.consensus.answers import Abstention, Comparable, Flaw, Keyed, Reason
from swarm.consensus.groups import ZERO, Ballot, Choice, Group, Vote, equal_answers, in_order, lead_of_first
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading, read
from swarm.consensus.text_answer import NEAR_IDENTICAL, Likenesses, TextAnswer
from swarm.generation import Candidate

C = TypeVar("C", bound=Comparable)


class StructuredRule(Protocol):
    """Chooses among JSON answers or among code answers; `votes` is not empty."""

    def __call__(self, votes: Sequence[Vote[C]], likenesses: Likenesses, /) -> Choice: ...


@dataclass(frozen=True, slots=True)
class VotingStrategy:
    """How one strategy chooses. Both rules are pure and give the same choice for every order of the votes."""

    structured: StructuredRule
    prose: Callable[[Sequence[Vote[TextAnswer]], Likenesses], Choice]


def most_votes(votes: Sequence[Vote[Keyed]], _: Likenesses) -> Choice:
    """The answer with the most weight behind it; settled once its lead exceeds what is outstanding."""
    groups = equal_answers(votes)
    return Choice(groups[0].ballots[0], groups, lead_of_first(groups))


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
            abstentions.append(Abstention(candidate, Reason.OUTRUN))
        else:
            winner = Ballot(candidate, reading, Fraction(1), -math.inf)
    return winner, tuple(abstentions)


def _usable(question: Question, candidate: Candidate) -> Reading | Flaw:
    """As `read`; but a lone answer is returned as it is, cut or malformed, like any server would."""
    reading = read(question, candidate)
    lone = question.strategy == Strategy.SINGLE and candidate.error is None
    return Reading() if isinstance(reading, Flaw) and lone else reading


def most_alike(votes: Sequence[Vote[C]], likenesses: Likenesses) -> Choice:
    """The medoid of structured answers. Never settled early: each further answer moves the centre."""
    return _most_central(votes, equal_answers(votes), likenesses)


def most_alike_prose(votes: Sequence[Vote[TextAnswer]], likenesses: Likenesses) -> Choice:
    """The medoid of prose, with nearly identical answers as one group."""
    return _most_central(votes, _near_identical(votes, likenesses), likenesses)


def _most_central(votes: Sequence[Vote[C]], groups: tuple[Group, ...], likenesses: Likenesses) -> Choice:
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
    return Choice(winner, groups, ZERO, min(1.0, support[order[0]] / float(others)) if others else None)


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


def majority_or_most_alike(votes: Sequence[Vote[C]], likenesses: Likenesses) -> Choice:
    """The answer with over half the weight, settled once it must keep that; else the medoid."""
    counted = most_votes(votes, likenesses)
    ahead_of_the_rest = 2 * counted.groups[0].weight - sum((vote.ballot.weight for vote in votes), ZERO)
    if ahead_of_the_rest > 0:
        return Choice(counted.winner, counted.groups, ahead_of_the_rest)
    return most_alike(votes, likenesses)


AUTO = VotingStrategy(structured=majority_or_most_alike, prose=most_alike_prose)


WEIGHTED = VotingStrategy(structured=most_votes, prose=most_alike_prose)
