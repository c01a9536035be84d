"""What a ballot weighs: how good its model was measured to be at the kind of answer that is counted.

w = ln(p·(L-1) / (1-p)) with p = (s+2)/(n+4), the log odds of being right among L options: the weights under which a
weighted majority of independent voters is the most probable answer. They are clipped to 4:1, because independent is
what voters are not, and several samples of one model count for less where other models vote too. Weights average 1
over the seats of a ballot, so that they can stand beside equal ones, and are rounded to what the client is shown:
whoever adds up the `swarm` object comes to the same result.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from swarm.consensus.options import KINDS, Kind, Strategy
from swarm.registry.weights_file import Measured, Measurements

MAX_RATIO = 4  # of the heaviest voter to the lightest: 50 questions say no more, and no one voter should dictate
SAMPLES_OF_ONE_MODEL_RHO = (
    0.5  # how much alike the errors of one model's samples are; two models agree in 60 % of theirs
)
WEIGHT_DECIMALS = 4

Basis = Literal["equal", "measured"]

_ONE = Fraction(1)
_NOT_MEASURED = Measured(0, 0)  # (0+2)/(0+4): right half of the time


@dataclass(frozen=True, slots=True)
class VoterWeights:
    """The weights of one ballot, fixed when it is planned. `by_kind` has the kinds with measured weights, by model id.

    In the other kinds everybody weighs 1. A model that was not planned (a replacement) weighs as little as any.
    """

    by_kind: Mapping[Kind, Mapping[str, Fraction]] = field(default_factory=dict[Kind, Mapping[str, Fraction]])

    def of(self, model: str, kind: Kind) -> Fraction:
        """The weight of a ballot of `model` that is counted as `kind`; 0: it has no say."""
        weights = self.by_kind.get(kind)
        if weights is None:
            return _ONE
        found = weights.get(model)
        return found if found is not None else min((weight for weight in weights.values() if weight), default=_ONE)

    def basis(self, kind: Kind) -> Basis:
        """Whether the weights in `kind` were measured or are all 1."""
        return "measured" if kind in self.by_kind else "equal"

    def at_most(self, model: str | None, kinds: Sequence[Kind]) -> Fraction:
        """The most that a ballot of `model` can weigh, whichever of `kinds` it turns out to be; None: of any model."""
        if model is not None:
            return max(self.of(model, kind) for kind in kinds)
        return max(max(self.by_kind[kind].values(), default=_ONE) if kind in self.by_kind else _ONE for kind in kinds)

    def outstanding(self, models: Iterable[str | None], kinds: Sequence[Kind]) -> Fraction:
        """The most that the seats still out can weigh, given by their models; without `kinds` their number."""
        if not kinds:
            return Fraction(sum(1 for _ in models))
        return sum((self.at_most(model, kinds) for model in models), Fraction(0))


EQUAL = VoterWeights()


def ballot_weights(
    strategy: Strategy, measurements: Measurements, models: Sequence[str], max_ratio: float = MAX_RATIO
) -> VoterWeights:
    """The weights of a ballot that asks `models`, one for each seat; the heaviest is `max_ratio` times the lightest.

    `majority` weighs all alike. `weighted` uses what was measured of any model asked, and takes the others to be right
    half of the time; the rest of the strategies only use weights in a kind where every model asked has one.
    """
    seats = Counter(models)
    by_kind: dict[Kind, Mapping[str, Fraction]] = {}
    for kind in KINDS:
        known = [model for model in seats if kind in measurements.get(model, {})]
        enough = bool(known) if strategy == Strategy.WEIGHTED else len(known) == len(seats) > 0
        if strategy != Strategy.MAJORITY and enough:
            counts = {model: measurements.get(model, {}).get(kind, _NOT_MEASURED) for model in seats}
            weights = _weights(counts, seats, max_ratio)
            if weights:
                by_kind[kind] = weights
    return VoterWeights(by_kind)


def log_odds(counts: Measured) -> float:
    """How much an answer of this model says: the log odds of being right against one of the other options."""
    return math.log((counts.correct + 2) * (counts.options - 1) / (counts.asked - counts.correct + 2))


def _weights(counts: Mapping[str, Measured], seats: Mapping[str, int], max_ratio: float) -> dict[str, Fraction]:
    """By model; 0 for one that is no better than a guess; nothing where that is all of them."""
    odds = {model: log_odds(measured) for model, measured in counts.items()}
    best = max(odds.values())
    if best <= 0:
        return {}
    clipped = {model: max(value, best / max_ratio) if value > 0 else 0.0 for model, value in odds.items()}
    discounted = {model: value * _discount(seats[model], len(seats)) for model, value in clipped.items()}
    voting = [model for model in seats if discounted[model] > 0]
    mean = math.fsum(discounted[model] * seats[model] for model in voting) / sum(seats[model] for model in voting)
    return {
        model: Fraction(round(value / mean * 10**WEIGHT_DECIMALS), 10**WEIGHT_DECIMALS)
        for model, value in discounted.items()
    }


def _discount(samples: int, models: int) -> float:
    """What each of `samples` of one model counts: together m/(1+(m-1)·rho); 1 where there is no other model."""
    return 1.0 if models == 1 else 1 / (1 + (samples - 1) * SAMPLES_OF_ONE_MODEL_RHO)
