"""The last lines of a terminal, drawn again and again in place, with a clock that goes on between two events."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TextIO

from federation.printable_text import clean_line
from swarm.commands.columns import columns_of
from swarm.commands.output import draw

FALLBACK_SIZE = os.terminal_size((80, 24))  # where a terminal does not tell its own


def terminal_size(out: TextIO) -> os.terminal_size:
    """Columns and rows; COLUMNS and LINES say otherwise, as everywhere."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        size = FALLBACK_SIZE
    told = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    columns, rows = (
        int(text) if text.isdecimal() and int(text) else known for text, known in zip(told, size, strict=True)
    )
    return os.terminal_size((columns or FALLBACK_SIZE.columns, rows or FALLBACK_SIZE.lines))


class LiveRegion:
    """Replaces its lines by the next ones. The cursor rests below them, so that an end in mid-draw leaves no mess."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn: list[int] = []  # columns of each line on the screen

    def draw(self, lines: Sequence[str]) -> None:
        """One write a frame: terminals do not show half of it."""
        up = rows_taken(self._drawn, terminal_size(self._out).columns)
        body = "".join(f"{line}\x1b[K\n" for line in lines)
        draw(self._out, (f"\x1b[{up}F" if up else "\r") + body + "\x1b[J")
        self._drawn = [columns_of(clean_line_of(line)) for line in lines]


def clean_line_of(painted: str) -> str:
    """A painted line as it looks."""
    return clean_line(painted) if "\x1b" in painted else painted


def rows_taken(columns_drawn: Sequence[int], columns: int) -> int:
    """The rows that lines take in a terminal of `columns`: one that was made narrower has wrapped them."""
    return sum(max(1, -(-drawn // columns)) for drawn in columns_drawn)


class Ticker:
    """Calls `tick` every `period_s` from a thread of its own while the block runs."""

    def __init__(self, tick: Callable[[], None], period_s: float) -> None:
        self._tick = tick
        self._period_s = period_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError, ValueError):  # a terminal that went away ends the clock; the main thread meets it too
            while not self._over.wait(self._period_s):
                self._tick()
