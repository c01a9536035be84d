"""How sure a figure is: 95 % percentile-bootstrap intervals over problems, which is what samples are independent in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

RESAMPLES = 2000  # the interval's ends are then stable to about a hundredth of its width
_SEED = 20_240_701  # the same samples give the same interval, on any machine


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of one value for each problem. Raises ValueError without any."""
    if not values:
        raise ValueError("no problem, no mean")
    return statistic(len(values), lambda chosen: sum(map(values.__getitem__, chosen)) / len(chosen))


def mean_difference(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of `ones` less that of `others`, problem by problem: the interval of what one gains over the other."""
    return mean_of([one - other for one, other in zip(ones, others, strict=True)])


def ratio_of_sums(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """The sum of `ones` over that of `others`, resampled together; `others` add up to more than 0."""
    return statistic(
        len(ones),
        lambda chosen: sum(map(ones.__getitem__, chosen)) / max(sum(map(others.__getitem__, chosen)), 1e-12),
    )


def statistic(count: int, compute: Callable[[Sequence[int]], float | None]) -> Estimate:
    """`compute` of all problem numbers below `count`, and of resamples of them; resamples without a value are skipped.

    Raises ValueError where there is no value at all.
    """
    value = compute(range(count))
    if value is None:
        raise ValueError("the figure is not defined on these problems")
    resampled = sorted(got for chosen in _resamples(count) if (got := compute(chosen)) is not None)
    last = len(resampled) - 1
    return Estimate(value, resampled[round(0.025 * last)], resampled[round(0.975 * last)])


@lru_cache(maxsize=4)
def _resamples(count: int) -> tuple[tuple[int, ...], ...]:
    dice = random.Random(_SEED)
    return tuple(tuple(dice.choices(range(count), k=count)) for _ in range(RESAMPLES))
