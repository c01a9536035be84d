"""`majority`: the answer that the most weight gives, word for word in prose (self-consistency, arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.consensus.comparable import Keyed
from swarm.consensus.groups import Choice, Vote, equal_answers, lead_of_first
from swarm.consensus.likenesses import Likenesses
from swarm.consensus.voting_strategy import VotingStrategy


def most_votes(votes: Sequence[Vote[Keyed]], _: Likenesses) -> Choice:
    """The answer with the most weight behind it; settled once its lead exceeds what is outstanding."""
    groups = equal_answers(votes)
    return Choice(groups[0].ballots[0], groups, lead_of_first(groups))


MAJORITY = VotingStrategy(structured=most_votes, prose=most_votes)
