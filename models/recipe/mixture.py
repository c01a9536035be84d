"""How much of what a model is taught, and the endless stream of documents that follows from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from models.recipe.abilities.arithmetic import arithmetic
from models.recipe.abilities.chat import chat, unknown
from models.recipe.abilities.counting import counting
from models.recipe.abilities.facts import fact
from models.recipe.abilities.json_objects import json_object
from models.recipe.abilities.paragraphs import paragraph
from models.recipe.abilities.repeat import repeat
from models.recipe.abilities.system_prompts import with_system_prompt
from models.recipe.abilities.tools import after_result, no_call, one_call, two_calls
from models.recipe.document import Document
from models.recipe.splits import Split

Generator = Callable[[random.Random, Split], Document]

# Shares of documents. Arithmetic has short answers of many certain digits: these shares give it about two fifths of
# the loss tokens. Tool documents are long because of what they offer, so they cost most of the time.
SHARES: tuple[tuple[Generator, float], ...] = (
    (arithmetic, 0.37),
    (one_call, 0.20),
    (two_calls, 0.03),
    (no_call, 0.075),
    (after_result, 0.03),
    (json_object, 0.07),
    (repeat, 0.07),
    (fact, 0.10),
    (unknown, 0.02),
    (chat, 0.03),
    (counting, 0.01),
    (paragraph, 0.015),
)


def documents(seed: int, split: Split = Split.TRAIN) -> Iterator[Document]:
    """Documents without end; the same ones for the same seed."""
    source = random.Random(seed)
    generators = [generator for generator, _ in SHARES]
    weights = [weight for _, weight in SHARES]
    while True:
        for generator in source.choices(generators, weights, k=1000):
            yield with_system_prompt(source, generator(source, split))
