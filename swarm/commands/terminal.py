"""What a command asks and shows in a terminal on one line: a numbered question, and how far something is.

In a file or a pipe nothing is redrawn: progress is a line now and then. What takes more than a line is in `screen`.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from swarm.commands.output import (
    OutputLost,
    interrupted,
    is_terminal,
    say,
    say_line,
    show_progress,
)
from swarm.errors import SetupError
from swarm.quantities import left_words
from swarm.registry.model_memory import size_text

if TYPE_CHECKING:
    from swarm.commands.live_part import LivePart
    from swarm.node.console import NodeNow

REDRAW_S = 0.2  # of the progress line in a terminal
LOOK_S = 0.1  # between two looks whether an answer is still wanted: Ctrl-C seems to work at once
MAX_ANSWER_BYTES = 1024  # of a line typed
LOG_STEP = 0.1  # share of the whole between two progress lines in a file or pipe


class Terminal:
    """A node's console on standard output. In a file or pipe progress is one line per tenth.

    `part` is what stands below the node's lines, where somebody looks at it.
    """

    def __init__(self, part: LivePart | None = None) -> None:
        self._live = is_terminal(sys.stdout)
        self._part = part
        self._drawn_at = 0.0
        self._started_at = 0.0
        self._first_bytes = 0
        self._last_share = 0.0

    def say(self, line: str) -> None:
        with suppress(OutputLost):  # what was shown is a courtesy; what is done goes on
            say_line(line)

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        now = time.monotonic()
        if not self._started_at:
            self._started_at, self._first_bytes = now, done_bytes
        share = done_bytes / total_bytes if total_bytes else 0.0
        finished = share >= 1.0
        if self._live and (now - self._drawn_at >= REDRAW_S or finished):
            show_share(sys.stdout, self._line(what, done_bytes, total_bytes, now), share if total_bytes else None)
            self._drawn_at = now
        elif not self._live and (share - self._last_share >= LOG_STEP or finished):
            self.say(f"  {self._line(what, done_bytes, total_bytes, now)}")
            self._last_share = share

    def _line(self, what: str, done_bytes: int, total_bytes: int | None, now: float) -> str:
        rate = (done_bytes - self._first_bytes) / max(now - self._started_at, 1e-3)
        speed = f", {size_text(int(rate))}/s" if rate > 0 else ""
        if not total_bytes:
            return f"downloading {what}: {size_text(done_bytes)}{speed}"
        left = (
            f", {left_words((total_bytes - done_bytes) / rate)} left" if rate > 0 and done_bytes < total_bytes else ""
        )
        return f"downloading {what}: {done_bytes / total_bytes:.0%} of {size_text(total_bytes)}{speed}{left}"

    @property
    def is_live(self) -> bool:
        """Whether somebody may look at it now: lines of progress are replaced there."""
        return self._live

    @property
    def can_show(self) -> bool:
        return self._part is not None and self._part.can_stand

    def show(self, now: NodeNow) -> None:
        if self._part is not None:
            self._part.show(now)

    def ends(self) -> None:
        if self._part is not None:
            self._part.end()

    def loading(self, line: str, share: float | None = None) -> None:
        if self._live:
            show_share(sys.stdout, line, share, passing=True)

    def interrupted(self) -> None:
        if self._part is None or not self._part.hides_keys:  # else the terminal shows no keys, and no `^C`
            interrupted()

    @property
    def can_ask(self) -> bool:
        return self._live and is_terminal(sys.stdin)

    def choose(self, question: str, options: Sequence[str], stop: threading.Event | None = None) -> int | str:
        self.say(question)
        for number, option in enumerate(options, 1):
            self.say(f"  {number}  {option}")
        while True:
            prompt = f"number (Enter for 1, 1-{len(options)}), or a model's name: "
            text = _typed(prompt, stop or threading.Event()).strip()
            if not text:
                return 0
            if not text.isdecimal():
                return text
            if 1 <= int(text) <= len(options):
                return int(text) - 1
            self.say(f"{text!r} is not a number from 1 to {len(options)}")

    def confirm(self, question: str) -> bool:
        """Whether somebody says yes, as Enter does; a terminal that gives no answer says no."""
        try:
            return _typed(f"{question} [Y/n] ", threading.Event()).strip().lower() in ("", "y", "yes")
        except SetupError:
            return False


def show_share(out: TextIO, text: str, share: float | None, passing: bool = False) -> None:
    """Replace the last line of a terminal with how far something is. `passing`: it goes when it is over."""
    from swarm.commands.screen import progress_line  # see there: only where something is drawn

    show_progress(out, progress_line(out, text, share), passing)


def _typed(prompt: str, stop: threading.Event) -> str:
    """A line from the terminal. Unlike `input`, whose thread a process that ends would wait for, it can be stopped."""
    say(prompt, end="")
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        if stop.is_set():
            from swarm.registry.file_hashes import WorkStopped  # loads what no command needs that only draws

            raise WorkStopped
    line = os.read(sys.stdin.fileno(), MAX_ANSWER_BYTES)
    if not line:
        say()
        raise SetupError("no model was chosen: name one with --model, or let the node choose with --auto")
    return line.decode(errors="replace")
