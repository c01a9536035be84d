"""The posterior stop: enough agree that a further vote is unlikely to turn the result. Opt-in, for many samples.

After `a` votes for the first answer and `b` for the second, P is the probability that the first is the more likely of
the two under a uniform prior (adaptive consistency, arXiv 2305.11860). Unlike the unbeatable lead it may change an
outcome: in up to one vote of twenty, by its own account.
"""

from __future__ import annotations

import math

from swarm.consensus.tally import Tally

POSTERIOR_STOP = 0.95  # stops at 4-0, 6-1, 8-2, 9-3
MIN_VOTES_FOR_POSTERIOR = 8  # with fewer the unbeatable lead is nearly as early, and exact


def posterior(first: int, second: int) -> float:
    """P that the answer with `first` votes is more likely than the one with `second`."""
    votes = first + second + 1
    return sum(math.comb(votes, j) for j in range(first + 1)) / 2**votes


def posterior_stops(tally: Tally) -> bool:
    """The vote may stop: the answer was chosen by counting, and is ahead with POSTERIOR_STOP.

    Ballots that turned out to be no answer of the kind that is counted are against it, as if they were one answer.
    """
    if tally.winner is None or tally.leads is None or tally.similarity is not None:
        return False
    against = [len(group.ballots) for group in tally.groups[1:]]
    return posterior(len(tally.groups[0].ballots), max([*against, tally.mute])) >= POSTERIOR_STOP
