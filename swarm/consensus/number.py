"""Reading one number as a person writes it, so that equal values are equal: 1/2 = 0.5 = 0,5; $1,234.50 = 1234.5.

Rules: currency signs, percent signs and names of things counted are dropped (the question fixes them), a unit of
measure is read beside the number (`units.py`); `million` and its like multiply; a comma before exactly three digits
groups thousands, any other single comma is a decimal point; where both `,` and `.` occur the last one is the decimal
point. Whatever holds a second number, a variable or an alternative is no number.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from swarm.consensus.units import Unit, unit_named

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


def parse_number(text: str) -> Fraction | None:
    """The one number that `text` states, or None if it states none, several, or an expression."""
    quantity = parse_quantity(text)
    return None if quantity is None else quantity[0]


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
