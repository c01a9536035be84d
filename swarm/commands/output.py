"""The one place where the program writes to a terminal. A test finds prints around it.

Most of what is shown holds words of others: names, answers, errors. Here only text gets through; the few sequences that
this program draws with go by `draw`, which knows them and lets no others pass.

How many columns of a terminal a clean line takes, and how to have it in so many.
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


def say(text: str = "", *, end: str = "\n") -> None:
    """Show text to whoever runs the command."""
    write(sys.stdout, clean_text(text) + end)


def say_line(line: str) -> None:
    """Show one line, whatever is in it."""
    write(sys.stdout, one_line(line) + "\n")


def complain(text: str = "") -> None:
    """Say what is wrong, or how far it is, on standard error."""
    write(sys.stderr, clean_text(text) + "\n")


class Stream:
    """An answer shown while it comes: what a terminal may act on is found even where two pieces share it."""

    def __init__(self) -> None:
        self._cleaner = TextCleaner()

    def show(self, piece: str) -> None:
        write(sys.stdout, self._cleaner.feed(piece))


def draw(out: TextIO, painted: str) -> None:
    """Write lines with this program's own sequences; whatever else is in them is cleaned."""
    parts: list[str] = []
    done = 0
    for own in _OWN.finditer(painted):
        parts += [clean_text(painted[done : own.start()]), own[0]]
        done = own.end()
    parts.append(clean_text(painted[done:]))
    write(out, "".join(parts))


def write(out: TextIO, clean: str) -> None:
    """A terminal without the characters of an answer shows "?" for them, and not a traceback."""
    encoding = out.encoding or "utf-8"
    try:
        out.write(clean)
    except UnicodeEncodeError:
        out.write(clean.encode(encoding, "replace").decode(encoding))
    out.flush()


def clean_tracebacks() -> None:
    """What nobody caught quotes others, too."""

    def say_why(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        complain("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))

    def say_why_of_thread(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
            say_why(ended.exc_type, ended.exc_value, ended.exc_traceback)

    sys.excepthook = say_why
    threading.excepthook = say_why_of_thread


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
