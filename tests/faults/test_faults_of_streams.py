"""Streams whose peer dies or freezes, whose client leaves, or whose reader does not read."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from federation.tasks import cancel_and_wait
from tests.e2e.asking import (
    LONG_TOKENS,
    QUESTION,
    SLOTS,
    federation_view,
    long_stream,
    metrics_of,
    rambling,
    slots_free,
)
from tests.e2e.network import Network, run
from tests.e2e.node_process import NodeProcess
from tests.e2e.swarm_of_nodes import JOIN_S, Swarm
from tests.e2e.waiting import eventually
from tests.faults.history import CAPITAL, End
from tests.faults.schedule import Fault
from tests.faults.trial import AGREED_S, PORT, Trial

pytestmark = pytest.mark.netns

TOLD_S = 6.0
GOES_ON_S = 60.0  # the pause, and what is left of the answer on a busy machine
STOP_S = 1.0
BUSY_S = 5.0
APART_S = 8.0  # a silent peer is out after 6 s, and the rest is this machine's business
STALLED_S = 30.0  # how long one piece may wait for a reader
CUT_OFF_S = STALLED_S + 15.0  # looked at with every heartbeat, each 10 s
CLIENTS = 2
READERS: Final = SLOTS - 1  # of one node's workers
STREAM_BYTES: Final = 2**20  # what a stream may hold
RECEIVE_BUFFER_BYTES: Final = 4096  # so that what is unread waits at the node


@pytest.fixture
def proxying(network: Network, tmp_path: Path) -> Iterator[Swarm]:
    """The kitchen does not have the model that the others have."""
    models = {"kitchen": "demo", "study": "demo:b", "attic": "demo:b"}
    nodes = [
        NodeProcess(m.name, tmp_path / m.name, m, ("--federation", "--model", models[m.name])) for m in network.machines
    ]
    with Swarm(nodes) as swarm:
        asyncio.run(all_serving(swarm))
        yield swarm


async def all_serving(swarm: Swarm) -> None:
    kitchen = swarm.nodes[0]
    for node in swarm:
        await node.ready()

    async def servers() -> int:
        timeout = aiohttp.ClientTimeout(total=JOIN_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{kitchen.url}/v1/federation/health") as response,
        ):
            return len((await response.json())["models"].get("demo:b", ()))

    await eventually(servers, JOIN_S, "the kitchen knows both", until=lambda count: count == 2)


async def busy_one(swarm: Swarm) -> NodeProcess:
    """The node that the stream comes from."""

    async def busy() -> list[NodeProcess]:
        return [node for node in swarm if await slots_free(node) == SLOTS - 1]

    nodes = await eventually(busy, BUSY_S, "one node generates", until=lambda nodes: len(nodes) == 1)
    return nodes[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
async def test_a_client_is_told_when_the_peer_that_answers_is_lost(proxying: Swarm, number: signal.Signals) -> None:
    kitchen = proxying.nodes[0]
    async with long_stream(kitchen, model="demo:b", strategy="single") as response:
        lost = await busy_one(proxying)
        assert lost is not kitchen
        lost.send(number)
        began = time.monotonic()
        async with asyncio.timeout(TOLD_S):
            rest = await response.read()
        told_s = time.monotonic() - began
    *chunks, last, nothing = rest.split(b"\n\n")
    assert nothing == b""
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "peer_failed"
    assert b"[DONE]" not in rest
    assert b'"finish_reason":"' not in rest
    ids = {json.loads(chunk.removeprefix(b"data: "))["id"] for chunk in chunks if chunk.startswith(b"data: ")}
    assert len(ids) <= 1, "another answer was joined on"
    sys.stdout.write(f"{number.name} of the peer in mid-answer: the client was told after {told_s:.2f} s\n")
    (other,) = (node for node in proxying if node not in (kitchen, lost))
    assert await slots_free(other) == SLOTS, "nobody goes on where another broke off"


@pytest.mark.parametrize(
    ("number", "sampling"),
    [(signal.SIGKILL, {"seed": 7}), (signal.SIGSTOP, {"temperature": 0})],
    ids=["killed, a seed", "frozen, temperature 0"],
)
async def test_a_stream_that_is_the_same_elsewhere_goes_on_there(
    proxying: Swarm, number: signal.Signals, sampling: dict[str, Any]
) -> None:
    """Token for token what the same question is answered when nobody is lost."""
    kitchen = proxying.nodes[0]
    async with long_stream(kitchen, model="demo:b", sampling=sampling, strategy="single") as response:
        lost = await busy_one(proxying)
        lost.send(number)
        began = time.monotonic()
        async with asyncio.timeout(GOES_ON_S):
            told = chunks_of(await response.read())
        took_s = time.monotonic() - began
    (other,) = (node for node in proxying if node not in (kitchen, lost))
    assert told[-1]["swarm"]["resumed"]["from"] == lost.name
    assert told[-1]["swarm"]["resumed"]["to"] == other.name
    assert told[-1]["choices"][0]["finish_reason"] == "length"
    assert told[-1]["swarm"]["total_completion_tokens"] == LONG_TOKENS
    assert len({chunk["id"] for chunk in told}) == 1
    async with long_stream(kitchen, model="demo:b", sampling=sampling, strategy="single") as response:
        again = chunks_of(await response.read())
    assert tokens_of(told) == tokens_of(again)
    gap_ms = told[-1]["swarm"]["resumed"]["gap_ms"]
    sys.stdout.write(f"{number.name} in mid-answer: a pause of {gap_ms} ms, and all was there after {took_s:.2f} s\n")


def chunks_of(events: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream that came to its end, but the first, which was read before."""
    *chunks, done, nothing = events.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b""), events[-1000:]
    return [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks if chunk.startswith(b"data: ")]


def tokens_of(chunks: Sequence[dict[str, Any]]) -> list[str]:
    """Every token, as its log-probabilities name it."""
    given = (choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice.get("logprobs"))
    return [entry["token"] for each in given for entry in each["content"]]


async def test_a_client_that_leaves_stops_what_a_peer_generates_for_it(proxying: Swarm) -> None:
    async with long_stream(proxying.nodes[0], model="demo:b", strategy="single"):
        peer = await busy_one(proxying)
    await has_idle(peer, SLOTS, STOP_S)
    series = 'swarm_requests_total{endpoint="/federation/v1/generate",status="499"}'
    assert (await metrics_of(peer))[series] == 1


@pytest.mark.slow
async def test_readers_that_do_not_read_are_cut_off_and_others_unharmed(trial: Trial) -> None:
    """They hold all workers of the kitchen but one for half a minute, and cost nobody else an answer."""
    calm = await trial.calm(CLIENTS)
    kitchen = trial.swarm.nodes[0]
    async with AsyncExitStack() as stack, trial.under_load(CLIENTS):
        for _ in range(READERS):
            stack.callback((await one_that_does_not_read(kitchen)).close)
        most_bytes, took_s = await until_cut_off(kitchen)
    trial.assert_kept(calm, f"{READERS} readers that do not read: cut off after {took_s:.0f} s, {most_bytes} B waited")
    assert 0 < most_bytes <= STREAM_BYTES
    assert all(account.end is End.COMPLETE for account in trial.clients.history)
    await trial.back_to(calm)


@pytest.mark.slow
async def test_who_waits_behind_readers_that_do_not_read_is_answered_by_an_idle_peer(trial: Trial) -> None:
    """Every worker of the swarm is busy when the request comes, and a moment later only the kitchen's are.

    The readers come while the kitchen is alone: it would give some of them to the others.
    """
    kitchen, *others = trial.swarm.nodes
    async with AsyncExitStack() as stack:
        async with trial.director.disturbing(Fault.CUT, kitchen.name):
            await trial.seen({kitchen.name: [kitchen.name]}, APART_S)
            for _ in range(SLOTS):
                stack.callback((await one_that_does_not_read(kitchen)).close)
            await has_idle(kitchen, 0, BUSY_S)
        await trial.agreed(AGREED_S)
        talking = [asyncio.create_task(keep_busy(node)) for node in others for _ in range(SLOTS)]
        for node in others:
            await has_idle(node, 0, BUSY_S)
        await knows_of_no_idle_worker(kitchen)
        asked = asyncio.create_task(trial.clients.ask("kitchen", CAPITAL, strategy="single"))
        await has_in_flight(kitchen, SLOTS + 1)
        await cancel_and_wait(*talking)
        assert (await asked).end is End.COMPLETE


async def keep_busy(node: NodeProcess) -> None:
    """One stream after another, read as it comes, until cancelled: how fast this machine is must not matter."""
    while True:
        async with long_stream(node, strategy="single") as response:
            await response.read()


async def has_in_flight(node: NodeProcess, wanted: int) -> None:
    async def in_flight() -> float | None:
        return (await metrics_of(node)).get("swarm_requests_in_flight")

    await eventually(in_flight, BUSY_S, f"{wanted} requests at {node.name}", until={wanted}.__contains__)


async def knows_of_no_idle_worker(node: NodeProcess) -> None:
    async def idle() -> int:
        view = await federation_view(node)
        return -1 if view is None else sum(peer["slots_free"] for peer in view["peers"])

    await eventually(idle, BUSY_S, f"{node.name} knows that its peers are busy", until=lambda count: count == 0)


async def one_that_does_not_read(node: NodeProcess) -> socket.socket:
    """A connection that has asked for a long stream and takes as little of it as a socket can."""
    body = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    raw = json.dumps({**body, **await asyncio.to_thread(rambling), "swarm": {"strategy": "single"}}).encode()
    assert node.machine is not None
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    connection.connect((node.machine.ip, PORT))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {node.machine.ip}:{PORT}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
    return connection


async def until_cut_off(node: NodeProcess) -> tuple[int, float]:
    """The most that waited for one reader, and how long it took until the node had cut all of them off.

    A node that kept the whole stream for them would finish it instead, within a few seconds.
    """
    began, most_bytes = time.monotonic(), 0
    series = 'swarm_requests_total{endpoint="/v1/chat/completions",status="499"}'

    async def cut_off() -> int:
        nonlocal most_bytes
        most_bytes = max(most_bytes, longest_send_queue_bytes(node))
        return int((await metrics_of(node)).get(series, 0))

    await eventually(cut_off, CUT_OFF_S, "the node cuts them off", until=lambda count: count == READERS)
    return most_bytes, time.monotonic() - began


def longest_send_queue_bytes(node: NodeProcess) -> int:
    """The most that the kernel holds for one connection to the node's port: it fills before the node's own buffer."""
    assert node.machine is not None
    rows = (line.split() for line in run(*node.machine.command("cat", "/proc/net/tcp")).splitlines()[1:])
    return max((int(row[4].split(":")[0], 16) for row in rows if int(row[1].split(":")[1], 16) == PORT), default=0)


async def has_idle(node: NodeProcess, wanted: int, timeout_s: float) -> None:
    async def idle() -> int | None:
        return await slots_free(node)

    await eventually(idle, timeout_s, f"{wanted} workers of {node.name} are idle", until=wanted.__eq__)
