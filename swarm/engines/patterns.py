"""Regular expressions as JSON schemas have them (ECMA-262), read once into parts: for a grammar, and for a check.

`read_pattern` tells three things apart: an expression (its parts), one that is valid and that no table of characters
can say (a lookaround, a reference to a group: `UnsupportedPattern`), and none at all (`InvalidPattern`). Python's own
compiler is no judge of that: it refuses `[\\w-.]`, which is one everywhere else, and takes `(?P<name>...)`.

`is_matched` runs an expression in time that is linear in the text, by the engine that pydantic brings: neither a
client's expression nor a model's text can hang a node. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema

LAST = 0x10FFFF
MAX_NESTING = 100  # groups in groups
MAX_CHECKED_CHARS = 1000  # of an expression that is run: compiling some longer ones takes seconds

Ranges = tuple[tuple[int, int], ...]  # of code points, ascending, apart from each other

DIGITS: Ranges = ((0x30, 0x39),)
WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACES: Ranges = (
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
CLASSES = {"d": DIGITS, "w": WORDS, "s": SPACES}
CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_COUNT = re.compile(r"\{(\d{1,9})(,(\d{0,9}))?\}")
_HALF_COUNT = re.compile(r"\{,\d+\}")
_NAMED_GROUP = re.compile(r"\?P?<[A-Za-z_$][\w$]*>")


class InvalidPattern(ValueError):
    """No regular expression."""


class UnsupportedPattern(ValueError):
    """A regular expression beyond what is read here."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of `ranges`."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Anchor:
    """`^`, or `$` where `end`."""

    end: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    """`part`, `least` to `most` times; None for no limit."""

    part: Pattern
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[Pattern, ...]


Pattern = Chars | Anchor | Repeat | Sequence | Choice


def inverted(ranges: Ranges) -> Ranges:
    """Every other character."""
    made: list[tuple[int, int]] = []
    start = 0
    for low, high in ranges:
        if low > start:
            made.append((start, low - 1))
        start = high + 1
    return (*made, (start, LAST)) if start <= LAST else tuple(made)


def united(ranges: list[tuple[int, int]]) -> Ranges:
    made: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(made[-1][1], high))
        else:
            made.append((low, high))
    return tuple(made)


def common_to(one: Ranges, other: Ranges) -> Ranges:
    """The characters that both have."""
    return inverted(united([*inverted(one), *inverted(other)]))


@lru_cache(maxsize=256)
def read_pattern(pattern: str) -> Pattern:
    """The parts of `pattern`. Raises InvalidPattern or UnsupportedPattern."""
    reader = _Reader(pattern)
    found = reader.choice(0)
    if reader.at < len(pattern):
        raise InvalidPattern("a ) without its (")
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0

    def _next(self, size: int = 1) -> str:
        return self._text[self.at : self.at + size]

    def _takes(self, text: str) -> bool:
        if not self._text.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def choice(self, nesting: int) -> Pattern:
        if nesting > MAX_NESTING:
            raise UnsupportedPattern("groups nested too deep")
        branches = [self._sequence(nesting)]
        while self._takes("|"):
            branches.append(self._sequence(nesting))
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _sequence(self, nesting: int) -> Pattern:
        parts: list[Pattern] = []
        while (char := self._next()) and char not in "|)":
            part = self._atom(nesting)
            counted = self._count()
            if counted is not None:
                if isinstance(part, Anchor):
                    raise InvalidPattern("an anchor cannot be repeated")
                part = Repeat(part, *counted)
                if self._count() is not None:
                    raise InvalidPattern("a repeat of a repeat")
            parts.append(part)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _count(self) -> tuple[int, int | None] | None:
        """A quantifier; a lazy one matches the same texts."""
        found = _COUNT.match(self._text, self.at)
        if found is not None:
            self.at = found.end()
            least = int(found[1])
            most = least if found[2] is None else int(found[3]) if found[3] else None
            if most is not None and most < least:
                raise InvalidPattern(f"a repeat from {least} to {most}")
        elif self._next() and self._next() in "*+?":
            mark = self._next()
            self.at += 1
            least, most = int(mark == "+"), 1 if mark == "?" else None
        else:
            return None
        self._takes("?")
        return least, most

    def _atom(self, nesting: int) -> Pattern:
        char = self._next()
        if char in "*+?" or _COUNT.match(self._text, self.at):
            raise InvalidPattern("nothing to repeat")
        if _HALF_COUNT.match(self._text, self.at):
            raise UnsupportedPattern("{,n}, which is a repeat to some and text to others")
        self.at += 1
        match char:
            case "^" | "$":
                return Anchor(char == "$")
            case ".":
                return Chars(inverted(LINE_ENDS))
            case "(":
                return self._group(nesting)
            case "[":
                return Chars(self._class())
            case "\\":
                return Chars(self._escape(in_class=False))
            case _:
                return Chars(((ord(char), ord(char)),))

    def _group(self, nesting: int) -> Pattern:
        if self._next() == "?" and not self._takes("?:"):
            named = _NAMED_GROUP.match(self._text, self.at)
            if named is None:
                raise UnsupportedPattern(f"({self._next(3)}...")
            self.at = named.end()
        found = self.choice(nesting + 1)
        if not self._takes(")"):
            raise InvalidPattern("a ( without its )")
        return found

    def _class(self) -> Ranges:
        negated = self._takes("^")
        made: list[tuple[int, int]] = []
        while not self._takes("]"):
            low = self._member()
            end = self.at + 1
            if self._next() == "-" and self._text[end : end + 1] not in ("]", ""):
                self.at = end
                high = self._member()
                if len(low) == len(high) == 1 and low[0][0] == low[0][1] and high[0][0] == high[0][1]:
                    if low[0][0] > high[0][0]:
                        raise InvalidPattern("a range of a class that ends before it begins")
                    made.append((low[0][0], high[0][0]))
                else:  # `[\\w-.]`: no range, and the dash is one
                    made += [*low, (0x2D, 0x2D), *high]
            else:
                made += low
        return inverted(united(made)) if negated else united(made)

    def _member(self) -> Ranges:
        char = self._next()
        if not char:
            raise InvalidPattern("a [ without its ]")
        self.at += 1
        return self._escape(in_class=True) if char == "\\" else ((ord(char), ord(char)),)

    def _escape(self, in_class: bool) -> Ranges:
        char = self._next()
        if not char:
            raise InvalidPattern("a \\ at the end")
        self.at += 1
        if char.lower() in CLASSES:
            ranges = CLASSES[char.lower()]
            return inverted(ranges) if char.isupper() else ranges
        if char in "xu":
            code = self._code(char)
        elif char == "0" and not self._next().isdigit():
            code = 0
        elif char == "b" and in_class:
            code = 8
        elif char.isascii() and char.isalnum() and char not in CONTROLS:
            raise UnsupportedPattern(f"\\{char}")  # a reference, a boundary, a property, \\A and the like
        else:
            code = CONTROLS.get(char, ord(char))
        return ((code, code),)

    def _code(self, kind: str) -> int:
        """`\\x41`, `\\u0041`, `\\u{41}`, and two halves of a surrogate pair."""
        found = re.compile(r"[0-9A-Fa-f]{2}" if kind == "x" else r"[0-9A-Fa-f]{4}|\{[0-9A-Fa-f]{1,6}\}").match(
            self._text, self.at
        )
        if found is None:
            raise UnsupportedPattern(f"\\{kind}")
        self.at = found.end()
        code = int(found[0].strip("{}"), 16)
        low = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})").match(self._text, self.at)
        if 0xD800 <= code < 0xDC00 and low is not None:
            self.at = low.end()
            code = 0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        if code > LAST:
            raise InvalidPattern(f"no character has the number {code:x}")
        return code


def is_matched(pattern: str, text: str) -> bool:
    """Whether `pattern` is found in `text`; True where nobody can say: it does not compile, or not in bounds."""
    validator = _compiled(pattern)
    if validator is None:
        return True
    try:
        validator.validate_python(text)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> SchemaValidator | None:
    if len(pattern) > MAX_CHECKED_CHARS:
        return None
    try:
        written = _written(read_pattern(pattern))
        return SchemaValidator(core_schema.str_schema(pattern=written, regex_engine="rust-regex"))
    except (ValueError, RecursionError, SchemaError):
        return None


def _written(part: Pattern) -> str:
    """In the words of the engine that runs it, whose own classes are others."""
    match part:
        case Chars():
            return _class_text(part.ranges)
        case Anchor():
            return r"\z" if part.end else r"\A"
        case Repeat():
            most = "" if part.most is None else str(part.most)
            return f"(?:{_written(part.part)}){{{part.least},{most}}}"
        case Sequence():
            return "".join(map(_written, part.parts))
        case Choice():
            return f"(?:{'|'.join(map(_written, part.branches))})"


def _class_text(ranges: Ranges) -> str:
    """A class of hexadecimal ranges, without surrogates, of which there are none in a text."""
    whole = common_to(ranges, ((0, 0xD7FF), (0xE000, LAST)))
    if not whole:
        return r"[^\x00-\x{10FFFF}]"
    return "[" + "".join(rf"\x{{{low:X}}}-\x{{{high:X}}}" for low, high in whole) + "]"
