"""Options before a command: each counts as if it stood after the command, or is refused. None is dropped."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from swarm.commands.node_arguments import USAGE_LINE, add_node_options
from swarm.errors import SetupError

SPELLED = {("isolation", "always"): "isolate", ("isolation", "never"): "in-process"}  # not by the setting's own name
WHERE = frozenset({"host", "port", "peer"})  # what people give who mean --url


def read_line(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """What `parser` makes of the command line. Raises SetupError for an option whose command does not take it."""
    if not words or not words[0].startswith("-"):
        return parser.parse_args(words)
    given, unknown = _node_parser().parse_known_args(words)
    command: list[str] = given.command_line
    if unknown or not command:
        return parser.parse_args(words)
    taken = parser.parse_args(command)
    names = 2 if hasattr(taken, "action") else 1  # `swarm models pull`, `swarm status`
    for option, value in vars(given).items():
        if option != "command_line" and not hasattr(taken, option):
            raise SetupError(
                _refusal(option, value, " ".join(("swarm", *command[:names])), has_url=hasattr(taken, "url"))
            )
    before = words[: len(words) - len(command)]
    return parser.parse_args([*command[:names], *before, *command[names:]])


def _node_parser() -> argparse.ArgumentParser:
    """Takes options of the node up to the first word that is none, and leaves the rest in `command_line`."""
    parser = argparse.ArgumentParser(
        prog="swarm", usage=USAGE_LINE, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    add_node_options(parser)
    parser.add_argument("command_line", nargs=argparse.REMAINDER, default=[])
    return parser


def _refusal(option: str, value: Any, command: str, *, has_url: bool) -> str:
    remedy = "takes --url" if has_url and option in WHERE else "does not take it"
    spelled = next((name for key, name in SPELLED.items() if key == (option, value)), option.replace("_", "-"))
    return f"--{spelled} is an option of the node; `{command}` {remedy}"
