"""The configured upstream of this node: what it serves as last seen, and a bounded number of requests to it at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from swarm.engines.engine import Engine
from swarm.engines.upstream.address import DEFAULT_SLOTS, UpstreamAddress, UpstreamMode
from swarm.engines.upstream.client import UpstreamHttp
from swarm.engines.upstream.engine import UpstreamEngine
from swarm.errors import SwarmError
from swarm.routing.replicas import SWARM_ALIAS
from swarm.routing.upstream_offer import UpstreamOffer
from swarm.workers.names import worker_names
from swarm.workers.pool import DEFAULT_QUEUE, ModelWorkers

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """What the user decided. `model` answers for the alias, and is served even where the upstream lists nothing."""

    address: UpstreamAddress
    mode: UpstreamMode = "fallback"
    model: str | None = None
    slots: int = DEFAULT_SLOTS
    queue: int = DEFAULT_QUEUE


@dataclass(frozen=True, slots=True)
class LookingPace:
    """Seconds between looks at the list of models: after a failure (doubling up to a bound), and while all is well."""

    first_retry_s: float = 1.0
    most_retry_s: float = 60.0
    relist_s: float = 300.0  # Ollama users pull models; clouds retire them


class Upstream:
    """Use as `async with`. `on_news` hears a line whenever it is found, lost, or found to serve something else."""

    def __init__(
        self,
        plan: UpstreamPlan,
        key: str | None,
        on_news: Callable[[str], None] = log.info,
        pace: LookingPace | None = None,
    ) -> None:
        self.plan = plan
        self._key = key
        self._on_news = on_news
        self._pace = pace or LookingPace()
        self._models: tuple[str, ...] = () if plan.model is None else (plan.model,)
        self._problem: str | None = f"upstream {plan.address.host} has not been asked for its models yet"
        self._said: str | None = None
        self._looked = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Upstream:
        self.http = UpstreamHttp(self.plan.address, self._key)

        async def load() -> Engine:
            return UpstreamEngine(self.http, self.plan.slots)

        host = self.plan.address.host
        workers = ModelWorkers(load, worker_names(host), None, queue=self.plan.queue)
        self.workers = await self._stack.enter_async_context(workers)
        self._looking = asyncio.create_task(self._look(), name=f"models of upstream {host}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self._stack.aclose()

    def offer(self) -> UpstreamOffer:
        """What it offers at this moment."""
        state = self.workers.state()
        return UpstreamOffer(
            mode=self.plan.mode,
            host=self.plan.address.host,
            models=self._models,
            default=self._models[0] if self._models else None,
            slots=state.slots,
            slots_free=state.slots_free,
            problem=self._problem,
        )

    async def first_look(self) -> UpstreamOffer:
        """What it offers once it has been asked for its models, successfully or not."""
        await self._looked.wait()
        return self.offer()

    async def _look(self) -> None:
        pause_s = self._pace.first_retry_s
        while True:
            try:
                self._found(await self.http.models())
            except SwarmError as error:
                self._lost(str(error))
            self._looked.set()
            if self._problem is None:
                pause_s = self._pace.first_retry_s
                await asyncio.sleep(self._pace.relist_s)
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._pace.most_retry_s)

    def _found(self, listed: tuple[str, ...] | None) -> None:
        own, host = self.plan.model, self.plan.address.host
        # What the alias means comes first: the user's own choice, or the alias itself where the upstream is a swarm.
        preferred = [own] if own else [name for name in listed or () if name == SWARM_ALIAS]
        models: tuple[str, ...] = tuple(dict.fromkeys([*preferred, *(listed or ())]))
        if not models:
            self._lost(
                f"upstream {host} lists no models: is --upstream the API's base? Else name one: --upstream-model"
            )
            return
        self._models, self._problem = models, None
        first, *others = models
        more = f" and {len(others)} more model{'s' if len(others) > 1 else ''}" if others else ""
        self._tell(f"upstream {host}: {first}{more}")

    def _lost(self, problem: str) -> None:
        self._problem = problem
        self._tell(f"{problem}: trying again")

    def _tell(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._on_news(line)
