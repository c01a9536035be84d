"""A swarm of paced nodes in network namespaces, clients that keep it busy, and what can be read of both afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil
from load import CHAT, Endpoint, Json, Reply, RunError, body_of, post
from namespaces import Stage, endpoint, stage
from report import ROOT

sys.path.insert(0, str(ROOT))  # this checkout's, whatever is installed

from benchmarks.paced_engine import share_within

MODEL = "paced"
SLOTS = 4  # --workers' default
CONTEXT_TOKENS = 8192
WHOLE_S = 180.0  # sixteen nodes start on two cores
TELL_S = 1.2  # a little longer than a node's own (`paced_node.py`)
TOLD = "told.json"
PROGRAM = ROOT / "benchmarks" / "paced_node.py"
SINGLE: Json = {"strategy": "single"}


@dataclass(frozen=True, slots=True)
class Told:
    """What engines have done: of their tokens how late they were (as `Lateness` counts), and their machines' counts."""

    late: tuple[int, ...] = ()
    busy_s: float = 0.0
    answer_s: float = 0.0
    read: int = 0
    cached: int = 0
    written: int = 0

    def since(self, before: Told) -> Told:
        return self._with(before, -1)

    def plus(self, other: Told) -> Told:
        return self._with(other, 1)

    def _with(self, other: Told, sign: int) -> Told:
        longer = max(len(self.late), len(other.late))
        own, others = (told.late or (0,) * longer for told in (self, other))
        late = tuple(a + sign * b for a, b in zip(own, others, strict=True))
        names = [each.name for each in fields(self) if each.name != "late"]
        return Told(late, **{name: getattr(self, name) + sign * getattr(other, name) for name in names})


def late_ms(told: Iterable[Told], share: float = 0.99) -> float:
    """What this share of all tokens was late by at most, in ms; 0 where there were none."""
    everything = Told()
    for each in told:
        everything = everything.plus(each)
    return share_within(everything.late, share) or 0.0


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


class Lengths:
    """Lengths of prompts and answers between two bounds each, spread evenly however few are taken.

    By chance alone, twenty questions are a tenth more or less work than twenty others.
    """

    def __init__(self, prompts: tuple[int, int], answers: tuple[int, int]) -> None:
        self._prompts, self._answers, self._taken = prompts, answers, 0

    def take(self) -> tuple[int, int]:
        self._taken += 1
        shares = (self._taken * 0.7548776662466927 % 1, self._taken * 0.5698402909980532 % 1)  # the plane's R2 sequence
        prompt, answer = (
            round(low + share * (high - low))
            for (low, high), share in zip((self._prompts, self._answers), shares, strict=True)
        )
        return prompt, answer


def question(dice: random.Random, prompt_tokens: int, answer_tokens: int, swarm: Json = SINGLE) -> Json:
    """A prompt of about so many tokens, whose answer has exactly as many as it says."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": words(dice, max(prompt_tokens, answer_tokens + 1))}],
        "max_tokens": answer_tokens,
        "swarm": swarm,
    }


@dataclass(slots=True)
class Window:
    """What came back within `window_s` from the instant `begin` on: an answer across an end by its share inside.

    Equally long answers come several at a time, so that whole ones would count a window's ends more than its speed.
    The window is over when each client has an answer that ended after it: the load stays full until then.
    """

    begin: float
    window_s: float
    clients: int
    answers: float = 0.0
    took_s: list[float] = field(default_factory=list[float])
    nodes: Counter[str] = field(default_factory=Counter[str])
    ends: list[float] = field(default_factory=list[float])
    failures: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    past: set[int] = field(default_factory=set[int])
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def end(self) -> float:
        return self.begin + self.window_s

    @property
    def per_s(self) -> float:
        return self.answers / self.window_s

    def note(self, client: int, reply: Reply) -> None:
        inside_s = max(0.0, min(reply.last, self.end) - max(reply.sent, self.begin))
        self.answers += inside_s / (reply.last - reply.sent)
        if self.begin <= reply.last <= self.end:
            self.took_s.append(reply.last - reply.sent)
            self.ends.append(reply.last)
            node = json.loads(body_of(reply)).get("swarm", {}).get("routed", {}).get("node")
            self.nodes[str(node)] += 1
        self.passed(client, reply.last)

    def failed(self, client: int, why: str) -> None:
        now = time.perf_counter()
        self.failures.append((now, why))
        self.passed(client, now)

    def passed(self, client: int, at: float) -> None:
        if at >= self.end:
            self.past.add(client)
        if len(self.past) == self.clients:
            self.over.set()


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
                window.failed(number, str(error) or type(error).__name__)
                await asyncio.sleep(0.2)
            else:
                window.note(number, reply)

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


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest of them that this share of all stays within."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)
