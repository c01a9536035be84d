"""The arguments of `swarm doctor`. What it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from federation.hostport import DEFAULT_PORT


def add_doctor(commands: Any) -> None:
    """The command."""
    parser = commands.add_parser(
        "doctor",
        help="what is wrong here, and the remedy",
        description="Look at this machine, its network and each peer, and say the remedy for what is not well. "
        "Nothing is changed.",
        epilog="Exit code: 0 nothing failed, 1 something did. More in docs/discovery.md.",
    )
    parser.add_argument("--hardware", action="store_true", help="CPU, memory, GPUs, and where each fact is from")
    parser.add_argument("--peer", action="append", metavar="HOST:PORT", help="look at this node, too; repeatable")
    parser.add_argument("--peer-file", type=Path, metavar="FILE", help="look at the nodes that it lists, too")
    parser.add_argument("--port", type=int, help=f"that of the node (default {DEFAULT_PORT})")
    parser.add_argument("--host", metavar="IP", help="as given to the node")
    parser.add_argument("--interface", action="append", metavar="NAME", help="as given to the node")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as given to the node")
    parser.add_argument("--config", type=Path, metavar="FILE", help="as given to the node")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from swarm.commands.doctor import doctor, hardware
    from swarm.node.settings import make_settings

    if arguments.hardware:
        return hardware(arguments.json)
    names = ("peer", "peer_file", "port", "host", "interface", "data_dir")
    given = {name: getattr(arguments, name) for name in names}
    return doctor(make_settings(given, arguments.config), arguments.json)
