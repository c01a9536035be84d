"""How far a vote is from being turned, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from swarm.consensus.kind_names import Kind
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
