"""`medoid`: the real answer that is most like all the others, weighted by who gave them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from swarm.consensus.groups import ZERO, Ballot, Choice, Group, Vote, equal_answers, in_order
from swarm.consensus.likenesses import Likenesses
from swarm.consensus.text_answer import NEAR_IDENTICAL, TextAnswer
from swarm.consensus.voting_strategy import C, VotingStrategy


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
