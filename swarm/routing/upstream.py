"""The upstreams of this node: servers of others that it may ask, and what part they have in a request.

`Upstream` is one of them: its list of models as last seen, and a bounded number of requests to it at once. `Upstreams`
are all, in the order in which they are asked. What they offer at a moment are plain facts (`UpstreamOffer`), from which
the functions below make replicas: pure rules over what nodes serve and what upstreams offer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from federation.tasks import cancel_and_wait
from swarm.engines.engine import Capabilities, Engine
from swarm.engines.upstream.address import DEFAULT_SLOTS, KEY_VARIABLE, UpstreamAddress, UpstreamMode
from swarm.engines.upstream.upstream_engine import UpstreamEngine
from swarm.engines.upstream.upstream_http import UpstreamHttp
from swarm.errors import BadRequest, SetupError, SwarmError, Unavailable, UnknownModel
from swarm.generation import GenerationRequest, RepairRule, has_images
from swarm.images import asks_about_images
from swarm.providers import Provider, listing_request
from swarm.routing.replicas import SWARM_ALIAS, Replica, able, for_tools
from swarm.routing.utilities import INFILL, SEE, UtilityCall, replicas_for, skilled
from swarm.workers.model_workers import DEFAULT_QUEUE, ModelWorkers
from swarm.workers.slots import worker_names

FIRST, LAST = -1, 1  # ranks among replicas: the only engine here, or asked only where nobody else can answer
MAX_LISTED = 10  # names in an error message; some servers have hundreds
RETRY_AFTER_S = 5  # told to clients in `Retry-After` while an upstream cannot be reached

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpstreamOffer:
    """An upstream at this moment. `default` answers for the alias; `problem` says why there is no list of models.

    `turn` counts the upstreams from 0 in the order in which they are asked.
    """

    mode: UpstreamMode
    host: str
    models: tuple[str, ...]
    default: str | None
    slots: int
    slots_free: int
    problem: str | None = None
    turn: int = 0

    def model_for(self, name: str) -> str | None:
        """What it calls the model that a client calls `name`: no other model ever stands in for a named one."""
        if name == SWARM_ALIAS:
            return self.default
        return name if name in self.models else None

    @property
    def node_id(self) -> str:
        return upstream_id(self.host)

    def replica(self, model: str) -> Replica:
        """The upstream with one of its models: it may be able to do everything, and says no on its own."""
        return Replica(
            node_id=self.node_id,
            node=self.host,
            model=model,
            slots=self.slots,
            slots_free=self.slots_free,
            capabilities=Capabilities(embeddings=True, infill=True, vision=True),
            rank=FIRST if self.mode == "only" else LAST + self.turn,
            engine="upstream",
            upstream=True,
        )

    def voter(self, model: str) -> Replica:
        """The upstream beside others: where it is not this node's engine it has one vote, however much room it has."""
        whole = self.replica(model)
        return whole if self.mode == "only" else replace(whole, slots=1, slots_free=min(whole.slots_free, 1))


def upstream_id(host: str) -> str:
    """The node id in the replicas of the upstream at `host` (with its port, where it is not the usual one)."""
    return f"upstream:{host}"


def who_can(
    request: GenerationRequest,
    replicas: Iterable[Replica],
    offers: Sequence[UpstreamOffer] = (),
    known: Callable[[], Iterable[Replica]] = tuple,
) -> tuple[Replica, ...]:
    """The replicas that may answer `request`, upstreams among them where their mode gives them a part.

    Where there are tools, models that know none count for less (`for_tools`). Where there is a `suffix`, only those
    that can fill in the middle. Where there are images, those that can see, if any; if none can, and it is asked
    about them, it is refused, naming those of all that are `known` which could. As the only engine an upstream
    takes part in everything it has a model for, as a voter in what is asked of the alias; else, and in every mode,
    it answers what nobody else serves. Raises UnknownModel and BadRequest, and Unavailable while an upstream cannot
    be reached that might serve it.
    """
    here, name = for_tools(replicas) if request.tools else tuple(replicas), request.model

    def choose() -> tuple[Replica, ...]:
        found = able(name, here)
        if has_images(request):
            seeing = tuple(replica for replica in found if replica.capabilities.vision)
            if seeing or not asks_about_images(request):
                return seeing or found
            return skilled(name, found, SEE, [*here, *known()])
        return found if request.suffix is None else skilled(name, found, INFILL, here)

    found = _or_upstream(name, choose, offers)
    if any(replica.upstream for replica in found):
        return found
    joining = (
        offer.voter(model)
        for offer in offers
        if (model := offer.model_for(name)) is not None
        and (offer.mode == "only" or (offer.mode == "voter" and name == SWARM_ALIAS))
    )
    return (*found, *joining)


def order_for(
    call: UtilityCall[Any], name: str, replicas: Sequence[Replica], offers: Sequence[UpstreamOffer] = ()
) -> tuple[Replica, ...]:
    """Who is asked for a call that generates nothing, in order.

    Upstreams that can be asked at all are alone as the only engine; else they come last, and beside others only for
    the very model that those have: vectors of two models must never be mixed. Raises as `who_can` does.
    """

    def choose() -> tuple[Replica, ...]:
        return replicas_for(name, replicas, call.skill)

    if call.upstream is None:
        try:
            return choose()
        except UnknownModel as error:
            having = [f"upstream {offer.host} has {model}" for offer in offers if (model := offer.model_for(name))]
            if not having:
                raise
            why = f"{' and '.join(having)}, and is not asked for {call.name}"
            raise UnknownModel(name, error.known, why) from error
    only = [offer for offer in offers if offer.mode == "only"]
    found = last_resorts(name, (), only)[:1]
    if found:
        return (*found, *last_resorts(found[0].model, found, only))
    found = _or_upstream(name, choose, offers)
    return (*found, *last_resorts(found[0].model, found, offers))


def _or_upstream(
    name: str, choose: Callable[[], tuple[Replica, ...]], offers: Sequence[UpstreamOffer]
) -> tuple[Replica, ...]:
    """Whom `choose` finds; where that is nobody, upstreams with that model, else an error that names what they have.

    Of those that are no engines of this node it is the first: nobody pays for two answers unasked.
    """
    try:
        return choose()
    except (UnknownModel, BadRequest) as error:
        engines = last_resorts(name, (), [offer for offer in offers if offer.mode == "only"])
        if found := engines or last_resorts(name, (), offers)[:1]:
            return found
        if isinstance(error, BadRequest) or not offers:
            raise
        if problems := [offer.problem for offer in offers if offer.problem is not None]:
            raise Unavailable(f"{error}; {'; '.join(problems)}", RETRY_AFTER_S) from error
        raise UnknownModel(name, error.known, "; ".join(map(what_it_has, offers))) from error


def what_it_has(offer: UpstreamOffer) -> str:
    """Some of its models, for an error message."""
    listed = ", ".join(offer.models[:MAX_LISTED]) or "no model"
    more = f" and {len(offer.models) - MAX_LISTED} more" if len(offer.models) > MAX_LISTED else ""
    return f"upstream {offer.host} has {listed}{more}"


def upstream_replicas(others: Iterable[Replica], offers: Sequence[UpstreamOffer]) -> tuple[Replica, ...]:
    """The upstreams' models that can be asked for by name: of an only engine all, else those that nobody serves."""
    served = {replica.model for replica in others}
    return tuple(
        offer.replica(model)
        for offer in offers
        for model in offer.models
        if model != SWARM_ALIAS and (offer.mode == "only" or model not in served)
    )


def last_resorts(name: str, asked: Iterable[Replica], offers: Sequence[UpstreamOffer]) -> tuple[Replica, ...]:
    """The upstreams that have the model called `name` and are not among those `asked`, in their order.

    For a request that everybody else has failed.
    """
    known = {replica.node_id for replica in asked}
    return tuple(
        offer.replica(model)
        for offer in offers
        if offer.node_id not in known and (model := offer.model_for(name)) is not None
    )


@dataclass(frozen=True, slots=True)
class UpstreamPlan:
    """What the user decided. `model` answers for the alias, and is served even where the upstream lists nothing.

    `provider` is its row of the table of providers, None for a bare URL. `name` is what the user calls it, and
    `key_variables` those of the environment that may hold its key. `headers` go along with every request.
    """

    address: UpstreamAddress
    mode: UpstreamMode = "fallback"
    model: str | None = None
    slots: int = DEFAULT_SLOTS
    queue: int = DEFAULT_QUEUE
    name: str = ""
    provider: Provider | None = None
    key_variables: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    repair: RepairRule = "safe"


@dataclass(frozen=True, slots=True)
class LookingPace:
    """Seconds between looks at the list of models: after a failure (doubling up to a bound), and while all is well."""

    first_retry_s: float = 1.0
    most_retry_s: float = 60.0
    relist_s: float = 300.0  # Ollama users pull models; clouds retire them


class Upstream:
    """One upstream, with its own key and workers. Use as `async with`.

    `on_news` is called with a line of text whenever it is found, lost, or found to serve something else.
    """

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
        self._reported: str | None = None
        self._looked = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Upstream:
        plan = self.plan
        listing = None
        if plan.provider is not None and plan.provider.model_list != "openai":
            listing = listing_request(plan.provider, self._key, plan.address.bases[0])
        variable = plan.key_variables[0] if plan.key_variables else KEY_VARIABLE
        self.http = UpstreamHttp(plan.address, self._key, plan.headers, listing, variable)

        async def load() -> Engine:
            return UpstreamEngine(self.http, self.plan.slots)

        host = self.plan.address.host
        workers = ModelWorkers(load, worker_names(host), None, queue=self.plan.queue)
        self.workers = await self._stack.enter_async_context(workers)
        self._looking = asyncio.create_task(self._look(), name=f"models of upstream {host}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_wait(self._looking)
        await self._stack.aclose()

    def offer(self, turn: int = 0) -> UpstreamOffer:
        """What it offers at this moment; `turn` is its place among the upstreams."""
        state = self.workers.state()
        return UpstreamOffer(
            mode=self.plan.mode,
            host=self.plan.address.host,
            models=self._models,
            default=self._models[0] if self._models else None,
            slots=state.slots,
            slots_free=state.slots_free,
            problem=self._problem,
            turn=turn,
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
        self._report(f"upstream {host}: {first}{more}")

    def _lost(self, problem: str) -> None:
        self._problem = problem
        self._report(f"{problem}: trying again")

    def _report(self, line: str) -> None:
        if line != self._reported:
            self._reported = line
            self._on_news(line)


class Upstreams:
    """All upstreams of this node, in the order in which they are asked. Raises SetupError for two at one address."""

    def __init__(self, upstreams: Iterable[Upstream] = ()) -> None:
        self._by_id: dict[str, Upstream] = {}
        for upstream in upstreams:
            host = upstream.plan.address.host
            if upstream_id(host) in self._by_id:
                raise SetupError(f"two upstreams are at {host}: name each address once")
            self._by_id[upstream_id(host)] = upstream

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def offers(self) -> tuple[UpstreamOffer, ...]:
        """What each offers at this moment, in their order."""
        return tuple(upstream.offer(turn) for turn, upstream in enumerate(self))

    def of(self, replica: Replica) -> Upstream:
        """The one that `replica`, which is an upstream's, was made of."""
        return self._by_id[replica.node_id]
