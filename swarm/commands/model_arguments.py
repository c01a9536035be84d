"""The arguments of `swarm models`. What its actions do is imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.node.settings import Settings


def add_models(commands: Any) -> None:
    """The command and its actions."""
    parser = commands.add_parser(
        "models",
        help="list, fit, pull, rm",
        description="The models of the registry and of this disk.",
        epilog="More in docs/models.md.",
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, text in (("list", "every model in the registry"), ("fit", "what fits this machine, best first")):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("--json", action="store_true", help="as JSON")
        if name == "fit":
            action.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="default 4096")
            action.add_argument("--workers", type=int, default=4, metavar="N", help="default 4")
        action.add_argument("--data-dir", type=Path, metavar="DIR")
        action.set_defaults(run=_models_list if name == "list" else _models_fit)
    for name, text in (("pull", "bring a model, from a peer or the hub"), ("rm", "remove a downloaded model")):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("wanted", metavar="NAME[:SIZE[:QUANT]]")
        action.add_argument("--data-dir", type=Path, metavar="DIR")
        if name == "pull":
            words = "a node that may have it; repeatable"
            action.add_argument("--peer", action="append", metavar="HOST:PORT", help=words)
        action.set_defaults(run=_models_pull if name == "pull" else _models_rm)


def _models_list(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import list_models

    return list_models(_settings(arguments), arguments.json)


def _models_fit(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import fit_models
    from swarm.registry.memory import Load

    return fit_models(_settings(arguments), Load(arguments.context, arguments.workers), arguments.json)


def _models_pull(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import pull_model

    return pull_model(_settings(arguments), arguments.wanted)


def _models_rm(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import remove_model

    return remove_model(_settings(arguments), arguments.wanted)


def _settings(arguments: argparse.Namespace) -> Settings:
    from swarm.node.settings import make_settings

    return make_settings({"data_dir": arguments.data_dir, "peer": getattr(arguments, "peer", None)})
