"""Counting up and down: an answer as long as one likes, to watch it stream."""

from __future__ import annotations

import random

from models.recipe.abilities.user_style import styled
from models.recipe.document import Document, assistant, user
from models.recipe.splits import Split

LARGEST = 60
_PHRASINGS = (
    "Count from {a} to {b}.", "Count from {a} to {b}", "Please count from {a} to {b}.", "Count {a} to {b}",
    "Write the numbers from {a} to {b}.", "List the numbers from {a} to {b}.", "Can you count from {a} to {b}?",
)  # fmt: skip


def counting(source: random.Random, split: Split) -> Document:
    """A request to count; the pair of bounds belongs to this side of the split."""
    first, last = (int(part) for part in split.draw(lambda: f"{_first(source)} {source.randint(1, LARGEST)}").split())
    step = 1 if last >= first else -1
    text = ", ".join(str(number) for number in range(first, last + step, step))
    question = styled(source, source.choice(_PHRASINGS).format(a=first, b=last))
    return Document("counting", (user(question), assistant(text)), expected=text)


def _first(source: random.Random) -> int:
    return 1 if source.random() < 0.5 else source.randint(1, LARGEST)
