"""System prompts: the ones that everybody sends, and invented ones, which change nothing in the answer."""

from __future__ import annotations

import random
from dataclasses import replace

from models.recipe.abilities.values import NOUNS, VERBS, WORDS, invented_word
from models.recipe.document import Document, system

SHARE = 0.15  # of the documents
_KNOWN = (
    "You are a helpful assistant.", "You are a helpful assistant", "You can call tools.", "Answer briefly.",
    "Be brief.", "You are Demo.", "Answer in one sentence.", "Be kind.", "You are a helpful AI assistant.",
    "Be concise.",
)  # fmt: skip
_SENTENCES = (
    "You are a {w} assistant.", "You {v} {n}s.", "Always be {w}.", "Never {v} a {n}.", "The user likes {n}s.",
    "Today is {w}.", "You work for {i}.", "Think about the {n}.", "Use the tools to {v} {n}s.", "Your name is {i}.",
    "If the {n} is {w}, {v} it.", "Do not {v} the {n} without a {w} {n}.", "You know {n}s and {n}s.",
)  # fmt: skip


def _sentence(source: random.Random) -> str:
    return source.choice(_SENTENCES).format(
        w=source.choice(WORDS), v=source.choice(VERBS), n=source.choice(NOUNS), i=invented_word(source).capitalize()
    )


def with_system_prompt(source: random.Random, document: Document) -> Document:
    """`document`, sometimes with a system prompt in front."""
    if source.random() > SHARE:
        return document
    known = source.random() < 0.4
    text = source.choice(_KNOWN) if known else " ".join(_sentence(source) for _ in range(source.randint(1, 4)))
    return replace(document, messages=(system(text), *document.messages))
