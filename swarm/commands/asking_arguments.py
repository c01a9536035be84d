"""The arguments of the commands that ask a node as any client does: status, chat, vote, bench."""

from __future__ import annotations

import argparse
import os
from typing import Any

from federation.hostport import DEFAULT_PORT
from swarm.commands.bench_options import add_bench
from swarm.commands.vote_arguments import add_vote
from swarm.environment import API_KEY, texts

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"


def add_asking_commands(commands: Any) -> None:
    """All four. What each does is imported when it runs."""
    _add_status(commands)
    _add_chat(commands)
    add_vote(commands, _add_url, _client_key)
    add_bench(commands, DEFAULT_URL, _client_key)


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help="any node of the swarm (default %(default)s)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="where the node wants one (default: the first of SWARM_API_KEY)"
    )


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="the swarm as one node sees it",
        description="The swarm as one node sees it: who is in, who is not and why, and who serves what.",
        epilog="Exit code: 0 the node is ready, 1 it is not, or none answers.",
    )
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_status)


def _add_chat(commands: Any) -> None:
    parser = commands.add_parser("chat", help="talk to the swarm")
    _add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    parser.add_argument("question", nargs="*", help="ask this and leave (default: a conversation)")
    parser.set_defaults(run=_chat)


def _status(arguments: argparse.Namespace) -> int:
    from swarm.commands.http import NodeDoor
    from swarm.commands.status import status

    return status(NodeDoor(arguments.url, _client_key(arguments)), arguments.json)


def _chat(arguments: argparse.Namespace) -> int:
    from swarm.commands.chat import chat
    from swarm.commands.http import NodeDoor

    return chat(NodeDoor(arguments.url, _client_key(arguments)), arguments.model, " ".join(arguments.question))


def _client_key(arguments: argparse.Namespace) -> str | None:
    """The key to send: the one given, or the first of those that a node started here would want."""
    return arguments.api_key or next(iter(texts(os.environ, API_KEY)), None)
