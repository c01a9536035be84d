"""How often a model was right when it was asked questions with known answers, by kind of answer. Plain counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OPEN_OPTIONS = 5  # what an open question is taken to have: wrong answers are many, but a few of them are common


@dataclass(frozen=True, slots=True)
class Measured:
    """`correct` of `asked` questions, each with `options` answers to choose from (OPEN_OPTIONS where it is open)."""

    correct: int
    asked: int
    options: int = OPEN_OPTIONS

    def __add__(self, other: Measured) -> Measured:
        """Both together. Where they differ in options the fewer count: a guess is credited less."""
        return Measured(self.correct + other.correct, self.asked + other.asked, min(self.options, other.options))


Measurements = Mapping[str, Mapping[str, Measured]]  # by model id (which names its quantization), then by kind


def merged(old: Measurements, new: Measurements) -> Measurements:
    """The counts of both, added up where both have the model and the kind."""
    return {model: _added(old.get(model, {}), new.get(model, {})) for model in sorted({*old, *new})}


def _added(old: Mapping[str, Measured], new: Mapping[str, Measured]) -> dict[str, Measured]:
    kinds = dict(old)
    for kind, counts in new.items():
        kinds[kind] = kinds[kind] + counts if kind in kinds else counts
    return dict(sorted(kinds.items()))
