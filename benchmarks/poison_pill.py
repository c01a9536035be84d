"""What a request that ends llama.cpp costs a swarm of four nodes: engine processes, nodes, and time.

    python benchmarks/poison_pill.py [--quick] [--rounds N] [--json FILE]

Four real nodes on loopback, each with its engine in a host of its own; three serve the model that the first is asked
for. Whatever is known to end llama.cpp is refused before it gets there, so the host is ended for it by SIGABRT, which
is what llama.cpp does to itself, as soon as the request is in it. A round is a swarm of its own: an engine that ends
again and again is loaded again ever later.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psutil
from load import CHAT, Endpoint, Json, Reply, RunError, body_of, exact_answer, post, special_tokens
from measure import Figure, Target
from nodes import CommandLineNode, command_line_node
from report import parser, progress, publish, read_environment

OPTIONS = ("--model", "demo:b", "--threads", "1", "--workers", "2", "--isolate", "--host", "127.0.0.1")
FRONT = ("--model", "demo", *OPTIONS[2:])
ENGINES = 3
SLOTS = 2
WAIT_S = 60.0  # four processes that start on one machine; an engine that is loaded again
POLL_S = 0.01
TOKENS = 1500  # seconds of work: the engine is ended long before it is done
SEED = 20_261_129
T = TypeVar("T")
ONE, NONE = Target("at most", 1), Target("at most", 0)
AGAIN = Target("at most", 30)


@dataclass(frozen=True, slots=True)
class Round:
    """What one pill cost. Seconds count from the end of the engine."""

    engines_lost: int
    nodes_lost: int
    others_asked: int
    refused_s: float
    refused_again_s: float
    other_answer_s: float
    loaded_again_s: float


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def series(node: CommandLineNode, name: str) -> float:
    """The sum of the node's series that begin so."""
    lines = get(f"{node.url}/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def hosts(node: CommandLineNode) -> set[int]:
    """Its engine processes."""
    found = (child for child in node.process.children() if "swarm.engines.llama_cpp.xllamacpp_host" in child.cmdline())
    return {child.pid for child in found}


def asked_by_peers(node: CommandLineNode) -> float:
    return series(node, 'swarm_requests_total{endpoint="/federation/v1/generate"')


def refused_at(reply: Reply) -> float:
    """When the client had the refusal. Raises RunError where it got anything else."""
    if not reply.raw.startswith(b"HTTP/1.1 502") or b"engine_failed" not in reply.raw:
        raise RunError(f"a pill was answered {reply.raw[:400]!r}")
    return reply.last


def until(what: str, look: Callable[[], T | None]) -> T:
    """The first true thing that `look` sees. Raises RunError if that does not come."""
    deadline = time.monotonic() + WAIT_S
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise RunError(f"not within {WAIT_S:.0f} s: {what}")
        time.sleep(POLL_S)
    return seen


@contextmanager
def swarm_of_nodes() -> Generator[tuple[CommandLineNode, list[CommandLineNode], str]]:
    """The node that is asked, those with engines for what it is asked for, and what that is called."""
    with ExitStack() as stack:
        front = stack.enter_context(command_line_node(*FRONT, "--federation"))
        peer = ("--peer", front.url.removeprefix("http://"))
        others = [stack.enter_context(command_line_node(*OPTIONS, *peer)) for _ in range(ENGINES)]

        def model() -> str | None:
            models: dict[str, list[str]] = json.loads(get(f"{front.url}/v1/federation/health"))["models"]
            return next((name for name, nodes in models.items() if len(nodes) == ENGINES), None)

        yield front, others, until("all have joined", model)


async def one_round(front: CommandLineNode, others: list[CommandLineNode], model: str, dice: random.Random) -> Round:
    """A pill, the same again, and something else."""
    endpoint, everybody = Endpoint.at(front.url), [front, *others]
    single = {"swarm": {"strategy": "single"}}
    bias = await asyncio.to_thread(special_tokens, Endpoint.at(others[0].url))
    pill: Json = exact_answer(model, dice, bias, TOKENS) | single
    pids = {node.url: hosts(node) for node in everybody}
    before = {node.url: asked_by_peers(node) for node in others}
    asking = asyncio.create_task(post(endpoint, CHAT, pill))

    def busy() -> CommandLineNode | None:
        return next((node for node in others if series(node, "swarm_slots_free") < SLOTS), None)

    def loaded_again() -> bool:
        return bool(hosts(victim)) and series(victim, "swarm_slots_free") == SLOTS

    victim = await asyncio.to_thread(until, "the request is in an engine", busy)
    ended = time.perf_counter()
    for pid in hosts(victim):
        psutil.Process(pid).send_signal(signal.SIGABRT)
    refused = refused_at(await asking)
    again = await post(endpoint, CHAT, pill)
    more = sum(asked_by_peers(node) - before[node.url] for node in others if node is not victim)
    other = await post(endpoint, CHAT, exact_answer(model, dice, bias, 1) | single)
    body_of(other)
    await asyncio.to_thread(until, "the engine is loaded again", loaded_again)
    back = time.perf_counter()
    return Round(
        engines_lost=sum(len(pids[node.url] - hosts(node)) for node in everybody),
        nodes_lost=sum(not node.process.is_running() for node in everybody),
        others_asked=int(more),
        refused_s=refused - ended,
        refused_again_s=refused_at(again) - again.sent,
        other_answer_s=other.last - ended,
        loaded_again_s=back - ended,
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 10")
    options = made.parse_args()
    environment, dice, rounds = read_environment(), random.Random(SEED), list[Round]()
    count = options.rounds or (2 if options.quick else 10)
    for number in range(count):
        with swarm_of_nodes() as (front, others, model):
            rounds.append(asyncio.run(one_round(front, others, model, dice)))
        progress(f"round {number + 1}/{count}: {rounds[-1]}")

    def figure(name: str, unit: str, read: Callable[[Round], float], target: Target | None = None) -> Figure:
        return Figure(name, unit, tuple(read(each) for each in rounds), target)

    figures = [
        figure("engine processes lost", "", lambda each: each.engines_lost, ONE),
        figure("nodes lost", "", lambda each: each.nodes_lost, NONE),
        figure("other nodes that were asked the pill", "", lambda each: each.others_asked, NONE),
        figure("end of the engine to the client's 502", "s", lambda each: each.refused_s),
        figure("the same request again: refused after", "s", lambda each: each.refused_again_s),
        figure("end of the engine to another request answered", "s", lambda each: each.other_answer_s, AGAIN),
        figure("end of the engine to its model loaded again", "s", lambda each: each.loaded_again_s, AGAIN),
    ]
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
