"""The command line of `swarm service`; what it does is in `service.py`."""

from __future__ import annotations

import argparse
from typing import Any, Final

SERVICE = (
    "A node that the system starts at boot, and again when it fails: by systemd (Linux) or launchd (macOS). It prints "
    "what it writes and runs, and never touches a file that it has not written."
)
INSTALL = """\
Write the service and start it. What follows `--` are the node's own options
(default: --federation --auto); for other options give the command again."""
EXAMPLES: Final = """\
examples:
  swarm service install --dry-run               show what would be written
  swarm service install -- --federation --model qwen3:4b
  sudo /opt/local-swarm/bin/swarm service install -- \\
      --federation --auto --api-key-file /etc/local-swarm/keys

More in docs/deploy.md."""


def add_service(commands: Any) -> None:
    """The command and its actions."""
    parser = commands.add_parser(
        "service", help="start a node at boot (systemd, launchd)", description=SERVICE, epilog="More in docs/deploy.md."
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    texts = {
        "install": "write the service and start it",
        "remove": "stop it and remove it",
        "status": "whether it runs",
    }
    for name, text in texts.items():
        action = actions.add_parser(
            name,
            help=text,
            description=INSTALL if name == "install" else f"{text[0].upper()}{text[1:]}.",
            epilog=EXAMPLES if name == "install" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter if name == "install" else argparse.HelpFormatter,
        )
        scope = action.add_mutually_exclusive_group()
        for whose, words in (
            ("user", "your own service"),
            ("system", "the system's, as a user of its own; needs root"),
        ):
            words = f"{words} (default for {'root' if whose == 'system' else 'others'})"
            scope.add_argument(f"--{whose}", dest="scope", action="store_const", const=whose, default=None, help=words)
        if name == "status":
            action.add_argument("--json", action="store_true", help="as JSON")
        else:
            action.add_argument("--dry-run", action="store_true", help="only show what would be written and run")
        if name == "install":
            action.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of the node")
        action.set_defaults(run={"install": _install, "remove": _remove, "status": _status}[name])


def _install(arguments: argparse.Namespace) -> int:
    from swarm.commands.service import install

    return install(arguments.scope, arguments.options, arguments.dry_run)


def _remove(arguments: argparse.Namespace) -> int:
    from swarm.commands.service import remove

    return remove(arguments.scope, arguments.dry_run)


def _status(arguments: argparse.Namespace) -> int:
    from swarm.commands.service import status

    return status(arguments.scope, arguments.json)
