"""Remembers how alike two answers are: a vote is counted on every arrival, and only the new answer's pairs are new."""

from __future__ import annotations

from typing import TypeVar

from swarm.consensus.comparable import Comparable

C = TypeVar("C", bound=Comparable)

MAX_PAIRS = 8192  # those of 128 answers, the most that one question gets


class Likenesses:
    """The likeness of pairs of answers, by identity; it holds the answers, so that no other gets the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[object, object, float]] = {}

    def of(self, one: C, other: C) -> float:
        """0..1, the same either way round."""
        pair = (id(one), id(other)) if id(one) <= id(other) else (id(other), id(one))
        known = self._known.get(pair)
        if known is not None:
            return known[2]
        if len(self._known) >= MAX_PAIRS:
            self._known.clear()
        alike = one.likeness(other)
        self._known[pair] = one, other, alike
        return alike
