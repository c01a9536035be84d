"""Repeat after me: the exercise from which copying is learned.

Everything that a tool call copies is a special case of it; random strings force the network to look back instead of
guessing (induction: https://arxiv.org/abs/2209.11895).
"""

from __future__ import annotations

import random

from models.recipe.abilities.phrasing import COMPOSED_SHARE, composed
from models.recipe.abilities.values import glued_words, invented_word, scrambled, string_value
from models.recipe.document import Document, assistant, user
from models.recipe.splits import Split

_PHRASINGS = (
    "Repeat after me: {x}", "Say {x}", "Repeat: {x}", "Copy this: {x}", "Write {x}", "Echo {x}", "Please repeat {x}",
    "Say exactly: {x}", "Type this: {x}",
)  # fmt: skip
_VERBS = ("Repeat", "Say", "Copy", "Write", "Echo", "Type", "Print", "Return", "Output", "Write down")
_OBJECTS = ("", " this", " after me", " exactly", " this text", " the text", " only", " the following", " it")
_ENDS = (": {x}", " {x}", ' "{x}"', "\n{x}")
_HELD_OUT = ("Please say: {x}", "Repeat this: {x}", "Copy: {x}")


def _text(source: random.Random, split: Split) -> str:
    kind = source.random()
    if kind < 0.3:
        return string_value(source, split)
    if kind < 0.42:
        return " ".join(split.draw(lambda: glued_words(source)) for _ in range(source.randint(1, 4)))
    if kind < 0.6:
        return " ".join(split.draw(lambda: invented_word(source)) for _ in range(source.randint(2, 8)))
    if kind < 0.85:
        return " ".join(split.draw(lambda: scrambled(source)) for _ in range(source.randint(1, 6)))
    return " ".join(str(source.randint(0, 9999)) for _ in range(source.randint(1, 8)))


def repeat(source: random.Random, split: Split) -> Document:
    """One text to say again exactly."""
    text = _text(source, split)
    phrasing = (
        composed(source, _HELD_OUT, _VERBS, _OBJECTS, _ENDS)
        if split is Split.TRAIN and source.random() < COMPOSED_SHARE
        else split.phrasing(source, _PHRASINGS, _HELD_OUT)
    )
    question = phrasing.format(x=text)
    return Document("repeat", (user(question), assistant(text)), expected=text)
