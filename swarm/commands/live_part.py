"""The live part of a node on its terminal: a few rows below the lines that it says, drawn anew when they change.

It is drawn in the thread that writes to the terminal (`output.stand_below`), so nothing of it holds up the node, and no
line is torn. It stands there while the node has the terminal to itself: not while the node is stopped (Ctrl-Z) or runs
in the background. The cursor stays below it, visible; the one setting of the terminal that it changes is that keys are
not shown while it stands: Enter would push it up.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from federation.printable_text import clean_line, columns_of
from swarm.commands.output import clean_painted, look_below, may_redraw, stand_below, terminal_size

if TYPE_CHECKING:
    from swarm.node.console import NodeNow

MOST_ROWS: Final = 8
LEAST_TERMINAL_ROWS: Final = 6  # below it there is no room for lines and a part that stands
CARRIAGE_RETURN: Final = "\r"
UNDER: Final = 3  # one row in so many of the terminal


def has_terminal(out: TextIO) -> bool:
    """Whether this program has the terminal to itself now: it may draw there, and change its settings."""
    try:
        return os.tcgetpgrp(out.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def live_part() -> LivePart | None:
    """That of standard output; None where that is no terminal that can redraw, or one of Windows."""
    can_stand = hasattr(os, "tcgetpgrp") and may_redraw(sys.stdout, os.environ)
    return LivePart(sys.stdout) if can_stand else None


class LivePart:
    """What stands below the lines on `out`. `show` and `end` are for the event loop's thread; see `output.Below`."""

    def __init__(self, out: TextIO, paint: Callable[[NodeNow, TextIO, int, int], Sequence[str]] | None = None) -> None:
        self.out = out
        self._paint = paint or painted
        self._now: NodeNow | None = None
        self._forgets = False
        self._painted_for: tuple[NodeNow, os.terminal_size] | None = None
        self._painted: list[str] = []
        self._drawn: list[str] = []
        self._settings: list[Any] | None = None  # of the terminal, as they were
        self._ended = False
        self._signals = {signal.SIGWINCH: look_below, signal.SIGTSTP: self._stop, signal.SIGCONT: self._go_on}

    # The event loop's thread

    @property
    def can_stand(self) -> bool:
        """Whether there is a terminal for it that this program has to itself, and the node does not end."""
        return not self._ended and has_terminal(self.out)

    @property
    def hides_keys(self) -> bool:
        """Whether the terminal does not show what is typed, the `^C` of Ctrl-C included."""
        return self._settings is not None

    def show(self, now: NodeNow) -> None:
        """What is to stand there from now on."""
        if self._ended:
            return
        if self._now is None:
            loop = asyncio.get_running_loop()
            for number, call in self._signals.items():
                loop.add_signal_handler(number, call)
            self._hide_keys()
            stand_below(self)
        self._now = now
        look_below()

    def end(self) -> None:
        """It is taken away, and the terminal is as it was."""
        if self._now is not None and not self._ended:
            stand_below(None)
            self._show_keys()
            loop = asyncio.get_running_loop()
            for number in self._signals:
                loop.remove_signal_handler(number)
        self._ended = True

    def _stop(self) -> None:
        """Ctrl-Z: somebody wants the terminal for something else."""
        self._show_keys()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _go_on(self) -> None:
        """`fg`, or `bg`: what was drawn is somewhere above."""
        self._forgets = True
        self._hide_keys()
        look_below()

    def _hide_keys(self) -> None:
        import termios

        if self._settings is not None or not has_terminal(self.out):
            return
        with suppress(termios.error):
            self._settings = termios.tcgetattr(self.out.fileno())
            quiet = [*self._settings]
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(self.out.fileno(), termios.TCSANOW, quiet)  # waits for nothing

    def _show_keys(self) -> None:
        import termios

        before, self._settings = self._settings, None
        if before is not None and has_terminal(self.out):
            with suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(self.out.fileno(), termios.TCSANOW, before)

    # The thread that writes

    def around(self, text: str) -> str:
        """The text with the part below it; nothing where neither is new."""
        if text and not text.endswith("\n"):
            text += "\n"
        size = terminal_size(self.out)
        if self._forgets:
            self._forgets, self._drawn = False, []
        if self._now is None or not has_terminal(self.out):
            self._drawn = []
            return text
        lines = self._lines(self._now, size)
        if not text and lines == self._drawn:
            return ""
        up = self._up(size.columns)
        self._drawn = lines
        above = f"{up}\x1b[J{text}" if text else up
        return above + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"

    def erased(self) -> str:
        """What takes it away."""
        up = self._up(terminal_size(self.out).columns)
        self._drawn = []
        return f"{up or CARRIAGE_RETURN}\x1b[J" if has_terminal(self.out) else ""  # a `^C` that was shown goes, too

    def _up(self, columns: int) -> str:
        """To the first column of its first row: a terminal that was made narrower has wrapped its lines."""
        rows = sum(max(1, -(-columns_of(clean_line(line)) // columns)) for line in self._drawn)
        return f"\x1b[{rows}F" if rows else ""

    def _lines(self, now: NodeNow, size: os.terminal_size) -> list[str]:
        if size.lines < LEAST_TERMINAL_ROWS:
            return []
        if self._painted_for != (now, size):
            rows = min(MOST_ROWS, size.lines // UNDER)
            self._painted_for = now, size
            self._painted = [*map(clean_painted, self._paint(now, self.out, size.columns - 1, rows))]
        return self._painted


def painted(now: NodeNow, out: TextIO, columns: int, rows: int) -> list[str]:
    """The lines with their colours."""
    from swarm.commands.live_lines import live_lines  # with rich: in this thread, while the node works
    from swarm.commands.screen import console

    shown = console(out)
    with shown.capture() as captured:
        for line in live_lines(now, columns, rows):
            shown.print(line, no_wrap=True, crop=False)
    return captured.get().splitlines()
