"""Text of models and peers, made safe for a terminal, and how many columns it takes there."""

from __future__ import annotations

import re
import unicodedata

# Whole sequences go: what is left of a half-removed one would be read as text. 8-bit forms (C1) are sequences too.
_ESCAPES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC: titles, links, clipboard
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c]*(?:\x1b\\|\x9c)?"  # DCS and other strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|\x1b[ -/]*[0-~]?"
)
_NEWLINES = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
REPLACEMENT = "\ufffd"
ELLIPSIS = "…"


def clean_line(text: str) -> str:
    """`text` as one line that a terminal only shows: no escapes, no controls, white space folded."""
    return " ".join(clean_text(text).split())


def clean_text(text: str) -> str:
    """`text` with its lines and tabs, and without anything else that a terminal might act on."""
    return "".join(map(_clean, _NEWLINES.sub("\n", _ESCAPES.sub("", text))))


def _clean(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    category = unicodedata.category(char)
    if category == "Zs":
        return " "
    return "" if category == "Cf" else REPLACEMENT  # Cf: joiners and the overrides that turn text around


def columns_of(text: str) -> int:
    """The columns that a clean line takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """A clean line in at most `columns`, with an ellipsis where it was longer."""
    if columns_of(text) <= columns:
        return text
    kept: list[str] = []
    left = columns - 1
    for char in text:
        left -= _columns(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + ELLIPSIS if columns > 0 else ""


def fitted(text: str, columns: int, right: bool = False) -> str:
    """A clean line in exactly `columns`."""
    text = cut(text, columns)
    space = " " * (columns - columns_of(text))
    return space + text if right else text + space
