"""rich, as this program draws with it: a console whose every byte goes through `output`, and the words of others in it.

Import it only where something is drawn: rich costs 0.1 s, which no command that prints lines has to wait for.

    console(sys.stdout)      the console of a terminal, file or pipe
    lines_of(table, 100)     the same as lines, for a file or pipe
    words(name, "warn")      what somebody else wrote, as one line that means nothing to rich
    LiveView(...)            rich's Live: what others write meanwhile (log lines) stands above it
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from io import StringIO, TextIOBase
from typing import TextIO

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.live_render import LiveRender
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from federation.printable_text import clean_text, one_line
from swarm.commands.output import (
    OutputLost,
    above_drawing,
    draw,
    is_held_up,
    is_terminal,
    may_colour,
    may_redraw,
    terminal_size,
)

MAX_BAR_COLUMNS, BAR_STEP = 24, 8  # of a bar of progress: it keeps its length while the words beside it change theirs

# The basic eight colours: a terminal's own theme decides how they look.
THEME = Theme(
    {
        "win": "green", "second": "yellow", "third": "magenta", "fourth": "cyan",
        "warn": "bold red", "good": "green", "dim": "dim", "bold": "bold",
        "bar.complete": "green", "bar.finished": "green", "bar.back": "dim",
    }
)  # fmt: skip


class _Output(TextIOBase):
    """Where a console writes: `output.draw`, which removes every escape sequence that this program has no use for."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of a text stream it can be read, which is all rich does
        return self._out.encoding or "utf-8"

    def write(self, text: str, /) -> int:
        if text:  # rich writes nothing at times, which would end a line of progress
            draw(self._out, text)
        return len(text)

    def flush(self) -> None:
        """`output` writes at once."""

    def isatty(self) -> bool:
        return is_terminal(self._out)

    def fileno(self) -> int:
        return self._out.fileno()


class _CleanConsole(Console):
    """A console in which only what rich itself makes of styles and controls is a control sequence, and no text is."""

    def __init__(self, out: TextIO, environment: Mapping[str, str]) -> None:
        super().__init__(
            file=_Output(out),  # type: ignore[arg-type]  # rich uses what is there of it
            color_system="standard" if is_terminal(out) and may_colour(environment) else None,
            force_terminal=is_terminal(out),
            force_interactive=may_redraw(out, environment),
            force_jupyter=False,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
            theme=THEME,
            _environ={"TERM": environment.get("TERM", "")},  # nothing else of it decides what is drawn
        )
        self._out = out

    @property
    def size(self) -> ConsoleDimensions:  # pyright: ignore[reportIncompatibleMethodOverride]  # nobody sets it
        return ConsoleDimensions(*terminal_size(self._out))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or text.isprintable() or text == "\n":
                yield segment
            else:
                yield Segment(clean_text(text), segment.style)

    def show_cursor(self, show: bool = True) -> bool:
        """Hide it on the alternate screen only: a program that is killed elsewhere leaves a cursor."""
        return self.is_alt_screen and super().show_cursor(show)

    def set_window_title(self, title: str) -> bool:
        """Leave it as it is: it is the user's."""
        return False


def console(out: TextIO) -> Console:
    """A console on a standard stream. Text in it is text: no markup, no emoji names, no highlighting.

    Its size is `terminal_size(out)` at each frame. Colours only on a terminal, and not where NO_COLOR is set; nothing
    is redrawn where TERM is "dumb". Write with `print`; `Console.out` cleans less.
    """
    return _CleanConsole(out, os.environ)


def words(text: str, style: str = "") -> Text:
    """What somebody else wrote (a name, an answer, an error) as one clean line, whatever is in it."""
    return Text(one_line(text), style)


def lines_of(renderable: RenderableType, columns: int) -> list[str]:
    """What a file or a pipe has of it: `columns` wide, without colours and spaces at the end."""
    shown = _CleanConsole(StringIO(), {})
    lines = shown.render_lines(renderable, shown.options.update_width(columns), pad=False)
    return ["".join(part.text for part in line).rstrip() for line in lines]


def progress(text: str, share: float | None, columns: int) -> RenderableType:
    """How far something is, on one line: the text, after a bar where `share` (0 to 1) is known and there is room."""
    said = Text(one_line(text), no_wrap=True, overflow="ellipsis")
    room = min(columns - said.cell_len - 4, MAX_BAR_COLUMNS) // BAR_STEP * BAR_STEP
    if share is None or room <= 0:
        return Padding.indent(said, 2)
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(ProgressBar(1.0, min(max(share, 0.0), 1.0), room), said)
    return Padding.indent(row, 2)


def progress_line(out: TextIO, text: str, share: float | None) -> str:
    """The same for `output.show_progress`, one column narrower than the terminal: it could not be replaced else."""
    shown = console(out)
    columns = max(shown.width - 1, 1)
    with shown.capture() as drawn:
        shown.print(progress(text, share, columns), width=columns, end="")
    return drawn.get().rstrip("\n")


class LiveView(Live):
    """Replaces what it drew at the end of a terminal: by `update(..., refresh=True)` and every 1 / `per_second` s.

    What is written through `output` meanwhile stands above it. While a node's terminal takes nothing (Ctrl-S) frames
    are left out; a terminal that went away ends the view's own clock and is told to whoever writes next.
    """

    def __init__(
        self,
        shown: Console,
        renderable: RenderableType | None = None,
        *,
        get_renderable: Callable[[], RenderableType] | None = None,
        per_second: float = 5,
        full_screen: bool = False,
        transient: bool = False,
    ) -> None:
        super().__init__(
            renderable,
            console=shown,
            screen=full_screen,
            refresh_per_second=per_second,
            transient=transient,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._get_renderable = get_renderable  # from here on: the base class would call it before anybody is ready
        self._live_render = _Region(shown)
        self._above = above_drawing(self._print_above)

    def start(self, refresh: bool = False) -> None:
        self._above.__enter__()
        super().start(refresh)

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self._above.__exit__(None, None, None)

    def refresh(self) -> None:
        if (is_held_up() and self.is_started) or (self.transient and not self.is_started):
            return  # nobody would see it
        try:
            super().refresh()
        except OutputLost:
            if threading.current_thread() is not self._refresh_thread:
                raise

    def _print_above(self, clean: str) -> None:
        self.console.print(Text(clean.removeprefix("\r").removesuffix("\n")), soft_wrap=True)


class _Region(LiveRender):
    """Lines with the cursor below them: a program that ends while drawing, and a `^C`, leave no mess.

    A terminal that was made narrower since has wrapped them: their rows are counted anew.
    """

    def __init__(self, shown: Console) -> None:
        super().__init__("", vertical_overflow="crop")
        self._shown = shown
        self._drawn: list[int] = []  # columns of each line on the screen

    @property
    def last_render_height(self) -> int:
        """None that the cursor has to be moved below."""
        return 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.is_alt_screen:
            yield from super().__rich_console__(console, options)
            return
        room = options.copy()
        room.size = ConsoleDimensions(options.size.width, max(options.size.height - 1, 1))
        segments = [part for part in super().__rich_console__(console, room) if isinstance(part, Segment)]
        self._drawn = [sum(part.cell_length for part in line) for line in Segment.split_lines(segments)]
        yield from segments
        if self._drawn:
            yield Segment.line()

    def position_cursor(self) -> Control:
        columns = self._shown.width
        rows = sum(max(1, -(-drawn // columns)) for drawn in self._drawn)
        erase = (ControlType.ERASE_IN_LINE, 2)
        return Control(ControlType.CARRIAGE_RETURN, erase, *([(ControlType.CURSOR_UP, 1), erase] * rows))

    restore_cursor = position_cursor
