"""A hundred simulated nodes: what each sends and receives while nothing happens, and how soon all agree on a change.

    python benchmarks/hundred_nodes.py [--quick] [--nodes N] [--trials N] [--seconds S] [--json FILE]

Real memberships, which exchange real messages over simulated lines (each way takes 0.2 to 2 ms) in virtual time: the
result does not depend on this machine. Bytes are those of HTTP, headers included, as one real node and one real client
were seen to exchange them at the start of this run; TCP's and TLS's own are not counted. A trial freezes one node (its
answers wait), kills one (nobody listens any more) and adds one; each is timed from then until every other node's view
says so. A tenth of the nodes answers somebody at any time, so that load figures change: how old they are, and how many
are not true any more, is looked at from nodes and at moments drawn by chance, as a request comes.

They start all at once, each with two of the others for `--peer`: how long it takes until all know all is a figure, and
so are the messages (a question and its answer are two) of a node, over all and in the worst second of the worst one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import virtual_time
from measure import Figure, Target
from report import parser, progress, publish, read_environment

from federation import wire
from federation.advertisement import NodeDescription, PeerHint, PeerHints, ServedModel, parse_hints
from federation.client import PeerClient
from federation.errors import PeerRefused, PeerTimedOut
from federation.hostport import Address
from federation.membership import Membership
from federation.peer import PeerState
from federation.probing import ProbeAnswer, ProbeQuestion, news_header, read_reply
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

TRAFFIC_TARGET = Target("at most", 5.0)
AGREE_TARGET = Target("at most", 10.0)
LOOK_S = 0.05  # of virtual time, between two looks whether all agree
GIVE_UP_S = 300.0  # of virtual time
LINE_S = (0.0002, 0.002)  # one way through a home's or an office's network
BUSY_SHARE = 0.1
LOAD_EVERY_S = 2.0  # an answer begins or ends at a busy node
PORT = 17615
STORM_S = 5.0  # of which messages are counted: what a start causes is over by then
LOOKS = 1000  # at what a node knows of the others


@dataclass(frozen=True, slots=True)
class Overhead:
    """Bytes of a probe beside its path's query, its optional headers and its body: seen on a real connection."""

    asked: int
    answered: int


class Network:
    """Every node by its address, and what the lines have carried."""

    def __init__(self, overhead: Overhead, dice: random.Random) -> None:
        self.overhead = overhead
        self.nodes: dict[Address, SimulatedNode] = {}
        self.dice = dice
        self.messages: Counter[tuple[str, int]] = Counter()  # of each node in each second of virtual time

    async def reach(self, caller: SimulatedNode, address: Address, timeout_s: float) -> SimulatedNode:
        """The node at `address`, once a message has got there. Raises PeerRefused and PeerTimedOut."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.dice.uniform(*LINE_S))
                node = self.nodes.get(address)
                if node is None:
                    raise PeerRefused(f"nobody listens at {address}")
                await node.thawed.wait()
                await caller.thawed.wait()
                await asyncio.sleep(self.dice.uniform(*LINE_S))
        except TimeoutError:
            raise PeerTimedOut(f"{address} did not answer in time") from None
        return node

    def carried(self, caller: SimulatedNode, node: SimulatedNode, asked: int, answered: int) -> None:
        """A question and its answer, whole with all headers."""
        second = int(asyncio.get_running_loop().time())
        for end in (caller, node):
            end.bytes += asked + answered + self.overhead.asked + self.overhead.answered
            self.messages[end.id, second] += 2


class SimulatedClient(PeerClient):
    """Asks over the simulated lines what a `PeerClient` asks over HTTP."""

    def __init__(self, network: Network, caller: SimulatedNode) -> None:
        super().__init__(caller.id, caller.address)
        self._network = network
        self._caller = caller

    async def probe(self, address: Address, question: ProbeQuestion) -> ProbeAnswer:
        node = await self._network.reach(self._caller, address, question.timeout_s)
        query = {wire.FROM_PARAM: str(self._caller.address)} if question.introduces else {}
        headers = {wire.FROM_HEADER: self._caller.id}
        if question.news:
            headers[wire.NEWS_HEADER] = news_header(question.news)
        if question.known is not None and question.known.tag is not None:
            headers["If-None-Match"] = question.known.tag
        reply = node.membership.reply_to_probe(node.describe(), self._caller.address.host, query, headers)
        optional = {name: value for name, value in headers.items() if name != wire.FROM_HEADER}
        self._network.carried(self._caller, node, _size(query, optional), len(reply.body))
        return read_reply(None if reply.status == 304 else reply.body, reply.tag, question.known)

    async def peers(self, address: Address, timeout_s: float = 1.5) -> tuple[PeerHint, ...]:
        node = await self._network.reach(self._caller, address, timeout_s)
        body = PeerHints(peers=node.membership.hints()).model_dump_json().encode()
        self._network.carried(self._caller, node, 0, len(body))
        return parse_hints(body)

    async def goodbye(
        self, address: Address, node_id: str, timeout_s: float = 1.0, instance: str | None = None
    ) -> None:
        node = await self._network.reach(self._caller, address, timeout_s)
        node.membership.goodbye_received(node_id, instance, self._caller.address.host)


class SimulatedNode:
    """A membership at an address of its own."""

    def __init__(self, number: int, network: Network, seeds: tuple[Address, ...]) -> None:
        self.id = f"{number:04d}" + "x" * 48  # as long as a real one
        self.name = f"node-{number}"
        self.address = Address(f"192.168.{number // 250}.{number % 250 + 1}", PORT)
        self.bytes = 0
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.slots_free = 4
        self.membership = Membership(self.describe(), SimulatedClient(network, self), static_peers=seeds)

    def describe(self) -> NodeDescription:
        """What it says of itself now; about as long as a real node's."""
        model = ServedModel(
            id="qwen2.5:0.5b:Q8_0", context_tokens=32768, params=494_000_000, slots=4, slots_free=self.slots_free,
            tokens_per_s=61.7, wait_s=0.0,
        )  # fmt: skip
        hardware = {"cpu": "AMD EPYC 7B13", "cores": 8, "ram_bytes": 2**34, "gpu": None, "vram_bytes": None}
        return NodeDescription(
            id=self.id, name=self.name, version="0.1.0", url=self.address.url, models=(model,),
            slots_free=self.slots_free, hardware=dict(hardware), instance=f"run-of-{self.name}",
        )  # fmt: skip

    def finds(self, node_id: str) -> bool:
        """Whether it would ask that node."""
        peer = self.membership.get(node_id)
        return peer is not None and peer.state is not PeerState.DEAD


def _size(query: dict[str, str], headers: dict[str, str]) -> int:
    """Bytes of what only some probes have."""
    return len("?" + urlencode(query) if query else "") + sum(len(f"{k}: {v}\r\n") for k, v in headers.items())


async def seen_overhead() -> Overhead:
    """What a real client's plain probe and a real node's answer have beside query and body."""
    engine = ScriptedEngine(saying("hello"))
    async with (
        RunningNode("kitchen", ready(engine)) as node,
        recorded(node.address) as (relay, carried),
        PeerClient("x" * 52) as client,
    ):
        await client.probe(relay, ProbeQuestion(5.0, introduces=False))
    asked, answered = carried
    head, _, body = answered.partition(b"\r\n\r\n")
    assert head, "the relay saw no answer"
    return Overhead(len(asked), len(answered) - len(body))


@asynccontextmanager
async def recorded(address: Address) -> AsyncIterator[tuple[Address, list[bytes]]]:
    """A relay to `address`, and what went each way through it."""
    carried = [b"", b""]

    async def copy(way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(2**16):
            carried[way] += piece
            writer.write(piece)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(address.host, address.port)
        await asyncio.gather(copy(0, reader, there[1]), copy(1, there[0], writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield Address("127.0.0.1", int(server.sockets[0].getsockname()[1])), carried


@dataclass(frozen=True, slots=True)
class Storm:
    """A hundred nodes that start at once: virtual seconds until all know all, and the messages that each node had."""

    took_s: float
    messages: tuple[int, ...]
    worst_second: int


@dataclass(frozen=True, slots=True)
class Ages:
    """Of load figures, ascending; the share that was not true any more, and of nodes that were free only by them."""

    ages_s: tuple[float, ...]
    wrong: float
    chosen_wrong: float

    def percentile(self, share: float) -> float:
        return self.ages_s[min(len(self.ages_s) - 1, int(share * len(self.ages_s)))]


class Simulation:
    """All nodes; `seconds` of steady state are looked at."""

    def __init__(self, overhead: Overhead, seed: int) -> None:
        self._dice = random.Random(seed)
        self._network = Network(overhead, self._dice)
        self._stack = AsyncExitStack()
        self.nodes: list[SimulatedNode] = []
        self._made = 0

    async def __aenter__(self) -> Simulation:
        await self._stack.__aenter__()
        working = asyncio.create_task(self._work())
        self._stack.callback(working.cancel)
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            node.thawed.set()
        await self._stack.aclose()

    async def add(self) -> SimulatedNode:
        """One more, which knows two of the others."""
        seeds = tuple(node.address for node in self._dice.sample(self.nodes, min(2, len(self.nodes))))
        node = SimulatedNode(self._made, self._network, seeds)
        self._made += 1
        self._network.nodes[node.address] = node
        self.nodes.append(node)
        await self._stack.enter_async_context(node.membership)
        return node

    def pick(self, count: int) -> list[SimulatedNode]:
        return self._dice.sample(self.nodes, count)

    def kill(self, node: SimulatedNode) -> None:
        """Its address refuses connections from now on, and it asks nobody any more."""
        self.nodes.remove(node)
        del self._network.nodes[node.address]
        node.thawed.clear()

    async def settled(self) -> float:
        """Seconds until everybody would ask everybody."""
        ids = {node.id for node in self.nodes}
        return await until(lambda: all(node.finds(other) for node in self.nodes for other in ids - {node.id}))

    async def agreed(self, node_id: str, here: bool) -> float:
        """Seconds until everybody else would ask that node, or would not."""
        return await until(lambda: all(node.finds(node_id) is here for node in self.nodes if node.id != node_id))

    async def traffic(self, seconds: float) -> list[float]:
        """KB/s of each node, both directions."""
        before = [node.bytes for node in self.nodes]
        await asyncio.sleep(seconds)
        return [(node.bytes - was) / seconds / 1000 for node, was in zip(self.nodes, before, strict=True)]

    async def storm(self, count: int) -> Storm:
        """So many nodes start at once; what it took until all know all."""
        for _ in range(count):
            await self.add()
        took_s = await self.settled()
        await asyncio.sleep(STORM_S - took_s)
        of_node: Counter[str] = Counter()
        for (node_id, _), messages in self._network.messages.items():
            of_node[node_id] += messages
        return Storm(took_s, tuple(of_node.values()), max(self._network.messages.values()))

    async def ages(self, seconds: float, looks: int) -> Ages:
        """What nodes know of each other's load, looked at `looks` times within so many seconds."""
        ages_s: list[float] = []
        wrong = chosen_wrong = 0
        for _ in range(looks):
            await asyncio.sleep(seconds / looks)
            looking = self._dice.choice(self.nodes)
            now, truth = time.monotonic(), {node.id: node.slots_free for node in self.nodes}
            peers = [peer for peer in looking.membership.alive() if peer.id in truth]
            ages_s += [now - peer.described_at for peer in peers]
            wrong += sum(peer.description.slots_free != truth[peer.id] for peer in peers)
            free = [peer for peer in peers if peer.description.slots_free]
            chosen_wrong += not truth[self._dice.choice(free).id]
        return Ages(tuple(sorted(ages_s)), wrong / len(ages_s), chosen_wrong / looks)

    async def _work(self) -> None:
        """Busy nodes begin and end answers all the time."""
        while True:
            await asyncio.sleep(LOAD_EVERY_S / max(1.0, BUSY_SHARE * len(self.nodes)))
            busy = self.nodes[: max(1, round(BUSY_SHARE * len(self.nodes)))]
            self._dice.choice(busy).slots_free = self._dice.randrange(5)


async def until(holds: Callable[[], bool]) -> float:
    """Virtual seconds until it holds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not holds():
        if loop.time() - began > GIVE_UP_S:
            raise SystemExit(f"nothing agreed within {GIVE_UP_S:.0f} s")
        await asyncio.sleep(LOOK_S)
    return loop.time() - began


async def measure(overhead: Overhead, options: argparse.Namespace) -> list[Figure]:
    async with Simulation(overhead, seed=1) as simulation:
        storm = await simulation.storm(options.nodes)
        progress(f"{options.nodes} nodes know each other after {storm.took_s:.1f} s")
        await asyncio.sleep(options.seconds)  # the news of the start grow old
        rates = await simulation.traffic(options.seconds)
        known = await simulation.ages(options.seconds, LOOKS)
        took: dict[str, list[float]] = {"frozen": [], "thawed": [], "killed": [], "joined": []}
        for trial in range(options.trials):
            frozen, killed = simulation.pick(2)
            frozen.thawed.clear()
            took["frozen"].append(await simulation.agreed(frozen.id, here=False))
            frozen.thawed.set()
            took["thawed"].append(await simulation.agreed(frozen.id, here=True))
            await simulation.settled()
            simulation.kill(killed)
            took["killed"].append(await simulation.agreed(killed.id, here=False))
            newcomer = await simulation.add()
            took["joined"].append(await simulation.agreed(newcomer.id, here=True))
            await simulation.settled()
            progress(f"trial {trial + 1}: " + ", ".join(f"{name} {times[-1]:.1f} s" for name, times in took.items()))
    return [
        Figure(f"**{options.nodes} nodes, traffic of one, both directions**", "KB/s", tuple(rates), TRAFFIC_TARGET),
        Figure(f"{options.nodes} nodes that start at once: all know all", "s", (storm.took_s,)),
        Figure(f"their first {STORM_S:g} s, messages of a node", "", tuple(map(float, storm.messages))),
        Figure("messages of one node in its worst second", "", (float(storm.worst_second),)),
        Figure("age of a load figure as a request comes, p50", "s", (known.percentile(0.5),)),
        Figure("age of a load figure as a request comes, p99", "s", (known.percentile(0.99),)),
        Figure("load figures that are not true any more", "%", (100 * known.wrong,)),
        Figure("nodes chosen for a free slot that have none", "%", (100 * known.chosen_wrong,)),
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
    overhead = asyncio.run(seen_overhead())
    progress(f"a probe has {overhead.asked} bytes, its answer {overhead.answered} and the body")
    publish(environment, virtual_time.run(measure(overhead, options)), options.json)


if __name__ == "__main__":
    main()
