"""An answer as Markdown on a terminal: whole in the scrollback, the same however it came, and only ever text."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pyte
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.commands import chat_markdown
from swarm.commands.chat_answer import AnswerSoFar
from swarm.commands.chat_markdown import MarkdownScreen, blocks_of
from swarm.commands.screen import LiveView
from tests.doubles.typist import ScreenText
from tests.hostile.test_terminal_text import STREAMED, WORST, stray

COLUMNS, ROWS = 80, 24
ANSWER = """# What it is

Some **bold** words, `code`, a [link](http://a.example/b) and ![a cat](c.png), and so on, until the line is full.
A line of its own. Vec<T> <b>html</b> &amp; [a]: http://no.example

1. first
2. second
   - nested

[ref]: http://kept.example

| name | value |
|---|---:|
| a | 1 |

```python
def f(x: int) -> None:
    return x  # why
```

> quoted

---

The end."""


@pytest.fixture(autouse=True)
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", str(COLUMNS)), ("LINES", str(ROWS)), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(chat_markdown.MarkdownScreen, "drawn_share", 0)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields}]}


def shown(events: Sequence[dict[str, Any]]) -> str:
    """What is written while these events come."""
    out, answer = ScreenText(), AnswerSoFar()
    with MarkdownScreen(out) as screen:
        for event in events:
            answer.take(event)
            screen.show(answer)
    return out.getvalue()


def answered(*pieces: str) -> str:
    return shown([delta(content=piece) for piece in pieces])


def terminal(written: str) -> pyte.HistoryScreen:
    screen = pyte.HistoryScreen(COLUMNS, ROWS, history=5000, ratio=0.5)
    pyte.Stream(screen).feed(written.replace("\n", "\r\n"))
    return screen


def lines(written: str) -> list[str]:
    """All that stands on the screen and above it."""
    screen = terminal(written)
    above = ["".join(line[at].data for at in range(COLUMNS)).rstrip() for line in screen.history.top]
    return "\n".join([*above, *(line.rstrip() for line in screen.display)]).rstrip("\n").split("\n")


def test_what_markdown_looks_like() -> None:
    assert lines(answered(ANSWER)) == [
        "What it is",
        "",
        "Some bold words, code, a link (http://a.example/b) and [picture: a cat]",
        "(c.png), and so on, until the line is full.",
        "A line of its own. Vec<T> <b>html</b> & [a]: http://no.example",
        "",
        " 1 first",
        " 2 second",
        "    • nested",
        "",
        "[ref]: http://kept.example",
        "",
        " name  value",
        " ───────────",
        " a         1",
        "",
        "```python",
        "def f(x: int) -> None:",
        "    return x  # why",
        "```",
        "",
        "▌ quoted",
        "",
        "─" * 40,
        "",
        "The end.",
    ]
    assert "\x1b[1mbold" in answered(ANSWER)


@pytest.mark.parametrize("pieces", [("#", " ", "a"), ("\n", "\n", "a"), ("**", "a**"), ("", "a"), ("- ", "", "a")])
def test_what_is_nothing_yet_takes_no_line(pieces: tuple[str, ...]) -> None:
    assert len(lines(answered(*pieces))) == 1


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_it_is_the_same_in_pieces(size: int) -> None:
    pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    assert lines(answered(*pieces)) == lines(answered(ANSWER))


@pytest.mark.parametrize(
    "block",
    [
        "```\n" + "".join(f"line {number}\n" for number in range(60)) + "```",
        "\n".join(f"line {number}" for number in range(60)),
        "\n".join(f"- line {number}" for number in range(60)),
        "| a |\n|---|\n" + "\n".join(f"| line {number} |" for number in range(60)),
    ],
    ids=["code", "paragraph", "list", "table"],
)
def test_a_block_that_is_longer_than_the_screen_is_whole_in_the_scrollback(block: str) -> None:
    text = f"before\n\n{block}\n\nafter"
    found = lines(answered(*(text[at : at + 20] for at in range(0, len(text), 20))))
    assert found == lines(answered(text))
    assert [line.split()[-1] for line in found if "line" in line] == [str(number) for number in range(60)]
    assert (found[0], found[-1]) == ("before", "after")


def test_a_finished_block_is_written_once_and_the_last_one_again() -> None:
    pieces = ["first\n\n", "sec", "ond ", "block\n\n", "third"]
    written, more = answered(*pieces), answered(*pieces, " goes", " on", "\n\n", "fourth\n\n", "fifth")
    assert written.count("first") == more.count("first")
    assert more.count("third") > written.count("third")


@pytest.mark.parametrize(
    ("text", "finished", "rest"),
    [
        ("", [], ""),
        ("one", [], "one"),
        ("one\n\ntwo", [], "one\n\ntwo"),  # "two" may still become anything
        ("one\n\ntwo\n", ["one\n\n"], "two\n"),
        ("one\n#", [], "one\n#"),
        ("- a\n\n- b\n", [], "- a\n\n- b\n"),
        ("- a\n\nb\n\n```\nc\n\nd\n", ["- a\n\n", "b\n\n"], "```\nc\n\nd\n"),
        ("\n\n# a\nb\n", ["\n\n# a\n"], "b\n"),
    ],
)
def test_which_blocks_are_finished(text: str, finished: list[str], rest: str) -> None:
    assert blocks_of(text) == (finished, rest)


PARTS = st.sampled_from(
    (
        *("word ", "long" * 30, "\n", "\n\n", "# ", "- ", "1. ", "> ", "```\n", "```python\n", "    ", "**", "*", "`"),
        *("|", "---\n", "|---|\n", "[a](b)", "![", "](", "<b>", "&lt;", "\\", "[a]: b\n", "~~", "- [ ] "),
        *("🎈", "漢字", "e\u0301", *WORST),
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PARTS, max_size=40))
def test_whatever_comes_is_shown_as_text_and_the_same_in_pieces(parts: list[str]) -> None:
    written = answered(*parts)
    assert not stray(written, draws=True)
    assert "\x1b[8m" not in written
    assert terminal(written).title == ""
    assert lines(written) == lines(answered("".join(parts)))


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_the_worst_stays_text(field: str) -> None:
    written = shown([delta(**{field: piece}) for piece in STREAMED])
    assert not stray(written, draws=True)
    assert "\x1b[8m" not in written
    assert terminal(written).title == ""
    assert "the end" in written or field != "content"


def test_the_name_of_a_code_s_language_is_text() -> None:
    written = answered("```\x1b[8m../../etc/passwd\x07\nx\n```\n")
    assert not stray(written, draws=True)
    assert lines(written)[1] == "x"


def test_what_is_too_long_to_be_styled_is_text() -> None:
    text = "*" * (chat_markdown.MOST_STYLED_CHARS + 1)
    assert "".join(lines(answered(text))) == text


def test_what_no_library_can_read_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("cannot")

    monkeypatch.setattr(chat_markdown, "AnswerMarkdown", fails)
    assert lines(answered("**a**\n\nb")) == ["**a**", "", "b"]


def test_thoughts_are_short_and_then_one_line() -> None:
    thoughts = [delta(reasoning_content=f"thought {number} ") for number in range(60)]
    (alone,) = lines(shown(thoughts))
    assert alone.startswith("  thought for ")
    written = shown([*thoughts, delta(content="So it is.")])
    found = lines(written)
    assert len(found) == 2
    assert found[0].endswith(" s, 120 words")
    assert found[1] == "So it is."
    assert "thought 59" in written, "shown while it came"


def test_a_second_ctrl_c_breaks_off_nothing_that_is_being_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = LiveView.stop

    def impatient(view: LiveView) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        stop(view)

    monkeypatch.setattr(LiveView, "stop", impatient)
    assert lines(answered("To be")) == ["To be"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_calls_of_tools_are_a_line_each() -> None:
    calls = [
        {"index": 0, "function": {"name": "get_weather", "arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": ' "Rome\x1b[2J"}'}},
        {"index": 1, "function": {"name": "b", "arguments": "{}"}},
        {"index": 77, "function": {"name": "c"}},
        {"function": None},
    ]
    found = lines(shown([delta(tool_calls=[call]) for call in calls]))
    assert found[:3] == ['  calls get_weather {"city": "Rome"}', "  calls b {}", "  calls c"]


def test_a_terminal_that_becomes_narrower_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out, answer = ScreenText(), AnswerSoFar()
    with MarkdownScreen(out) as screen:
        for number in range(60):
            if number == 30:
                monkeypatch.setenv("COLUMNS", "40")
            answer.take(delta(content=f"word{number} " + ("\n\n" if number % 7 == 6 else "")))
            screen.show(answer)
    written = out.getvalue()
    assert all(f"word{number}" in written for number in range(60))
