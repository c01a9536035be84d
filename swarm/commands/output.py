"""The one place where the program writes to a terminal. A test fails for any other `print`.

Most of what is shown holds the words of others: names, answers, errors. They are written as text only, without control
characters. The few escape sequences that this program draws with go through `draw`, which removes all others.
"""

from __future__ import annotations

import re
import sys
import threading
import traceback
import unicodedata
from types import TracebackType
from typing import Final, TextIO

from federation.printable_text import TextCleaner, clean_text, one_line

# Colours, erasing to the end of the line or of the screen, and going up to the first column of an earlier line.
_OWN: Final = re.compile(r"\x1b\[(?:[0-9]{1,3}(?:;[0-9]{1,3}){0,3}m|[KJ]|[0-9]{1,5}F)|\r(?=\x1b\[K)|\A\r")

ELLIPSIS: Final = "…"


def say(text: str = "", *, end: str = "\n") -> None:
    """Show text to whoever runs the command."""
    write(sys.stdout, clean_text(text) + end)


def say_line(line: str) -> None:
    """Show one line, whatever is in it."""
    write(sys.stdout, one_line(line) + "\n")


def complain(text: str = "") -> None:
    """Write a problem, or how far the work is, to standard error."""
    write(sys.stderr, clean_text(text) + "\n")


class Stream:
    """An answer shown while it comes. A control sequence is removed even where it is split over two pieces."""

    def __init__(self) -> None:
        self._cleaner = TextCleaner()

    def show(self, piece: str) -> None:
        write(sys.stdout, self._cleaner.feed(piece))


def draw(out: TextIO, painted: str) -> None:
    """Write lines with this program's own escape sequences; all others are removed."""
    parts: list[str] = []
    done = 0
    for own in _OWN.finditer(painted):
        parts += [clean_text(painted[done : own.start()]), own[0]]
        done = own.end()
    parts.append(clean_text(painted[done:]))
    write(out, "".join(parts))


def write(out: TextIO, clean: str) -> None:
    """Write text that is clean already; a terminal whose encoding lacks a character shows "?" for it."""
    encoding = out.encoding or "utf-8"
    try:
        out.write(clean)
    except UnicodeEncodeError:
        out.write(clean.encode(encoding, "replace").decode(encoding))
    out.flush()


def clean_tracebacks() -> None:
    """Remove control characters from tracebacks of uncaught errors, too: they quote the words of others."""

    def say_why(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        complain("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))

    def say_why_of_thread(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
            say_why(ended.exc_type, ended.exc_value, ended.exc_traceback)

    sys.excepthook = say_why
    threading.excepthook = say_why_of_thread


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
