"""What clients notice while all three nodes of a swarm are stopped with SIGTERM and started again, one after the other.

Three sorts of clients, all of them the official OpenAI client, ask for short whole answers and longer streams in turn:

* those of the other nodes, which are told before a node is stopped and leave it alone; no retries at all;
* those that ask `/readyz` of one node after the other before each request and take the first that is ready;
* those that know one node only and keep asking it while it is gone, with nothing but the client's own two retries. They
  are promised nothing unless the node's port is held open for it, as `deploy/swarm.socket` does; both are measured.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
from clients import ANSWER_TIMEOUT_S, Account, arithmetic
from load import Json, fresh_prompt, special_tokens
from measure import Figure, Target
from namespaces import Stage, endpoint, ready_at, stage
from openai import AsyncOpenAI, OpenAIError
from report import progress

from tests.e2e.node_process import NodeProcess

NODES = ("kitchen", "study", "attic")
CLIENT_RETRIES = 2  # the official client's default
STREAM_TOKENS = 100  # of each of the voters, a few tenths of a second: some are under way when a node is told to stop
PAUSE_S = 0.2  # of each of seven clients: load, but no queue, which would only measure how long it is
DRAINED_S = 40.0  # what a node gives its running answers is 30
BETWEEN_S = 1.0  # between two restarts
NONE = Target("at most", 0.0)

OTHERS, READY, FAITHFUL = "clients of the other nodes", "clients that ask /readyz", "clients of the restarting node"
SORTS = (OTHERS, READY, FAITHFUL)
Choice = Callable[[], Awaitable[str]]


@dataclass(slots=True)
class Restart:
    """Which node is being restarted at this moment, and what became of every request."""

    at: Stage
    dice: random.Random
    bias: dict[str, float]
    gone: str | None = None
    accounts: dict[str, Account] = field(default_factory=lambda: {name: Account() for name in SORTS})

    async def another(self) -> str:
        """Any node but the one that is being restarted."""
        return self.dice.choice([name for name in NODES if name != self.gone])

    async def a_ready_one(self) -> str:
        """The first of all, from any one on, that says it is ready; where nobody does, any."""
        order = self.dice.sample(NODES, len(NODES))
        for name in order:
            try:
                async with self.at.session.get(f"{url_of(self.at.nodes[name])}/readyz") as response:
                    if response.status == 200:
                        return name
            except (aiohttp.ClientError, TimeoutError):
                continue
        return order[0]

    def request(self, stream: bool) -> Json:
        if not stream:
            return {"messages": arithmetic(self.dice), "max_tokens": 48}
        return {
            "messages": fresh_prompt(self.dice), "max_tokens": STREAM_TOKENS, "logit_bias": self.bias, "stream": True,
        }  # fmt: skip


def url_of(node: NodeProcess) -> str:
    place = endpoint(node)
    return f"http://{place.host}:{place.port}"


def one_node(name: str) -> Choice:
    async def choose() -> str:
        return name

    return choose


async def rolling(trials: int) -> list[Figure]:
    """A trial is one restart of each of the three nodes; its samples are the requests that failed."""
    return [*await _rounds(trials, ports_held=False), *await _rounds(trials, ports_held=True)]


async def _rounds(trials: int, ports_held: bool) -> list[Figure]:
    """All trials with ports that close, or are held open, while a node is restarted."""
    sorts = (FAITHFUL,) if ports_held else SORTS
    failed: dict[str, list[float]] = {sort: [] for sort in sorts}
    asked, down = Counter[str](), list[float]()
    where = "port held open" if ports_held else "port closed"
    async with stage(dict.fromkeys(NODES, ("--federation",)), ports_held=ports_held) as at:
        await at.whole()
        bias = await asyncio.to_thread(special_tokens, endpoint(at.nodes["kitchen"]))
        for trial in range(trials):
            restart = Restart(at, random.Random(trial), bias)
            async with everybody_asks(restart, sorts):
                for node in at.nodes.values():
                    down.append(await _restarted(restart, node))
            for sort in sorts:
                account = restart.accounts[sort]
                failed[sort].append(account.failed)
                asked[sort] += account.answered + account.failed
                progress(f"rolling {trial + 1}/{trials}, {where}, {sort}: {account.summary()}")
    figures = [
        Figure(
            f"rolling restart: errors of {sort}{f', {where}' if sort == FAITHFUL else ''} ({asked[sort]} requests)", "",
            tuple(failed[sort]), None if sort == FAITHFUL and not ports_held else NONE,
        )
        for sort in sorts
    ]  # fmt: skip
    return [*figures, Figure(f"SIGTERM to `ready` again, {where}", "s", tuple(down))]


async def _restarted(restart: Restart, node: NodeProcess) -> float:
    """Stop the node with SIGTERM and start it again; seconds until it was ready. Returns when the swarm is whole."""
    await asyncio.sleep(BETWEEN_S)
    restart.gone = node.name
    stopped = time.perf_counter()
    node.send(signal.SIGTERM)
    await node.ended(DRAINED_S)
    node.start()
    ready = await ready_at(node)
    await restart.at.whole()
    restart.gone = None
    return ready - stopped


@asynccontextmanager
async def everybody_asks(restart: Restart, sorts: Sequence[str]) -> AsyncGenerator[None]:
    """All clients of these sorts, until the block ends; each finishes what it asked."""
    stop = asyncio.Event()
    clients: list[tuple[str, Choice, int]] = [
        *[(OTHERS, restart.another, 0)] * 2,
        *[(READY, restart.a_ready_one, CLIENT_RETRIES)] * 2,
        *((FAITHFUL, one_node(name), CLIENT_RETRIES) for name in NODES),
    ]
    async with asyncio.TaskGroup() as tasks:
        for sort, choose, retries in clients:
            if sort not in sorts:
                continue
            tasks.create_task(_client(restart, restart.accounts[sort], choose, retries, stop))
        try:
            yield
        finally:
            stop.set()


async def _client(restart: Restart, account: Account, choose: Choice, retries: int, stop: asyncio.Event) -> None:
    async with AsyncOpenAI(
        base_url="http://unset", api_key="none", max_retries=retries, timeout=ANSWER_TIMEOUT_S
    ) as client:
        for stream in itertools.cycle((False, True)):
            if stop.is_set():
                return
            name = await choose()
            place = client.with_options(base_url=f"{url_of(restart.at.nodes[name])}/v1")
            await _ask(place, restart.request(stream), account, name)
            await asyncio.sleep(PAUSE_S)


async def _ask(client: AsyncOpenAI, request: dict[str, Any], account: Account, name: str) -> None:
    """One request to its end; a stream without a finish reason broke off, whatever the client makes of it."""
    begun = time.perf_counter()
    sort = "stream" if request.get("stream") else "answer"
    try:
        answer = cast("Any", await client.chat.completions.create(model="swarm", **request))
        finish = await _end_of(answer) if request.get("stream") else answer.choices[0].finish_reason
    except OpenAIError as error:
        cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
        account.failures[f"{sort} from {name}: {type(error).__name__}{cause}: {str(error)[:160]}"] += 1
    else:
        if finish is None:
            account.failures[f"{sort} from {name}: broke off without a word"] += 1
        else:
            account.took(time.perf_counter() - begun)


async def _end_of(stream: Any) -> str | None:
    """The finish reason of a stream read to its end."""
    reasons = [choice.finish_reason async for chunk in stream for choice in chunk.choices if choice.finish_reason]
    return reasons[-1] if reasons else None
