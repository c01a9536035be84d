"""The arguments of `swarm invite`, `join`, `peers` and `revoke`. What they do is imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

INVITE = "Print a code for one more machine, good once and for ten minutes. The first one makes this swarm paired."
JOIN = "Make this machine's node a member of the swarm that invites it, whether the node runs now or later."
PEERS = "The members, or in an open swarm the nodes that were found, with their states and addresses."
REVOKE = "Put a node out: live connections are cut at once, here and at every member that is there."
EXIT_CODES = "Exit code: 0 done, 1 it did not work this time, 2 it never can. More in docs/trust.md."


def _command(commands: Any, name: str, text: str, description: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=description, epilog=EXIT_CODES)


def add_member_commands(commands: Any) -> None:
    """All four, each with --json and --data-dir."""
    invite = _command(commands, "invite", "a code for one more node; only members are peers from then on", INVITE)
    join = _command(commands, "join", "join the swarm that a code is from", JOIN)
    join.add_argument(
        "code", nargs="+", metavar="CODE", help="what `swarm invite` printed there; - reads it from stdin"
    )
    peers = _command(commands, "peers", "who belongs to the swarm", PEERS)
    revoke = _command(commands, "revoke", "put a node out of the swarm; its own id: leave it", REVOKE)
    revoke.add_argument("who", metavar="ID", help="a node id, its beginning, or a name: see `swarm peers`")
    for parser, run in ((invite, _invite), (join, _join), (peers, _peers), (revoke, _revoke)):
        parser.add_argument("--json", action="store_true", help="as JSON")
        parser.add_argument(
            "--data-dir", type=Path, metavar="DIR", help="that of the node, where it has one of its own"
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
    from swarm.node.settings import make_settings

    return make_settings({"data_dir": arguments.data_dir}).data_path
