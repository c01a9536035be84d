"""How long a person waits: for a node to answer, and for the command line to say anything. For information.

    python benchmarks/startup.py [--quick] [--json FILE]

`swarm --help` and the imports are shown as ratios to a bare interpreter of the same run, since how fast a machine
starts a process is not ours. The warm-up round takes away what a first run after installing adds: compiling packages.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from load import CHAT, Endpoint, body_of, post
from measure import Figure, interleaved, ratios
from nodes import command_line_node
from report import ROOT, parser, progress, publish, read_environment

QUESTION = {"model": "swarm", "messages": [{"role": "user", "content": "Calculate 12 + 7 - 3"}], "max_tokens": 1}


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the command."""

    ready_s: float
    first_answer_s: float


def start(*options: str) -> Start:
    """Start a node, and ask it one thing as soon as it says that it is ready."""
    with command_line_node(*options) as node:
        reply = asyncio.run(post(Endpoint.at(node.url), CHAT, QUESTION))
        body_of(reply)
        return Start(node.ready_s, reply.last - node.started)


def command_s(*arguments: str) -> float:
    """Seconds that `python ARGUMENTS` takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 11")
    options = made.parse_args()
    rounds = options.rounds or (2 if options.quick else 11)
    environment = read_environment()

    commands: dict[str, Callable[[], float]] = {
        "python -c pass": partial(command_s, "-c", "pass"),
        "swarm --help": partial(command_s, "-m", "swarm.cli", "--help"),
        "import swarm.node.node": partial(command_s, "-c", "import swarm.node.node"),
    }
    progress(f"commands, {rounds} rounds")
    took = {name: tuple(samples) for name, samples in interleaved(commands, rounds).items()}
    bare = took["python -c pass"]
    figures = [Figure(f"`{name}`", "ms", tuple(s * 1000 for s in samples)) for name, samples in took.items()]
    figures += [
        Figure(f"`{name}` / `python -c pass`", "", ratios(samples, bare))
        for name, samples in took.items()
        if samples is not bare
    ]

    progress(f"nodes, {rounds} rounds")
    nodes: dict[str, Callable[[], Start]] = {
        "embedded model": partial(start, "--model", "demo"),
        "echo engine": partial(start, "--model", "demo", "--engine", "echo"),
    }
    for name, starts in interleaved(nodes, rounds).items():
        figures.append(Figure(f"{name}, command to ready", "s", tuple(s.ready_s for s in starts)))
        figures.append(Figure(f"{name}, command to first answer", "s", tuple(s.first_answer_s for s in starts)))
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
