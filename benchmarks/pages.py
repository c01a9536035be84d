"""What a hundred open pages cost the node that feeds them, and how old what they show is.

    python benchmarks/pages.py [--quick] [--json FILE]

Three nodes with the embedded model, which computes in a process of its own, find each other on loopback. Readers hold
`/v1/events?parts=view,node,vote,finding` of the first open: all that a page ever asks for with no more rights. The
processor time of its process (user and system, so that other programs' load tells little) with them is compared with
the same node without, in turn, while nobody asks and while two votes a second are asked for; so are its resident bytes.
Then a model of a peer is pinned and unpinned, and a reader tells when it sees that, once of an idle node and once of a
busy one. The readers run in this process, which is not counted.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.request
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil
from load import CHAT, Endpoint, RunError, body_of, fresh_prompt, post
from measure import Figure, Target
from nodes import CommandLineNode, command_line_node
from report import parser, progress, publish, read_environment

PARTS = "view,node,vote,finding"
OPTIONS = ("--model", "demo", "--isolate", "--host", "127.0.0.1")
PEERS = 2
NOBODY = "127.0.0.1:9"  # a federation by address alone: nodes of others on this network stay out
JOIN_S = 20.0
SETTLE_S = 4.0  # after readers came or went
SEEN_WITHIN_S = 15.0
MANAGE_S = 10.0
TOKENS = 16
PACE_S = 0.5  # between two questions, whatever becomes of the one before: both sides have the same work


@dataclass(slots=True)
class Page:
    """A reader that does with its events what costs it least: it counts them."""

    events: int = 0
    bytes: int = 0

    async def read(self, url: str, begun: asyncio.Event) -> None:
        """Until cancelled. Raises RunError where the stream ends."""
        async with stream_of(url) as reader:
            while line := await reader.readline():
                self.bytes += len(line)
                if line.startswith(b"data: "):
                    self.events += 1
                    begun.set()
        raise RunError("the node ended a reader's stream")


@asynccontextmanager
async def stream_of(url: str) -> AsyncGenerator[asyncio.StreamReader]:
    """The body of the event stream, line by line, behind its headers; chunk sizes are lines of their own."""
    at = Endpoint.at(url)
    reader, writer = await asyncio.open_connection(at.host, at.port, limit=2**22)
    try:
        writer.write(f"GET /v1/events?parts={PARTS} HTTP/1.1\r\nHost: {at.host}:{at.port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RunError(f"the node refused a reader: {head[:200]!r}")
        yield reader
    finally:
        writer.transport.abort()


@asynccontextmanager
async def open_pages(url: str, count: int) -> AsyncGenerator[Sequence[Page]]:
    """So many, each of which has had its snapshot."""
    pages = [Page() for _ in range(count)]
    begun = [asyncio.Event() for _ in pages]
    tasks = [asyncio.create_task(page.read(url, first)) for page, first in zip(pages, begun, strict=True)]
    try:
        async with asyncio.timeout(JOIN_S):
            await asyncio.gather(*(first.wait() for first in begun))
        yield pages
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def asking(url: str, answers: list[float]) -> AsyncGenerator[None]:
    """Votes are asked for, each PACE_S, within the block; `answers` has the instants of their ends."""
    dice, at = random.Random(1), Endpoint.at(url)

    async def ask() -> None:
        body_of(await post(at, CHAT, {"model": "swarm", "messages": fresh_prompt(dice), "max_tokens": TOKENS}))
        answers.append(time.perf_counter())

    async def ask_again_and_again() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(ask())
                await asyncio.sleep(PACE_S)

    task = asyncio.create_task(ask_again_and_again())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True, slots=True)
class Reading:
    """A node over one interval: percent of a core, resident bytes, and answers a second of the client."""

    cpu_percent: float
    rss_bytes: int
    answers_per_s: float


async def read(process: psutil.Process, seconds: float, answers: list[float]) -> Reading:
    await asyncio.sleep(SETTLE_S)
    before, begun, answered = process.cpu_times(), time.perf_counter(), len(answers)
    await asyncio.sleep(seconds)
    after, took_s = process.cpu_times(), time.perf_counter() - begun
    used_s = after.user + after.system - before.user - before.system
    return Reading(100 * used_s / took_s, process.memory_info().rss, (len(answers) - answered) / took_s)


@dataclass(frozen=True, slots=True)
class Round:
    """The node without pages and with them."""

    without: Reading
    with_pages: Reading
    events_per_s: float  # of one page
    bytes_per_s: float  # of one page

    @property
    def added_percent(self) -> float:
        return self.with_pages.cpu_percent - self.without.cpu_percent


async def one_round(node: CommandLineNode, count: int, seconds: float, busy: bool) -> Round:
    async with AsyncExitStack() as stack:
        answers: list[float] = []
        if busy:
            await stack.enter_async_context(asking(node.url, answers))
        without = await read(node.process, seconds, answers)
        async with open_pages(node.url, count) as pages:
            begun, before = time.perf_counter(), [(page.events, page.bytes) for page in pages]
            with_pages = await read(node.process, seconds, answers)
            took_s = time.perf_counter() - begun
            events = sum(page.events - was for page, (was, _) in zip(pages, before, strict=True))
            size = sum(page.bytes - was for page, (_, was) in zip(pages, before, strict=True))
        return Round(without, with_pages, events / count / took_s, size / count / took_s)


def fetched(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=MANAGE_S) as response:
        return json.load(response)


async def until_seen(reader: asyncio.StreamReader, node_id: str, pinned: bool) -> float:
    """When an event first says that the node's model is `pinned` (or not)."""
    async with asyncio.timeout(SEEN_WITHIN_S):
        while line := await reader.readline():
            if line.startswith(b"data: "):
                state = (json.loads(line[6:]).get("node") or {}).get(node_id)
                told = state is not None and state["source"] == "peer"
                if told and any(model["pinned"] is pinned for model in state["models"]):
                    return time.perf_counter()
    raise RunError("the node ended a reader's stream")


async def ages(nodes: Sequence[CommandLineNode], changes: int) -> list[float]:
    """Seconds from the answer of a peer that something has changed there to a reader's sight of it."""
    first, peer = nodes[0], nodes[1]
    health = await asyncio.to_thread(fetched, f"{peer.url}/v1/federation/health")
    node_id, model = health["node"]["id"], health["own_models"][0]["id"]
    dice, found = random.Random(2), list[float]()
    async with stream_of(first.url) as reader:
        await until_seen(reader, node_id, True)  # as all that are named at the start
        for number in range(changes):
            pinned = number % 2 == 1
            seen = asyncio.create_task(until_seen(reader, node_id, pinned))
            await asyncio.sleep(2 * dice.random())  # no beat with the node's own looks
            body = {"model": model, "pinned": pinned}
            await asyncio.to_thread(fetched, f"{peer.url}/v1/models/pin", body)
            told = time.perf_counter()
            found.append(max(0.0, await seen - told))
    return found


@contextmanager
def swarm() -> Generator[list[CommandLineNode]]:
    """Three nodes on loopback that have found each other by address."""
    with ExitStack() as stack:
        first = stack.enter_context(command_line_node(*OPTIONS, "--peer", NOBODY))
        others = (*OPTIONS, "--peer", first.url.removeprefix("http://"))
        nodes = [first, *(stack.enter_context(command_line_node(*others)) for _ in range(PEERS))]
        until = time.monotonic() + JOIN_S
        while len(fetched(f"{first.url}/v1/federation/health")["peers"]) != PEERS:
            if time.monotonic() > until:
                raise RunError(f"the first node did not find its {PEERS} peers, or others, too, within {JOIN_S:.0f} s")
            time.sleep(0.2)
        yield nodes


def aged_figures(when: str, seconds_old: Sequence[float]) -> tuple[Figure, Figure]:
    return (
        Figure(f"age of a peer's change when it is seen, {when}", "s", tuple(seconds_old)),
        Figure(f"**the oldest, {when}**", "s", (max(seconds_old),), Target("at most", 2.0)),
    )


async def measured(
    nodes: Sequence[CommandLineNode], count: int, rounds: int, seconds: float, changes: int
) -> list[Figure]:
    progress("warming up: pools and caches are no page's cost")
    memory_before = nodes[0].process.memory_info().rss
    async with open_pages(nodes[0].url, count):
        await asyncio.sleep(SETTLE_S)
        memory_bytes = nodes[0].process.memory_info().rss - memory_before
    readings: dict[bool, list[Round]] = {False: [], True: []}
    for number in range(rounds):
        for busy, of in readings.items():
            progress(f"round {number + 1} of {rounds}, {'busy' if busy else 'idle'}")
            of.append(await one_round(nodes[0], count, seconds, busy))
    aged: dict[bool, list[float]] = {}
    for busy in readings:
        progress(f"{changes} changes on a peer of {'a busy' if busy else 'an idle'} node")
        async with AsyncExitStack() as stack:
            if busy:
                await stack.enter_async_context(asking(nodes[0].url, []))
            await stack.enter_async_context(open_pages(nodes[0].url, count - 1))
            aged[busy] = await ages(nodes, changes)
    idle, busy_ones = readings[False], readings[True]
    return [
        Figure("node without pages, idle", "% of a core", tuple(one.without.cpu_percent for one in idle)),
        Figure(
            f"**{count} pages add, idle**", "% of a core", tuple(one.added_percent for one in idle),
            Target("at most", 3.0),
        ),
        Figure("node without pages, busy", "% of a core", tuple(one.without.cpu_percent for one in busy_ones)),
        Figure(
            f"**{count} pages add, busy**", "% of a core", tuple(one.added_percent for one in busy_ones),
            Target("at most", 15.0),
        ),
        Figure("answers with pages / without", "", tuple(
            one.with_pages.answers_per_s / one.without.answers_per_s for one in busy_ones
        )),
        Figure("**memory of a page**", "KB", (memory_bytes / count / 1000,), Target("at most", 200.0)),
        Figure("events to a page, idle", "/s", tuple(one.events_per_s for one in idle)),
        Figure(
            "**events to a page, busy**", "/s", tuple(one.events_per_s for one in busy_ones), Target("at most", 5.0)
        ),
        Figure("bytes to a page, idle", "B/s", tuple(one.bytes_per_s for one in idle)),
        Figure("bytes to a page, busy", "B/s", tuple(one.bytes_per_s for one in busy_ones)),
        *aged_figures("idle", aged[False]),
        *aged_figures("busy", aged[True]),
    ]  # fmt: skip


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 5")
    made.add_argument("--count", type=int, default=100, metavar="N", help="pages (default 100)")
    made.add_argument("--seconds", type=float, metavar="S", help="of a reading (default 15)")
    made.add_argument("--changes", type=int, metavar="N", help="on a peer (default 20)")
    options = made.parse_args()
    environment = read_environment()
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (4.0 if options.quick else 15.0)
    changes = options.changes or (4 if options.quick else 20)
    with swarm() as nodes:
        figures = asyncio.run(measured(nodes, options.count, rounds, seconds, changes))
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
