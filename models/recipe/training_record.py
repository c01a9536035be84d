"""What one training run came to, for the model card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """`weights` counts tied ones once; `seconds` are training time alone."""

    name: str
    seed: int
    weights: int
    seconds: float
    steps: int
    tokens: int
