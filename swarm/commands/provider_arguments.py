"""The command lines of `swarm providers`; what they do is in `providers.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from swarm.commands.arguments import DATA_DIR

EXAMPLES: Final = """\
examples:
  swarm providers                      the table
  swarm providers models groq          its models, with contexts and prices
  swarm providers models http://box:11434
  swarm providers check openai         ask one token, after saying what it costs

Keys come from the environment (GROQ_API_KEY, ...). More in docs/providers.md."""


def add_providers(commands: Any) -> None:
    """The command and its actions."""
    parser = commands.add_parser(
        "providers",
        help="list clouds and servers by name, their models; try one",
        description="Providers of models, for --upstream and `swarm agent`. Without an action: list.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_list_options(parser)
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION")
    text = "the table: names, protocols, whether there is a key"
    _add_list_options(actions.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}."))
    _add_models(actions)
    _add_check(actions)


def _add_list_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("--json", action="store_true", help="as JSON")
    action.set_defaults(run=_list)


def _add_models(actions: Any) -> None:
    text = "the models of a provider, with contexts, output limits and prices"
    action = actions.add_parser(
        "models",
        help=text,
        description="The models of a provider, by its own list. What that does not tell is filled in\n"
        "from a snapshot, where the extra `agent` is installed. Lists are kept for a day.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_provider(action)
    action.add_argument("--anew", action="store_true", help="ask now, however new the kept list is")
    action.add_argument("--json", action="store_true", help="as JSON")
    action.set_defaults(run=_models)


def _add_check(actions: Any) -> None:
    action = actions.add_parser(
        "check",
        help="ask one token, after saying what it costs",
        description="Ask a provider for one token: whether its address, key and model work. What it\n"
        "costs is said first. Exit code: 0 it works, 1 it does not, 2 wrong usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_provider(action)
    action.add_argument("--model", metavar="NAME", help="ask this model (default: the cheapest that is listed)")
    action.add_argument("--yes", action="store_true", help="do not ask before it is asked")
    action.add_argument("--json", action="store_true", help="as JSON")
    action.set_defaults(run=_check)


def _add_provider(action: argparse.ArgumentParser) -> None:
    action.add_argument("provider", metavar="NAME", help="a name of the table, or a base URL")
    action.add_argument("--base-url", metavar="URL", help="another address of it")
    action.add_argument("--data-dir", type=Path, metavar="DIR", help=DATA_DIR)


def _list(arguments: argparse.Namespace) -> int:
    from swarm.commands.providers import list_providers

    return list_providers(arguments.json)


def _models(arguments: argparse.Namespace) -> int:
    from swarm.commands.providers import list_models

    folder, base_url = _folder(arguments), arguments.base_url
    return list_models(arguments.provider, folder, base_url, anew=arguments.anew, as_json=arguments.json)


def _check(arguments: argparse.Namespace) -> int:
    from swarm.commands.providers import check_provider

    folder, base_url = _folder(arguments), arguments.base_url
    return check_provider(
        arguments.provider, folder, base_url, arguments.model, yes=arguments.yes, as_json=arguments.json
    )


def _folder(arguments: argparse.Namespace) -> Path:
    """Where lists of models are kept."""
    from swarm.node.settings import make_settings

    return make_settings({"data_dir": arguments.data_dir}).data_path / "providers"
