"""How long a vote of 5 nodes takes while one of them is frozen: there, connected, and silent.

Five nodes of the embedded model, one seat each. For the frozen side a peer is stopped (SIGSTOP) just before the vote is
asked, a different one each time, and goes on afterwards; the next vote waits until everybody is seen alive and idle, so
that every vote meets the frozen peer anew and none profits from its having been found out.
"""

from __future__ import annotations

import json
import random
import signal
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from load import Endpoint, Json, RunError, whole
from measure import Figure, TailFigure, Target, interleaved, p95, p95_ratios
from nodes import CommandLineNode, command_line_node
from report import ROOT, progress

QUESTIONS = ROOT / "swarm" / "evaluation" / "question_sets" / "arithmetic.jsonl"
NODES = 5
JOIN_S = 30.0  # five processes that start on one machine
POLL_S = 0.05
OPTIONS = ("--model", "demo", "--threads", "1", "--workers", "2")
SEED = 20_240_604
TEMPERATURE = 0.8
TARGET = Target("at most", 1.5)


@dataclass(frozen=True, slots=True)
class Voters:
    """Asks the first node for votes of all."""

    nodes: Sequence[CommandLineNode]
    dice: random.Random
    questions: Sequence[list[Json]]

    def plain_s(self) -> float:
        return self._vote_s()

    def frozen_s(self) -> float:
        """The same while one of the peers does not run."""
        peer = self.dice.choice(self.nodes[1:]).process
        peer.send_signal(signal.SIGSTOP)
        try:
            return self._vote_s()
        finally:
            peer.send_signal(signal.SIGCONT)
            wait_for_all(self.nodes[0])

    def _vote_s(self) -> float:
        body = {
            "model": "swarm",
            "messages": self.dice.choice(self.questions),
            "temperature": TEMPERATURE,
            "seed": self.dice.getrandbits(30),
            "max_tokens": 256,
            "swarm": {"votes": NODES},
        }
        took_s, answer = whole(Endpoint.at(self.nodes[0].url), body)
        if answer["swarm"]["wanted"] != NODES or answer["swarm"]["degraded"]:
            raise RunError(f"no vote of {NODES}: {answer['swarm']}")
        return took_s


def seen_by(node: CommandLineNode) -> list[dict[str, Any]]:
    """The peers that it would ask."""
    with urllib.request.urlopen(f"{node.url}/v1/federation/health", timeout=10) as response:
        peers = json.load(response)["peers"]
    return [peer for peer in peers if peer["state"] == "alive" and peer["models"] and peer["slots_free"] > 0]


def wait_for_all(node: CommandLineNode) -> None:
    """Return when every peer is alive and idle in the eyes of `node`. Raises RunError if that does not come."""
    until = time.monotonic() + JOIN_S
    while len(seen := seen_by(node)) < NODES - 1:
        if time.monotonic() > until:
            raise RunError(f"only {[peer['name'] for peer in seen]} of {NODES - 1} peers joined within {JOIN_S:.0f} s")
        time.sleep(POLL_S)


@contextmanager
def swarm_of_nodes() -> Generator[list[CommandLineNode]]:
    """Five nodes on loopback that have found each other by address."""
    with ExitStack() as stack:
        first = stack.enter_context(command_line_node(*OPTIONS, "--federation", "--host", "127.0.0.1"))
        peer = first.url.removeprefix("http://")
        others = ("--peer", peer, "--host", "127.0.0.1")
        nodes = [first, *(stack.enter_context(command_line_node(*OPTIONS, *others)) for _ in range(NODES - 1))]
        wait_for_all(first)
        yield nodes


def frozen_voter(rounds: int) -> list[Figure]:
    """The p95 with a frozen voter against the p95 without."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    questions = [[{"role": "user", "content": json.loads(line)["question"]}] for line in lines]
    with swarm_of_nodes() as nodes:
        voters = Voters(nodes, random.Random(SEED), questions)
        progress(f"a vote of {NODES} nodes with and without a frozen one, {rounds} rounds")
        got = interleaved({"plain": voters.plain_s, "frozen": voters.frozen_s}, rounds)
    plain, frozen = tuple(got["plain"]), tuple(got["frozen"])
    value, ends = p95_ratios(frozen, plain)
    return [
        Figure(f"vote of {NODES} nodes", "s", plain),
        Figure(f"vote of {NODES} nodes, one frozen", "s", frozen),
        Figure(f"vote of {NODES} nodes, p95", "s", (p95(plain),)),
        Figure(f"vote of {NODES} nodes, one frozen, p95", "s", (p95(frozen),)),
        TailFigure(f"**p95 with one frozen voter of {NODES} / p95 without**", "", (value,), TARGET, value, ends),
    ]
