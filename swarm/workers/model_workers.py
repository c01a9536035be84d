"""One model's engine and its workers: who holds which, and an engine that broke loaded again.

An engine that broke is loaded again soon at first, then ever later, but always some time (`BackOff`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from federation.tasks import cancel_and_wait, report_crash
from swarm.engines.engine import Capabilities, Computation, Engine, OverLenders
from swarm.errors import LenderLost, SwarmError, Unavailable
from swarm.moving_mean import RecentRate, moving_mean
from swarm.workers.life import Phase
from swarm.workers.slots import (
    QueueListener,
    Refusal,
    SlotTable,
    Ticket,
    Worker,
    expected_wait_s,
    retry_after_s,
)

log = logging.getLogger(__name__)

DEFAULT_QUEUE = 64  # requests that wait for one model's slots; more than a minute of work on a small machine
RELOAD_RETRY_AFTER_S = 5  # told to clients while it loads: about one load of a large model from a warm disk
LOOK_S = 1.0  # between two looks at whether an engine that stalled goes on: only then do those who wait get its slots
FIRST_S = 1.0  # from a break to the next load; then doubled
MOST_S = 300.0  # a person who has mended the reason waits no longer than that
RAN_WELL_S = 60.0  # after so long it is as good as new
MOST_SHARE = 0.99  # of a load that takes longer than expected
SUSPECT_AFTER = 3  # breaks in a row: chance, a full memory or a bad request explain one or two


Loader = Callable[[], Awaitable[Engine]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A load that began `running_s` ago and is expected to take `expected_s`, None where nothing is known."""

    running_s: float
    expected_s: float | None

    @property
    def share(self) -> float | None:
        """About how much of it is done: engines do not tell, so it is by time, and less than all until it is over."""
        return None if not self.expected_s else min(self.running_s / self.expected_s, MOST_SHARE)

    @property
    def left_s(self) -> float | None:
        """About how long it will take yet; None where it takes longer than expected, or nothing is."""
        left_s = None if self.expected_s is None else self.expected_s - self.running_s
        return left_s if left_s is not None and left_s > 0 else None


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the node can say of one model it serves, or is about to.

    `problem` is None while it runs; `stalled` says why it is doubted that it still computes: it has no free slot then.
    `phase` is where it is in its life, for that `reason`; only a `ready` one is asked. `fingerprint` and `sha256` say
    what it is, None where nobody knows; `taken_bytes` of memory it was measured to take, or needs. `load` while it is
    loaded for the first time, and `load_s` is how long that took. `computation` says with what it is computed, while it
    is loaded. `tokens_now_per_s` is what it made of late, all answers together; `taken` is what it took of each pool of
    memory, in bytes. `unloads_in_s`: it goes then, if nobody wants it before; None where no time is set. `nodes` are
    the names of all machines that compute it together, this one first; empty: this one alone.
    """

    model_id: str
    engine: str
    slots: int
    slots_free: int
    context_tokens: int
    capabilities: Capabilities
    params: int | None
    tokens_per_s: float | None
    problem: str | None
    waiting: int = 0
    wait_s: float | None = None
    stalled: str | None = None
    phase: Phase = "ready"
    reason: str = ""
    pinned: bool = False
    fingerprint: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    taken_bytes: int | None = None
    load: LoadProgress | None = None
    load_s: float | None = None
    also: tuple[str, ...] = ()
    computation: Computation | None = None
    tokens_now_per_s: float = 0.0
    taken: Mapping[str, int] = field(default_factory=dict[str, int])
    unloads_in_s: float | None = None
    nodes: tuple[str, ...] = ()


class GaveWay(Exception):
    """Somebody else waits for the workers of a lease that gives way, or had them first."""


class Recall:
    """Whether the workers of a lease are wanted back. For the one task that works with them."""

    def __init__(self) -> None:
        self._called = False
        self._limit: asyncio.Timeout | None = None

    def call(self) -> None:
        """They are, from now on: whoever waits in `until` is interrupted."""
        self._called = True
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def until(self, coming: Awaitable[T]) -> T:
        """What `coming` brings. Raises GaveWay, cancelling it, as soon as the workers are wanted back."""
        self._limit = limit = asyncio.timeout(0 if self._called else None)
        try:
            async with limit:
                return await coming
        except TimeoutError:
            if limit.expired():
                raise GaveWay from None
            raise
        finally:
            self._limit = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Workers held for one request, and the engine they belong to. `recall` is set where it gives way."""

    engine: Engine
    workers: tuple[Worker, ...]
    recall: Recall | None = None


class BackOff:
    """Counts what breaks in a row. Pure: the caller brings the time, in monotonic seconds."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._started_s: float | None = None

    def started(self, now_s: float) -> None:
        """It runs."""
        self._started_s = now_s

    def broke(self, now_s: float) -> float:
        """It broke, or could not be started: how long to wait before it is started again."""
        if self._started_s is not None and now_s - self._started_s >= RAN_WELL_S:
            self._in_a_row = 0
        self._started_s = None
        self._in_a_row += 1
        return min(FIRST_S * 2 ** min(self._in_a_row - 1, 32), MOST_S)

    @property
    def in_a_row(self) -> int:
        """How often it broke since it last ran well."""
        return self._in_a_row

    @property
    def suspect(self) -> bool:
        """Whether it is to blame itself."""
        return self._in_a_row >= SUSPECT_AFTER


@dataclass(slots=True, eq=False)
class _Run:
    """One loaded engine, its slots and who waits for them: over when the engine breaks, never continued by another."""

    engine: Engine
    table: SlotTable
    waiting: dict[Ticket, asyncio.Future[None]] = field(default_factory=dict[Ticket, "asyncio.Future[None]"])
    recalls: dict[Ticket, Recall] = field(default_factory=dict[Ticket, Recall])
    served: dict[Ticket, float] = field(default_factory=dict[Ticket, float])  # when each got its workers

    def held_s(self, now_s: float) -> list[float]:
        """How long each worker is held by now, but for those that are given back when somebody waits."""
        return [now_s - at for ticket, at in self.served.items() if not ticket.gives_way for _ in ticket.granted]

    @property
    def idle(self) -> int:
        """Workers that a newcomer would get at once: none while the engine is doubted."""
        return 0 if self.engine.stalled else self.table.idle

    @property
    def obtainable(self) -> int:
        """The same, with those of who gives way."""
        return 0 if self.engine.stalled else self.table.obtainable

    def serve(self) -> None:
        for ticket in self.table.call_back():
            self.recalls[ticket].call()
        if self.engine.stalled:
            return
        for ticket in self.table.grants():
            granted = self.waiting[ticket]
            if not granted.done():  # else its owner was cancelled, and is about to give the workers back
                granted.set_result(None)

    def end(self, error: SwarmError) -> None:
        """Refuse everybody who still waits."""
        for granted in self.waiting.values():
            if not granted.done():
                granted.set_exception(error)


class ModelWorkers:
    """One model's engine, its named workers, and the task that reloads it. Use as `async with`.

    `names` gives each new worker its name; at most `queue` requests wait for them; `clock` is monotonic seconds, and
    `sleep` waits for it. Whether an engine that stalled goes on is looked at each `look_s`. `on_change` hears why the
    engine broke, and of None when it is loaded again.
    """

    def __init__(
        self,
        load: Loader,
        names: Iterator[str],
        params: int | None,
        clock: Callable[[], float] = time.monotonic,
        queue: int = DEFAULT_QUEUE,
        listeners: Sequence[QueueListener] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        look_s: float = LOOK_S,
        on_change: Callable[[str | None], None] | None = None,
    ) -> None:
        self.on_change = on_change
        self._load = load
        self._look_s = look_s
        self._sleep = sleep
        self._names = names
        self._queue = queue
        self._listeners = listeners
        self._named: list[Worker] = []
        self._params = params
        self._clock = clock
        self._run: _Run | None = None
        self._problem: str | None = None
        self._waits_elsewhere = False  # another machine broke it, or is missing, which says nothing of its file
        self._backoff = BackOff()
        self._next_start: float | None = None  # an instant of the clock; None while it runs or is being loaded
        self._tokens_per_s: float | None = None
        self.generated = RecentRate()  # tokens, of all answers; whoever reads their events counts them
        self._service_s: float | None = None

    async def __aenter__(self) -> ModelWorkers:
        await self._start()
        self._keeper = asyncio.create_task(self._reload_when_broken(), name=f"keeper of {self._engine.model_id}")
        report_crash(self._keeper, log, f"{self._keeper.get_name()} ended")  # the node goes on, without this model
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await cancel_and_wait(self._keeper)
        finally:  # whoever ends this may be cancelled meanwhile: an engine is never left behind
            self._stop("the node is shutting down")
            await self._engine.aclose()

    @property
    def engine(self) -> Engine:
        """The engine loaded last."""
        return self._engine

    @property
    def workers(self) -> tuple[Worker, ...]:
        """As many as the engine loaded last has slots."""
        return tuple(self._named[: self._engine.loaded.slots])

    @property
    def waiting(self) -> int:
        """Requests that wait for workers."""
        return 0 if self._run is None else self._run.table.waiting

    def state(self) -> ModelState:
        model = self._engine.loaded
        return ModelState(
            model_id=self._engine.model_id,
            engine=self._engine.name,
            slots=model.slots,
            slots_free=0 if self._run is None else self._run.idle,
            context_tokens=model.context_tokens,
            capabilities=self._engine.capabilities,
            params=self._params,
            tokens_per_s=self._tokens_per_s,
            problem=self._problem,
            waiting=self.waiting,
            wait_s=self.expected_wait_s(),
            stalled=None if self._run is None else self._run.engine.stalled,
            computation=self._computation,
            tokens_now_per_s=self.generated.per_s(),
            nodes=self._computation.nodes,
        )

    def measured(self, tokens_per_s: float) -> None:
        """Take note of the speed of one finished answer (a moving average; new ones count a fifth)."""
        self._tokens_per_s = moving_mean(self._tokens_per_s, tokens_per_s)

    def expected_wait_s(self, count: int = 1) -> float | None:
        """How long a request for `count` workers that came now would wait; None while that is unknown."""
        if self._run is None:
            return None
        table = self._run.table
        slots = len(table.workers)
        wanted, held_s = min(count, slots), self._run.held_s(self._clock())
        return expected_wait_s(wanted, self._run.obtainable, table.queued, slots, self._service_s, held_s)

    @asynccontextmanager
    async def lease(self, count: int, deadline: float | None = None, gives_way: bool = False) -> AsyncGenerator[Lease]:
        """Hold `count` workers (at most all), waiting in order of arrival.

        Raises Unavailable while the engine is being reloaded, if it breaks while waiting, for a full queue, and where
        the wait is expected to last beyond `deadline`, an instant of the clock. While it is stalled nobody gets any.

        A lease that `gives_way` never waits: it has at most what is idle, and none raises GaveWay. Its workers are to
        be given back as soon as its `recall` says so, since somebody waits for them.
        """
        run = self._run
        if run is None:
            raise self._not_running()
        if gives_way and not run.idle:
            raise GaveWay
        ticket = self._ask(run, count, deadline, gives_way)
        recall = None
        if gives_way:
            recall = run.recalls[ticket] = Recall()
        granted = run.waiting[ticket] = asyncio.get_running_loop().create_future()
        asked, served = self._clock(), None
        try:
            run.serve()
            await granted
            served = run.served[ticket] = self._clock()
            for listener in self._listeners:
                listener.waited(served - asked)
            yield Lease(run.engine, ticket.granted, recall)
        finally:
            del run.waiting[ticket]
            run.recalls.pop(ticket, None)
            run.served.pop(ticket, None)
            run.table.give_back(ticket)
            if served is not None and not ticket.called_back:  # what was cut short says nothing of how long others take
                self._service_s = moving_mean(self._service_s, self._clock() - served)
            run.serve()

    def _ask(self, run: _Run, count: int, deadline: float | None, gives_way: bool) -> Ticket:
        """A place in the queue. Raises Unavailable, saying when to come back, where none is worth having."""
        wait_s = self.expected_wait_s(count)
        if wait_s is not None and deadline is not None and wait_s > max(left_s := deadline - self._clock(), 0):
            self._tell_refusal("deadline")
            raise Unavailable(
                f"the wait for {run.engine.model_id!r} is about {wait_s:.0f} s and the request's deadline is in "
                f"{left_s:.0f} s: try again later, or allow more time",
                retry_after_s=retry_after_s(wait_s),
            )
        ticket = run.table.ask(count, gives_way)
        if ticket is None:
            self._tell_refusal("queue_full")
            raise Unavailable(
                f"{run.table.waiting} requests are already waiting for {run.engine.model_id!r}: try again later",
                retry_after_s=retry_after_s(wait_s),
            )
        return ticket

    def _tell_refusal(self, why: Refusal) -> None:
        for listener in self._listeners:
            listener.refused(why)

    @property
    def running(self) -> Engine:
        """The engine, for what needs no worker. Raises Unavailable while it is being reloaded."""
        if self._run is None:
            raise self._not_running()
        return self._run.engine

    @property
    def refusal(self) -> Unavailable | None:
        """What to tell who asks for this model while it does not run; None while it does."""
        return None if self._run is not None else self._not_running()

    def _not_running(self) -> Unavailable:
        wait_s = None if self._next_start is None else self._next_start - self._clock()
        again = "it is being loaded again" if wait_s is None else f"it is loaded again in {max(wait_s, 0):.0f} s"
        suspect = ""
        if self._backoff.suspect and not self._waits_elsewhere:
            suspect = (
                f"; it broke {self._backoff.in_a_row} times in a row, so its file is suspect: see this node's log, and "
                "`swarm doctor`"
            )
        return Unavailable(
            f"model {self._engine.model_id!r} is not running: {self._problem}{suspect}; {again}",
            retry_after_s=RELOAD_RETRY_AFTER_S if wait_s is None else max(1, math.ceil(wait_s)),
        )

    async def _start(self) -> None:
        """Load the engine and offer its slots, which may be fewer or more than the last one's."""
        engine = await self._load()
        for slot in range(len(self._named), engine.loaded.slots):
            self._named.append(Worker(next(self._names), slot))
        self._engine, self._computation = engine, engine.computation
        self._run = _Run(engine, SlotTable(self.workers, self._queue))
        self._problem = None
        self._backoff.started(self._clock())

    def _stop(self, problem: str) -> None:
        self._problem = problem
        run, self._run = self._run, None
        if run is not None:
            run.end(self._not_running())

    async def _reload_when_broken(self) -> None:
        while True:
            problem = await self._broken()
            self._waits_elsewhere = isinstance(self._engine, OverLenders) and self._engine.lost is not None
            wait_s = self._until_its_turn()  # before anybody is told of the break: they are told this, too
            self._stop(problem)
            self._report(problem)
            await self._engine.aclose()
            while self._run is None:
                await self._wait_for_its_turn(wait_s)
                try:
                    await self._start()
                except (SwarmError, OSError) as error:
                    self._problem, self._waits_elsewhere = str(error), isinstance(error, LenderLost)
                    wait_s = self._until_its_turn()
            log.warning("engine %s: is loaded again", self._engine.model_id)
            self._report(None)

    def _report(self, problem: str | None) -> None:
        if self.on_change is not None:
            self.on_change(problem)

    async def _broken(self) -> str:
        """Why the engine broke, once it has; meanwhile a stall that is over lets those who wait have its slots."""
        failed = self._engine.failed
        while not failed.done():
            await asyncio.wait({failed}, timeout=self._look_s)
            if self._run is not None:
                self._run.serve()
        return failed.result()

    def _until_its_turn(self) -> float:
        """Note a break. An engine that breaks again and again is loaded ever more rarely, but it is."""
        now = self._clock()
        wait_s = self._backoff.broke(now)
        self._next_start = now + wait_s
        return wait_s

    async def _wait_for_its_turn(self, wait_s: float) -> None:
        log.log(
            logging.ERROR if self._backoff.suspect and not self._waits_elsewhere else logging.WARNING,
            "engine %s: %s: loading it again in %.0f s",
            self._engine.model_id,
            self._problem,
            wait_s,
        )
        await self._sleep(wait_s)
        self._next_start = None
