"""How many columns of a terminal a clean line takes, and how to have it in so many."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"


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
