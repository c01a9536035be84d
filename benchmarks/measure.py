"""How every figure is made: sides measured in turn within one run, then medians, spreads and paired ratios.

Absolute speeds of two runs do not compare (other load, other clock, other machine); what happened a second apart in the
same run does. So a figure is a list of samples, one a round, and a ratio is taken round by round before its median.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

RESAMPLES = 4000  # the 95 % interval's ends are stable to about a hundredth of its width
BOOTSTRAP_SEED = 1  # the same samples give the same interval, on any machine


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int, warm_ups: int = 1) -> dict[str, list[T]]:
    """What each side returned in each round: A B, B A, A B, ...

    The order turns every round, so that neither a drift nor what one side leaves behind favours the other.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(-warm_ups, rounds):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            result = sides[name]()
            if number >= 0:
                results[name].append(result)
    return results


def ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, ...]:
    """`over` / `under`, round by round."""
    return tuple(a / b for a, b in zip(over, under, strict=True))


def p95(samples: Sequence[float]) -> float:
    """What 95 % of `samples` stay within: the smallest of them of which that is true."""
    return sorted(samples)[-(-95 * len(samples) // 100) - 1]


def p95_ratios(over: Sequence[float], under: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The p95 of `over` / that of `under`, and its 95 % percentile-bootstrap interval."""
    dice = random.Random(BOOTSTRAP_SEED)
    resampled = sorted(
        p95(dice.choices(over, k=len(over))) / p95(dice.choices(under, k=len(under))) for _ in range(RESAMPLES)
    )
    low, high = resampled[round(0.025 * (RESAMPLES - 1))], resampled[round(0.975 * (RESAMPLES - 1))]
    return p95(over) / p95(under), (low, high)


def differences(left: Sequence[float], right: Sequence[float]) -> tuple[float, ...]:
    """`left` - `right`, round by round."""
    return tuple(a - b for a, b in zip(left, right, strict=True))


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """A 95 % percentile-bootstrap interval of the median of `samples`."""
    dice = random.Random(BOOTSTRAP_SEED)
    medians = sorted(statistics.median(dice.choices(samples, k=len(samples))) for _ in range(RESAMPLES))
    return medians[round(0.025 * (RESAMPLES - 1))], medians[round(0.975 * (RESAMPLES - 1))]


@dataclass(frozen=True, slots=True)
class Target:
    """What the project promises of a figure."""

    bound: Literal["at least", "at most"]
    value: float

    def holds(self, value: float) -> bool:
        return value >= self.value if self.bound == "at least" else value <= self.value


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured: a sample a round. `unit` is empty for ratios."""

    name: str
    unit: str
    samples: tuple[float, ...]
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the median."""
        return median_interval(self.samples)

    @property
    def verdict(self) -> str:
        """Whether the target is met, and whether this run can tell: the interval may reach over it."""
        if self.target is None:
            return ""
        holds = self.target.holds(self.median)
        sure = all(self.target.holds(end) == holds for end in self.interval)
        return ("met" if holds else "missed") + ("" if sure else ", within noise")


@dataclass(frozen=True, slots=True)
class TailFigure(Figure):
    """A figure about the slowest of its samples: its value and interval are given, not taken from a median."""

    value: float = 0.0
    ends: tuple[float, float] = (0.0, 0.0)

    @property
    def median(self) -> float:
        return self.value

    @property
    def interval(self) -> tuple[float, float]:
        return self.ends
