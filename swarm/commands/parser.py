"""The parser of the command line: argparse's, with a suggestion for what is misspelt, and its words cleaned."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, TextIO, cast

from federation.printable_text import clean_line, clean_text
from swarm.commands.output import OutputLost, write

# What other programs call what this one does: `ollama run`, `lms ps`, `docker stop`.
SERVES = frozenset(["run", "serve", "start", "up", "server", "node", "daemon", "deploy", "host"])
PULLS = frozenset(["pull", "download", "get", "install", "add", "fetch", "import"])
LOADS = frozenset(["load", "preload", "warm"])
UNLOADS = frozenset(["unload", "eject", "offload", "evict"])
REMOVES = frozenset(["rm", "remove", "delete", "uninstall", "del"])
LISTS = frozenset(["list", "ls", "show", "search", "find", "tags", "inspect"])
LOOKS = frozenset(["ps", "nodes", "info", "ping", "health", "stats"])
STOPS = frozenset(["stop", "down", "kill", "quit", "exit", "shutdown", "restart"])
ASKS = frozenset(["ask", "prompt", "query", "generate", "complete", "talk", "say"])
PAIRS = frozenset(["pair", "connect", "link", "login", "auth", "signin"])
OTHERS = {
    "help": "`swarm --help`, or `swarm COMMAND --help`",
    "version": "`swarm --version`",
    "update": "`git pull` in the checkout, then start the node again",
    "upgrade": "`git pull` in the checkout, then start the node again",
    "logs": "a node writes to its terminal (--log-level info says more), as a service to `journalctl -u swarm`",
    "members": "`swarm peers`",
    "kick": "`swarm revoke ID`",
    "check": "`swarm doctor`",
    "test": "`swarm doctor`",
    "benchmark": "`swarm bench load`, `swarm bench votes`, `swarm bench speculation`",
    "create": "models are .gguf files: `swarm --model PATH.gguf`",
    "push": "models are .gguf files, and nodes of this network copy them: `swarm models pull NAME`",
    "cp": "models are .gguf files: `swarm --model PATH.gguf`",
}

LIKENESS = 0.6  # of difflib: one or two letters wrong, or in the wrong order


class Parser(argparse.ArgumentParser):
    """Errors end with code 2 and the usage of the command that they are about; help is written in one piece."""

    rest: str | None = None
    """Where the words behind `--` go, for a command that passes them on; argparse would take them for itself."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - its overloads say the same
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.rest is None or args is None or "--" not in args:
            return super().parse_known_args(args, namespace)
        at = list(args).index("--")
        given, unknown = super().parse_known_args(args[:at], namespace)
        setattr(given, self.rest, list(args[at + 1 :]))
        return given, unknown

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
            if action.nargs == argparse.PARSER:
                found.update(cast("dict[str, Parser]", action.choices))
        return found

    def about_commands(self) -> list[tuple[str, str]]:
        """The words that may come first, and what each does."""
        groups: list[Any] = [action for action in self._actions if action.nargs == argparse.PARSER]
        return [(entry.dest, entry.help or "") for group in groups for entry in group._get_subactions()]

    def option(self, spelling: str) -> argparse.Action | None:
        """The option that is spelt so."""
        return self._option_string_actions.get(spelling)

    def place(self, number: int) -> argparse.Action | None:
        """What the word at that place is, not counting options; None where there may be none."""
        for action in self._get_positional_actions():
            if action.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE) or number == 0:
                return action
            number -= 1
        return None

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


def other_words(words: Sequence[str], known: Iterable[str]) -> str | None:
    """What to write instead of a command line with a verb of another program, or a model in a command's place.

    `words` begin with the command; None where it is one of the `known`, or nothing that is recognized.
    """
    verb, rest = words[0].lower(), list(words[1:])
    of_models = verb == "models" and bool(rest)
    if of_models:
        verb, rest = rest[0].lower(), rest[1:]
    if verb in known or verb.startswith("-"):
        return None
    name = rest[0] if rest and not rest[0].startswith("-") else None
    options = rest if name is None else rest[1:]
    if verb in SERVES:
        if options and not options[0].startswith("-"):  # `run MODEL WORDS`: a question
            options = []
        model = [] if name is None else ["--model", name]
        line = shlex.join(["swarm", *(model + options or ["--federation"])])
        return f"`{line}` serves {name or 'a model'} until Ctrl-C, and `swarm chat` in another terminal talks to it"
    if verb in PULLS:
        return f"`{shlex.join(['swarm', 'models', 'pull', name or 'NAME'])}`"
    for verbs, action in ((LOADS, "load"), (UNLOADS, "unload"), ({"pin", "keep"}, "pin")):
        if verb in verbs:
            return f"`{shlex.join(['swarm', 'models', action, name or 'NAME'])}`"
    if verb in REMOVES:
        return f"`{shlex.join(['swarm', 'models', 'rm', name or 'NAME'])}`"
    if verb in LISTS:
        return "`swarm models list` shows models, `swarm status` what is served"
    if of_models:
        return None
    if verb in LOOKS:
        return "`swarm status` shows the nodes, and what they serve; `swarm top` shows them live"
    if verb in STOPS:
        return "Ctrl-C where the node runs stops it, or SIGTERM; a service stops with `systemctl stop swarm`"
    if verb in ASKS:
        return f"`{shlex.join(['swarm', 'chat', *rest])}`"
    if verb in PAIRS:
        return "`swarm invite` on one machine prints a code, `swarm join CODE` on the other uses it"
    return OTHERS.get(verb)


def names_model(word: str) -> bool:
    """Whether a word where a command belongs is a model's name."""
    from swarm.errors import SetupError
    from swarm.registry.catalogue import Catalogue
    from swarm.registry.names import CatalogueRef, is_catalogued, parse_model

    try:
        ref = parse_model(word)
    except SetupError:
        return False
    return is_catalogued(ref, Catalogue.load()) if isinstance(ref, CatalogueRef) else True


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
