"""How sure a model was of each of its answers, as a vote may weigh it: from log-probabilities, without a second model.

The confidence of an answer is the lowest mean log-probability of some tokens in a row (`engines/assembly.py`), as in
DeepConf (arXiv 2508.15260), but of the tokens drawn instead of the top k. Where it is weakest an answer goes wrong,
which the mean over a whole answer hides.

Log-probabilities of two models do not compare, and a peer may claim any. So no figure is taken at its word: a ballot
weighs by its rank among the answers that the same model gave on the same node, from LEAST to MOST, evenly spread; the
mean is 1. Whoever claims more for all of its answers gains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction

LEAST, MOST = Fraction(2, 5), Fraction(8, 5)  # four to one, as measured weights at most


def weights_by_rank(confidences: Mapping[str, tuple[Hashable, float | None]]) -> dict[str, Fraction]:
    """The weight of each voter, given whom it is compared with (a model on a node) and its confidence.

    Equal ones weigh the same. Where anybody's of a group is not known, all of that group weigh 1.
    """
    groups: dict[Hashable, dict[str, float | None]] = {}
    for voter, (group, confidence) in confidences.items():
        groups.setdefault(group, {})[voter] = confidence
    return {voter: weight for members in groups.values() for voter, weight in _ranked(members).items()}


def _ranked(members: Mapping[str, float | None]) -> dict[str, Fraction]:
    known = [confidence for confidence in members.values() if confidence is not None and math.isfinite(confidence)]
    if len(known) < len(members) or len(members) == 1:
        return dict.fromkeys(members, Fraction(1))
    step = (MOST - LEAST) / (len(known) - 1)
    return {voter: LEAST + step * _rank(confidence, known) for voter, confidence in members.items()}


def _rank(confidence: float | None, known: Sequence[float]) -> Fraction:
    """How many are below, and half of the others that are equal."""
    assert confidence is not None, "where one is not known nobody is ranked"
    below, equal = sum(one < confidence for one in known), sum(one == confidence for one in known)
    return below + Fraction(equal - 1, 2)
