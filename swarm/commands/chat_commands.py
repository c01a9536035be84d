"""What may be typed into `swarm chat` beside questions: the commands, what they take, and what completes them. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from swarm.commands.conversation import MOST_TEMPERATURE, MOST_VOTES
from swarm.errors import SwarmError

LIKENESS: Final = 0.5  # of difflib: names here are short
MOST_FILE_WORDS: Final = 64  # of a line that may belong to a file's name with spaces
AUTO, NONE = "auto", "none"


@dataclass(frozen=True, slots=True)
class Shape:
    """A command: what it takes, as its help says it, and what it does."""

    takes: str
    about: str
    values: tuple[str, ...] = ()
    files: bool = False


COMMANDS: Final = {
    "model": Shape("[NAME]", "who answers; without NAME the models there are"),
    "votes": Shape("[N|auto]", "answers to vote on; auto leaves it to the node", (AUTO, "1", "3", "5")),
    "vote": Shape("", "the vote on the last answer, all of it"),
    "system": Shape("[TEXT|none]", "what the model is told before everything", (NONE,)),
    "temperature": Shape("[T|auto]", "0 to 2: how freely it answers", (AUTO, "0", "0.7")),
    "image": Shape("FILE [QUESTION]", "a picture; none drops those attached", (NONE,), files=True),
    "retry": Shape("", "ask again; the last answer is replaced"),
    "tools": Shape("", "calls of tools in the last answer, and which there are"),
    "save": Shape("FILE", "as JSON, or as FILE.md to read; /save! replaces", files=True),
    "load": Shape("FILE", "go on with what /save or the page has saved", files=True),
    "clear": Shape("", "begin anew, with the same settings"),
    "help": Shape("", "this"),
    "quit": Shape("", "leave"),
}
OTHER_NAMES: Final = {"new": "clear", "exit": "quit", "q": "quit", "regenerate": "retry", "ballot": "vote"}
MAY_REPLACE: Final = ("save",)  # with `!` behind its name

KEYS: Final = (
    ("Enter", "send"),
    ("Alt-Enter, Esc Enter", "a new line"),
    ("Ctrl-R, Up", "search what you typed before; go through it"),
    ("Tab", "complete a command, a model, a file"),
    ("Ctrl-C", "stop the answer, or clear the line"),
    ("Ctrl-D", "leave"),
)

_COMMAND: Final = re.compile(r"/(?P<name>[A-Za-z?]*)(?P<replace>!?)(?:\s+(?P<argument>.*))?", re.DOTALL)


class WrongCommand(SwarmError):
    """A command that there is not, or that takes something else."""


@dataclass(frozen=True, slots=True)
class TypedQuestion:
    text: str


@dataclass(frozen=True, slots=True)
class TypedCommand:
    """`replace`: it may overwrite a file (`/save!`)."""

    name: str
    argument: str = ""
    replace: bool = False


def read_typed(line: str) -> TypedQuestion | TypedCommand:
    """What somebody typed. `//` begins a question whose first character is a slash, as does a path.

    Raises WrongCommand for a command that there is not, naming the nearest.
    """
    text = line.strip()
    if text.startswith("//"):
        return TypedQuestion(text[1:])
    found = _COMMAND.fullmatch(text)
    if found is None:
        return TypedQuestion(text)
    typed = found["name"].lower()
    name = {"": "help", "?": "help", **OTHER_NAMES}.get(typed, typed)
    if name not in COMMANDS or (found["replace"] and name not in MAY_REPLACE):
        raise WrongCommand(_unknown(f"{found['name']}{found['replace']}", typed))
    argument = (found["argument"] or "").strip()
    if argument and not COMMANDS[name].takes:
        raise WrongCommand(f"/{name} takes nothing behind it, and there is {argument[:40]!r}")
    return TypedCommand(name, argument, bool(found["replace"]))


def _unknown(shown: str, typed: str) -> str:
    near = difflib.get_close_matches(typed, [*COMMANDS, *OTHER_NAMES], n=1, cutoff=LIKENESS)
    meant = f": did you mean /{near[0]}?" if near and near[0] != typed else "."
    return f"there is no /{shown}{meant} /help lists them; a question that begins with / is typed with two: //{shown}"


def help_rows() -> list[tuple[str, str]]:
    """Two columns; an empty row between the commands and the keys."""
    commands = [(f"/{name} {shape.takes}".rstrip(), shape.about) for name, shape in COMMANDS.items()]
    return [*commands, ("", ""), *KEYS]


def votes_of(argument: str) -> int | None:
    """`/votes`: a number, or None for `auto`. Raises WrongCommand."""
    if argument.lower() == AUTO:
        return None
    if re.fullmatch("[0-9]{1,2}", argument) is None or not 1 <= int(argument) <= MOST_VOTES:
        raise WrongCommand(f"/votes takes 1 to {MOST_VOTES}, or auto; {argument[:40]!r} is neither")
    return int(argument)


def temperature_of(argument: str) -> float | None:
    """`/temperature`: a number, or None for `auto`. Raises WrongCommand."""
    if argument.lower() == AUTO:
        return None
    try:
        value = float(argument)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_TEMPERATURE:
        raise WrongCommand(f"/temperature takes 0 to {MOST_TEMPERATURE:g}, or auto; {argument[:40]!r} is neither")
    return value


def whole_file(argument: str) -> str:
    """A file's name where nothing else follows; it may be in quotes."""
    quoted = re.fullmatch(r"(['\"])(.+)\1", argument)
    return quoted[2] if quoted else argument


def split_file(argument: str, is_file: Callable[[str], bool]) -> tuple[str, str]:
    """A file's name and what follows it. The name may be in quotes, have `\\ ` for a space (terminals paste that of
    what is dropped on them), or just have spaces, where there is such a file."""
    quoted = re.match(r"(['\"])(.+?)\1(?:\s+|$)", argument)
    if quoted:
        return quoted[2], argument[quoted.end() :].strip()
    ends = [*(gap.start() for gap in re.finditer(r"\s+", argument)), len(argument)][:MOST_FILE_WORDS]
    for end in reversed(ends):
        name = argument[:end]
        for meant in (name, name.replace("\\ ", " ")):
            if is_file(meant):
                return meant, argument[end:].strip()
    first = re.match(r"(?:\\ |\S)+", argument)
    name = first[0] if first else ""
    return name.replace("\\ ", " "), argument[len(name) :].strip()


def nearest(name: str, known: Sequence[str]) -> str | None:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=LIKENESS)
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Completions:
    """What may stand in the place of the last `typed` characters, each with what it is; `files`: a file may, too."""

    typed: int
    words: tuple[tuple[str, str], ...] = ()
    files: bool = False


def completions(before: str, models: Callable[[], Iterable[str]]) -> Completions | None:
    """For the text before the cursor; None where it is no command. `models` is asked for `/model` alone."""
    if not before.startswith("/") or before.startswith("//") or "\n" in before:
        return None
    name, space, argument = before[1:].partition(" ")
    if not space:
        words = [(f"/{known}", shape.about) for known, shape in COMMANDS.items() if known.startswith(name.lower())]
        return Completions(len(before), tuple(words))
    shape = COMMANDS.get(name.removesuffix("!"))
    argument = argument.lstrip()
    if shape is None:
        return None
    known = models() if name == "model" else shape.values
    words = [(value, "") for value in known if value.startswith(argument)]
    return Completions(len(argument), tuple(words), shape.files)
