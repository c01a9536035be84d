"""Votes from spare capacity cost nothing under load: the throughput of `auto` against `single`, all slots busy.

    python benchmarks/spare_capacity.py [--quick] [--json FILE]

As many clients as the node has slots, and then twice as many, ask one question after the other; every answer has the
same length, so all are ready at one instant, the hardest case for a node that gives idle slots to votes. Throughput is
the answers over the time from the first request to the last byte. The load never pauses between two runs: the first
request after a silence may take whatever is idle, and what it takes then is no part of this. A client alone shows the
other side: there `auto` asks all voters it may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from load import CHAT, Json, RunError, asking_for_a_number, body_of, exact_answer, post, special_tokens
from measure import Figure, Target, interleaved, ratios
from nodes import NodeUnderTest, node_under_test, random_model
from report import parser, progress, publish, read_environment

CONTEXT_TOKENS = 1024
PROMPTS_SEED = 20_240_603
TARGET = Target("at least", 0.9)
SETTLE_S = 2.5  # before the client alone: longer than a node remembers how many asked at once (DEMAND_WINDOW_S)


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of many clients came to. `asked` has the voters of each answer."""

    answers_per_s: float
    asked: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clients:
    """`count` clients of one node, each of which asks `questions` one after the other."""

    node: NodeUnderTest
    dice: random.Random
    bias: dict[str, float]
    count: int
    questions: int
    tokens: int

    def run(self, strategy: str) -> Load:
        begun = time.perf_counter()
        replies = asyncio.run(self._together(strategy))
        took_s = time.perf_counter() - begun
        asked = tuple(self._asked(reply) for reply in replies)
        return Load(len(replies) / took_s, asked)

    async def _together(self, strategy: str) -> list[Json]:
        async def client() -> list[Json]:
            bodies = [self._body(strategy) for _ in range(self.questions)]
            return [json.loads(body_of(await post(self.node.gateway, CHAT, body))) for body in bodies]

        answered = await asyncio.gather(*(client() for _ in range(self.count)))
        return [reply for replies in answered for reply in replies]

    def _asked(self, reply: Json) -> int:
        if reply["usage"]["completion_tokens"] != self.tokens:
            raise RunError(f"asked for {self.tokens} tokens exactly, usage is {reply['usage']}")
        return int(reply["swarm"]["asked"])

    def _body(self, strategy: str) -> Json:
        body = exact_answer(self.node.model, self.dice, self.bias, self.tokens) | {"swarm": {"strategy": strategy}}
        return asking_for_a_number(body)  # prose is answered once, whatever is idle


def compare(clients: Clients, rounds: int) -> tuple[dict[str, list[Load]], tuple[float, ...]]:
    """Both strategies in turn, and the ratio of their throughput round by round."""
    got = interleaved({name: lambda name=name: clients.run(name) for name in ("single", "auto")}, rounds)
    speeds = {name: [load.answers_per_s for load in loads] for name, loads in got.items()}
    return got, ratios(speeds["auto"], speeds["single"])


def mean_asked(loads: Sequence[Load]) -> tuple[float, ...]:
    return tuple(sum(load.asked) / len(load.asked) for load in loads)


def measure(node: NodeUnderTest, options: argparse.Namespace) -> list[Figure]:
    bias, dice = special_tokens(node.engine), random.Random(PROMPTS_SEED)
    figures: list[Figure] = []
    for count in (options.workers, 2 * options.workers):
        progress(f"{count} clients of {options.workers} slots, {options.rounds} rounds")
        clients = Clients(node, dice, bias, count, options.questions, options.tokens)
        got, ratio = compare(clients, options.rounds)
        for name, loads in got.items():
            figures.append(Figure(f"{count} clients, {name}", "answers/s", tuple(load.answers_per_s for load in loads)))
        figures.append(Figure(f"{count} clients, voters asked by auto", "", mean_asked(got["auto"])))
        figures.append(Figure(f"**{count} clients, auto / single**", "", ratio, TARGET))
    progress("one client alone")
    time.sleep(SETTLE_S)
    alone = Clients(node, dice, bias, 1, options.questions, options.tokens)
    loads = [alone.run("auto") for _ in range(options.rounds)]
    figures.append(Figure("1 client, voters asked by auto", "", mean_asked(loads)))
    return figures


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 10")
    made.add_argument("--questions", type=int, metavar="N", help="of each client in a round (default 6)")
    made.add_argument("--tokens", type=int, metavar="N", help="per answer (default 32)")
    made.add_argument("--layers", type=int, metavar="N", help="of the model (default 24: the whole 0.5B shape)")
    made.add_argument("--workers", type=int, default=8, metavar="N", help="slots of the engine (default 8)")
    made.add_argument("--threads", type=int, metavar="N", help="the engine's (default: as the node chooses)")
    options = made.parse_args()
    for name, small, full in (("rounds", 2, 10), ("questions", 3, 6), ("tokens", 8, 32), ("layers", 2, 24)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    environment = read_environment()
    model = random_model(options.layers)
    with node_under_test(model, options.workers, CONTEXT_TOKENS, options.threads) as node:
        figures = measure(node, options)
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
