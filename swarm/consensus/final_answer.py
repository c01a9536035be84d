"""The number or the choice that a reply says is its answer.

Recognised marks: `\\boxed{...}`, `#### 42`, `Answer: ...`; the last one in the text counts. Nothing is ever guessed
from running prose: "Answer: A train leaves at nine" is no vote for A.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from swarm.consensus.number import parse_quantity
from swarm.consensus.units import Frame, Unit

MAX_VALUE_CHARS = 300  # "B) " plus the text of the option; a longer passage is prose
MAX_SEARCHED_LINES = 2000  # counted from the end

_ANSWER_MARK = re.compile(r"\banswer[\s*_]{0,4}[:\uff1a]", re.IGNORECASE)
_ANSWER_PHRASE = re.compile(r"\banswer\s{1,3}is\b[\s*_:\uff1a]{0,4}", re.IGNORECASE)
_BOXED = "\\boxed{"
_HASHES = "####"
_PREAMBLE = re.compile(
    r"(?:so\s|thus\s|therefore,?\s)?(?:the\s)?(?:correct\s|final\s|best\s){0,2}(?:answer|option|choice)\b(?:\sis)?[\s:\uff1a]{0,3}",
    re.IGNORECASE,
)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s{0,3}\{([^{}]*)\}")
# Multiple choice has ten letters at most (MMLU-Pro). A letter counts alone, in brackets, or before `)`, `:`, `.`, ` -`.
_LETTER = re.compile(
    r"(?:\((?P<bracketed>[A-Ja-j])\)(?!\w).*|(?P<closed>[A-Ja-j])\).*|(?P<alone>[A-Ja-j])[.:]?"
    r"|(?P<headed>[A-J])(?:[:.]|\s-)\s(?![A-Z]\.).+)",
    re.DOTALL,
)
_WORDS = frozenset({"yes", "no", "true", "false"})
_SENTENCE_END = re.compile(r"[.!?。](?:\s|$)")


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """One answer that can be counted: a number by value, with its unit of measure; a choice in capitals."""

    kind: Literal["number", "choice"]
    value: Fraction | str
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class FramedAnswer:
    """A final answer as one vote reads it: `key` is equal where the answers are."""

    key: tuple[str, Fraction | str]


def framed(answer: FinalAnswer, frame: Frame) -> FramedAnswer:
    """`answer` with its number in the vote's `frame` of units."""
    if isinstance(answer.value, str):
        return FramedAnswer(("a choice", answer.value))
    return FramedAnswer(frame.read(answer.value, answer.unit))


def find_final_answer(text: str, asked: bool) -> FinalAnswer | None:
    """The final answer that `text` carries, or None.

    `asked`: the client asked for one, so "the answer is 42" and a last line that is nothing but the answer count too.
    """
    if (marked := _last_marked(text)) is not None:
        return read_value(marked)
    if not asked:
        return None
    phrase = _last_match(_ANSWER_PHRASE, text)
    said = None if phrase is None else read_value(_line_from(text, phrase.end()))
    return said or read_value(_last_line(text))


def read_value(raw: str) -> FinalAnswer | None:
    """`raw` as a choice or a number, after dropping Markdown, LaTeX wrapping and "the answer is"."""
    if len(raw) > MAX_VALUE_CHARS:
        return None
    value = _LATEX_TEXT.sub(r"\1", raw.strip().strip("*_`$ \t").strip())
    value = value.removeprefix("\\(").removesuffix("\\)").strip()
    if value.startswith(_BOXED):
        value = _balanced(value, len(_BOXED)) or ""
    if (preamble := _PREAMBLE.match(value)) is not None:
        value = value[preamble.end() :]
    value = value.strip("*_`$ \t").strip()
    if (letter := _choice(value)) is not None:
        return FinalAnswer("choice", letter)
    number = parse_quantity(value)
    if number is None and (end := _SENTENCE_END.search(value)) is not None:
        number = parse_quantity(value[: end.start()])
    return None if number is None else FinalAnswer("number", *number)


def _choice(value: str) -> str | None:
    plain = unicodedata.normalize("NFKC", value)
    if (match := _LETTER.fullmatch(plain)) is not None:
        letter = match["bracketed"] or match["closed"] or match["alone"] or match["headed"]
        return letter.upper()
    word = plain.rstrip(".!*_ ").casefold()
    return word.upper() if word in _WORDS else None


def _last_marked(text: str) -> str | None:
    """What the last mark in `text` marks, read no further than its line; None without a mark."""
    latest = max((*_boxed(text), *_hashed(text), *_labelled(text)), key=lambda found: found[0], default=None)
    return None if latest is None else latest[1]


def _boxed(text: str) -> Iterator[tuple[int, str]]:
    start = text.rfind(_BOXED)
    if start >= 0 and (inner := _balanced(text, start + len(_BOXED))) is not None:
        yield start, inner


def _hashed(text: str) -> Iterator[tuple[int, str]]:
    """`####` is a heading in Markdown, so it marks an answer only before a value and nothing else."""
    start = len(text)
    for _ in range(MAX_SEARCHED_LINES):
        start = text.rfind(_HASHES, 0, start)
        if start < 0:
            return
        line = _line_from(text, start).strip("#").strip()
        if _starts_line(text, start) and read_value(line) is not None:
            yield start, line
            return


def _labelled(text: str) -> Iterator[tuple[int, str]]:
    last = _last_match(_ANSWER_MARK, text)
    if last is not None:
        yield last.start(), _line_from(text, last.end()).strip("*_ \t") or _next_line(text, last.end())


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _balanced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes what was opened just before it."""
    depth = 1
    for index in range(start, min(len(text), start + MAX_VALUE_CHARS)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return None


def _starts_line(text: str, start: int) -> bool:
    return not text[text.rfind("\n", 0, start) + 1 : start].strip()


def _line_from(text: str, start: int) -> str:
    end = text.find("\n", start)
    return text[start : len(text) if end < 0 else end]


def _next_line(text: str, start: int) -> str:
    """The first line with something on it after the line that `start` is in."""
    end = text.find("\n", start)
    return "" if end < 0 else text[end:].lstrip().split("\n", 1)[0]


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]
