"""A swarm of paced nodes in network namespaces, clients that keep it busy, and what can be read of both afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from load import CHAT, Endpoint, Json, RunError, body_of, post
from namespaces import Stage, endpoint, stage
from report import ROOT

sys.path.insert(0, str(ROOT))  # this checkout's, whatever is installed

from benchmarks.paced_counts import Told, Window

MODEL = "paced"
SLOTS = 4  # --workers' default
CONTEXT_TOKENS = 8192
WHOLE_S = 180.0  # sixteen nodes start on two cores
TELL_S = 1.2  # a little longer than a node's own (`paced_node.py`)
TOLD = "told.json"
PROGRAM = ROOT / "benchmarks" / "paced_node.py"
SINGLE: Json = {"strategy": "single"}


@dataclass(frozen=True, slots=True)
class PacedSwarm:
    """Paced nodes that all know each other; `names` in order, the first is the one that is asked."""

    at: Stage
    names: tuple[str, ...]

    @property
    def front(self) -> Endpoint:
        return self.endpoint(self.names[0])

    def endpoint(self, name: str) -> Endpoint:
        return endpoint(self.at.nodes[name])

    def clock(self) -> BusyClock:
        return BusyClock(self.at.nodes[name].pid for name in self.names)

    async def told(self) -> dict[str, Told]:
        """What each has done by now. Takes a second: they write it down once in one."""
        await asyncio.sleep(TELL_S)
        found: dict[str, Told] = {}
        for name in self.names:
            said: dict[str, Any] = json.loads((self.at.folder / name / TOLD).read_text())
            found[name] = Told(tuple(said.pop("late")), **said)
        return found


@asynccontextmanager
async def paced_swarm(pace: Path, times: Mapping[str, float], *options: str) -> AsyncGenerator[PacedSwarm]:
    """Nodes called like the keys, each of which takes so many times as long as `pace` says; it may be one alone.

    `pace` is a whole path: nodes run elsewhere.
    """
    names = tuple(times)
    arguments = ("--model", MODEL, "--workers", str(SLOTS), "--context", str(CONTEXT_TOKENS), *options)
    arguments += ("--federation",) if len(names) > 1 else ("--host", "0.0.0.0")
    programs = {
        name: (
            sys.executable, str(PROGRAM), "--pace", str(pace), "--times", str(factor), "--told", TOLD, "--"
        )
        for name, factor in times.items()
    }  # fmt: skip
    async with stage(dict.fromkeys(names, arguments), programs=programs) as at:
        if len(names) > 1:
            await at.whole(WHOLE_S)
        yield PacedSwarm(at, names)


def words(dice: random.Random, count: int) -> str:
    """So many words that no slot has seen: tokens, for the paced engine."""
    return " ".join(f"w{dice.getrandbits(32):x}" for _ in range(count))


def question(dice: random.Random, prompt_tokens: int, answer_tokens: int, swarm: Json = SINGLE) -> Json:
    """A prompt of about so many tokens, whose answer has exactly as many as it says."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": words(dice, max(prompt_tokens, answer_tokens + 1))}],
        "max_tokens": answer_tokens,
        "swarm": swarm,
    }


@dataclass(frozen=True, slots=True)
class Busy:
    """How busy this machine was, as shares of all its cores: by everybody, and by this run's own processes."""

    share: float
    own_share: float


class BusyClock:
    """Read it at both ends of a while. This process and its `nodes` are the run's own."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self._processes = [psutil.Process(), *map(psutil.Process, nodes)]
        self._times, self._own_s, self._at = psutil.cpu_times(), self._spent_s(), time.perf_counter()

    def _spent_s(self) -> float:
        spent_s = 0.0
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):  # one that was killed meanwhile
                spent_s += sum(process.cpu_times()[:2])
        return spent_s

    def read(self) -> Busy:
        now = psutil.cpu_times()
        spent = {name: getattr(now, name) - getattr(self._times, name) for name in now._fields}
        for name in ("guest", "guest_nice"):  # counted in user's and nice's, too
            spent.pop(name, None)
        idle = spent["idle"] + spent.get("iowait", 0.0)
        took_s = time.perf_counter() - self._at
        cores = psutil.cpu_count() or 1
        return Busy(1 - idle / max(sum(spent.values()), 1e-9), (self._spent_s() - self._own_s) / took_s / cores)


@dataclass(frozen=True, slots=True)
class Measured:
    """A window's counts, how busy the machine was, and what each node's engine did."""

    window: Window
    busy: Busy
    told: Mapping[str, Told]

    @property
    def fairness(self) -> float:
        """Jain's index of the answers' tokens by node: 1 where all wrote as many, 1/n where one wrote all."""
        written = [each.written for each in self.told.values()]
        return sum(written) ** 2 / (len(written) * sum(each**2 for each in written)) if any(written) else 0.0


async def under_load(
    swarm: PacedSwarm,
    bodies: Callable[[int], Json],
    clients: int,
    warm_s: float,
    window_s: float,
    at: Sequence[Endpoint] = (),
) -> Measured:
    """`clients` ask the front (or are dealt out to `at`), one question after the other, until the window is over.

    `bodies` makes the next question of the client with that number. A client whose question fails notes it and goes on
    with the next after a moment.
    """
    places = at or [swarm.front]
    before = await swarm.told()
    window = Window(time.perf_counter() + warm_s, window_s, clients)

    async def client(number: int) -> None:
        while True:
            try:
                reply = await post(places[number % len(places)], CHAT, bodies(number))
                body_of(reply)
            except (RunError, OSError, TimeoutError) as error:
                window.failed(number, time.perf_counter(), str(error) or type(error).__name__)
                await asyncio.sleep(0.2)
            else:
                node = json.loads(body_of(reply))["swarm"].get("routed", {}).get("node", "several")
                window.note(number, reply.sent, reply.last, node)

    running = [asyncio.create_task(client(number)) for number in range(clients)]
    clock = swarm.clock()
    over = asyncio.create_task(window.over.wait())
    done, _ = await asyncio.wait([*running, over], return_when=asyncio.FIRST_COMPLETED)
    busy = clock.read()
    for task in (*running, over):
        task.cancel()
    await asyncio.wait([*running, over])
    for task in done - {over}:
        task.result()
    after = await swarm.told()
    return Measured(window, busy, {name: after[name].since(before[name]) for name in after})
