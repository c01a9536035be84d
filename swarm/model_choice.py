"""Which model this node serves: what the user named, else the best that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hardware.snapshot import HardwareSnapshot
from swarm.registry.embedded import embedded_model_path
from swarm.settings import Settings


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model to load. `reason` says in words why this one."""

    model_id: str
    path: Path | None
    context_tokens: int
    params: int | None
    reason: str


def choose_model(settings: Settings, snapshot: HardwareSnapshot, say: Callable[[str], None]) -> ChosenModel:
    return ChosenModel("demo", embedded_model_path(), min(settings.context, 2048), 2_000_000, "x")
