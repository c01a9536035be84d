"""Ways to say something, put together from parts: many more than a list holds, and still none that is held out."""

from __future__ import annotations

import random
from collections.abc import Sequence

COMPOSED_SHARE = 0.55  # of the training phrasings; the others come from lists of natural ones


def composed(source: random.Random, held_out: Sequence[str], *parts: Sequence[str]) -> str:
    """One of each of `parts` joined, and none of the `held_out` phrasings, whatever their case and punctuation."""
    kept_back = {_bare(phrasing) for phrasing in held_out}
    while True:
        phrasing = "".join(source.choice(part) for part in parts)
        if _bare(phrasing) not in kept_back:
            return phrasing


def _bare(phrasing: str) -> str:
    return phrasing.lower().strip(" .?!:")
