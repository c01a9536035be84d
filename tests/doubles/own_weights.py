"""Ballots in which every voter is a model of its own, so that a test can give each a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from swarm.consensus.options import KINDS
from swarm.consensus.weights import VoterWeights
from swarm.generation import Candidate


def each_its_own_model(candidates: Sequence[Candidate]) -> list[Candidate]:
    """`candidates` with their voter's name for a model."""
    return [candidate.model_copy(update={"model": candidate.voter}) for candidate in candidates]


def by_voter(candidates: Sequence[Candidate], weights: Mapping[str, Fraction]) -> VoterWeights:
    """Weights by voter, in every kind; 1 where `weights` has none."""
    own = {candidate.voter: weights.get(candidate.voter, Fraction(1)) for candidate in candidates}
    return VoterWeights(dict.fromkeys(KINDS, own))
