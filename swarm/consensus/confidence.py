"""How sure a model was of each of its answers, as a vote may weigh it: from log-probabilities, without a second model.

The confidence of an answer is the lowest mean log-probability of some tokens in a row (`engines/assembly.py`), as in
DeepConf (arXiv 2508.15260), but of the tokens drawn instead of the top k. Where it is weakest an answer goes wrong,
which the mean over a whole answer hides.

Log-probabilities of two models do not compare, and a peer may claim any. So no figure is taken at its word: a ballot
weighs by its rank among the answers that the same model gave on the same node, from LEAST to MOST, evenly spread, 1 in
the mean. Where one of them is greedy, the others are measured by it as well: an answer DOUBT times less sure than what
the model says when nothing is left to chance weighs next to nothing. So whoever claims more for all of its answers
gains nothing, and whoever claims less for some loses these.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

LEAST, MOST = Fraction(2, 5), Fraction(8, 5)  # four to one, as measured weights at most
DOUBT = 1.5  # times the greedy answer's log-probability: 2 brought less, 1.25 no more (sums of three models)
DOUBTFUL = Fraction(1, 10)

_ONE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Confidence:
    """A ballot's confidence (a log-probability, None where it is not known), and of whose answers it is one."""

    source: Hashable  # a model on a node
    logprob: float | None
    greedy: bool = False


def weights_by_rank(confidences: Mapping[str, Confidence]) -> dict[str, Fraction]:
    """The weight of each voter; equally sure ones weigh the same.

    Where the confidence of one answer of a source is not known, all of that source weigh 1.
    """
    sources: dict[Hashable, dict[str, Confidence]] = {}
    for voter, one in confidences.items():
        sources.setdefault(one.source, {})[voter] = one
    return {voter: weight for members in sources.values() for voter, weight in _ranked(members).items()}


def _ranked(members: Mapping[str, Confidence]) -> dict[str, Fraction]:
    known = {voter: one.logprob for voter, one in members.items() if one.logprob is not None}
    if len(known) < len(members) or len(members) == 1 or not all(map(math.isfinite, known.values())):
        return dict.fromkeys(members, _ONE)
    greedy = [logprob for voter, logprob in known.items() if members[voter].greedy]
    least = DOUBT * max(greedy) if greedy else -math.inf
    step, all_known = (MOST - LEAST) / (len(known) - 1), list(known.values())
    return {
        voter: LEAST + step * _rank(logprob, all_known) if logprob >= least else DOUBTFUL
        for voter, logprob in known.items()
    }


def _rank(logprob: float, known: Sequence[float]) -> Fraction:
    """How many are below, and half of the others that are equal."""
    below, equal = sum(one < logprob for one in known), sum(one == logprob for one in known)
    return below + Fraction(equal - 1, 2)
