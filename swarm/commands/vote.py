"""`swarm vote`: one question put to the vote, watched while the voters answer.

The vote is drawn in place on a terminal, written line by line to a file or pipe, or printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Literal, Protocol, TextIO

from rich.console import Group, RenderableType
from rich.text import Text

from federation.printable_text import clean_text, cut, one_line
from swarm.commands.ballot_view import arrival_line, asked_line, ballot, line, outcome_rows, verdict
from swarm.commands.node_client import NodeApi
from swarm.commands.output import complain, interrupted, may_redraw, read_standard_input, write
from swarm.commands.screen import LiveView, console, lines_of
from swarm.commands.vote_stream import VoteRequest, VoteResult, VoteState, VoteUpdate, hold_vote
from swarm.errors import SetupError

CONSENSUS, NONE = 0, 1  # exit codes: a verdict with a quorum, and anything less
STDIN = "-"
MAX_QUESTION_CHARS = 16 * 2**20  # of standard input: the node reads no more in one body
FRAMES_PER_S = 5  # where nothing comes in: the clock goes on
LOG_COLUMNS = 100  # of the final result in a file or pipe
MAX_LOG_COLUMNS = 400  # of one line in a file or pipe: answers are short, names and reasons are others' words

OutputForm = Literal["text", "json", "jsonl"]


class Screen(Protocol):
    """Shows a vote to somebody."""

    def update(self, update: VoteUpdate) -> None:
        """Show how the vote stands now."""
        ...

    def result(self, result: VoteResult) -> None:
        """Show how the vote ended, and its answer."""
        ...


class LiveScreen:
    """A terminal: the vote in place, redrawn with every answer and a few times a second."""

    def __init__(self, out: TextIO) -> None:
        self._shown = console(out)
        self._view = LiveView(self._shown, get_renderable=self._standing, per_second=FRAMES_PER_S)
        self._state: VoteState | None = None
        self._since = time.monotonic()

    @contextmanager
    def ticking(self) -> Generator[None]:
        """Redraw a few times a second while the block runs, or until the result."""
        with self._view:
            self._view.refresh()
            try:
                yield
            finally:
                self._view.transient = self._state is None  # the vote never began: an error follows, and nothing else

    def update(self, update: VoteUpdate) -> None:
        self._state = update.state
        self._view.refresh()

    def result(self, result: VoteResult) -> None:
        self._state = result.state
        self._view.stop()
        self._shown.print("", rule(result.state, self._shown.width), sep="\n")
        self._shown.print(Text(answer_of(result)), soft_wrap=True)

    def _standing(self) -> RenderableType:
        size, elapsed_ms = self._shown.size, round((time.monotonic() - self._since) * 1000)
        if self._state is None:
            return line((f"asking the swarm · {elapsed_ms / 1000:.1f} s", "dim"))
        if self._state.final:
            return verdict(self._state, size.width)
        return ballot(self._state, elapsed_ms, size.width, size.height - 1)


class LogScreen:
    """A file or a pipe: one line an answer, then the result. No colours."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: set[str] | None = None

    def update(self, update: VoteUpdate) -> None:
        state = update.state
        if self._shown is None:
            self._shown = set()
            self._say(asked_line(state))
        for part in state.candidates:
            if part.voter not in self._shown:
                self._shown.add(part.voter)
                self._say(arrival_line(state, part))

    def result(self, result: VoteResult) -> None:
        state = result.state
        standing = Group("", ballot(state, state.elapsed_ms, LOG_COLUMNS), "")
        for text in [*lines_of(standing, LOG_COLUMNS), *(row.line for row in outcome_rows(state)), ""]:
            self._say(text)
        for text in [rule(state, LOG_COLUMNS).plain, *answer_of(result).split("\n")]:
            write(self._out, one_line(text.rstrip()) + "\n")

    def _say(self, line: str) -> None:
        write(self._out, one_line(cut(line, MAX_LOG_COLUMNS)) + "\n")


class JsonScreen:
    """For programs: the result as one JSON object on one line; with `every_update`, a line for each update before it.

    Update: `{"ballot": ...}`; result: `{"answer": TEXT, "swarm": ...}`, both objects as the node sent them
    (docs/swarm-object.md).
    """

    def __init__(self, out: TextIO, every_update: bool) -> None:
        self._out = out
        self._every_update = every_update

    def update(self, update: VoteUpdate) -> None:
        if self._every_update:
            self._write({"ballot": update.raw})

    def result(self, result: VoteResult) -> None:
        self._write({"answer": result.answer, "swarm": result.raw})

    def _write(self, value: Mapping[str, object]) -> None:
        write(self._out, json.dumps(value) + "\n")


def rule(state: VoteState, columns: int) -> Text:
    """A line with the winner's name, above its answer."""
    return line((cut(f"── {one_line(state.winner or 'nobody')} {'─' * columns}", columns + 1)[:columns], "dim"))


def answer_of(result: VoteResult) -> str:
    """The answer as it is, however long its lines."""
    return clean_text(result.answer).strip("\n")


def vote(api: NodeApi, request: VoteRequest, output: OutputForm) -> int:
    """Hold the vote and show it; 0 if its verdict has a quorum. Ctrl-C cancels it at the node."""
    screen = _screen(output)
    try:
        with screen.ticking() if isinstance(screen, LiveScreen) else nullcontext():
            result = _watch(api, request, screen)
    except KeyboardInterrupt:
        interrupted()
        complain("swarm: cancelled; the node stops its voters")
        return NONE
    return CONSENSUS if result.state.quorum and not result.state.degraded else NONE


def _watch(api: NodeApi, request: VoteRequest, screen: Screen) -> VoteResult:
    with closing(hold_vote(api, request)) as vote_held:
        for event in vote_held:
            if isinstance(event, VoteUpdate):
                screen.update(event)
                continue
            screen.result(event)
            return event
    raise AssertionError("a vote ends with its result, or raises")


def _screen(output: OutputForm) -> Screen:
    if output != "text":
        return JsonScreen(sys.stdout, every_update=output == "jsonl")
    if may_redraw(sys.stdout, os.environ):
        return LiveScreen(sys.stdout)
    return LogScreen(sys.stdout)


def read_question(words: Sequence[str]) -> str:
    """The question of the command line, or of standard input where that is `-`. Raises SetupError for none."""
    question = read_standard_input(MAX_QUESTION_CHARS) if list(words) == [STDIN] else " ".join(words)
    if not question.strip():
        raise SetupError('the question is empty: swarm vote "QUESTION", or `-` to read it from standard input')
    return question.strip()
