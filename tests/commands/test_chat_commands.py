"""What is typed into `swarm chat`: questions, commands, what they take, and what completes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.commands.chat_actions import ACTIONS
from swarm.commands.chat_commands import (
    COMMANDS,
    TypedCommand,
    TypedQuestion,
    WrongCommand,
    completions,
    help_rows,
    read_typed,
    split_file,
    temperature_of,
    votes_of,
    whole_file,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("why is the sky blue?", TypedQuestion("why is the sky blue?")),
        ("  two\nlines  ", TypedQuestion("two\nlines")),
        ("/model qwen3:4b", TypedCommand("model", "qwen3:4b")),
        ("/MODEL x", TypedCommand("model", "x")),
        ("/model", TypedCommand("model")),
        ("/system You are\nterse.", TypedCommand("system", "You are\nterse.")),
        ("/save talk.json", TypedCommand("save", "talk.json")),
        ("/save! my talk.json", TypedCommand("save", "my talk.json", replace=True)),
        ("/?", TypedCommand("help")),
        ("/", TypedCommand("help")),
        ("/exit", TypedCommand("quit")),
        ("/new", TypedCommand("clear")),
        ("/etc/hosts: what is it for?", TypedQuestion("/etc/hosts: what is it for?")),
        ("/24 is how many addresses?", TypedQuestion("/24 is how many addresses?")),
        ("//model is what?", TypedQuestion("/model is what?")),
        ("a /model b", TypedQuestion("a /model b")),
    ],
)
def test_what_is_a_command(typed: str, read: TypedQuestion | TypedCommand) -> None:
    assert read_typed(typed) == read


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("/modle x", "there is no /modle: did you mean /model?"),
        ("/vots 3", "did you mean /votes?"),
        ("/xyzzy", "there is no /xyzzy. /help lists them"),
        ("/tmp is what?", "typed with two: //tmp"),
        ("/load! x", "there is no /load!"),
        ("/retry now", "/retry takes nothing behind it, and there is 'now'"),
    ],
)
def test_what_is_no_command_names_the_remedy(typed: str, told: str) -> None:
    with pytest.raises(WrongCommand) as raised:
        read_typed(typed)
    assert told in str(raised.value)


@pytest.mark.parametrize(("argument", "votes"), [("1", 1), ("32", 32), ("auto", None), ("AUTO", None), ("05", 5)])
def test_votes(argument: str, votes: int | None) -> None:
    assert votes_of(argument) == votes


@pytest.mark.parametrize("argument", ["0", "33", "-1", "1.5", "five", "٣", "9" * 5000, "none"])
def test_votes_that_there_are_not(argument: str) -> None:
    with pytest.raises(WrongCommand, match="/votes takes 1 to 32, or auto"):
        votes_of(argument)


@pytest.mark.parametrize(("argument", "value"), [("0", 0.0), ("2", 2.0), ("0.7", 0.7), ("auto", None)])
def test_temperature(argument: str, value: float | None) -> None:
    assert temperature_of(argument) == value


@pytest.mark.parametrize("argument", ["-0.1", "2.1", "nan", "inf", "warm", ""])
def test_temperatures_that_there_are_not(argument: str) -> None:
    with pytest.raises(WrongCommand, match="/temperature takes 0 to 2, or auto"):
        temperature_of(argument)


@pytest.mark.parametrize(
    ("argument", "files", "found"),
    [
        ("cat.png", [], ("cat.png", "")),
        ("cat.png what is it?", [], ("cat.png", "what is it?")),
        ("my cat.png what is it?", ["my cat.png"], ("my cat.png", "what is it?")),
        ("my cat.png", ["my", "my cat.png"], ("my cat.png", "")),
        ("'my cat.png'  what?", [], ("my cat.png", "what?")),
        ('"my cat.png"', [], ("my cat.png", "")),
        (r"my\ cat.png what?", [], ("my cat.png", "what?")),
        (r"my\ cat.png what?", ["my cat.png"], ("my cat.png", "what?")),
        (r"C:\pictures\cat.png what?", [], (r"C:\pictures\cat.png", "what?")),
        ("it's.png what's this", ["it's.png"], ("it's.png", "what's this")),
        ("cat.png two\nlines", [], ("cat.png", "two\nlines")),
        ("", [], ("", "")),
    ],
)
def test_a_file_and_what_is_asked_of_it(argument: str, files: list[str], found: tuple[str, str]) -> None:
    assert split_file(argument, files.__contains__) == found


def test_a_file_alone() -> None:
    assert whole_file("my talk.json") == whole_file("'my talk.json'") == "my talk.json"
    assert whole_file("it's") == "it's"


@pytest.mark.parametrize(
    ("before", "words", "files"),
    [
        ("/", [f"/{name}" for name in COMMANDS], False),
        ("/vo", ["/votes", "/vote"], False),
        ("/VO", ["/votes", "/vote"], False),
        ("/model ", ["swarm", "qwen3:4b"], False),
        ("/model q", ["qwen3:4b"], False),
        ("/votes ", ["auto", "1", "3", "5"], False),
        ("/votes a", ["auto"], False),
        ("/save ta", [], True),
        ("/save! ta", [], True),
        ("/image ", ["none"], True),
        ("/retry ", [], False),
    ],
)
def test_what_completes_a_command(before: str, words: list[str], files: bool) -> None:
    found = completions(before, lambda: ["swarm", "qwen3:4b"])
    assert found is not None
    assert ([word for word, _ in found.words], found.files) == (words, files)
    typed = before[len(before) - found.typed :]
    assert all(word.startswith(typed.lower()) for word in words)


@pytest.mark.parametrize("before", ["", "what", "//mo", "/nonsense x", "/system a\n/mo", "a /mo"])
def test_what_nothing_completes(before: str) -> None:
    def never() -> list[str]:
        raise AssertionError("nobody asks for models")

    assert completions(before, never) is None


def test_the_help_fits_a_terminal_and_the_documentation_has_every_command() -> None:
    rows = help_rows()
    assert all(len(f"  {left:<22} {right}") <= 80 for left, right in rows)
    text = (ROOT / "docs/terminal.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"`/{name}" not in text] == []


def test_every_command_does_something() -> None:
    assert {*ACTIONS, "quit"} == set(COMMANDS)
