"""The arguments of `swarm invite`, `join`, `peers` and `revoke`. What they do is imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_member_commands(commands: Any) -> None:
    """All four, each with --json and --data-dir."""
    invite = commands.add_parser("invite", help="a code for one more node; only members are peers from then on")
    join = commands.add_parser("join", help="join the swarm that a code is from")
    join.add_argument(
        "code", nargs="+", metavar="CODE", help="what `swarm invite` printed there; - reads it from stdin"
    )
    peers = commands.add_parser("peers", help="who belongs to the swarm")
    revoke = commands.add_parser("revoke", help="put a node out of the swarm; its own id: leave it")
    revoke.add_argument("who", metavar="ID", help="a node id, its beginning, or a name: see `swarm peers`")
    for parser, run in ((invite, _invite), (join, _join), (peers, _peers), (revoke, _revoke)):
        parser.add_argument("--json", action="store_true", help="as JSON")
        parser.add_argument(
            "--data-dir",
            type=Path,
            default=argparse.SUPPRESS,  # so that one given before the command counts
            metavar="DIR",
            help="that of the node, where it has one of its own",
        )
        parser.set_defaults(run=run)


def _invite(arguments: argparse.Namespace) -> int:
    from swarm.commands.invite import invite

    return invite(_data_dir(arguments), arguments.json)


def _join(arguments: argparse.Namespace) -> int:
    from swarm.commands.join import join

    return join(_data_dir(arguments), arguments.code, arguments.json)


def _peers(arguments: argparse.Namespace) -> int:
    from swarm.commands.peers import peers

    return peers(_data_dir(arguments), arguments.json)


def _revoke(arguments: argparse.Namespace) -> int:
    from swarm.commands.revoke import revoke

    return revoke(_data_dir(arguments), arguments.who, arguments.json)


def _data_dir(arguments: argparse.Namespace) -> Path:
    from swarm.settings import make_settings

    return make_settings({"data_dir": arguments.data_dir}).data_path
