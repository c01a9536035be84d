"""The command lines of `swarm models`; what they do is in `models.py` (on this disk) and `running_models.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm.commands.arguments import DATA_DIR, client_key

if TYPE_CHECKING:
    from swarm.commands.running_models import NodePlace
    from swarm.node.settings import Settings

EXAMPLES: Final = """\
examples:
  swarm models list                   what this machine and its swarm have
  swarm models list --all             with all that could be had
  swarm models load qwen3:4b          now, not with the first question
  swarm models load qwen3:4b --on attic --pin
  swarm models unload qwen3:4b
  swarm models pull qwen3:4b

More in docs/models.md."""
NAME: Final = "an id of `swarm models list`, its beginning, or any other name it has"
MODELS_DIR: Final = "look for models here, too, as the node does; repeatable"
URL: Final = "a node (default: the one that runs here)"
FIT_MORE: Final = "; of what does not, on which other node it does, or over which that lend memory."
ON: Final = "another node of the swarm, by its name or id"
LOAD: Final = "Load a model on a running node and wait until it answers. Room is made by unloading idle ones."
UNLOAD: Final = "Unload a model: it finishes what it runs, and loads again when it is asked for."
PIN: Final = "Keep a model loaded: it is never unloaded to make room. One that is not loaded is."


def add_models(commands: Any) -> None:
    """The command and its actions."""
    parser = commands.add_parser(
        "models",
        help="list, load, pull or remove models",
        description="The models of this disk, of the running swarm, and of the registry.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    _add_list(actions)
    _add_fit(actions)
    _add_load(actions)
    _add_unload(actions)
    _add_pin(actions)
    _add_pull(actions)
    _add_rm(actions)


def _add_list(actions: Any) -> None:
    text = "what there is, and where it runs"
    action = actions.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}.")
    action.add_argument("--all", action="store_true", help="also all that could be downloaded")
    action.add_argument("--json", action="store_true", help="as JSON")
    _add_node(action)
    _add_places(action)
    action.set_defaults(run=_list)


def _add_fit(actions: Any) -> None:
    text = "what fits this machine, best first"
    action = actions.add_parser("fit", help=text, description=f"{text[0].upper()}{text[1:]}{FIT_MORE}")
    action.add_argument("--json", action="store_true", help="as JSON")
    action.add_argument("--context", type=int, metavar="TOKENS", help="default 16384, or the model's own")
    action.add_argument("--workers", type=int, metavar="N", help="default 1")
    _add_node(action)
    _add_places(action)
    action.set_defaults(run=_fit)


def _add_load(actions: Any) -> None:
    action = actions.add_parser("load", help="load a model now", description=LOAD)
    _add_name(action)
    action.add_argument("--on", metavar="NODE", help=f"{ON}; the file is copied there where it is not")
    action.add_argument("--pin", action="store_true", help="and keep it: it is never unloaded to make room")
    _add_node(action)
    _add_places(action)
    action.set_defaults(run=_load)


def _add_unload(actions: Any) -> None:
    action = actions.add_parser("unload", help="unload a model", description=UNLOAD)
    _add_name(action)
    action.add_argument("--on", metavar="NODE", help=ON)
    _add_node(action)
    _add_places(action)
    action.set_defaults(run=_unload)


def _add_pin(actions: Any) -> None:
    action = actions.add_parser("pin", help="keep a model loaded", description=PIN)
    _add_name(action)
    action.add_argument("--off", action="store_true", help="do not keep it any more; it stays loaded for now")
    action.add_argument("--on", metavar="NODE", help=ON)
    _add_node(action)
    _add_places(action)
    action.set_defaults(run=_pin)


def _add_pull(actions: Any) -> None:
    text = "download a model, from a peer or the hub"
    action = actions.add_parser("pull", help=text, description=f"{text[0].upper()}{text[1:]}.")
    action.add_argument("wanted", metavar="NAME[:SIZE[:QUANT]]")
    action.add_argument("--peer", action="append", metavar="HOST:PORT", help="a node that may have it; repeatable")
    _add_places(action)
    action.set_defaults(run=_pull)


def _add_rm(actions: Any) -> None:
    text = "remove a downloaded model"
    action = actions.add_parser(
        "rm", help=text, description=f"{text[0].upper()}{text[1:]}. Files of other programs are never removed."
    )
    _add_name(action)
    action.add_argument("--dry-run", action="store_true", help="only say what would be removed, and who else has it")
    _add_node(action)
    _add_places(action)
    action.set_defaults(run=_rm)


def _add_name(action: argparse.ArgumentParser) -> None:
    action.add_argument("wanted", metavar="NAME", help=NAME)


def _add_node(action: argparse.ArgumentParser) -> None:
    action.add_argument("--url", help=URL)
    action.add_argument("--api-key", metavar="KEY", help="where the node wants one (default: that of SWARM_API_KEY)")


def _add_places(action: argparse.ArgumentParser) -> None:
    action.add_argument("--data-dir", type=Path, metavar="DIR", help=DATA_DIR)
    action.add_argument("--models-dir", action="append", type=Path, metavar="DIR", help=MODELS_DIR)
    action.add_argument("--config", type=Path, metavar="FILE", help="as you gave it to the node")


def _list(arguments: argparse.Namespace) -> int:
    from swarm.commands.running_models import list_models

    return list_models(_settings(arguments), _place(arguments), everything=arguments.all, as_json=arguments.json)


def _fit(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import fit_models
    from swarm.registry.model_memory import AskedLoad

    asked = AskedLoad(arguments.context, arguments.workers)
    return fit_models(_settings(arguments), _place(arguments), asked, arguments.json)


def _load(arguments: argparse.Namespace) -> int:
    from swarm.commands.running_models import load_model

    pin = True if arguments.pin else None
    return load_model(_settings(arguments), _place(arguments), arguments.wanted, on=arguments.on, pin=pin)


def _unload(arguments: argparse.Namespace) -> int:
    from swarm.commands.running_models import unload_model

    return unload_model(_settings(arguments), _place(arguments), arguments.wanted, on=arguments.on)


def _pin(arguments: argparse.Namespace) -> int:
    from swarm.commands.running_models import pin_model

    settings, place = _settings(arguments), _place(arguments)
    return pin_model(settings, place, arguments.wanted, on=arguments.on, pinned=not arguments.off)


def _pull(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import pull_model

    return pull_model(_settings(arguments), arguments.wanted)


def _rm(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import remove_model

    return remove_model(_settings(arguments), _place(arguments), arguments.wanted, dry_run=arguments.dry_run)


def _settings(arguments: argparse.Namespace) -> Settings:
    from swarm.node.settings import make_settings

    names = ("data_dir", "models_dir", "peer")
    return make_settings({name: getattr(arguments, name, None) for name in names}, arguments.config)


def _place(arguments: argparse.Namespace) -> NodePlace:
    from swarm.commands.running_models import NodePlace

    return NodePlace(arguments.url, client_key(arguments))
