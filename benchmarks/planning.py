"""What choosing costs a node that knows a hundred others, and what it keeps of them.

    python benchmarks/planning.py [--quick] [--nodes N] [--models N] [--calls N] [--json FILE]

In this process, without a network: a node's own dispatcher over a real peer table, which has heard of every node as a
probe tells it (as JSON). Each node runs ten models of the twenty that there are. Timed is one plan of a request, for
one of those models, for `swarm`, and for a vote of five; before each plan one peer has answered a probe with other
figures of load, as one does six times a second in a swarm of that size. Processor time: other programs do not count.
Memory is what the table holds, by `tracemalloc`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from measure import Figure, Target
from report import parser, progress, publish, read_environment

from federation.advertisement import NodeDescription, ServedModel
from federation.hostport import Address
from federation.peer import Source
from federation.peer_table import PeerTable
from federation.probing import ProbeAnswer, Sight, read_reply, reply_to
from swarm.consensus.options import Strategy
from swarm.generation import GenerationRequest, Usage
from swarm.routing.policy import VoteOptions
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

PLAN_TARGET = Target("at most", 1.0)
NAMES = (
    "qwen3:0.6b", "qwen3:1.7b", "qwen3:4b", "qwen3:8b", "qwen3:14b", "qwen3:32b", "gemma3:1b", "gemma3:4b",
    "gemma3:12b", "gemma3:27b", "llama3.2:1b", "llama3.2:3b", "llama3.1:8b", "llama3.3:70b", "phi4:14b", "mistral:7b",
    "mistral-small:24b", "qwen2.5:0.5b", "qwen2.5:7b", "qwen2.5:32b",
)  # fmt: skip
WANTED = "qwen3:8b:q4_k_m"
PORT = 17615
SLOTS = 4
MEASURED = 50  # places whose speed this node has measured of late


@dataclass(slots=True)
class OtherNode:
    """One of the others, as it describes itself."""

    number: int
    models: tuple[str, ...]
    address: Address
    known: ProbeAnswer | None = None

    def describe(self, dice: random.Random) -> NodeDescription:
        free = [dice.randrange(SLOTS + 1) for _ in self.models]
        models = tuple(
            ServedModel(
                id=f"{name}:q4_k_m", context_tokens=32768, params=8_000_000_000, slots=SLOTS, slots_free=slots_free,
                tokens_per_s=round(dice.uniform(20, 90), 1), waiting=0 if slots_free else dice.randrange(3), wait_s=0.0,
                fingerprint=hashlib.sha256(name.encode()).hexdigest(),
                sha256=hashlib.sha256(f"file {name}".encode()).hexdigest(), engine="xllamacpp 2026.10, CUDA0",
            )
            for name, slots_free in zip(self.models, free, strict=True)
        )  # fmt: skip
        return NodeDescription(
            id=f"{self.number:04d}" + "x" * 48, name=f"node-{self.number}", version="1.0", url=self.address.url,
            models=models, slots_free=sum(free), instance=f"run-of-{self.number}",
            hardware={"cpu": "AMD EPYC 7B13", "cores": 8, "ram_bytes": 2**34, "gpu": None, "vram_bytes": None},
        )  # fmt: skip

    def answers(self, table: PeerTable, dice: random.Random, now: float) -> None:
        """A probe's answer reaches `table`, as JSON: the first one whole, later ones with what has changed."""
        asked_tag = None if self.known is None else self.known.tag
        reply = reply_to(self.describe(dice), "view", Sight.HERE, (), asked_tag)
        self.known = read_reply(None if reply.status == 304 else reply.body, reply.tag, self.known)
        table.probe_answered(self.address, self.known, 1.0, now)


def others(nodes: int, models: int) -> list[OtherNode]:
    """Each runs so many of the models, drawn by chance."""
    dice = random.Random(1)
    hosts = [f"192.168.{number // 250}.{number % 250 + 1}" for number in range(nodes)]
    return [
        OtherNode(number, tuple(dice.sample(NAMES, models)), Address(host, PORT)) for number, host in enumerate(hosts)
    ]


def table_of(nodes: list[OtherNode], dice: random.Random) -> PeerTable:
    table, now = PeerTable("me", self_name="here"), time.monotonic()
    for node in nodes:
        table.proposed(node.address, Source.MDNS, now)
        table.due_probes(now)
        node.answers(table, dice, now)
    return table


def memory(nodes: int, models: int) -> list[Figure]:
    """What a table takes, and what of it is each peer's."""
    made = others(nodes, models)
    dice = random.Random(2)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    table = table_of(made, dice)
    for node in made:  # what is known of a node is what its last answers said
        node.answers(table, dice, time.monotonic())
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(table.alive()) == nodes
    return [
        Figure(f"**peer table, {nodes} nodes x {models} models**", "KiB", (held / 2**10,)),
        Figure("of each peer", "KiB", (held / 2**10 / nodes,)),
    ]


REQUESTS: dict[str, tuple[str, VoteOptions]] = {
    "one model": (WANTED, VoteOptions()),
    "`swarm`": ("swarm", VoteOptions()),
    "a vote of 5 by one model": (WANTED, VoteOptions(strategy=Strategy.MAJORITY, votes=5)),
}


async def planning(nodes: int, models: int, calls: int) -> list[Figure]:
    made, dice = others(nodes, models), random.Random(3)
    table = table_of(made, dice)
    engine = ScriptedEngine(saying("words"), model_id=f"{NAMES[0]}:q4_k_m", slots=SLOTS)
    figures: list[Figure] = []
    async with RunningNode("here", ready(engine), options=NodeOptions()) as node:
        node.membership.alive = table.alive  # type: ignore[method-assign]  # as if they had been met
        for what, (model, options) in REQUESTS.items():
            request = GenerationRequest(model=model, messages=({"role": "user", "content": "Tell a story."},))
            for told in node.dispatcher.replicas()[:MEASURED]:
                node.dispatcher._router.note_pace(told, 0.1, 5.0, Usage(prompt_tokens=20, completion_tokens=200))
            plan: Callable[[], object] = lambda: node.dispatcher.plan(request, options, 1)  # noqa: B023, E731
            plan()
            took: list[float] = []
            for number in range(calls):
                made[number % nodes].answers(table, dice, time.monotonic())
                began = time.thread_time()
                plan()
                took.append((time.thread_time() - began) * 1000)
                await asyncio.sleep(0)
            took.sort()
            progress(f"{what}: {took[len(took) // 2]:.2f} ms, p99 {took[int(0.99 * len(took))]:.2f} ms")
            figures += [
                Figure(f"**plan for {what}**", "ms", tuple(took), PLAN_TARGET),
                Figure(f"plan for {what}, p99", "ms", (took[int(0.99 * len(took))],)),
            ]
    return figures


def read_options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--nodes", type=int, default=100, metavar="N")
    made.add_argument("--models", type=int, default=10, metavar="N", help="of each node (default 10)")
    made.add_argument("--calls", type=int, metavar="N", help="of each kind (default 1000)")
    options = made.parse_args()
    if not 1 <= options.models <= len(NAMES):
        made.error(f"--models {options.models}: there are {len(NAMES)}")
    options.calls = options.calls or (50 if options.quick else 1000)
    return options


def main() -> None:
    options = read_options()
    environment = read_environment()
    figures = memory(options.nodes, options.models)
    figures += asyncio.run(planning(options.nodes, options.models, options.calls))
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
