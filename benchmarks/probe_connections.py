"""What the probes of a paired swarm cost in TLS handshakes: how many there are, and what one takes.

    python benchmarks/probe_connections.py [--quick] [--nodes N] [--minutes M] [--json FILE]

Real paired nodes on loopback, asked over mutual TLS by one real peer client at the pace at which each is asked in a
swarm of a hundred (every 17 s, give or take a half). Counted is how many of the probes needed a connection of their
own; a node of that swarm has as many for each of its 99 peers, and as many again as peers ask it. What a handshake
takes is the processor time of both its ends, in this one process: probes on connections of their own against probes on
kept ones. What a kept connection takes of memory is that of both its ends, too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from weakref import WeakSet

import aiohttp
import psutil
from hundred_nodes import recorded
from measure import Figure, Target
from report import parser, progress, publish, read_environment

from federation.client import MEMBERS_KEEPALIVE_S, MemberConnector, PeerClient
from federation.hostport import Address
from federation.probing import ProbeQuestion
from federation.timing import Timing, stretch
from federation.trust import Trust
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

SWARM = 100
QUESTION = ProbeQuestion(5.0, introduces=False)
HANDSHAKES_TARGET = Target("at most", 20.0)  # of one node in a minute: of those who came back, or moved
PROBES_A_ROUND = 40
KEPT = 200  # connections whose memory is looked at


class CountingConnector(MemberConnector):
    """Counts the connections that are lent for the first time."""

    def __init__(self, trust: Trust, keepalive_s: float) -> None:
        super().__init__(trust, keepalive_s)
        self.fresh = 0
        self._seen: WeakSet[Any] = WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        connection = await super().connect(*arguments, **options)
        if connection.transport not in self._seen:
            self._seen.add(connection.transport)
            self.fresh += 1
        return connection


class CountingClient(PeerClient):
    """As `PeerClient`."""

    def __init__(self, trust: Trust, keepalive_s: float = MEMBERS_KEEPALIVE_S) -> None:
        super().__init__(trust.node_id, trust=trust)
        self.connector = CountingConnector(trust, keepalive_s)

    def _make_connector(self) -> aiohttp.TCPConnector:
        return self.connector


async def paired_nodes(stack: AsyncExitStack, count: int) -> tuple[list[RunningNode], Trust]:
    """So many nodes that listen and ask nobody, and the trust of one more member."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    *trusts, own = paired_trusts(folder, *(f"node-{number}" for number in range(count)), "asking")
    nodes: list[RunningNode] = []
    for number, trust in enumerate(trusts):
        node = RunningNode(f"node-{number}", ready(ScriptedEngine(saying("hello"))), options=NodeOptions(trust=trust))
        nodes.append(await stack.enter_async_context(node))
    return nodes, own


async def counted(nodes: int, minutes: float, dice: random.Random) -> list[float]:
    """Handshakes of one node of a hundred with its peers in a minute, both ways: as many as one peer had, 198 times."""
    interval_s, spread = stretch(SWARM) * Timing().probe_interval_s, Timing().crowd_jitter
    async with AsyncExitStack() as stack:
        asked, own = await paired_nodes(stack, nodes)
        client = await stack.enter_async_context(CountingClient(own))
        probes = 0

        async def watch(node: RunningNode) -> None:
            nonlocal probes
            await asyncio.sleep(dice.uniform(0, interval_s))
            while True:
                await client.probe(node.address, QUESTION)
                probes += 1
                await asyncio.sleep(interval_s * dice.uniform(1 - spread, 1 + spread))

        watching = [asyncio.create_task(watch(node)) for node in asked]
        await asyncio.sleep(interval_s * (1 + spread))  # everybody has been asked once
        made: list[float] = []
        for _ in range(max(1, round(minutes))):
            fresh, probes = client.connector.fresh, 0
            await asyncio.sleep(60 * min(1.0, minutes))
            fresh = client.connector.fresh - fresh
            made.append(fresh / probes * 2 * 60 * (SWARM - 1) / interval_s)
            progress(f"{fresh} of {probes} probes had a connection of their own")
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return made


async def cost(rounds: int) -> list[Figure]:
    """Processor time and bytes of a probe on a connection of its own, and on one that is kept."""
    async with AsyncExitStack() as stack:
        (node,), own = await paired_nodes(stack, 1)
        kept = await stack.enter_async_context(CountingClient(own))

        async def fresh_probes(address: Address, count: int) -> None:
            for _ in range(count):
                async with CountingClient(own) as client:
                    await client.probe(address, QUESTION)

        async def kept_probes(address: Address, count: int) -> None:
            for _ in range(count):
                await kept.probe(address, QUESTION)

        async def each_ms(probes: Callable[[Address, int], Awaitable[None]]) -> float:
            began = time.process_time()
            await probes(node.address, PROBES_A_ROUND)
            return (time.process_time() - began) * 1000 / PROBES_A_ROUND

        await kept_probes(node.address, 1)
        took: dict[str, list[float]] = {"fresh": [], "kept": []}
        for number in range(rounds):
            sides = {"fresh": fresh_probes, "kept": kept_probes}
            for name in list(sides) if number % 2 else list(sides)[::-1]:
                took[name].append(await each_ms(sides[name]))
        clients = [await stack.enter_async_context(CountingClient(own)) for _ in range(KEPT)]
        gc.collect()
        before = psutil.Process().memory_full_info().uss
        for client in clients:
            await client.probe(node.address, QUESTION)
        gc.collect()
        held_kib = (psutil.Process().memory_full_info().uss - before) / KEPT / 2**10
        async with recorded(node.address) as (relay, carried):
            await fresh_probes(relay, 1)
            once = sum(map(len, carried))
    return [
        Figure("a probe on a kept connection, both ends", "ms of CPU", tuple(took["kept"])),
        Figure("a probe on a connection of its own, both ends", "ms of CPU", tuple(took["fresh"])),
        Figure("a kept connection, both ends", "KiB", (held_kib,)),
        Figure("bytes of a probe on a connection of its own, TLS included", "", (float(once),)),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    figures = await cost(options.rounds)
    made = await counted(options.nodes, options.minutes, random.Random(1))
    name = f"**TLS handshakes of one node of {SWARM} paired ones**"
    return [*figures, Figure(name, "a minute", tuple(made), HANDSHAKES_TARGET)]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--nodes", type=int, default=20, metavar="N", help="that are asked (default 20)")
    made.add_argument("--minutes", type=float, metavar="M", help="default 3")
    options = made.parse_args()
    options.minutes = options.minutes or (0.5 if options.quick else 3.0)
    options.rounds = 3 if options.quick else 15
    environment = read_environment()
    publish(environment, asyncio.run(measure(options)), options.json)


if __name__ == "__main__":
    main()
