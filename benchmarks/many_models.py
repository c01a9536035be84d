"""What it costs to choose among many models: a node of 200, and 10 peers that each tell of 200 that they could load.

    python benchmarks/many_models.py [--quick] [--peers N] [--models N] [--rounds N] [--json FILE]

In this process, without a network: the node's own dispatcher and gateway, peers as the membership table gives them. A
quarter of the models lie on every node, under other names on half of them. Timed is one plan of a request (for `swarm`,
for a model that runs, for one that must be loaded, by its id and by its further name), `GET /v1/models` and `/readyz`;
the same with no peers is the reference. Bytes are those of the probes that tell of the lists, and of one list.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import aiohttp
from measure import Figure, Target, ratios
from report import parser, progress, publish, read_environment

from federation.advertisement import LoadableModel, NodeDescription, ServedModel
from federation.hostport import Address
from federation.peer import Peer, PeerState, Source
from swarm.engines.engine import Engine
from swarm.gateway.answers.model_names import NAMES
from swarm.generation import GenerationRequest
from swarm.routing.policy import VoteOptions
from swarm.workers.loadable import Loadable, LoadOption
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

PLAN_TARGET = Target("at most", 1.0)
CONTEXT_TOKENS = 8192
RUNNING = "runs-here"
PAUSE_S = 2.1
SHARED = 4  # one of so many models is on every node


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stored(node: int, number: int) -> LoadableModel:
    """Model `number` of a node: its own, or one that every node has; half of them call that otherwise."""
    is_shared = number % SHARED == 0
    content = f"shared-{number}" if is_shared else f"{node}-{number}"
    name = f"{content}-b" if is_shared and node % 2 else content
    return LoadableModel(
        id=f"family-{name}-instruct:8b:q4_k_m",
        context_tokens=CONTEXT_TOKENS,
        params=8_000_000_000,
        fingerprint=digest(content),
        sha256=digest(f"file {content}") if number % 3 else None,
        size_bytes=5_000_000_000,
        slots=4,
        load_s=8.0,
        also=(f"hf:owner/family-{name}-instruct-gguf/file-{name}-q4_k_m.gguf", f"family-{name}"),
    )


def peer(node: int, models: int) -> Peer:
    """A peer that runs one model, busy, and could load the others."""
    description = NodeDescription(
        id=f"peer{node}", name=f"peer {node}", version="1.0", url=f"http://10.0.0.{node}:7000",
        models=(ServedModel(id=f"runs-at-{node}", context_tokens=CONTEXT_TOKENS, slots=4, slots_free=2),),
    )  # fmt: skip
    address = Address(f"10.0.0.{node}", 7000)
    listed = tuple(stored(node, number) for number in range(models))
    now = time.monotonic()
    return Peer(
        description.id, description.name, PeerState.ALIVE, description, address, (address,), Source.MDNS, 1.0, now, now,
        listed,
    )  # fmt: skip


class OwnModels:
    """The source of the node's pool."""

    def __init__(self, models: int) -> None:
        self._models = {told.id: self._loadable(told) for told in (stored(0, number) for number in range(models))}

    def find(self, model_id: str) -> Loadable | None:
        return self._models.get(model_id)

    def all(self) -> Sequence[Loadable]:
        return tuple(self._models.values())

    @staticmethod
    def _loadable(told: LoadableModel) -> Loadable:
        way = LoadOption(CONTEXT_TOKENS, 4, {"ram": told.size_bytes})

        async def load(option: LoadOption) -> Engine:
            raise AssertionError(f"nothing is loaded here, {option} neither")

        return Loadable(
            model_id=told.id, usual=way, options=lambda free: (way,), load=load, params=told.params,
            size_bytes=told.size_bytes, fingerprint=told.fingerprint, sha256=told.sha256, expected_load_s=told.load_s,
            also=told.also,
        )  # fmt: skip


@asynccontextmanager
async def a_node(peers: Sequence[Peer], models: int) -> AsyncGenerator[RunningNode]:
    engine = ScriptedEngine(saying("words"), model_id=RUNNING, slots=4)
    options = NodeOptions(source=OwnModels(models))
    async with RunningNode("here", ready(engine), options=options) as node:
        fresh = lambda: tuple(replace(peer) for peer in peers)  # noqa: E731  # as the table gives them
        node.membership.alive = node.membership.peers = fresh  # type: ignore[method-assign]  # as if they had been met
        yield node


def per_call_ms(call: Callable[[], object], calls: int) -> float:
    """Computing time: other programs on the machine do not count."""
    began = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - began) * 1000 / calls


def planning(node: RunningNode, model: str) -> Callable[[], object]:
    request = GenerationRequest(model=model, messages=({"role": "user", "content": "Tell a story."},))
    return partial(node.dispatcher.plan, request, VoteOptions(), 1)


async def timed(node: RunningNode, model: str, further: str, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of everything that is timed, once each."""
    names = node.app[NAMES]
    await asyncio.sleep(PAUSE_S)  # longer than this node's own list is kept
    took = {
        "plan for swarm": per_call_ms(planning(node, "swarm"), options.calls),
        "plan for a model that runs": per_call_ms(planning(node, RUNNING), options.calls),
        "plan for a model to load": per_call_ms(planning(node, model), options.calls),
        "what a further name means": per_call_ms(partial(names.meant, further), options.calls),
    }
    async with aiohttp.ClientSession(node.url) as client:
        for path in ("/v1/models", "/readyz"):
            began = time.thread_time()
            async with client.get(path) as answer:
                await answer.read()
                answer.raise_for_status()
            took[f"GET {path}"] = (time.thread_time() - began) * 1000
    return took


async def measure(options: argparse.Namespace) -> list[Figure]:
    peers = [peer(number, options.models) for number in range(1, options.peers + 1)]
    far = peers[0].loadable[1]
    near = stored(0, 1)
    with_peers: list[dict[str, float]] = []
    without: list[dict[str, float]] = []
    async with a_node(peers, options.models) as node, a_node((), 2) as alone:
        for number in range(-1, options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            many = await timed(node, far.id, far.also[0].upper(), options)
            few = await timed(alone, near.id, near.also[0].upper(), options)
            if number >= 0:
                with_peers.append(many)
                without.append(few)
    figures: list[Figure] = []
    for name in with_peers[0]:
        many_ms, few_ms = tuple(one[name] for one in with_peers), tuple(one[name] for one in without)
        target = PLAN_TARGET if name.startswith("plan") else None
        mark = "**" if target else ""
        figures.append(Figure(f"{name}, alone with 2 models", "ms", few_ms))
        figures.append(Figure(f"{mark}{name}{mark}", "ms", many_ms, target))
        figures.append(Figure(f"{name}: many / alone", "", ratios(many_ms, few_ms)))
    return figures


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--peers", type=int, default=10, metavar="N", help="default 10")
    made.add_argument("--models", type=int, default=200, metavar="N", help="of each node (default 200)")
    made.add_argument("--rounds", type=int, metavar="N", help="default 7")
    made.add_argument("--calls", type=int, metavar="N", help="of each kind in a round (default 50)")
    options = made.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 7)
    options.calls = options.calls or (5 if options.quick else 50)
    environment = read_environment()
    publish(environment, asyncio.run(measure(options)), options.json)


if __name__ == "__main__":
    main()
