"""The one place where the program writes to a terminal. A test fails for any other `print`.

Most of what is shown holds the words of others: names, answers, errors. They are written as text only, without control
characters. The few escape sequences that this program draws with go through `draw`, which removes all others.

A standard stream may be closed, full, or a terminal whose user pressed Ctrl-S. A command whose output is lost ends
(`OutputLost`). A node serves others: it writes `in_background`, where nothing fails and nothing waits; there something
may stand below all that is written (`stand_below`).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Final, Protocol, TextIO

from federation.printable_text import TextCleaner, clean_text, one_line
from swarm.errors import SetupError

# What rich and `show_progress` draw with: colours, erasing a line, going up a line; for a full screen also the
# alternate screen, its first position, and the cursor.
_OWN: Final = re.compile(
    r"\x1b\[(?:[0-9]{1,3}(?:;[0-9]{1,3}){0,5}m|2?K|1A|\?1049h\x1b\[H|\?(?:25[hl]|1049l))"
    r"|\r(?=\x1b\[(?:2?K|1A))|\A(?:\r|\x1b\[H)"
)

MAX_WAITING_TEXTS: Final = 2000  # that a node keeps for a terminal that takes none: more than anybody reads
FALLBACK_SIZE: Final = os.terminal_size((80, 24))  # where a terminal does not tell its own
SHOW_S: Final = 1.0  # that a node which ends waits for its last lines to be taken


class OutputLost(OSError):
    """Standard output takes no more: whoever read it has gone, the disk is full, or it was closed."""

    @property
    def by_reader(self) -> bool:
        """Whether the reader left, as `head` does when it has enough: nothing is wrong then."""
        return self.errno == errno.EPIPE


def say(text: str = "", *, end: str = "\n") -> None:
    """Show text to whoever runs the command."""
    write(sys.stdout, clean_text(text) + end)


def say_line(line: str) -> None:
    """Show one line, whatever is in it."""
    write(sys.stdout, one_line(line) + "\n")


def complain(text: str = "", *, end: str = "\n") -> None:
    """Write a problem, or how far the work is, to standard error. Never fails."""
    with suppress(OutputLost):
        write(sys.stderr, clean_text(text) + end)


def interrupted() -> None:
    """Begin a new line after the `^C` that a terminal shows for Ctrl-C."""
    if is_terminal(sys.stderr):
        complain()


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there. Of a stream that was closed, or never was: nobody."""
    return stream is not None and not stream.closed and stream.isatty()


def terminal_size(out: TextIO) -> os.terminal_size:
    """Columns and rows; the variables COLUMNS and LINES override what the terminal says."""
    try:
        size = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        size = FALLBACK_SIZE
    wanted = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    columns, rows = (
        int(text) if text.isdecimal() and int(text) else known for text, known in zip(wanted, size, strict=True)
    )
    return os.terminal_size((columns or FALLBACK_SIZE.columns, rows or FALLBACK_SIZE.lines))


def may_redraw(out: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `out` is a terminal that can move its cursor."""
    return is_terminal(out) and environment.get("TERM", "") != "dumb"


def may_colour(environment: Mapping[str, str]) -> bool:
    """https://no-color.org: any value but an empty one means no colours."""
    return not environment.get("NO_COLOR")


class Stream:
    """An answer shown while it comes. A control sequence is removed even where it is split over two pieces."""

    def __init__(self) -> None:
        self._cleaner = TextCleaner()

    def show(self, piece: str) -> None:
        write(sys.stdout, self._cleaner.feed(piece))


def draw(out: TextIO, painted: str) -> None:
    """Write lines with this program's own escape sequences; all others are removed."""
    _screen.write(out, clean_painted(painted), drawn=True)


def clean_painted(painted: str) -> str:
    """Lines without control characters, but for this program's own escape sequences."""
    parts: list[str] = []
    done = 0
    for own in _OWN.finditer(painted):
        parts += [clean_text(painted[done : own.start()]), own[0]]
        done = own.end()
    parts.append(clean_text(painted[done:]))
    return "".join(parts)


def show_progress(out: TextIO, line: str, passing: bool = False) -> None:
    """Replace the last line of a terminal with `line`; the next text of any kind begins below it. Never fails.

    One that is `passing`, of no use when it is over, is replaced by that text.
    """
    if _screen.above is not None or _screen.has_below or _screen.held_up:
        return  # what is drawn there says it; or the terminal takes nothing now, and the next line says more
    with suppress(OutputLost):
        draw(out, f"\r\x1b[K{line}")
        _screen.unfinished, _screen.passing = out, passing


def write(out: TextIO | None, clean: str) -> None:
    """Write text that is clean already; a terminal whose encoding lacks a character shows "?" for it.

    `out` None is a stream that this program was started without. Raises OutputLost; in the background, never.
    """
    _screen.write(out, clean)


class _Screen:
    """The standard streams. One text at a time: no thread's line is torn by another's.

    `unfinished` is the terminal whose last line is one of progress, without an end, perhaps a `passing` one; `above`
    writes above what is being drawn on the terminal now.
    """

    def __init__(self) -> None:
        self.unfinished: TextIO | None = None
        self.passing = False
        self.above: Callable[[str], None] | None = None
        self._lock = threading.RLock()
        self._background: _Background | None = None

    def write(self, out: TextIO | None, clean: str, drawn: bool = False) -> None:
        if out is None or out.closed:
            return
        if (above := self.above) is not None and not drawn and is_terminal(out):
            if clean:
                above(clean)  # with no lock held: it draws, under locks of its own
            return
        background = self._background
        with self._lock:
            if self.unfinished is not None and not clean.startswith("\r"):
                ended, self.unfinished = self.unfinished, None
                if self.passing and (ended is out or is_terminal(out)):
                    clean = f"\r\x1b[K{clean}"
                elif ended is out or is_terminal(out):
                    clean = clean if ended is out and clean == "\n" else f"\n{clean}"
            if background is None:
                write_now(out, clean)
        if background is not None:
            background.add(out, clean)

    @contextmanager
    def in_background(self) -> Generator[None]:
        self._background = background = _Background()
        failed = True
        try:
            yield
            failed = False
        finally:
            self._background = None
            if not background.finish():
                os._exit(1 if failed else 0)  # that thread holds the stream's lock: Python's own end would wait for it

    @contextmanager
    def above_drawing(self, write_above: Callable[[str], None]) -> Generator[None]:
        before, self.above = self.above, write_above
        try:
            yield
        finally:
            self.above = before

    @property
    def held_up(self) -> bool:
        return self._background is not None and self._background.held_up

    @property
    def has_below(self) -> bool:
        return self._background is not None and self._background.below is not None

    def stand_below(self, below: Below | None) -> None:
        if self._background is not None:
            self.write(sys.stdout, "")  # ends a line of progress
            self._background.stand_below(below)

    def look_below(self) -> None:
        if self._background is not None:
            self._background.look_below()


class Below(Protocol):
    """What stands at the end of a terminal, below all that is written. Asked in the thread that writes."""

    @property
    def out(self) -> TextIO:
        """The terminal."""
        ...

    def around(self, text: str) -> str:
        """What to write so that `text`, which may be empty, stands above it; nothing where nothing has changed."""
        ...

    def erased(self) -> str:
        """What to write so that it stands there no longer."""
        ...


class _Background:
    """A thread that writes what is added; where it is held up for long, later texts are left out, and counted."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[TextIO, str]] = deque()
        self._left_out = 0
        self._over = False
        self._looks = False
        self.below: Below | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def add(self, out: TextIO, clean: str) -> None:
        with self._changed:
            if len(self._waiting) >= MAX_WAITING_TEXTS:
                self._left_out += 1
                return
            if self._left_out:
                clean, self._left_out = f"({self._left_out} lines were left out here)\n{clean}", 0
            self._waiting.append((out, clean))
            self._changed.notify()

    @property
    def held_up(self) -> bool:
        return len(self._waiting) > 1

    def finish(self) -> bool:
        """Whether all is written, SHOW_S later at most."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(SHOW_S)
        return not self._thread.is_alive()

    def stand_below(self, below: Below | None) -> None:
        with self._changed:
            self.below = below
        self.look_below()

    def look_below(self) -> None:
        with self._changed:
            self._looks = True
            self._changed.notify()

    def _run(self) -> None:
        stands: Below | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._looks or self._over)
                if not self._waiting and not self._looks:
                    return
                self._looks = False
                below, out, clean = self.below, None, ""
                if self._waiting:
                    out, clean = self._waiting.popleft()
                    while self._waiting and below is not None and self._waiting[0][0] is out:
                        clean += self._waiting.popleft()[1]
            if stands is not None and stands is not below:
                with suppress(OutputLost):
                    write_now(stands.out, stands.erased())
            stands = below
            with suppress(OutputLost):
                if out is not None and (below is None or not same_terminal(out, below.out)):
                    write_now(out, clean)
                    clean = ""
            if below is not None and (framed := self._framed(below, clean)):
                with suppress(OutputLost):
                    write_now(below.out, framed)

    def _framed(self, below: Below, clean: str) -> str:
        try:
            return below.around(clean)
        except Exception:
            self.below = None
            logging.getLogger(__name__).exception("what stands below the lines of this node cannot be drawn")
            return clean


_screen = _Screen()


def in_background() -> AbstractContextManager[None]:
    """While the block runs, what is written comes out a little later: it never fails, and nobody waits for it."""
    return _screen.in_background()


def same_terminal(out: TextIO, other: TextIO) -> bool:
    """Whether two streams are one terminal."""
    return is_terminal(out) and (out is other or os.fstat(out.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev)


def stand_below(below: Below | None) -> None:
    """From now on this stands below all that is written in the background to its terminal. Never waits."""
    _screen.stand_below(below)


def look_below() -> None:
    """What stands below may have changed. Never waits."""
    _screen.look_below()


def above_drawing(write_above: Callable[[str], None]) -> AbstractContextManager[None]:
    """While the block runs, whole lines for a terminal are handed to `write_above`, and only `draw` writes to it."""
    return _screen.above_drawing(write_above)


def is_held_up() -> bool:
    """Whether texts written in the background wait for a terminal that takes none just now."""
    return _screen.held_up


def write_now(out: TextIO, clean: str) -> None:
    """Write, and wait for it. After OutputLost the stream leads nowhere, and everything else can be written to it."""
    try:
        encoding = out.encoding or "utf-8"
        try:
            out.write(clean)
        except UnicodeEncodeError:
            out.write(clean.encode(encoding, "replace").decode(encoding))
        out.flush()
    except (OSError, ValueError) as error:  # ValueError: it was closed
        _lead_nowhere(out)
        raise OutputLost(getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)) from error


def flush() -> None:
    """Write what is left in the standard streams, and end an unfinished line of progress. Raises OutputLost."""
    with suppress(OutputLost):
        write(sys.stderr, "")
    write(sys.stdout, "")


def read_standard_input(most_chars: int) -> str:
    """What comes on standard input, so many characters at most. Raises SetupError where that is nothing readable."""
    try:
        text = "" if sys.stdin is None or sys.stdin.closed else sys.stdin.read(most_chars)
        text.encode()  # some locales let any byte pass
    except (OSError, UnicodeError) as error:
        raise SetupError(f"standard input cannot be read as text: {error}") from error
    return text


def _lead_nowhere(out: TextIO) -> None:
    """What is still in the stream's buffer, and what comes, is dropped: else the interpreter complains at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)


def open_standard_streams() -> None:
    """Give the descriptors 0 to 2 something harmless where this program was started without them.

    Else the next file or connection that is opened becomes standard output, and is written to by any library.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def clean_tracebacks() -> None:
    """Remove control characters from tracebacks of uncaught errors, too: they quote the words of others."""

    def say_why(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        complain("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))

    def say_why_of_thread(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
            say_why(ended.exc_type, ended.exc_value, ended.exc_traceback)

    sys.excepthook = say_why
    threading.excepthook = say_why_of_thread
