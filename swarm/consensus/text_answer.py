"""Answers in prose: never equal by similarity alone, but some are closer to all the others than the rest.

Two answers count as the same only if nearly every token is shared and they neither conclude with different numbers nor
negate a different number of times: "the answer is 42" and "the answer is 43" share most of their characters.

Remembers how alike two answers are: a vote is counted on every arrival, and only the new answer's pairs are new.

How much two answers share, token by token: the F1 measure of question answering (SQuAD), order left aside.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from swarm.consensus.answers import Comparable

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


NEAR_IDENTICAL = 0.9  # token F1; the same bar as for long strings in JSON

# Words, contractions, signed numbers with their separators, single ideographs, and the signs that turn a meaning round.
_TOKEN = re.compile(
    r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*%?"
    r"|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W\d_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:'[^\W\d_]+)*"
    r"|\d+|[<>=≠≤≥]"
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。!?\n]")
_NUMBER_GROUPING = re.compile(r",(?=\d{3}(?!\d))")
_MARKDOWN = re.compile(r"[*_`#]+")
_NEGATIONS = frozenset(
    {"no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without"}
    | {"nicht", "kein", "keine", "nie", "pas", "jamais", "nunca", "non", "não", "не", "不", "没", "無", "非"}
)
_LOOKALIKES = str.maketrans({"’": "'", "‘": "'", "−": "-"})


@dataclass(frozen=True, slots=True, eq=False)
class TextAnswer:
    """`key` is the text without case, layout and Markdown; `numbers` those of the last sentence that has any."""

    key: str
    tokens: Bag
    numbers: tuple[str, ...]
    negations: int

    def likeness(self, other: TextAnswer) -> float:
        """The overlap of the tokens, 0..1; 1 for the same text."""
        return 1.0 if self.key == other.key else overlap(self.tokens, other.tokens)

    def concludes_like(self, other: TextAnswer) -> bool:
        """Neither ends in other numbers nor says no a different number of times."""
        return self.numbers == other.numbers and self.negations == other.negations


def read_text(text: str) -> TextAnswer:
    """`text` as it is compared."""
    plain = unicodedata.normalize("NFKC", text).translate(_LOOKALIKES).casefold()
    tokens = [match.group() for match in _TOKEN.finditer(plain)]
    return TextAnswer(
        key=" ".join(_MARKDOWN.sub("", plain).split()).rstrip(".! "),
        tokens=bag_of(tokens),
        numbers=_concluding_numbers(plain),
        negations=sum(token in _NEGATIONS or token.endswith("n't") for token in tokens),
    )


def _concluding_numbers(plain: str) -> tuple[str, ...]:
    """The numbers of the last sentence that has any, without grouping and trailing zeros."""
    found: tuple[str, ...] = ()
    for sentence in _sentences(plain):
        numbers = tuple(
            _plain_number(match.group()) for match in _TOKEN.finditer(sentence) if match.group()[-1] in "0123456789%"
        )
        found = numbers or found
    return found


def _sentences(plain: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(plain):
        yield plain[start : end.start()]
        start = end.end()
    yield plain[start:]


def _plain_number(token: str) -> str:
    digits = _NUMBER_GROUPING.sub("", token.rstrip("%").lstrip("+"))
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
