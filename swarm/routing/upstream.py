"""The configured upstream of this node: what it serves as last seen, and a bounded number of requests to it at once.

What part the upstream has in a request: pure choices over replicas and what the upstream offers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from swarm.engines.engine import Capabilities, Engine
from swarm.engines.upstream.address import DEFAULT_SLOTS, UpstreamAddress, UpstreamMode
from swarm.engines.upstream.client import UpstreamHttp
from swarm.engines.upstream.engine import UpstreamEngine
from swarm.errors import BadRequest, SwarmError, Unavailable, UnknownModel
from swarm.generation import GenerationRequest
from swarm.routing.replicas import SWARM_ALIAS, Replica, able
from swarm.routing.utilities import INFILL, UtilityCall, replicas_for, skilled
from swarm.workers.pool import DEFAULT_QUEUE, ModelWorkers
from swarm.workers.slots import worker_names

FIRST, LAST = -1, 1  # its rank among replicas: the only engine here, or asked only where nobody else can answer
MAX_TOLD = 10  # names in an error message; some servers have hundreds
RETRY_AFTER_S = 5  # told to clients while it cannot be reached


@dataclass(frozen=True, slots=True)
class UpstreamOffer:
    """The upstream at this moment. `default` answers for the alias; `problem` says why there is no list of models."""

    mode: UpstreamMode
    host: str
    models: tuple[str, ...]
    default: str | None
    slots: int
    slots_free: int
    problem: str | None = None

    def model_for(self, name: str) -> str | None:
        """What it calls the model that a client calls `name`: no other model ever stands in for a named one."""
        if name == SWARM_ALIAS:
            return self.default
        return name if name in self.models else None

    def replica(self, model: str) -> Replica:
        """The upstream with one of its models: it may be able to do everything, and says no on its own."""
        return Replica(
            node_id=f"upstream:{self.host}",
            node=self.host,
            model=model,
            slots=self.slots,
            slots_free=self.slots_free,
            capabilities=Capabilities(embeddings=True, infill=True),
            rank=FIRST if self.mode == "only" else LAST,
            upstream=True,
        )

    def voter(self, model: str) -> Replica:
        """The upstream beside others: where it is not this node's engine it has one vote, however much room it has."""
        whole = self.replica(model)
        return whole if self.mode == "only" else replace(whole, slots=1, slots_free=min(whole.slots_free, 1))


def who_can(
    request: GenerationRequest, replicas: Iterable[Replica], offer: UpstreamOffer | None
) -> tuple[Replica, ...]:
    """The replicas that may answer `request`, the upstream among them where its mode gives it a part.

    Where there is a `suffix`, only those that can fill in the middle. As the only engine the upstream takes part in
    everything it has a model for, as a voter in what is asked of the alias; else, and in every mode, it answers what
    nobody else serves. Raises UnknownModel and BadRequest, and Unavailable while the upstream cannot be reached and
    might serve it.
    """
    here, name = tuple(replicas), request.model

    def choose() -> tuple[Replica, ...]:
        found = able(name, here)
        return found if request.suffix is None else skilled(name, found, INFILL, here)

    if offer is None:
        return choose()
    found, model = _or_upstream(name, choose, offer), offer.model_for(name)
    joins = offer.mode == "only" or (offer.mode == "voter" and name == SWARM_ALIAS)
    if model is None or not joins or any(replica.upstream for replica in found):
        return found
    return (*found, offer.voter(model))


def order_for(
    call: UtilityCall[Any], name: str, replicas: Sequence[Replica], offer: UpstreamOffer | None
) -> tuple[Replica, ...]:
    """Who is asked for a call that generates nothing, in order.

    The upstream, where it can be asked at all, is alone as the only engine; else it comes last, and beside others only
    for the very model that they have: vectors of two models must never be mixed.
    """
    if offer is None:
        return replicas_for(name, replicas, call.skill)
    model = offer.model_for(name)
    if call.upstream is None:
        try:
            return replicas_for(name, replicas, call.skill)
        except UnknownModel as error:
            if model is None:
                raise
            why = f"upstream {offer.host} has {model}, and is not asked for {call.name}"
            raise UnknownModel(name, error.known, why) from error
    if model is not None and offer.mode == "only":
        return (offer.replica(model),)
    found = _or_upstream(name, lambda: replicas_for(name, replicas, call.skill), offer)
    last = last_resort(found[0].model, found, offer)
    return found if last is None else (*found, last)


def _or_upstream(name: str, choose: Callable[[], tuple[Replica, ...]], offer: UpstreamOffer) -> tuple[Replica, ...]:
    """Whom `choose` finds; where that is nobody, the upstream if it has the model, else an error that tells of it."""
    try:
        return choose()
    except (UnknownModel, BadRequest) as error:
        model = offer.model_for(name)
        if model is not None:
            return (offer.replica(model),)
        if isinstance(error, BadRequest):
            raise
        if offer.problem is not None:
            raise Unavailable(f"{error}; {offer.problem}", RETRY_AFTER_S) from error
        raise UnknownModel(name, error.known, what_it_has(offer)) from error


def what_it_has(offer: UpstreamOffer) -> str:
    """Some of its models, for an error message."""
    told = ", ".join(offer.models[:MAX_TOLD]) or "no model"
    more = f" and {len(offer.models) - MAX_TOLD} more" if len(offer.models) > MAX_TOLD else ""
    return f"upstream {offer.host} has {told}{more}"


def upstream_replicas(others: Iterable[Replica], offer: UpstreamOffer) -> tuple[Replica, ...]:
    """The upstream's models that it can be asked for by name: as the only engine all, else those that nobody serves."""
    served = {SWARM_ALIAS} if offer.mode == "only" else {SWARM_ALIAS, *(replica.model for replica in others)}
    return tuple(offer.replica(model) for model in offer.models if model not in served)


def last_resort(name: str, tried: Iterable[Replica], offer: UpstreamOffer | None) -> Replica | None:
    """The upstream, for a request that everybody asked so far has failed; None where it was asked, or has no model."""
    model = None if offer is None else offer.model_for(name)
    if offer is None or model is None or any(replica.upstream for replica in tried):
        return None
    return offer.replica(model)


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
