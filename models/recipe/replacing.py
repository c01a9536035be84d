"""Whether a new model may take the place of the one that is there."""

from __future__ import annotations

import json
from pathlib import Path

from swarm.registry.embedded import file_stem

QUALITY_TOLERANCE = 0.005  # a rebuild that is worse by less than the noise of the evaluation is no loss


def shipped_quality(folder: Path, name: str) -> float | None:
    """What the model now in `folder` was measured at; None where there is none."""
    figures = folder / f"{file_stem(name)}.figures.json"
    if not figures.is_file() or not (folder / f"{file_stem(name)}.gguf").is_file():
        return None
    return float(json.loads(figures.read_text(encoding="utf-8"))["quality"])


def may_replace(old: float, new: float) -> bool:
    """Whether a model of quality `new` may take the place of one of quality `old`."""
    return new >= old - QUALITY_TOLERANCE
