"""How sure a measured share is."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959964  # the normal distribution's 97.5 % point
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of `count`, with its 95 % interval (Wilson's: right for shares near 0 and 1, too)."""

    right: int
    count: int

    @property
    def value(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        n, p, z2 = self.count, self.value, Z_95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of two shares over the same problems, with its 95 % interval (bootstrap over problems)."""

    value: float
    interval: tuple[float, float]


def paired_gain(better: Sequence[float], worse: Sequence[float], seed: int = 0) -> Gain:
    """Mean of `better` minus mean of `worse`, problem by problem."""
    differences = [b - w for b, w in zip(better, worse, strict=True)]
    source, count = random.Random(seed), len(differences)
    means = sorted(sum(source.choices(differences, k=count)) / count for _ in range(RESAMPLES))
    return Gain(sum(differences) / count, (means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]))
