r"""The number or the choice that a reply says is its answer, and when two of them are equal.

Recognised marks: `\boxed{...}`, `#### 42`, `Answer: ...`; the last one in the text counts. Nothing is ever guessed
from running prose: "Answer: A train leaves at nine" is no vote for A.

Numbers are read as a person writes them, so that equal values are equal: 1/2 = 0.5 = 0,5; $1,234.50 = 1234.5. Currency
signs, percent signs and names of things counted are dropped (the question fixes them); `million` and its like multiply;
a comma before exactly three digits groups thousands, any other single comma is a decimal point; where both `,` and `.`
occur the last one is the decimal point. Whatever holds a second number, a variable or an alternative is no number.

Units of measure: "5 km" and "5 miles" are two answers, "5 km" and "5000 m" are one, and a bare "5" goes with most.
Whether "5" means "5 km" cannot be said of the two alone (it would also mean "5 miles", and then the two were equal), so
it is decided once for a whole vote, by heads. Where over half of the replies name a unit of measure, units count, and
a bare number is taken to be in the unit that most replies name. Where not, the question is taken to fix the unit, and
all are dropped, as names of things counted ("42 apples") and currencies always are.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

_F = Fraction

# By what is measured: each unit's names, and how many of the first it is. No degrees: 68 °F are no multiple of 20 °C.
_TABLE: Mapping[str, Mapping[str, Fraction]] = {
    "length": {
        "m meter meters metre metres": _F(1),
        "km kilometer kilometers kilometre kilometres": _F(1000),
        "cm centimeter centimeters centimetre centimetres": _F(1, 100),
        "mm millimeter millimeters millimetre millimetres": _F(1, 1000),
        "mi mile miles": _F("1609.344"),
        "yd yard yards": _F("0.9144"),
        "ft foot feet": _F("0.3048"),
        "inch inches": _F("0.0254"),
    },
    "time": {
        "s sec secs second seconds": _F(1),
        "ms millisecond milliseconds": _F(1, 1000),
        "min mins minute minutes": _F(60),
        "h hr hrs hour hours": _F(3600),
        "day days": _F(86400),
        "week weeks": _F(604800),
    },
    "mass": {
        "g gram grams": _F(1),
        "mg milligram milligrams": _F(1, 1000),
        "kg kilogram kilograms": _F(1000),
        "lb lbs pound pounds": _F("453.59237"),
        "oz ounce ounces": _F("28.349523125"),
    },
    "volume": {
        "l liter liters litre litres": _F(1),
        "ml milliliter milliliters millilitre millilitres": _F(1, 1000),
        "gallon gallons": _F("3.785411784"),
    },
    "speed": {
        "m/s": _F(1),
        "km/h kmh kph": _F(5, 18),
        "mph": _F("0.44704"),
    },
    "area": {"m^2": _F(1), "km^2": _F(1_000_000), "cm^2": _F(1, 10_000)},
}


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """`size` in the first unit of what it `measures`."""

    measures: str
    size: Fraction


_UNITS: Mapping[str, Unit] = {
    name: Unit(measures, size)
    for measures, units in _TABLE.items()
    for names, size in units.items()
    for name in names.split()
}
_SPOKEN: Mapping[str, str] = {
    "meters per second": "m/s",
    "metres per second": "m/s",
    "kilometers per hour": "km/h",
    "kilometres per hour": "km/h",
    "miles per hour": "mph",
    "square meters": "m^2",
    "square metres": "m^2",
    "square kilometers": "km^2",
    "square kilometres": "km^2",
}


def unit_named(words: str) -> Unit | None:
    """The unit of measure that `words` (lower-case, what follows a number) name, and nothing else."""
    plain = " ".join(words.split()).strip(".,()")
    return _UNITS.get(_SPOKEN.get(plain, plain))


@dataclass(frozen=True, slots=True)
class Frame:
    """How the numbers of one vote are read. `bare` is the unit of those that name none; None: units are dropped.

    `lead`: with fewer heads outstanding, no further replies can change this.
    """

    bare: Unit | None
    lead: Fraction

    def read(self, value: Fraction, unit: Unit | None) -> tuple[str, Fraction]:
        """What is measured ("" where units are dropped), and how much of it."""
        if self.bare is None:
            return "", value
        meant = unit or self.bare
        return meant.measures, value * meant.size


def frame_of(units: Sequence[tuple[Unit | None, Fraction]]) -> Frame:
    """The frame of the replies that name these units, each with its heads."""
    heads = sum((head for _, head in units), Fraction(0))
    by_unit: dict[Unit, Fraction] = {}
    for unit, head in units:
        if unit is not None:
            by_unit[unit] = by_unit.get(unit, Fraction(0)) + head
    named = sum(by_unit.values(), Fraction(0))
    if 2 * named <= heads:
        return Frame(None, heads - 2 * named)
    ranked = sorted(by_unit, key=lambda unit: (-by_unit[unit], unit))
    lead = 2 * named - heads
    if named < heads:  # without a bare number it does not matter yet which unit one would have
        lead = min(lead, by_unit[ranked[0]] - (by_unit[ranked[1]] if len(ranked) > 1 else Fraction(0)))
    return Frame(ranked[0], lead)


MAX_NUMBER_CHARS = 200  # a final answer is short; also bounds the arithmetic
MAX_EXPONENT = 400  # beyond every double; 10**999999 would take seconds and megabytes
MAX_UNIT_WORDS = 4  # "42 kilometres per hour", not a sentence that happens to begin with a number
MAX_UNIT_CHARS = 30

_SUPERSCRIPTS = {ord(char): f"^{digit}" for digit, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_SYMBOLS = str.maketrans({"−": "-", "–": "-", "﹣": "-", "⁄": "/", "×": "*", "·": "*", "\u202f": " ", "≈": "", "~": ""})
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s{0,3}\{\s{0,3}(-?\d+)\s{0,3}\}\s{0,3}\{\s{0,3}(\d+)\s{0,3}\}")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s{0,3}\{([^{}]*)\}")
_LATEX_NOISE = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle)\b|\^\{?\\circ\}?")
_LEAD = re.compile(
    r"(?:[a-z]\w{0,15}\s{0,3}=|about|approximately|around|roughly|usd|eur|gbp|us(?=\s{0,2}\d))\s{0,3}", re.IGNORECASE
)

_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s{0,3}"
    r"(?:(?P<whole>\d+)\s{1,3}(?P<mixed>\d+/\d+)"
    r"|(?P<ratio>\d[\d,]*\s{0,3}/\s{0,3}\d+)"
    r"|(?P<spaced>[1-9]\d{0,2}(?: \d{3})+)(?![\d,.])"
    r"|(?P<plain>\d[\d,.]*\d|\d|\.\d+)"
    r"(?:[eE](?P<exponent>[+-]?\d+)|\s{0,3}[*x]\s{0,3}10\^\{?(?P<power>[+-]?\d+)\}?)?)"
)
_COMMA_GROUPS = re.compile(r"[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}")  # 1,234,567 and 12,34,567
_DOT_GROUPS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+")
_UNIT_EXPONENT = re.compile(r"\^?-?\d\Z")

_SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# Words after a number that mean there is more to it than a unit.
_NOT_UNITS = frozenset(
    {
        "or",
        "and",
        "not",
        "to",
        "but",
        "if",
        "plus",
        "minus",
        "times",
        "over",
        "divided",
        "pi",
        "sqrt",
        "factorial",
        "mod",
    }
)
_ONE_LETTER_UNITS = frozenset("mgshlwvj")  # any other single letter is taken for a variable: 3x, 2n
_UNIT_MARKS = frozenset("/^*.-'%°()")


def parse_quantity(text: str) -> tuple[Fraction, Unit | None] | None:
    """The one number that `text` states, with its unit of measure if it names one that is known."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    plain = _plain_text(text)
    while lead := _LEAD.match(plain):
        plain = plain[lead.end() :]
    found = _NUMBER.match(plain)
    if found is None:
        return None
    value = _value(found)
    rest = _scale_and_words(plain[found.end() :])
    if value is None or rest is None:
        return None
    scale, words = rest
    return (-value if found["sign"] == "-" else value) * scale, unit_named(words)


def _plain_text(text: str) -> str:
    """`text` without LaTeX, Markdown, currency and look-alike characters."""
    spaced = "".join(f" {char}" if unicodedata.decomposition(char).startswith("<fraction>") else char for char in text)
    plain = unicodedata.normalize("NFKC", spaced.translate(_SUPERSCRIPTS)).translate(_SYMBOLS)
    plain = (
        plain.replace("{,}", ",").replace("\\%", "%").replace("\\$", "$").replace("\\times", "*").replace("\\cdot", "*")
    )
    plain = _LATEX_NOISE.sub("", _LATEX_TEXT.sub(r"\1", _LATEX_FRACTION.sub(r"\1/\2", plain)))
    plain = plain.replace("**", "").replace("__", "").replace("`", "")
    plain = "".join(char for char in plain if unicodedata.category(char) != "Sc")
    return plain.strip().rstrip(".,;:!*_").strip()


def _value(found: re.Match[str]) -> Fraction | None:
    if found["mixed"]:
        part = _ratio(found["mixed"])
        return None if part is None else int(found["whole"]) + part
    if found["ratio"]:
        return _ratio(found["ratio"])
    if found["spaced"]:
        return Fraction(found["spaced"].replace(" ", ""))
    decimal = _decimal_text(found["plain"])
    if decimal is None:
        return None
    exponent = int(found["exponent"] or found["power"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    return Fraction(decimal) * Fraction(10) ** exponent


def _ratio(text: str) -> Fraction | None:
    top, bottom = text.split("/")
    numerator = _decimal_text(top.strip())
    denominator = int(bottom)
    return None if numerator is None or denominator == 0 else Fraction(numerator) / denominator


def _decimal_text(digits: str) -> str | None:
    """`digits` with the grouping taken out and a point for the decimal mark; None if the marks make no sense."""
    comma, dot = digits.rfind(","), digits.rfind(".")
    if comma >= 0 and dot >= 0:
        mark, groups = (".", _COMMA_GROUPS) if dot > comma else (",", _DOT_GROUPS)
        whole, _, fraction = digits.rpartition(mark)
        return f"{_joined(whole)}.{fraction}" if fraction.isdecimal() and groups.fullmatch(whole) else None
    if comma >= 0:
        if _COMMA_GROUPS.fullmatch(digits):
            return _joined(digits)
        return digits.replace(",", ".") if digits.count(",") == 1 else None
    if digits.count(".") > 1:
        return _joined(digits) if _DOT_GROUPS.fullmatch(digits) else None
    return digits


def _joined(grouped: str) -> str:
    return grouped.replace(",", "").replace(".", "")


def _scale_and_words(rest: str) -> tuple[int, str] | None:
    """What the words after a number multiply it by (1 for units), and its unit; None if they are more than a unit."""
    words = rest.casefold().split()
    scale = 1
    while words and words[0] in _SCALES:
        scale *= _SCALES[words.pop(0)]
    if len(words) > MAX_UNIT_WORDS or scale > 10**MAX_EXPONENT:
        return None
    return (scale, " ".join(words)) if all(_is_unit(word) for word in words) else None


def _is_unit(word: str) -> bool:
    bare = _UNIT_EXPONENT.sub("", word.strip(".,()"))
    if len(bare) > MAX_UNIT_CHARS or bare in _NOT_UNITS:
        return False
    if len(bare) == 1 and bare.isalpha():
        return bare in _ONE_LETTER_UNITS
    return bare != "" and all(char.isalpha() or char in _UNIT_MARKS for char in bare) and bare[0] not in "/^*.-"


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
_LATEX_BOLD = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s{0,3}\{([^{}]*)\}")
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
    value = _LATEX_BOLD.sub(r"\1", raw.strip().strip("*_`$ \t").strip())
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
