"""Text that others wrote (models, peers, upstreams, files, networks), as a terminal, a log or a label may have it.

One table says what is only shown: everything else a terminal may act on (escape sequences, controls, overrides that
turn text around), or hides what is there. Whole sequences go: what is left of a half-removed one would be read as text.

    printable     a name: one character for each, "?" for what is not shown. For what is compared and kept
    clean_line    one line, white space folded. For a cell, an error, a heading
    one_line      one line, with its spaces
    clean_text    prose with its lines, tabs and emoji
    TextCleaner   the same for prose that comes in pieces, cut anywhere
    columns_of    how wide that is in a terminal; `cut`, `fitted` and `aligned` make it as wide as is wanted
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from enum import Enum, auto
from typing import Final

ELLIPSIS: Final = "…"
REPLACEMENT: Final = "\ufffd"

_BELL, _ESCAPE = "\x07", "\x1b"
_C1_CONTROL_SEQUENCE, _C1_STRING_END = "\x9b", "\x9c"
_STRINGS: Final = frozenset("]PX^_")  # after ESC: OSC (titles, links, the clipboard), DCS, SOS, PM, APC
_C1_STRINGS: Final = frozenset("\x9d\x90\x98\x9e\x9f")  # the same as one character
_NEW_LINES: Final = frozenset("\n\x0b\x0c\x85\u2028\u2029")
_JOINERS: Final = frozenset("\u200c\u200d")  # of emoji, and of scripts that join letters

# Characters that count as printable and show nothing: fillers, variation selectors, blanks.
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U0001d159\U00016fe4"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)


class _State(Enum):
    TEXT = auto()
    RETURN = auto()  # after a carriage return, which has become a new line: a line feed belongs to it
    ESCAPE = auto()
    SEQUENCE = auto()  # after ESC [, in its parameters
    SEQUENCE_END = auto()  # ... in its intermediates
    STRING = auto()


class TextCleaner:
    """What has come of a text so far decides how the next piece reads: a sequence may be cut by two network packets."""

    def __init__(self) -> None:
        self._state = _State.TEXT
        self._before = ""  # the last character shown

    def feed(self, piece: str) -> str:
        """What a terminal may show of the next piece."""
        if self._state is _State.TEXT and piece.isascii() and piece.isprintable():
            self._before = piece[-1:] or self._before
            return piece
        return "".join(map(self._take, piece))

    def _take(self, char: str) -> str:
        """The character's part of the text; it may end a sequence that it does not belong to."""
        state = self._state
        match state:
            case _State.ESCAPE if char in _STRINGS:
                self._state = _State.STRING
            case _State.ESCAPE if char == "[":
                self._state = _State.SEQUENCE
            case _State.ESCAPE if " " <= char <= "/":
                pass
            case _State.ESCAPE if "0" <= char <= "~":
                self._state = _State.TEXT
            case _State.SEQUENCE if "0" <= char <= "?":
                pass
            case _State.SEQUENCE | _State.SEQUENCE_END if " " <= char <= "/":
                self._state = _State.SEQUENCE_END
            case _State.SEQUENCE | _State.SEQUENCE_END if "@" <= char <= "~":
                self._state = _State.TEXT
            case _State.STRING if char in (_BELL, _C1_STRING_END):
                self._state = _State.TEXT
            case _State.STRING if char >= " " and char != "\x7f":
                pass  # at the latest the line's end ends it: nothing that follows is hidden
            case _:
                return self._plain(char)
        return ""

    def _plain(self, char: str) -> str:
        was, self._state = self._state, _State.TEXT
        if char == _ESCAPE:
            self._state = _State.ESCAPE
        elif char == _C1_CONTROL_SEQUENCE:
            self._state = _State.SEQUENCE
        elif char in _C1_STRINGS:
            self._state = _State.STRING
        elif char == "\n" and was is _State.RETURN:
            return ""
        elif char == "\r":
            self._state = _State.RETURN
            return self._show("\n")
        elif char in _NEW_LINES:
            return self._show("\n")
        elif char == "\t" or char.isprintable():
            return self._show(char)
        elif char in _JOINERS:  # between letters of ours it only hides
            return "" if not self._before or self._before.isascii() else self._show(char)
        else:
            category = unicodedata.category(char)
            if category == "Zs":
                return self._show(" ")
            if category != "Cf":  # those are invisible, or turn text around
                return self._show(REPLACEMENT)
        return ""

    def _show(self, char: str) -> str:
        self._before = char
        return char


def clean_text(text: str) -> str:
    """`text` with its lines, tabs and emoji, and without anything else that a terminal might act on."""
    return TextCleaner().feed(text)


def one_line(text: str) -> str:
    """`text` as one line, spaces as they are."""
    return text if text.isascii() and text.isprintable() else clean_text(text).replace("\n", " ")


def clean_line(text: str) -> str:
    """`text` as one line that a terminal only shows: no escapes, no controls, nothing unseen, white space folded."""
    shown = clean_text(text)
    if not shown.isascii():
        shown = "".join(char for char in shown if char not in _UNSEEN and char not in _JOINERS)
    return " ".join(shown.split())


def printable(text: str) -> str:
    """A name with everything that is not simply shown replaced by `?`, so that no two names look alike by hiding it."""
    return "".join(char if char.isprintable() and char not in _UNSEEN else "?" for char in text)


def columns_of(text: str) -> int:
    """How many columns of a terminal a clean line takes: wide characters take two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """A clean line in at most so many columns, with an ellipsis where it was longer."""
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
    """A clean line in exactly so many columns, padded with spaces."""
    text = cut(text, columns)
    space = " " * (columns - columns_of(text))
    return space + text if right else text + space


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of a table as lines: columns as wide as their widest cell, two spaces apart, those of `right` aligned there.

    Nothing is cut, and no line ends with spaces: it is found by `grep`, and copied as it is.
    """
    cleaned = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(columns_of, column)) for column in zip(*cleaned, strict=True)]
    cells = ([fitted(cell, widths[at], right=at in right) for at, cell in enumerate(row)] for row in cleaned)
    return ["  ".join(line).rstrip() for line in cells]
