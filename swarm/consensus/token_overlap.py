"""How much two answers share, token by token: the F1 measure of question answering (SQuAD), order left aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

MAX_COMPARED_TOKENS = 2000  # from the start; every pair of answers is compared, so this bounds a ballot's time

Bag = frozenset[str]


def bag_of(tokens: Iterable[str]) -> Bag:
    """The first MAX_COMPARED_TOKENS tokens (none with spaces); the n-th repeat of a token is its own element."""
    seen: Counter[str] = Counter()
    elements: set[str] = set()
    for token in islice(tokens, MAX_COMPARED_TOKENS):
        seen[token] += 1
        elements.add(token if seen[token] == 1 else f"{token} {seen[token]}")
    return frozenset(elements)


def overlap(one: Bag, other: Bag) -> float:
    """Token F1, 0..1, the same either way round: 2·shared / (tokens of one + tokens of the other)."""
    total = len(one) + len(other)
    return 2 * len(one & other) / total if total else 0.0
