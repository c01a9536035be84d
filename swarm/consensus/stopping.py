"""How far a vote is from being turned, stage by stage.

The posterior stop: enough agree that a further vote is unlikely to turn the result. Opt-in, for many samples.

After `a` votes for the first answer and `b` for the second, P is the probability that the first is the more likely of
the two under a uniform prior (adaptive consistency, arXiv 2305.11860). Unlike the unbeatable lead it may change an
outcome: in up to one vote of twenty, by its own account.

What keeps a result from being called a consensus, in words that a client can act on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from swarm.consensus.options import Kind
from swarm.consensus.weights import VoterWeights


@dataclass(frozen=True, slots=True)
class Lead:
    """One stage stays as it is as long as less than `ahead` is outstanding.

    Ballots are measured as the stage counts them: by their weight as an answer of `kinds` (the heaviest of them, where
    it is not known yet which they will be), or by heads where there are none.
    """

    ahead: Fraction
    kinds: tuple[Kind, ...] = ()


def stands(leads: Sequence[Lead], outstanding: Sequence[str | None], weights: VoterWeights) -> bool:
    """No stage can be turned by the seats outstanding, given by their models."""
    return all(lead.ahead > weights.outstanding(outstanding, lead.kinds) for lead in leads)


POSTERIOR_STOP = 0.95  # stops at 4-0, 6-1, 8-2, 9-3
MIN_VOTES_FOR_POSTERIOR = 8  # with fewer the unbeatable lead is nearly as early, and exact


def posterior(first: int, second: int) -> float:
    """P that the answer with `first` votes is more likely than the one with `second`."""
    votes = first + second + 1
    return sum(math.comb(votes, j) for j in range(first + 1)) / 2**votes
