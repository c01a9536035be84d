"""The command lines of `swarm invite`, `join`, `leave`, `peers`, `revoke`, `page` and `lend`.

`members.py` does it, and `lend.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from swarm.commands.arguments import DATA_DIR
from swarm.quantities import seconds_of

INVITE = (
    "Print a code with which one more machine may join, or --uses many. The first code makes this swarm paired. "
    "Codes end when they are used up, when their time is over, and when this node stops."
)
JOIN = "Make this machine's node a member of the swarm that invites it, whether the node runs now or later."
LEAVE = (
    "Make this machine's node leave its swarm: the other members are told and drop it. It keeps its id. It is open "
    "again then, or, with an API key, a swarm of its own."
)
PEERS = "The members, or in an open swarm the nodes that were found, with their states and addresses; and codes."
REVOKE = "Remove a node from the swarm: its connections are cut at once, here and at every member that can be reached."
LEND = (
    "What the node that runs here lends of its memory to other members of its swarm, for parts of models that are "
    "larger than one machine. `off` tells those who have some, and ends what is left after 30 s. A node that is "
    "started with --lend lends from the beginning."
)
OWN_PAGE = """\
Print a link that opens the page of the node that runs here with its owner's
rights (models, requests, who belongs to the swarm), and open the browser where
there is a desktop. A link opens once, within ten minutes; what it opened holds
for twelve hours, or until the node stops."""
PAGE_EXAMPLES = """\
examples:
  swarm page                    open the page in this machine's browser
  swarm page --no-browser       print the link only: over SSH, for instance
  swarm page --lan              a link for other machines, unencrypted

Exit code: 0 done, 1 it did not work this time, 2 it cannot work.
More in docs/page.md."""
EXIT_CODES = "Exit code: 0 done, 1 it did not work this time, 2 it cannot work. More in docs/trust.md."
LENDS = "Exit code: 0 done, 1 it did not work this time, 2 it cannot work. More in docs/pooling.md."
YES = "do not ask first; needed where there is no terminal"
MIN_LIFE_S: Final = 60  # a minute; the control endpoint holds both bounds, too
MAX_LIFE_S: Final = 7 * 86_400
MAX_USES: Final = 127


def life_of(text: str) -> float:
    """Seconds of a time such as 30m, 1h, 2d or 1h30m, within what a code may be good for. Raises ArgumentTypeError."""
    try:
        seconds = seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} {error}") from error
    if not MIN_LIFE_S <= seconds <= MAX_LIFE_S:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not between 1m and 7d, which a code may be good for")
    return seconds


def uses_of(text: str) -> int:
    """For how many machines a code is to be. Raises ArgumentTypeError."""
    uses = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_USES)) else 0
    if not 1 <= uses <= MAX_USES:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of machines from 1 to {MAX_USES}")
    return uses


def add_member_commands(commands: Any) -> None:
    """All seven, each with --json and --data-dir."""
    invite = _command(commands, "invite", "print a code to join with", INVITE)
    invite.add_argument("--uses", type=uses_of, metavar="N", help="for how many machines the code is (default 1)")
    invite.add_argument(
        "--for", dest="life_s", type=life_of, metavar="TIME", help="how long it is good: 30m, 1h, 2d (default 10m)"
    )
    invite.add_argument("--qr", action="store_true", help="show the code as a QR code, too, 41 columns wide or more")
    instead = invite.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="show the codes that are good, and who used them")
    instead.add_argument("--withdraw", metavar="CODE", help="end a code at once: its text, its id, or `all`")
    join = _command(commands, "join", "join the swarm that printed a code", JOIN)
    join.add_argument(
        "code", nargs="+", metavar="CODE", help="what `swarm invite` printed there; - reads it from stdin"
    )
    leave = _command(commands, "leave", "leave the swarm", LEAVE)
    peers = _command(commands, "peers", "list who belongs to the swarm", PEERS)
    revoke = _command(commands, "revoke", "remove a node from the swarm", REVOKE)
    revoke.add_argument("who", metavar="ID", help="a node id, its beginning, or a name: see `swarm peers`")
    page = commands.add_parser(
        "page",
        help="open the node's page as its owner",
        description=OWN_PAGE,
        epilog=PAGE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    page.add_argument(
        "--lan", action="store_true", help="a link with the node's address on the network, for other machines' browsers"
    )
    page.add_argument("--no-browser", action="store_true", help="print the link, and open no browser")
    lend = commands.add_parser(
        "lend", help="lend memory to other nodes, or have it back", description=LEND, epilog=LENDS
    )
    lend.add_argument("what", nargs="?", choices=("on", "off"), metavar="on|off", help="without it, show what is lent")
    lend.add_argument("size", nargs="?", metavar="SIZE", help="how much: 8G (default: half of this machine's memory)")
    for parser in (leave, revoke):
        parser.add_argument("--yes", "-y", action="store_true", help=YES)
    rows = ((invite, _invite), (join, _join), (leave, _leave), (peers, _peers), (revoke, _revoke))
    rows = (*rows, (page, _page), (lend, _lend))
    for parser, run in rows:
        parser.add_argument("--json", action="store_true", help="as JSON")
        parser.add_argument("--data-dir", type=Path, metavar="DIR", help=DATA_DIR)
        parser.set_defaults(run=run)


def _command(commands: Any, name: str, text: str, description: str) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=description, epilog=EXIT_CODES)


def _invite(arguments: argparse.Namespace) -> int:
    from swarm.commands.members import invite, list_codes, withdraw
    from swarm.errors import SetupError

    data_dir = _data_dir(arguments)
    is_new = arguments.uses is not None or arguments.life_s is not None
    if (is_new or arguments.qr) and (arguments.list or arguments.withdraw is not None):
        raise SetupError("--uses, --for and --qr are for a new code: leave them out beside --list and --withdraw")
    if arguments.qr and arguments.json:
        raise SetupError("--qr draws for people and --json is for programs: leave one of them out")
    if arguments.list:
        return list_codes(data_dir, arguments.json)
    if arguments.withdraw is not None:
        return withdraw(data_dir, arguments.withdraw, arguments.json)
    uses = 1 if arguments.uses is None else arguments.uses
    return invite(data_dir, arguments.json, uses, arguments.life_s, qr=arguments.qr)


def _join(arguments: argparse.Namespace) -> int:
    from swarm.commands.members import join

    return join(_data_dir(arguments), arguments.code, arguments.json)


def _leave(arguments: argparse.Namespace) -> int:
    from swarm.commands.members import leave

    return leave(_data_dir(arguments), arguments.yes, arguments.json)


def _peers(arguments: argparse.Namespace) -> int:
    from swarm.commands.members import peers

    return peers(_data_dir(arguments), arguments.json)


def _revoke(arguments: argparse.Namespace) -> int:
    from swarm.commands.members import revoke

    return revoke(_data_dir(arguments), arguments.who, arguments.yes, arguments.json)


def _page(arguments: argparse.Namespace) -> int:
    from swarm.commands.members import open_page

    return open_page(_data_dir(arguments), arguments.lan, not arguments.no_browser, arguments.json)


def _lend(arguments: argparse.Namespace) -> int:
    from swarm.commands.lend import lend

    return lend(_data_dir(arguments), arguments.what, arguments.size, arguments.json)


def _data_dir(arguments: argparse.Namespace) -> Path:
    from swarm.node.settings import make_settings

    return make_settings({"data_dir": arguments.data_dir}).data_path
