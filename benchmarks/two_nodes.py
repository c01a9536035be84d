"""What a second machine adds: requests per second of two nodes with one core each, against one node with one core.

All clients ask one node, which spreads what they ask. Each node, its engine included, is pinned to a core by `taskset`:
the pair's first node and the lone one to core 0, the second node to core 1; whoever is not measured is idle. The load
generator is not pinned: whole answers cost it next to nothing, and the report says how much.

Two cores of one machine are not two machines: they share memory, caches, perhaps a core's pipes. What that leaves to
win is measured in the same trial, with half the clients at each node and nothing to spread.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from load import CHAT, Endpoint, Json, Reply, body_of, exact_answer, post, special_tokens
from measure import Figure, Target, interleaved, ratios
from namespaces import endpoint, stage
from nodes import random_model
from report import progress

SLOTS = 4  # --workers' default
CLIENTS = 2 * SLOTS  # as many as two nodes have slots: the lone node has as many again waiting
TOKENS = 12  # an answer takes about a second where four are generated at once
WARM_S = 1.5  # longer than a node needs to hear of its peer's load
WINDOW_S = 4.0  # several answers of each client
CALM_S = 0.5  # for what was broken off to end
PROMPTS_SEED = 20_240_608
TARGET = Target("at least", 1.85)


@dataclass(slots=True)
class Window:
    """Counts answers within WINDOW_S from `begin` on: one that reaches across an end by the share of its time inside.

    Equally long answers come several at a time, so that whole ones would count a window's ends more than its speed.
    """

    begin: float
    answers: float = 0.0
    past: set[int] = field(default_factory=set[int])
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, client: int, reply: Reply) -> None:
        """The window is over when every client has an answer that ended after it: the load stays full until then."""
        end = self.begin + WINDOW_S
        inside_s = max(0.0, min(reply.last, end) - max(reply.sent, self.begin))
        self.answers += inside_s / (reply.last - reply.sent)
        if reply.last >= end:
            self.past.add(client)
        if len(self.past) == CLIENTS:
            self.over.set()


@dataclass(slots=True)
class Rates:
    """Asks a model for answers of one length at full load."""

    model: str
    bias: dict[str, float]
    dice: random.Random
    generator_share: list[float] = field(default_factory=list[float])

    def answers_per_s(self, endpoints: Sequence[Endpoint]) -> float:
        """The clients dealt out to `endpoints`; what was answered within the window, per second."""
        time.sleep(CALM_S)
        return asyncio.run(self._answers_per_s(endpoints))

    async def _answers_per_s(self, endpoints: Sequence[Endpoint]) -> float:
        window = Window(time.perf_counter() + WARM_S)
        clients = [asyncio.create_task(self._client(endpoints[n % len(endpoints)], n, window)) for n in range(CLIENTS)]
        finished = asyncio.create_task(window.over.wait())
        cpu_before, begun = time.process_time(), time.perf_counter()
        done, _ = await asyncio.wait([*clients, finished], return_when=asyncio.FIRST_COMPLETED)
        took_s = time.perf_counter() - begun
        self.generator_share.append(100 * (time.process_time() - cpu_before) / took_s)
        for task in (*clients, finished):
            task.cancel()
        await asyncio.wait([*clients, finished])
        for task in done:
            task.result()  # a client ends by itself only where it fails
        return window.answers / WINDOW_S

    async def _client(self, at: Endpoint, number: int, window: Window) -> None:
        while True:
            body: Json = exact_answer(self.model, self.dice, self.bias, TOKENS)
            reply = await post(at, CHAT, body | {"swarm": {"strategy": "single"}})
            body_of(reply)
            window.note(number, reply)


async def two_nodes(trials: int, layers: int) -> list[Figure]:
    """The three arrangements in turn, and their ratios trial by trial."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    options = ("--model", str(random_model(layers)), "--context", "1024", "--workers", str(SLOTS))
    members = {
        "first": ("--federation", *options),
        "second": ("--federation", *options),
        "alone": ("--host", "0.0.0.0", *options),
    }
    pins = {"first": cores[0], "alone": cores[0], "second": cores[-1]}
    async with stage(members, pins=pins) as at:
        first, second, alone = at.nodes.values()
        pair = frozenset((first.name, second.name))
        await at.instant((first, second), pair.__eq__, 30, "the two know each other")
        bias = await asyncio.to_thread(special_tokens, endpoint(first))
        rates = Rates(await at.model_of(first), bias, random.Random(PROMPTS_SEED))
        sides = {
            "one": lambda: rates.answers_per_s([endpoint(alone)]),
            "two": lambda: rates.answers_per_s([endpoint(first)]),
            "apart": lambda: rates.answers_per_s([endpoint(first), endpoint(second)]),
        }
        progress(f"two nodes against one, {trials} trials of {CLIENTS} clients")
        got = await asyncio.to_thread(interleaved, sides, trials)
    return [
        Figure("one node with one core", "answers/s", tuple(got["one"])),
        Figure("two nodes with one core each, all clients at the first", "answers/s", tuple(got["two"])),
        Figure("two nodes / one node, requests/s", "", ratios(got["two"], got["one"]), TARGET),
        Figure("the same, half the clients at each: what this machine allows", "", ratios(got["apart"], got["one"])),
        Figure("two nodes / dealt out by hand: what the spreading costs", "", ratios(got["two"], got["apart"])),
        Figure("what the load generator took of a core", "%", tuple(rates.generator_share)),
    ]
