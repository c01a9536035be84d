"""The node's engines and their workers: leases, and reloading an engine that broke."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from swarm.engines.engine import Engine
from swarm.errors import SwarmError, Unavailable
from swarm.workers.names import worker_names
from swarm.workers.slots import SlotTable, Ticket, Worker

log = logging.getLogger(__name__)

MAX_WAITING = 64  # requests queued for one model's slots; more than a minute of work on a small machine
MAX_RESTARTS, RESTART_WINDOW_S = 3, 60.0  # an engine that breaks this often will break again: stop and say so
RESTART_PAUSE_S = 0.5

Loader = Callable[[], Awaitable[Engine]]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the node can say of one model it serves. `problem` is None while it works."""

    model_id: str
    engine: str
    slots: int
    slots_free: int
    context_tokens: int
    embeddings: bool
    params: int | None
    tokens_per_s: float | None
    problem: str | None


class Lease:
    """Workers held for one request, and the engine they belong to."""

    def __init__(self, engine: Engine, workers: tuple[Worker, ...]) -> None:
        self.engine = engine
        self.workers = workers


class ModelWorkers:
    """One engine, its named workers, and the task that reloads it. Use as `async with`."""

    def __init__(self, load: Loader, node_id: str, params: int | None) -> None:
        self._load = load
        self._node_id = node_id
        self._params = params
        self._waiters: dict[Ticket, asyncio.Event] = {}
        self._problem: str | None = None
        self._tokens_per_s: float | None = None

    async def __aenter__(self) -> ModelWorkers:
        self._engine = await self._load()
        names = worker_names(self._engine.capabilities.slots, self._node_id)
        self._table = SlotTable(tuple(Worker(name, slot) for slot, name in enumerate(names)), MAX_WAITING)
        self._keeper = asyncio.create_task(self._reload_when_broken(), name=f"keeper of {self._engine.model_id}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        await self._engine.aclose()

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def workers(self) -> tuple[Worker, ...]:
        return self._table.workers

    def state(self) -> ModelState:
        capabilities = self._engine.capabilities
        return ModelState(
            model_id=self._engine.model_id,
            engine=self._engine.name,
            slots=capabilities.slots,
            slots_free=0 if self._problem else self._table.idle,
            context_tokens=capabilities.context_tokens,
            embeddings=capabilities.embeddings,
            params=self._params,
            tokens_per_s=self._tokens_per_s,
            problem=self._problem,
        )

    def measured(self, tokens_per_s: float) -> None:
        """Take note of the speed of one finished answer (a moving average; new ones count a fifth)."""
        before = self._tokens_per_s
        self._tokens_per_s = tokens_per_s if before is None else 0.8 * before + 0.2 * tokens_per_s

    @asynccontextmanager
    async def lease(self, count: int) -> AsyncGenerator[Lease]:
        """Hold `count` workers (at most all), waiting in order of arrival. A full queue raises Unavailable."""
        if self._problem:
            raise Unavailable(f"model {self._engine.model_id!r} is not running: {self._problem}", retry_after_s=5)
        ticket = self._table.ask(count)
        if ticket is None:
            raise Unavailable(
                f"{self._table.waiting} requests are already waiting for {self._engine.model_id!r}: try again later",
                retry_after_s=2,
            )
        granted = self._waiters[ticket] = asyncio.Event()
        try:
            self._serve()
            await granted.wait()
            yield Lease(self._engine, ticket.granted)
        finally:
            del self._waiters[ticket]
            self._table.give_back(ticket)
            self._serve()

    def _serve(self) -> None:
        for ticket in self._table.grants():
            self._waiters[ticket].set()

    async def _reload_when_broken(self) -> None:
        restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        while True:
            reason = await asyncio.shield(self._engine.failed)
            now = time.monotonic()
            if len(restarts) == MAX_RESTARTS and now - restarts[0] < RESTART_WINDOW_S:
                self._problem = f"{reason}; it broke {MAX_RESTARTS + 1} times within {RESTART_WINDOW_S:.0f} s"
                log.error("engine %s: %s: not restarted again", self._engine.model_id, self._problem)
                return
            restarts.append(now)
            self._problem = reason
            log.warning("engine %s: %s: loading it again", self._engine.model_id, reason)
            await self._engine.aclose()
            await self._load_again()

    async def _load_again(self) -> None:
        while True:
            try:
                self._engine = await self._load()
            except SwarmError as error:
                self._problem = str(error)
                log.warning("engine %s: %s", self._engine.model_id, error)
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                self._problem = None
                return


class WorkerPool:
    """Every model this node serves itself. Use as `async with`; models are loaded by `serve`."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._models: dict[str, ModelWorkers] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> WorkerPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._models.clear()
        await self._stack.aclose()

    async def serve(self, load: Loader, params: int | None = None) -> ModelWorkers:
        """Load one more model and offer it. `params` is its parameter count, where known."""
        workers = await self._stack.enter_async_context(ModelWorkers(load, self._node_id, params))
        self._models[workers.engine.model_id] = workers
        return workers

    def get(self, model_id: str) -> ModelWorkers | None:
        return self._models.get(model_id)

    def states(self) -> tuple[ModelState, ...]:
        return tuple(workers.state() for workers in self._models.values())
