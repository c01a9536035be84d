"""Regular expressions as llama.cpp's grammars take them, such that what they match is always the inside of JSON text.

llama.cpp writes a class as it stands: `.` and `[^@]` would match a quote, and the JSON would be broken. It has no
`\\d`, `\\w` and `\\s`: it takes any text instead, with a line in its log. Both are put right here, without a parser of
expressions: what is not certain to be safe is left out, and then the text is free, as in other servers. So is what
would take llama.cpp seconds for a token: a pattern is one demand of many, and a client checks it anyway.
"""

from __future__ import annotations

import re
from functools import lru_cache

from swarm.engines.llama_cpp.pattern_cost import pattern_cost

MAX_PATTERN_CHARS = 1000  # longer ones are left out: each character is a rule that every token is held against

_NOT_IN_JSON = r'"\\\x00-\x1F'  # what JSON text must escape
_INSIDE_CLASS = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_CLASSES = {
    "d": "[0-9]",
    "w": "[A-Za-z0-9_]",
    "s": "[ ]",
    "D": f"[^{_NOT_IN_JSON}0-9]",
    "W": f"[^{_NOT_IN_JSON}A-Za-z0-9_]",
    "S": r'[^"\\\x00-\x20]',
}
_PUNCTUATION = frozenset(".-/()[]{}+*?|^$@#%&=:;,!~<>_' ")

# One step through an expression: a class, an escape, a lookaround or named group, or one character.
_TOKEN = re.compile(
    r"\[(?P<negated>\^?)(?P<members>\]?(?:\\.|[^\]\\])*)\]|\\(?P<escape>.)|(?P<group>\(\?(?!:))|(?P<one>.)", re.DOTALL
)


@lru_cache(maxsize=256)  # a schema is looked at before a vote, and made a grammar by each of its voters
def grammar_pattern(pattern: str) -> str | None:
    """`pattern` for a grammar; None where that cannot be said with certainty, costs too much, or not at all."""
    if len(pattern) > MAX_PATTERN_CHARS or not (pattern.startswith("^") and pattern.endswith("$")):
        return None
    made: list[str] = []
    for token in _TOKEN.finditer(pattern, 1, len(pattern) - 1):
        piece = _piece(token)
        if piece is None:
            return None
        made.append(piece)
    said = f"^{''.join(made)}$"
    return said if pattern_cost(said) is not None else None


def _piece(token: re.Match[str]) -> str | None:
    if token["members"] is not None:
        return _class(bool(token["negated"]), token["members"])
    if token["escape"] is not None:
        escape = token["escape"]
        return _CLASSES.get(escape) or (f"\\{escape}" if escape in _PUNCTUATION else None)
    if token["group"] is not None:
        return None
    one = token["one"]
    if one == ".":
        return f"[^{_NOT_IN_JSON}]"
    return one if one.isprintable() and one not in '"\\^$' else None


def _class(negated: bool, members: str) -> str | None:
    """A class of characters that JSON text may hold as they are."""
    made: list[str] = []
    position = 0
    while position < len(members):
        char = members[position]
        position += 1
        if char == "\\":
            escape = members[position]
            position += 1
            if escape in _INSIDE_CLASS:
                made.append(_INSIDE_CLASS[escape])
            elif escape in "-]^./":
                made.append(f"\\x{ord(escape):02X}")
            else:
                return None
        elif char.isprintable() and char not in '"[':
            made.append(char)
        else:
            return None
    text = "".join(made)
    if negated:
        return f"[^{_NOT_IN_JSON}{text}]"
    return f"[{text}]" if text and not _spans_escapes(text) else None


def _spans_escapes(members: str) -> bool:
    """Whether a range such as ` -~` takes in a quote or a backslash."""
    return any(low <= mark <= high for low, high in re.findall(r"(.)-(.)", members) for mark in '"\\')
