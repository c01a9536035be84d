"""`auto`: count what can be counted; only where no answer has over half the weight, take the most central one."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.consensus.groups import ZERO, Choice, Vote
from swarm.consensus.likenesses import Likenesses
from swarm.consensus.majority import most_votes
from swarm.consensus.medoid import most_alike, most_alike_prose
from swarm.consensus.voting_strategy import C, VotingStrategy


def majority_or_most_alike(votes: Sequence[Vote[C]], likenesses: Likenesses) -> Choice:
    """The answer with over half the weight, settled once it must keep that; else the medoid."""
    counted = most_votes(votes, likenesses)
    ahead_of_the_rest = 2 * counted.groups[0].weight - sum((vote.ballot.weight for vote in votes), ZERO)
    if ahead_of_the_rest > 0:
        return Choice(counted.winner, counted.groups, ahead_of_the_rest)
    return most_alike(votes, likenesses)


AUTO = VotingStrategy(structured=majority_or_most_alike, prose=most_alike_prose)
