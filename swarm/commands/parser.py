"""The parser of the command line: argparse's, with a suggestion for what is misspelt, and its words cleaned."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, TextIO, cast

from federation.printable_text import clean_line, clean_text
from swarm.commands.output import OutputLost, write

LIKENESS = 0.6  # of difflib: one or two letters wrong, or in the wrong order


class Parser(argparse.ArgumentParser):
    """Errors end with code 2 and the usage of the command that they are about; help is written in one piece."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - its overloads say the same
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            taken = self.chosen(given)
            taken.error(unknown_words(unknown, taken.prog, taken.options(), self.options()))
        return given

    def options(self) -> list[str]:
        """Every spelling of its options."""
        return [spelling for action in self._actions for spelling in action.option_strings]

    def actions(self) -> list[argparse.Action]:
        """Its options and words, in the order of the help."""
        return [action for action in self._actions if action.help != argparse.SUPPRESS]

    def commands(self) -> dict[str, Parser]:
        """The parser of each word that may come first; none for a command without actions."""
        found: dict[str, Parser] = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage] - its only name
                found.update(cast("Any", action).choices)
        return found

    def chosen(self, given: argparse.Namespace) -> Parser:
        """The parser of the command that was `given`."""
        parser = self
        for word in (getattr(given, "command", None), getattr(given, "action", None)):
            parser = parser.commands().get(word or "", parser)
        return parser

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            likely = closest(str(value), map(str, action.choices or ()))
            if likely is not None and "did you mean" not in error.message:  # as Python 3.14 can say itself
                error.message += f": did you mean {likely!r}?"
            raise

    def _print_message(self, message: str, file: TextIO | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - a file of text, as argparse passes it
        with suppress(OutputLost) if file is sys.stderr else nullcontext():
            write(file, clean_text(message))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` may be a slip of; None where none is alike."""
    import difflib  # only for a line that is wrong

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=LIKENESS)
    return found[0] if found else None


def unknown_words(words: Sequence[str], command: str, options: Sequence[str], of_node: Sequence[str]) -> str:
    """What is said of the words that `command` does not take; `options` are its own, `of_node` those of a node."""
    message = f"unrecognized arguments: {clean_line(' '.join(words))}"
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if option is None:
        return message
    if (likely := closest(option, options)) is not None:
        return f"{message}: did you mean {likely}?"
    if option in of_node:
        return f"{message}: {option} is an option of the node; `{command}` does not take it"
    return f"{message} (`{command} --help` lists what there is)"
