"""The command lines of `swarm engines`; what they do is in `engines.py` (the list) and `engine_install.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarm.commands.arguments import DATA_DIR
from swarm.engines.registry import ENGINE_NAMES

if TYPE_CHECKING:
    from swarm.node.settings import Settings

WANTED: Final = {
    "cuda": "xllamacpp for NVIDIA's GPUs, a wheel",
    "rocm": "xllamacpp for AMD's GPUs, a wheel",
    "vulkan": "xllamacpp for any GPU with a Vulkan driver, a wheel",
    "metal": "Apple's GPUs: what is here already uses them",
    "cpu": "no GPU: what is here already",
    "native": "llama.cpp's own server, built for this very machine",
    "llama-cpp": "llama-cpp-python, built likewise",
    "mlx": "mlx-lm, for safetensors models on Apple's chips",
}
EXAMPLES: Final = """\
examples:
  swarm engines                       what there is; how to get the rest
  swarm engines install               the best for this machine
  swarm engines install cuda --yes    for an NVIDIA GPU, without a question
  swarm engines install native        llama.cpp's server, built for this machine
  swarm engines rm xllamacpp-cuda

More in docs/engines.md."""
INSTALL: Final = """\
Install an engine into a folder of its own, beside those that are there. It is
tried with the embedded model before it takes its place; the environment of the
node itself is never changed. Without a name: the best for this machine."""


def add_engines(commands: Any) -> None:
    """The command and its actions."""
    parser = commands.add_parser(
        "engines",
        help="list, install or remove engines, as for a GPU",
        description="The engines that compute models here. Without an action: list.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_list_options(parser)
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION")
    text = "what can compute models here, on which devices, and what makes the rest ready"
    _add_list_options(actions.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}."))
    _add_install(actions)
    _add_rm(actions)


def _add_list_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("--json", action="store_true", help="as JSON")
    action.add_argument("--engine", choices=ENGINE_NAMES, metavar="NAME", help="as you gave it to the node")
    action.add_argument("--llama-server", type=Path, metavar="PATH", help="ask this program, too")
    _add_places(action)
    action.set_defaults(run=_list)


def _add_install(actions: Any) -> None:
    lines = "\n".join(f"  {name:<10} {about}" for name, about in WANTED.items())
    action = actions.add_parser(
        "install",
        help="install an engine, by default the best for this machine",
        description=INSTALL,
        epilog=f"names:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument("wanted", nargs="?", choices=tuple(WANTED), metavar="NAME", help="one of those below")
    action.add_argument("--yes", action="store_true", help="do not ask before a download of more than 300 MiB")
    action.add_argument("--again", action="store_true", help="also where it is there in that version already")
    action.add_argument("--index", metavar="URL", help="a copy of the index of xllamacpp's wheels for GPUs")
    action.add_argument("--json", action="store_true", help="as JSON")
    _add_places(action)
    action.set_defaults(run=_install)


def _add_rm(actions: Any) -> None:
    text = "remove an installed engine"
    action = actions.add_parser("rm", help=text, description=f"{text[0].upper()}{text[1:]}.")
    action.add_argument("name", metavar="NAME", help="its folder in the engines' directory, as xllamacpp-cuda")
    _add_places(action)
    action.set_defaults(run=_rm)


def _add_places(action: argparse.ArgumentParser) -> None:
    action.add_argument("--engines-dir", type=Path, metavar="DIR", help="where engines are (default: DATA_DIR/engines)")
    action.add_argument("--data-dir", type=Path, metavar="DIR", help=DATA_DIR)
    action.add_argument("--config", type=Path, metavar="FILE", help="as you gave it to the node")


def _list(arguments: argparse.Namespace) -> int:
    from swarm.commands.engines import list_engines

    return list_engines(_settings(arguments), arguments.json)


def _install(arguments: argparse.Namespace) -> int:
    from swarm.commands.engine_install import Installing, install
    from swarm.engines.machine_engines import WHEEL_INDEX

    installing = Installing(
        _settings(arguments).engines_path,
        arguments.index or WHEEL_INDEX,
        again=arguments.again,
        asks=not arguments.yes and not arguments.json,
        quiet=arguments.json,
    )
    return install(installing, arguments.wanted, arguments.json)


def _rm(arguments: argparse.Namespace) -> int:
    from swarm.commands.engine_install import Installing

    Installing(_settings(arguments).engines_path).remove(arguments.name)
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    from swarm.node.settings import make_settings

    names = ("data_dir", "engines_dir", "engine", "llama_server")
    return make_settings({name: getattr(arguments, name, None) for name in names}, arguments.config)
