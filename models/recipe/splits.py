"""Who sees what: every word, name, value and problem belongs to training or to evaluation by its own checksum.

A checksum instead of lists, so that endless kinds (random words, numbers, sums) are split as strictly as short ones and
no seed of any generator can leak one side into the other.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from enum import Enum

HELD_OUT_SHARE = 8  # one in so many
MAX_DRAWS = 1000  # a kind with fewer than one suitable value in so many is a mistake in its list


class Split(Enum):
    TRAIN = "train"
    HELD_OUT = "held-out"

    def owns(self, text: str) -> bool:
        """Whether `text` may appear on this side (case does not matter)."""
        held_out = zlib.crc32(text.lower().encode()) % HELD_OUT_SHARE == 0
        return held_out == (self is Split.HELD_OUT)

    def draw(self, make: Callable[[], str]) -> str:
        """The first made text that belongs to this side."""
        for _ in range(MAX_DRAWS):
            text = make()
            if self.owns(text):
                return text
        raise ValueError(f"{MAX_DRAWS} draws gave nothing that is {self.value}")

    def choice(self, source: random.Random, options: Sequence[str]) -> str:
        """One of `options` that belongs to this side."""
        return self.draw(lambda: source.choice(options))

    def phrasing(self, source: random.Random, train: Sequence[str], held_out: Sequence[str]) -> str:
        """One way to say it: from the list of this side."""
        return source.choice(train if self is Split.TRAIN else held_out)
