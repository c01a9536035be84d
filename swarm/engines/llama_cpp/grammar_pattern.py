"""A regular expression as llama.cpp's grammars take it: the same demand, or a narrower one, in the words that it knows.

llama.cpp writes the inside of a JSON text from it as it stands. So every class is cut to what JSON text may hold
unescaped, and what must be escaped is written as its escape; its own classes for digits, words and spaces, escapes that
are none and repeats of escaped characters it misreads, and anchors it knows only around the whole. An expression is
read into parts (`engines/patterns.py`) and written anew from these. What is not anchored may have anything around it.

None where the demand cannot be said: lookarounds, references, inner anchors, characters without an escape, too many
repeats, and what would take llama.cpp seconds for a token (`pattern_cost.py`). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from swarm.engines.llama_cpp.pattern_cost import PatternPiece, pattern_cost
from swarm.engines.patterns import (
    LAST,
    Anchor,
    Chars,
    Choice,
    InvalidPattern,
    Pattern,
    Ranges,
    Repeat,
    Sequence,
    UnsupportedPattern,
    common_to,
    inverted,
    read_pattern,
)

MAX_PATTERN_CHARS = 1000  # longer ones are left out: each character is a rule that every token is held against

RAW: Ranges = inverted(((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)))  # what stands in JSON text as it is
ESCAPES = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
_SPECIAL = frozenset(".^$*+?()[]{}|")  # escaped outside a class
_SPECIAL_IN_CLASS = frozenset('[]\\^-"')
_ANYTHING = Repeat(Chars(RAW), 0, None)


@dataclass(frozen=True, slots=True)
class GrammarPattern:
    """`text` for a schema's `pattern`, what it costs, and how many characters a text has that keeps it."""

    text: str
    cost: PatternPiece
    least: int
    most: int | None

    def keeps(self, least: int, most: int | None) -> bool:
        """Whether every text that keeps it has from `least` to `most` characters."""
        return self.least >= least and (most is None or (self.most is not None and self.most <= most))


@lru_cache(maxsize=256)  # a schema is looked at before a vote, and made a grammar by each of its voters
def grammar_pattern(pattern: str, least: int = 0, most: int | None = None) -> GrammarPattern | None:
    """`pattern` for a grammar; None where that cannot be said with certainty, costs too much, or not at all.

    Where it repeats one class of characters, it is held to `least` and `most` characters, too.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        return None
    try:
        whole = _anchored(read_pattern(pattern))
    except (InvalidPattern, UnsupportedPattern, RecursionError):
        return None
    if isinstance(whole, Repeat) and isinstance(whole.part, Chars):
        fewest = max(whole.least, least)
        highest = min((count for count in (whole.most, most) if count is not None), default=None)
        if highest is None or fewest <= highest:
            whole = Repeat(whole.part, fewest, highest)
    safe = _safe(whole)
    cost = None if safe is None else pattern_cost(safe)
    if safe is None or cost is None:
        return None
    return GrammarPattern(f"^{_said(safe)}$", cost, *_lengths(whole))


@lru_cache(maxsize=256)
def said_cost(text: str) -> PatternPiece | None:
    """What the `text` of a GrammarPattern costs; None for one that is none."""
    try:
        parts = read_pattern(text.removeprefix("^").removesuffix("$"))
    except (InvalidPattern, UnsupportedPattern, RecursionError):
        return None
    return pattern_cost(parts)


def _anchored(pattern: Pattern) -> Pattern:
    """`pattern` as what the whole text must be. Raises UnsupportedPattern where an anchor stands inside."""
    branches = pattern.branches if isinstance(pattern, Choice) else (pattern,)
    made = [_anchored_branch(branch) for branch in branches]
    return made[0] if len(made) == 1 else Choice(tuple(made))


def _anchored_branch(branch: Pattern) -> Pattern:
    parts = branch.parts if isinstance(branch, Sequence) else (branch,)
    begins, ends = bool(parts) and parts[0] == Anchor(end=False), bool(parts) and parts[-1] == Anchor(end=True)
    parts = parts[begins : len(parts) - ends]
    if len(parts) == 1 and isinstance(parts[0], Choice) and not (begins or ends):
        return _anchored(parts[0])
    if any(map(_has_anchor, parts)):
        raise UnsupportedPattern("an anchor inside")
    if not begins:
        parts = (_ANYTHING, *parts)
    if not ends:
        parts = (*parts, _ANYTHING)
    return parts[0] if len(parts) == 1 else Sequence(parts)


def _has_anchor(part: Pattern) -> bool:
    match part:
        case Anchor():
            return True
        case Chars():
            return False
        case Repeat():
            return _has_anchor(part.part)
        case Sequence():
            return any(map(_has_anchor, part.parts))
        case Choice():
            return any(map(_has_anchor, part.branches))


def _safe(part: Pattern) -> Pattern | None:
    """`part` with nothing but what JSON text may hold; None where nothing is left of it."""
    match part:
        case Chars():
            raw = common_to(part.ranges, RAW)
            if raw:
                return Chars(raw)
            escapes = [_escaped(ESCAPES[code]) for code in ESCAPES if common_to(part.ranges, ((code, code),))]
            return escapes[0] if len(escapes) == 1 else Choice(tuple(escapes)) if escapes else None
        case Repeat():
            inside = _safe(part.part)
            return None if inside is None else Repeat(inside, part.least, part.most)
        case Sequence():
            parts = [_safe(inside) for inside in part.parts]
            return None if None in parts else Sequence(tuple(made for made in parts if made is not None))
        case Choice():
            branches = [made for inside in part.branches if (made := _safe(inside)) is not None]
            return Choice(tuple(branches)) if branches else None
        case Anchor():
            return None


def _escaped(letter: str) -> Pattern:
    return Sequence(tuple(Chars(((ord(char), ord(char)),)) for char in ("\\", letter)))


def _lengths(part: Pattern) -> tuple[int, int | None]:
    """The fewest and the most characters; None for no limit."""
    match part:
        case Chars():
            return 1, 1
        case Anchor():
            return 0, 0
        case Repeat():
            least, most = _lengths(part.part)
            if most is None or part.most is None:
                return least * part.least, 0 if most == 0 else None
            return least * part.least, most * part.most
        case Sequence():
            inside = list(map(_lengths, part.parts))
            most = [high for _, high in inside]
            return sum(low for low, _ in inside), None if None in most else sum(high or 0 for high in most)
        case Choice():
            inside = list(map(_lengths, part.branches))
            most = [high for _, high in inside]
            return min(low for low, _ in inside), None if None in most else max(high or 0 for high in most)


def _said(part: Pattern) -> str:
    match part:
        case Chars():
            return _character(part.ranges)
        case Repeat():
            return _repeated(part)
        case Sequence():
            return "".join(map(_said, part.parts))
        case Choice():
            said = list(dict.fromkeys(map(_said, part.branches)))
            group = f"({'|'.join(text for text in said if text)})"
            return group if all(said) else f"{group}?" if any(said) else ""
        case Anchor():
            raise AssertionError("anchors are taken away before")


def _repeated(part: Repeat) -> str:
    inside = _class(part.part.ranges) if isinstance(part.part, Chars) else f"({_said(part.part)})"
    if inside == "()":
        return ""
    match part.least, part.most:
        case 0, None:
            return f"{inside}*"
        case 1, None:
            return f"{inside}+"
        case 0, 1:
            return f"{inside}?"
        case least, None:
            return f"{inside}{{{least},}}"
        case _, 0:
            return ""
        case least, most:
            return inside + (f"{{{least}}}" if least == most else f"{{{least},{most}}}")


def _character(ranges: Ranges) -> str:
    [(low, high), *others] = ranges
    if others or low != high:
        return _class(ranges)
    char = chr(low)
    if char == "\\":
        return "\\\\"
    if char in _SPECIAL:
        return f"\\{char}"
    return char if char.isprintable() else _class(ranges)


def _class(ranges: Ranges) -> str:
    negated = ranges[-1][1] == LAST
    members = inverted(ranges) if negated else ranges
    text = "".join(_member(low) if low == high else f"{_member(low)}-{_member(high)}" for low, high in members)
    return f"[{'^' if negated else ''}{text}]"


def _member(code: int) -> str:
    char = chr(code)
    if char.isascii() and (not char.isprintable() or char in _SPECIAL_IN_CLASS):
        return f"\\x{code:02X}"
    return char if char.isprintable() or code > 0xFFFF else f"\\u{code:04X}"
