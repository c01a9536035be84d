"""The arguments of `swarm vote`. What the command does is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from swarm.consensus.options import STRATEGIES


def add_vote(
    commands: Any,
    add_url: Callable[[argparse.ArgumentParser], None],
    client_key: Callable[[argparse.Namespace], str | None],
) -> None:
    """The command, with the arguments that every client of a node has (`add_url`) and the key that it sends."""
    parser = commands.add_parser(
        "vote",
        help="put a question to the vote and watch it",
        description="Put a question to the vote and watch every voter's answer, the tally and what came of it.",
        epilog="Exit code: 0 a verdict with a quorum, 1 a degraded one or none, 2 wrong usage.",
    )
    add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    parser.add_argument("--votes", type=int, metavar="N", help="voters to ask (default: those that are idle)")
    parser.add_argument("--strategy", choices=STRATEGIES, help="how the answer is chosen (default: the node's)")
    parser.add_argument("--system", metavar="TEXT", help="a system message before the question")
    parser.add_argument("--seed", type=int, metavar="N", help="each voter derives its own from it (default: random)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 to 2; 0 is for the first voter alone")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of each answer")
    output = parser.add_mutually_exclusive_group()
    for name, text in (("json", "the end as one JSON object"), ("jsonl", "each event as a line of JSON")):
        output.add_argument(f"--{name}", dest="output", action="store_const", const=name, help=text)
    parser.add_argument("question", nargs="+", metavar="QUESTION", help="- reads it from standard input")
    parser.set_defaults(run=partial(_vote, client_key), output="text")


def _vote(client_key: Callable[[argparse.Namespace], str | None], arguments: argparse.Namespace) -> int:
    from swarm.commands.http import NodeDoor
    from swarm.commands.vote import read_question, vote
    from swarm.commands.vote_stream import Ballot

    ballot = Ballot(
        read_question(arguments.question),
        model=arguments.model,
        system=arguments.system,
        votes=arguments.votes,
        strategy=arguments.strategy,
        seed=arguments.seed,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
    )
    return vote(NodeDoor(arguments.url, client_key(arguments)), ballot, arguments.output)
