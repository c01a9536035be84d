"""An answer on a terminal, as Markdown while it comes.

A block that is finished (a paragraph, a list, code) is written once, and belongs to the terminal: it can be scrolled
to. Only the last block is drawn again as it grows, and of one that is longer than the screen, only its last lines. What
models say has become text without control characters before any of this, and what is drawn goes through `draw`.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Final, Self, TextIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import CodeBlock, Heading, HorizontalRule, Markdown
from rich.segment import Segment, SegmentLines
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from federation.printable_text import TextCleaner, clean_line, cut
from swarm.commands.ballot_view import verdict
from swarm.commands.chat_answer import AnswerSoFar, call_line, overruled_line, standing_line
from swarm.commands.screen import LiveView, console, words
from swarm.commands.vote_stream import VoteState

CODE_THEME: Final = "ansi_dark"  # the terminal's own colours, whose theme decides how they look
STYLES: Final = Theme(  # rich's own have backgrounds, which only dark terminals bear
    {
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.link": "underline",
        "markdown.link_url": "dim",
        "markdown.block_quote": "none",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
        "markdown.item.number": "bold",
    }
)
MOST_STYLED_CHARS: Final = 64 * 1024  # of one block; a longer one is text as it is
THOUGHT_LINES: Final = 3  # shown of the thoughts that come
NOTE: Final = "  "  # before a line that is no part of an answer
FRAMES_PER_S: Final = 8.0
DRAWN_SHARE: Final = 4  # drawing takes at most one part in so many of the time
BELOW_ROWS: Final = 3  # of a screen, that the last block leaves free: how it stands, and the cursor's line

_LINES: Final = re.compile(r"[^\n]*\n|[^\n]+")

DrawnLine = list[Segment]


# What is Markdown in an answer


@cache
def _parser(words: bool = True) -> MarkdownIt:
    """HTML and definitions of links are no markup here: they are a model's text, and would not be shown otherwise.

    Without `words` it finds blocks alone, which is fast.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")
    return parser if words else parser.disable("inline")


def blocks_of(text: str) -> tuple[list[str], str]:
    """The blocks at the beginning of `text` that nothing which follows can change, and the rest.

    An unfinished line may still become anything, and the last block before it may go on.
    """
    whole = text.rfind("\n") + 1
    *finished, last = _split(text[:whole])
    return finished, last + text[whole:]


def _split(text: str) -> list[str]:
    """At the beginning of each block; one part at least. What stands before the first belongs to it."""
    starts = sorted({token.map[0] for token in _parser(words=False).parse(text) if token.level == 0 and token.map})
    lines = _LINES.findall(text)
    return ["".join(lines[start:end]) for start, end in pairwise([0, *starts[1:], len(lines)])]


class _FencedCode(CodeBlock):
    """Code between the fences it came in: nothing stands before its lines, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        name = self.lexer_name if self.lexer_name != "text" else ""
        yield Text(f"```{name}", style="dim")
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True, background_color="default"
        )
        yield Text("```", style="dim")


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, Any]] = dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), "left")


class _Rule(HorizontalRule):
    new_line = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("─" * min(options.max_width, 40), style="dim")


class AnswerMarkdown(Markdown):
    """What a model wrote. DrawnLine ends are kept, links and pictures have their address beside them, HTML is text."""

    elements: ClassVar[dict[str, Any]] = {
        **Markdown.elements,
        "fence": _FencedCode,
        "code_block": _FencedCode,
        "heading_open": _Heading,
        "hr": _Rule,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme=CODE_THEME, hyperlinks=False)
        self.parsed = _as_text(_parser().parse(text))


def _as_text(tokens: Sequence[Token]) -> list[Token]:
    """Pictures and addresses as what they are in words."""
    kept: list[Token] = []
    for at, token in enumerate(tokens):
        if token.children:
            token.children = _as_text(token.children)
        if token.type == "image":
            alt = "".join(child.content for child in token.children or ())
            kept.append(
                Token("text", "", 0, content=f"[picture: {alt}] ({token.attrs.get('src', '')})", level=token.level)
            )
        elif token.type == "softbreak":
            kept.append(Token("hardbreak", "br", 0, level=token.level))
        elif token.markup in ("autolink", "linkify") and token.type in ("link_open", "link_close"):
            continue  # its text is its address
        else:
            kept.append(tokens[at])
    return kept


def drawn_lines(out: Console, shown: RenderableType, columns: int) -> list[DrawnLine]:
    """As lines without blanks at their ends, which would be copied with them."""
    options = out.options.update(width=columns, height=None)
    return [_stripped(line) for line in out.render_lines(shown, options, pad=False)]


def _stripped(line: DrawnLine) -> DrawnLine:
    kept = list(line)
    while kept and not kept[-1].text.rstrip():
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept


def block_lines(out: Console, text: str, columns: int) -> list[DrawnLine]:
    """Markdown as lines, an empty one between two blocks."""
    found = [_without_edges(_one_block(out, block, columns)) for block in _split(text)]
    return [line for at, lines in enumerate(filter(None, found)) for line in ([[], *lines] if at else lines)]


def _without_edges(lines: list[DrawnLine]) -> list[DrawnLine]:
    """Without empty lines at either end: how far blocks are apart is not for them to say."""
    shown = [at for at, line in enumerate(lines) if line]
    return lines[shown[0] : shown[-1] + 1] if shown else []


def _one_block(out: Console, text: str, columns: int) -> list[DrawnLine]:
    """What cannot be read as Markdown is shown as it is."""
    if len(text) <= MOST_STYLED_CHARS:
        with suppress(Exception):  # of libraries, on whatever a model may write: its words are shown all the same
            return drawn_lines(out, AnswerMarkdown(text), columns)
    return drawn_lines(out, Text(text.rstrip("\n")), columns)


# What is drawn of it


@dataclass(slots=True)
class Flow:
    """An answer's lines: those that are there for good, and those at the end that are still drawn again.

    `columns` are those of the terminal; of one that changes, when the next block begins that nothing is there of yet.
    """

    out: Console
    columns: int
    rest: str = ""  # of the text: the block that still grows
    begun: bool = False  # whether a block stands before it
    _written: int = 0  # lines of that block that are there for good
    _known: tuple[str, list[DrawnLine]] = ("", [])  # the last text that was made into lines

    def feed(self, text: str, columns: int, room: int) -> list[DrawnLine]:
        """More of the text: the lines to be written for good, where `room` lines are left for those that are not."""
        if not self._written and columns != self.columns:
            self.columns, self._known = columns, ("", [])
        finished, self.rest = blocks_of(self.rest + text)
        lasting: list[DrawnLine] = []
        for block in finished:
            lasting += self._leave(block)
        lines = self._lines(self.rest)
        if len(lines) - self._written > room and not _is_table(self.rest):
            lasting += lines[self._written : len(lines) - room]
            self._written = len(lines) - room
        return lasting

    def growing(self, text: str, room: int) -> list[DrawnLine]:
        """The last lines, with text that was not fed yet."""
        return self._lines(self.rest + text)[self._written :][-room:]

    def end(self) -> list[DrawnLine]:
        """The lines that are left, when no more comes."""
        rest, self.rest = self.rest, ""
        return self._leave(rest)

    def _lines(self, text: str) -> list[DrawnLine]:
        if text != self._known[0]:
            self._known = text, block_lines(self.out, text, self.columns)
        lines = self._known[1]
        return [[], *lines] if self.begun and lines else lines

    def _leave(self, text: str) -> list[DrawnLine]:
        lines = self._lines(text)
        left = lines[self._written :]
        self._written = max(0, self._written - len(lines))
        self.begun = self.begun or bool(lines)
        return left


def _is_table(text: str) -> bool:
    """Whose columns may become wider with each row."""
    return text.lstrip().startswith("|")


class _AnswerView(LiveView):
    """`changing`: nothing is drawn while the block runs, but what the block itself writes."""

    def changing(self) -> AbstractContextManager[object]:
        return self._lock


@contextmanager
def _undisturbed() -> Generator[None]:
    """A further Ctrl-C counts for nothing: what it would break off draws into whatever comes next."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class MarkdownScreen:
    """Shows one answer. Use as a context around all of it; `show` may come as often as a model speaks."""

    drawn_share: int = DRAWN_SHARE

    def __init__(self, out: TextIO) -> None:
        self._console = console(out)
        self._console.push_theme(STYLES)
        self._flow = Flow(self._console, self._columns())
        self._cleaner = TextCleaner()
        self._since = time.monotonic()
        self._next_at = 0.0
        self._taken = 0  # characters of the answer
        self._pending = ""  # of them, what is not in the flow
        self._answer = AnswerSoFar()
        self._thought = False  # whether it is said that it thought
        self._status = ""
        self._view = _AnswerView(self._console, get_renderable=self._growing, per_second=FRAMES_PER_S, transient=True)

    def __enter__(self) -> Self:
        self._view.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        """What has come is there for good, however the answer ended."""
        with _undisturbed():
            self._view.stop()
        thoughts = self._thoughts_end() if not self._thought else []
        calls = [line for call in self._answer.calls for line in self._dim(call_line(call))]
        self._print(
            [*thoughts, *self._flow.feed(self._pending, self._columns(), self._room()), *self._flow.end(), *calls]
        )

    def status(self, line: str) -> None:
        """What the node says while there is no answer yet: how far the load of a model is."""
        self._status = clean_line(line)

    def show(self, answer: AnswerSoFar) -> None:
        with self._view.changing():
            self._answer = answer
            self._pending += self._cleaner.feed(answer.text[self._taken :])
            self._taken = len(answer.text)
            began = time.monotonic()
            if began < self._next_at:
                return
            thoughts = self._thoughts_end() if self._taken and not self._thought else []
            text, self._pending = self._pending, ""
            lasting = self._flow.feed(text, self._columns(), self._room())
            if thoughts or lasting:
                self._print([*thoughts, *lasting])
            else:
                self._view.refresh()
            self._next_at = time.monotonic() + (time.monotonic() - began) * self.drawn_share

    def overrule(self, answer: AnswerSoFar) -> None:
        """The winner's words, after those that were shown."""
        self.note(overruled_line(answer.account))
        self._print(block_lines(self._console, TextCleaner().feed(answer.winner or ""), self._columns()))

    def note(self, line: str) -> None:
        """One line beside the answers."""
        self._print(self._dim(line))

    def vote(self, state: VoteState) -> None:
        """All of a vote that is over."""
        self._console.print(verdict(state, self._columns()), width=self._columns())

    def _growing(self) -> RenderableType:
        """Drawn again by the view, which lets nothing else be drawn meanwhile."""
        lines = self._flow.growing(self._pending, self._room())
        return SegmentLines([*lines, *self._below()], new_lines=True)

    def _below(self) -> list[DrawnLine]:
        """What stands under the words while more of them may come."""
        answer = self._answer
        if answer.thoughts and not self._taken:
            columns = self._columns() - len(NOTE)
            thoughts = clean_line(answer.thoughts[-THOUGHT_LINES * columns :])
            shown = drawn_lines(self._console, words(thoughts, "dim italic"), columns)[-THOUGHT_LINES:]
            return [[Segment(NOTE), *line] for line in shown]
        if answer.calls:
            return self._dim(call_line(answer.calls[-1]))
        if answer.ballot:
            return self._dim(standing_line(answer.ballot))
        if self._taken:
            return []
        return self._dim(self._status or f"asking · {time.monotonic() - self._since:.0f} s")

    def _thoughts_end(self) -> list[DrawnLine]:
        self._thought = True
        if not self._answer.thoughts:
            return []
        seconds = time.monotonic() - self._since
        return self._dim(f"thought for {seconds:.1f} s, {len(self._answer.thoughts.split())} words")

    def _print(self, lines: Sequence[DrawnLine]) -> None:
        if lines:
            self._console.print(SegmentLines(lines, new_lines=True), end="", crop=False)

    def _dim(self, line: str) -> list[DrawnLine]:
        shown = words(cut(clean_line(line), self._columns() - len(NOTE)), "dim")
        return [[Segment(NOTE), *shown.render(self._console)]]

    def _columns(self) -> int:
        return max(self._console.width - 1, 8)

    def _room(self) -> int:
        return max(self._console.height - BELOW_ROWS, 1)
