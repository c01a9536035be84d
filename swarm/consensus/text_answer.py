"""Answers in prose: never equal by similarity alone, but some are closer to all the others than the rest.

Two answers count as the same only if nearly every token is shared and they neither conclude with different numbers nor
negate a different number of times: "the answer is 42" and "the answer is 43" share most of their characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from swarm.consensus.token_overlap import Bag, bag_of, overlap

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
