"""The console of a terminal or of a log file: lines, one progress line that rewrites itself, a numbered question."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Sequence

from federation.printable_text import one_line
from swarm.commands.output import draw, say, say_line
from swarm.errors import SetupError
from swarm.registry.file_hashes import Stopped
from swarm.registry.memory import size_text

REDRAW_S = 0.2  # of the progress line in a terminal
LOOK_S = 0.1  # between two looks whether an answer is still wanted: Ctrl-C seems to work at once
MAX_ANSWER_BYTES = 1024  # of a line typed
LOG_STEP = 0.1  # share of the whole between two progress lines where nobody watches


class Terminal:
    """Writes to standard output. In a file or pipe, progress is one line per tenth."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._drawn_at = 0.0
        self._started_at = 0.0
        self._first_bytes = 0
        self._last_share = 0.0
        self._open_line = False

    def say(self, line: str) -> None:
        if self._open_line:
            say()
            self._open_line = False
        say_line(line)

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        now = time.monotonic()
        if not self._started_at:
            self._started_at, self._first_bytes = now, done_bytes
        share = done_bytes / total_bytes if total_bytes else 0.0
        finished = share >= 1.0
        if self._live and (now - self._drawn_at >= REDRAW_S or finished):
            draw(sys.stdout, f"\r\x1b[K  {one_line(self._line(what, done_bytes, total_bytes, now))}")
            self._drawn_at, self._open_line = now, True
        elif not self._live and (share - self._last_share >= LOG_STEP or finished):
            say_line(f"  {self._line(what, done_bytes, total_bytes, now)}")
            self._last_share = share

    def _line(self, what: str, done_bytes: int, total_bytes: int | None, now: float) -> str:
        rate = (done_bytes - self._first_bytes) / max(now - self._started_at, 1e-3)
        speed = f", {size_text(int(rate))}/s" if rate > 0 else ""
        if not total_bytes:
            return f"downloading {what}: {size_text(done_bytes)}{speed}"
        left = f", {_duration((total_bytes - done_bytes) / rate)} left" if rate > 0 and done_bytes < total_bytes else ""
        return f"downloading {what}: {done_bytes / total_bytes:.0%} of {size_text(total_bytes)}{speed}{left}"

    @property
    def can_ask(self) -> bool:
        return self._live and sys.stdin.isatty()

    def choose(self, question: str, options: Sequence[str], stop: threading.Event | None = None) -> int:
        self.say(question)
        for number, option in enumerate(options, 1):
            self.say(f"  {number}  {option}")
        while True:
            text = _typed(f"number (Enter for 1, 1-{len(options)}): ", stop or threading.Event()).strip()
            if not text:
                return 0
            if text.isdecimal() and 1 <= int(text) <= len(options):
                return int(text) - 1
            self.say(f"{text!r} is not a number from 1 to {len(options)}")


def _typed(prompt: str, stop: threading.Event) -> str:
    """A line from the terminal. Unlike `input`, whose thread a process that ends would wait for, it can be stopped."""
    say(prompt, end="")
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        if stop.is_set():
            say()
            raise Stopped
    line = os.read(sys.stdin.fileno(), MAX_ANSWER_BYTES)
    if not line:
        say()
        raise SetupError("no model was chosen: name one with --model, or let the node choose with --auto")
    return line.decode(errors="replace")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
