"""A hundred nodes: what each sends and receives while nothing happens, and how soon all agree on a change.

    python benchmarks/hundred_nodes.py [--quick] [--nodes N] [--trials N] [--seconds S] [--json FILE]

Real memberships with real HTTP servers on loopback in one process, real time, no engine. Bytes are those of HTTP,
headers included, counted in each node's server; since every probe has one server, a node's clients send and receive as
many on average. TCP's own are not counted. A trial freezes one node (its answers wait), kills one (its port is
closed) and adds one; each is timed from then until every other node's view says so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web
from measure import Figure, Target
from report import parser, progress, publish, read_environment

from federation import wire
from federation.advertisement import Goodbye, NodeDescription, PeerHints, ServedModel
from federation.client import PeerClient
from federation.hostport import Address
from federation.membership import Membership

TRAFFIC_TARGET = Target("at most", 5.0)
AGREE_TARGET = Target("at most", 10.0)
LOOK_S = 0.1  # how often it is looked whether all agree
GIVE_UP_S = 120.0


class CountedNode:
    """A membership and its server. `bytes` counts what the server received and sent."""

    def __init__(self, number: int, seeds: tuple[Address, ...]) -> None:
        self.id = f"{number:04d}" + "x" * 48  # as long as a real one
        self.name = f"node-{number}"
        self.bytes = 0
        self.thawed = asyncio.Event()
        self.thawed.set()
        self._seeds = seeds
        self._stack = AsyncExitStack()
        self.address = Address("127.0.0.1", 0)

    async def start(self) -> None:
        app = web.Application(middlewares=[self._frozen])
        app.router.add_get(wire.NODE_PATH, self._node)
        app.router.add_get(wire.PEERS_PATH, self._peers)
        app.router.add_post(wire.GOODBYE_PATH, self._goodbye)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True, keepalive_timeout=15.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=512).start()
        self.address = Address("127.0.0.1", int(self._runner.addresses[0][1]))
        client = await self._stack.enter_async_context(PeerClient(self.id, self.address))
        self.membership = await self._stack.enter_async_context(
            Membership(self._describe(), client, static_peers=self._seeds)
        )

    async def stop_serving(self) -> None:
        await self._runner.cleanup()

    async def stop(self) -> None:
        self.thawed.set()
        await self._stack.aclose()
        await self._runner.cleanup()

    def finds(self, node_id: str) -> bool:
        return any(peer.id == node_id for peer in self.membership.alive())

    def _describe(self) -> NodeDescription:
        model = ServedModel(id="qwen2.5:0.5b:Q8_0", context_tokens=32768, params=494_000_000, slots=4, slots_free=4)
        hardware = {"cpu": "AMD EPYC 7B13", "cores": 8, "ram_bytes": 2**34, "gpu": None, "vram_bytes": None}
        return NodeDescription.model_validate(
            {"id": self.id, "name": self.name, "version": "0.1.0", "url": self.address.url, "models": [model],
             "slots_free": 4, "hardware": hardware, "instance": f"run-of-{self.name}"}
        )  # fmt: skip

    @web.middleware
    async def _frozen(
        self, request: web.Request, handler: Callable[[web.Request], web.StreamResponse]
    ) -> web.StreamResponse:
        await self.thawed.wait()
        response = await handler(request)
        await response.prepare(request)
        await response.write_eof()
        lines = [f"{request.method} {request.raw_path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
        answer = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{k}: {v}" for k, v in response.headers.items())]
        self.bytes += sum(len(line) + 2 for line in (*lines, "", *answer, ""))
        self.bytes += len(await request.read()) + len(response.body or b"")
        return response

    async def _node(self, request: web.Request) -> web.Response:
        reply = self.membership.asked(self._describe(), request.remote or "", request.query, request.headers)
        return web.Response(
            status=reply.status, body=reply.body, content_type="application/json", headers={"ETag": reply.tag}
        )

    async def _peers(self, _: web.Request) -> web.Response:
        body = PeerHints(peers=self.membership.hints()).model_dump_json()
        return web.Response(text=body, content_type="application/json")

    async def _goodbye(self, request: web.Request) -> web.Response:
        said = Goodbye.model_validate_json(await request.read())
        self.membership.heard_goodbye(said.id, said.instance)
        return web.json_response({})


async def until(what: str, holds: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > GIVE_UP_S:
            raise SystemExit(f"{what}: not within {GIVE_UP_S:.0f} s")
        await asyncio.sleep(LOOK_S)
    return time.monotonic() - began


async def agreed(what: str, nodes: list[CountedNode], node_id: str, here: bool) -> float:
    others = [node for node in nodes if node.id != node_id]
    took = await until(what, lambda: all(node.finds(node_id) is here for node in others))
    progress(f"{what}: {took:.1f} s")
    return took


async def settled(nodes: list[CountedNode]) -> None:
    took = await until("all know all", lambda: all(len(n.membership.alive()) == len(nodes) - 1 for n in nodes))
    progress(f"{len(nodes)} nodes know each other after {took:.1f} s")


async def traffic(nodes: list[CountedNode], seconds: float) -> list[float]:
    """KB/s of each node, both directions: its server's, and its clients' (the mean of all servers')."""
    before = [node.bytes for node in nodes]
    await asyncio.sleep(seconds)
    served = [(node.bytes - was) / seconds / 1000 for node, was in zip(nodes, before, strict=True)]
    return [own + statistics.mean(served) for own in served]


async def measure(options: argparse.Namespace) -> list[Figure]:
    dice = random.Random(1)
    nodes: list[CountedNode] = []
    async with AsyncExitStack() as stack:

        async def add() -> CountedNode:
            seeds = tuple(node.address for node in dice.sample(nodes, min(2, len(nodes))))
            node = CountedNode(len(nodes) + dice.randrange(1000, 9000), seeds)
            await node.start()
            stack.push_async_callback(node.stop)
            nodes.append(node)
            return node

        for _ in range(options.nodes):
            await add()
        await settled(nodes)
        await asyncio.sleep(options.seconds / 2)  # the news of the start grow old
        rates = await traffic(nodes, options.seconds)
        took: dict[str, list[float]] = {"frozen": [], "killed": [], "joined": []}
        for _ in range(options.trials):
            frozen, killed = dice.sample(nodes, 2)
            frozen.thawed.clear()
            took["frozen"].append(await agreed("frozen", nodes, frozen.id, here=False))
            frozen.thawed.set()
            await settled(nodes)
            nodes.remove(killed)
            await killed.stop_serving()
            took["killed"].append(await agreed("killed", nodes, killed.id, here=False))
            took["joined"].append(await agreed("joined", nodes, (await add()).id, here=True))
    return [
        Figure(f"**{options.nodes} nodes, traffic of one, both directions**", "KB/s", tuple(rates), TRAFFIC_TARGET),
        *(Figure(f"**{name}: all agree**", "s", tuple(times), AGREE_TARGET) for name, times in took.items()),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--nodes", type=int, default=100)
    made.add_argument("--trials", type=int, metavar="N", help="default 20")
    made.add_argument("--seconds", type=float, metavar="S", help="of steady state (default 60)")
    options = made.parse_args()
    options.trials = options.trials or (2 if options.quick else 20)
    options.seconds = options.seconds or (20.0 if options.quick else 60.0)
    environment = read_environment()
    publish(environment, asyncio.run(measure(options)), options.json)


if __name__ == "__main__":
    main()
