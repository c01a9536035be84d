"""What is drawn with rich, where it is drawn: sizes, colours, what is written meanwhile, and a terminal that stops."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pyte
import pytest
from rich.console import Group
from rich.text import Text

from swarm.commands import output
from swarm.commands.screen import LiveView, console, lines_of, progress, progress_line, words
from swarm.commands.terminal import show_share
from tests.doubles.typist import ScreenText


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> ScreenText:
    """A terminal of 40 by 10."""
    for name, value in (("COLUMNS", "40"), ("LINES", "10"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.flush()  # an earlier test may have left a line of progress without an end
    return ScreenText()


@contextmanager
def both_streams(out: ScreenText) -> Generator[None]:
    with redirect_stdout(out), redirect_stderr(out):
        yield


def shown_by(out: ScreenText, columns: int = 40, rows: int = 10) -> list[str]:
    screen = pyte.Screen(columns, rows)
    pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    assert not screen.cursor.hidden
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def test_each_frame_replaces_the_one_before(out: ScreenText) -> None:
    with LiveView(console(out)) as view:
        for number in range(3):
            view.update(Group(*(words(f"{number} {line}") for line in range(5 - number))), refresh=True)
    assert shown_by(out) == ["2 0", "2 1", "2 2"]
    assert out.getvalue().endswith("\n"), "a program that is killed here leaves no mess"


def test_what_is_written_meanwhile_stands_above(out: ScreenText) -> None:
    with both_streams(out), LiveView(console(out), words("drawn"), per_second=1) as view:
        output.say("first [red]line[/red]")
        output.complain("an entry of the log, which is longer than the terminal is wide")
        show_share(out, "loading", 0.5)  # what is drawn says it
        view.update(words("drawn anew"), refresh=True)
        output.flush()
    with both_streams(out):
        output.say("after")
    assert shown_by(out) == [
        "first [red]line[/red]",
        "an entry of the log, which is longer tha",
        "n the terminal is wide",
        "drawn anew",
        "after",
    ]


def test_many_threads_write_above_and_nothing_waits_for_ever(out: ScreenText) -> None:
    def talk(letter: str) -> None:
        for _ in range(20):
            output.say(letter * 9)

    with both_streams(out), LiveView(console(out), words("drawn"), per_second=100):
        threads = [threading.Thread(target=talk, args=(letter,)) for letter in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = shown_by(out, rows=100)
    assert sorted(lines) == sorted([*(letter * 9 for letter in "abc" for _ in range(20)), "drawn"])


def test_no_frame_is_higher_than_the_terminal_but_the_last(out: ScreenText) -> None:
    with LiveView(console(out)) as view:
        view.update(Group(*(words(f"line {number}") for number in range(30))), refresh=True)
        assert shown_by(out) == [f"line {number}" for number in range(9)]
    assert shown_by(out, rows=40) == [f"line {number}" for number in range(30)]


def test_a_terminal_made_smaller_has_wrapped_what_was_drawn(out: ScreenText, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveView(console(out)) as view:
        view.update(Group(words("x" * 39), words("y" * 5)), refresh=True)
        monkeypatch.setenv("COLUMNS", "20")
        monkeypatch.setenv("LINES", "3")
        out.truncate(out.seek(0))
        view.update(Group(*(words(f"line {number} " + "z" * 30) for number in range(9))), refresh=True)
        assert out.getvalue().count("\x1b[1A") == 3, "two rows of the first line, and one"
        assert out.getvalue().count("\n") == 2


def test_what_is_transient_leaves_nothing(out: ScreenText) -> None:
    with LiveView(console(out), Group(words("a"), words("b")), transient=True) as view:
        view.refresh()
    with both_streams(out):
        output.say("after")
    assert shown_by(out) == ["after"]


def test_a_full_screen_is_left_as_it_was_found(out: ScreenText) -> None:
    with LiveView(console(out), words("all"), full_screen=True) as view:
        view.refresh()
        assert out.getvalue().startswith("\x1b[?1049h\x1b[H\x1b[?25l")
    assert out.getvalue().endswith("\x1b[?25h\x1b[?1049l")


class Stopped(ScreenText):
    """A terminal where somebody pressed Ctrl-S: it takes nothing until `goes_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.goes_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.waits.set()
        assert self.goes_on.wait(60)
        return super().write(text)


@pytest.mark.usefixtures("out")
def test_frames_for_a_stopped_terminal_are_left_out_and_nobody_waits() -> None:
    stopped = Stopped()
    with output.in_background(), LiveView(console(stopped), words("frame 0"), per_second=1) as view:
        assert stopped.waits.wait(60)
        for number in range(1, 500):
            view.update(words(f"frame {number}"), refresh=True)
            show_share(stopped, "downloading", number / 500)
        stopped.goes_on.set()
    assert stopped.getvalue().count("frame") < 10
    assert shown_by(stopped)[-1] == "frame 499"


def test_a_terminal_that_went_away_ends_the_clock_and_is_told_to_who_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(ScreenText):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    asked = threading.Event()

    def drawn() -> Text:
        asked.set()
        return words("x")

    monkeypatch.setenv("TERM", "xterm")
    view = LiveView(console(Gone()), get_renderable=drawn, per_second=100)
    view.start()
    assert asked.wait(60)
    with pytest.raises(output.OutputLost):
        view.stop()
    output.say("nobody draws any more")


@pytest.mark.parametrize(
    ("environment", "terminal", "colours", "redraws"),
    [
        ({}, True, True, True),
        ({"NO_COLOR": "1"}, True, False, True),
        ({"NO_COLOR": ""}, True, True, True),
        ({"TERM": "dumb"}, True, True, False),
        ({"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLORTERM": "truecolor"}, False, False, False),
    ],
)
def test_colours_and_redrawing_are_for_terminals_that_want_them(
    out: ScreenText,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    terminal: bool,
    colours: bool,
    redraws: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = out if terminal else io.StringIO()
    shown = console(stream)
    shown.print(words("a", "win"), end="")
    assert stream.getvalue() == ("\x1b[32ma\x1b[0m" if colours else "a")
    with LiveView(shown, words("b")) as view:
        view.update(words("c"), refresh=True)
    assert ("\x1b[2K" in stream.getvalue()) is redraws


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, f"  {'━' * 12}{' ' * 14}loading x 50 %, 3 s left"),
        (40, f"  {'━' * 4}{' ' * 6}loading x 50 %, 3 s left"),
        (30, "  loading x 50 %, 3 s left"),
        (12, "  loading x…"),
    ],
)
def test_progress_has_a_bar_where_there_is_room(columns: int, line: str) -> None:
    assert lines_of(progress("loading x 50 %,\n3 s left", 0.5, columns), columns) == [line]


def test_progress_in_a_terminal_without_the_letters(out: ScreenText, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "encoding", "ascii", raising=False)
    assert progress_line(out, "x", 1.5).isascii()
    assert "100" in progress_line(out, "100", None)
