"""Models that lie on a disk, here or on peers, and where one of them is loaded for a request.

A node tells of all that it has: those that run, too, for their further names and sizes.

Every node chooses by the same figures, those that each node tells of itself, and none prefers itself: two nodes that
want one model at the same moment choose the same place, and that is one load.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from federation.advertisement import (
    MAX_ALSO,
    MAX_MODEL_ID_CHARS,
    MAX_WAIT_S,
    Capabilities,
    LoadableModel,
    ServedModel,
    list_body,
    parse_loadable,
)
from federation.peer import Peer, PeerState
from swarm.registry.known_sizes import checked_params
from swarm.routing.preference import EXPECTED_TOKENS, known_speed, speed_to_assume, waiting_s
from swarm.routing.replicas import Holder, KnownNames, Replica, owner_of
from swarm.workers.pool import WorkerPool

ASSUMED_BYTES_PER_S = 200e6  # of a load where no load was measured: a plain SSD, and what an engine does beside
LEAST_LOAD_S = 1.0  # an engine's start; differences below it decide nothing
BUCKETS_PER_OCTAVE = 2  # expected times within a factor of 1.4 are alike: figures are no better than that
SECOND_MARGIN = 1.5  # a queue must be expected to last so many times a load, before a second node loads its model
SECOND_LEAST_S = 5.0  # and so long: a short queue is gone before anything is loaded
LIST_AGE_S = 2.0  # of what a node tells that it could load; what memory is free is looked at no more often
SIGNIFICANT_DIGITS = 2  # of a told load time: a list that changes with each measurement is fetched again each time


_HINDERED: Final = {"available": 0, "loading": 0, "draining": 1, "unloading": 1}  # what fails, or is not known: last


class Storable(Protocol):
    """What this node knows of a model that it could load (`workers.loadable.Loadable`)."""

    @property
    def model_id(self) -> str: ...
    @property
    def params(self) -> int | None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def fingerprint(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def expected_load_s(self) -> float | None: ...
    @property
    def listed(self) -> bool: ...
    @property
    def also(self) -> tuple[str, ...]: ...


def told_of(model: Storable, state: str, fits: bool) -> LoadableModel:
    """What is told to peers of one model."""
    load_s = model.expected_load_s
    return LoadableModel(
        id=model.model_id,
        context_tokens=model.context_tokens,
        params=model.params,
        capabilities=model.capabilities,
        fingerprint=model.fingerprint,
        sha256=model.sha256,
        size_bytes=model.size_bytes,
        slots=model.slots,
        load_s=None if load_s is None else min(rounded(load_s), MAX_WAIT_S),
        state=state,
        fits=fits,
        also=tuple(name for name in model.also if 0 < len(name) <= MAX_MODEL_ID_CHARS)[:MAX_ALSO],
    )


def rounded(seconds: float) -> float:
    """To SIGNIFICANT_DIGITS, so that small differences change nothing."""
    return float(f"{seconds:.{SIGNIFICANT_DIGITS}g}")


def _facts_of(model: Storable, state: str, fits: bool) -> tuple[object, ...]:
    """Whatever `told_of` tells."""
    load_s = None if model.expected_load_s is None else rounded(model.expected_load_s)
    return (
        model.model_id, model.fingerprint, model.sha256, model.size_bytes, model.params, model.context_tokens,
        model.slots, model.capabilities, model.listed, model.also, load_s, state, fits,
    )  # fmt: skip


def look_at(pool: WorkerPool) -> Callable[[], Iterable[tuple[Storable, str, bool]]]:
    """What `OwnLoadables` looks at: the models of `pool`, each as far as it is in its life."""

    def look() -> Iterable[tuple[Storable, str, bool]]:
        phases = {state.model_id: state.phase for state in pool.states()}
        return [(model, phases.get(model.model_id, "available"), pool.fits(model)) for model in pool.stored()]

    return look


class OwnLoadables:
    """What this node could load, as its peers are told and as it plans with itself: the same figures.

    `look` gives the models, each with its state and whether it fits; it is called each LIST_AGE_S at most, on the event
    loop's thread, and must not touch a disk. `clock` is monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], Iterable[tuple[Storable, str, bool]]] = lambda: (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._clock = clock
        self._looked_at = -math.inf
        self._facts: list[tuple[object, ...]] = []
        self._models: tuple[LoadableModel, ...] = ()
        self._unlisted: frozenset[str] = frozenset()
        self._body = list_body(())
        self._digest: str | None = None

    def changed(self) -> None:
        """Something began or ended: look again when next asked."""
        self._looked_at = -math.inf

    def models(self) -> tuple[LoadableModel, ...]:
        """All of them, those that are not listed too. The same object while nothing has changed."""
        now = self._clock()
        if now - self._looked_at >= LIST_AGE_S:
            self._looked_at = now
            found = list(self._look())
            facts = [_facts_of(*one) for one in found]
            if facts != self._facts:
                self._facts = facts
                self._models = tuple(told_of(*one) for one in found)
                self._unlisted = frozenset(model.model_id for model, *_ in found if not model.listed)
                self._body = list_body([model for model in self._models if model.id not in self._unlisted])
                told = parse_loadable(self._body)  # as peers will
                self._digest = told.digest if told.models else None
        return self._models

    @property
    def unlisted(self) -> frozenset[str]:
        """The ids of those that are loaded when asked for by name, and told to nobody before."""
        self.models()
        return self._unlisted

    def body(self) -> bytes:
        """The answer of GET loadable."""
        self.models()
        return self._body

    @property
    def digest(self) -> str | None:
        """That of `body`, for the node's description; None where there is nothing to load."""
        self.models()
        return self._digest


@dataclass(frozen=True, slots=True)
class Stock:
    """What one node could load, and how it does; fields as in `Replica`. `at_work` are the requests that it has.

    Models in `unlisted` are loaded when asked for by name, and shown to nobody.
    """

    node_id: str
    node: str
    models: tuple[LoadableModel, ...]
    at_work: int = 0
    url: str | None = None
    name: str = ""
    owner: str = ""
    member: bool = False
    suspect: bool = False
    reported_at: float = 0.0
    rtt_s: float = 0.0
    unlisted: frozenset[str] = frozenset()

    @property
    def holder(self) -> Holder:
        return Holder(self.node_id, self.owner or self.node_id, self.url is None, self.models)


def requests_at_work(served: Iterable[ServedModel]) -> int:
    """How many requests a node has, by what it tells of the models that it serves."""
    return sum(model.slots - model.slots_free + model.waiting for model in served)


def peer_stocks(peers: Iterable[Peer], members: bool = False) -> tuple[Stock, ...]:
    """What peers could load; `members` as in `peer_replicas`. Nothing of one that leaves."""
    return tuple(
        Stock(
            peer.id,
            peer.label,
            peer.loadable,
            at_work=requests_at_work(peer.description.models),
            url=peer.url,
            name=peer.name,
            owner=owner_of(peer, members),
            member=members,
            suspect=peer.state is not PeerState.ALIVE,
            reported_at=peer.described_at,
            rtt_s=(peer.rtt_ms or 0.0) / 1000,
        )
        for peer in peers
        if peer.loadable and not peer.description.draining
    )


class StockIndex:
    """The models that nodes could load, by the names that these have here.

    A node's list is gone through again only where it, or a name, has changed: ten nodes may have thousands of models,
    and one of them is looked for with each request.
    """

    def __init__(self) -> None:
        self._names = KnownNames()
        self._found: dict[str, tuple[tuple[LoadableModel, ...], dict[str, list[LoadableModel]]]] = {}  # by node

    def by_name(
        self, stocks: Sequence[Stock], names: KnownNames
    ) -> Iterable[tuple[Stock, dict[str, list[LoadableModel]]]]:
        """Each of `stocks` with its models whose names are known."""
        before = self._found if names is self._names else {}
        self._names, self._found = names, {}
        for stock in stocks:
            known = before.get(stock.node_id)
            if known is None or known[0] is not stock.models:
                known = stock.models, _by_name(stock, names)
            self._found[stock.node_id] = known
        return [(stock, self._found[stock.node_id][1]) for stock in stocks]


def _by_name(stock: Stock, names: KnownNames) -> dict[str, list[LoadableModel]]:
    found: dict[str, list[LoadableModel]] = {}
    for model in stock.models:
        if names.has(stock.node_id, model):
            found.setdefault(names.of(stock.node_id, model.id), []).append(model)
    return found


def loadable_replicas(
    stocks: Sequence[Stock],
    names: KnownNames,
    own: Mapping[str, int] = MappingProxyType({}),
    model: str | None = None,
    index: StockIndex | None = None,
) -> tuple[Replica, ...]:
    """Where a model could be loaded, as replicas without a free slot; only `model`, where it is given.

    Those that run are among them, by their nodes' lists: as loading, for who has not heard yet what such a node serves.
    `own` are the sizes of this node's own models, as in `called_by`.
    """
    return tuple(
        _replica(stock, loadable, name, own)
        for stock, found in (index or StockIndex()).by_name(stocks, names)
        for name, models in (found.items() if model is None else [(model, found.get(model, ()))])
        for loadable in models
    )


def _replica(stock: Stock, model: LoadableModel, name: str, own: Mapping[str, int]) -> Replica:
    local = stock.url is None
    is_other = name != model.id and model.id in own  # another content than this node's model of that name
    checked = own.get(name) or checked_params(model.id, {} if is_other else own)
    return Replica(
        node_id=stock.node_id,
        node=stock.node,
        model=name,
        slots=model.slots,
        slots_free=0,
        url=stock.url,
        params=model.params if local else checked,
        reported_params=None if local else model.params,
        context_tokens=model.context_tokens,
        capabilities=model.capabilities,
        name=stock.name,
        reported_at=stock.reported_at,
        rtt_s=stock.rtt_s,
        suspect=stock.suspect,
        owner=stock.owner,
        member=stock.member,
        fingerprint=model.fingerprint,
        sha256=model.sha256,
        served_as="" if name == model.id else model.id,
        state="loading" if model.state == "ready" else model.state,
        load_s=model.load_s,
        fits=model.fits,
        size_bytes=model.size_bytes,
        also=model.also,
        listed=model.id not in stock.unlisted,
        at_work=stock.at_work,
    )


def ready_in_s(replica: Replica) -> float:
    """Seconds until a model that is not loaded would be ready there, were it loaded now; guessed by its size."""
    if replica.load_s is not None:
        return max(replica.load_s, LEAST_LOAD_S)
    return LEAST_LOAD_S + (replica.size_bytes or 0) / ASSUMED_BYTES_PER_S


def soonest_ready(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """Where to load a model that nobody runs: best first, the rest is the order of failover.

    The first difference decides: no trouble; pins, and a weight of 0 goes last; where it is just leaving, and at last
    where it failed; there is room for it; it is being loaded there already; it is ready soonest, within a factor; the
    node does least, within a factor; and by lot, the same lot for every node that asks, but another for each model.
    There is no preference for this node: others, which see the same, would not share it.
    """
    everything = tuple(replicas)
    held = any(replica.pinned and not replica.troubled for replica in everything)

    def key(replica: Replica) -> tuple[bool, bool, bool, int, bool, bool, int, int, bytes, str]:
        octaves = math.log2(ready_in_s(replica))
        return (
            replica.troubled,
            held and replica.pinned is False,
            replica.weight <= 0,
            _HINDERED.get(replica.state, len(_HINDERED)),
            not replica.fits and replica.state != "loading",
            replica.state != "loading",
            math.floor(octaves * BUCKETS_PER_OCTAVE),
            max(replica.at_work, 0).bit_length(),
            _lot(replica),
            replica.node_id,
        )

    return tuple(sorted(everything, key=key))


def _lot(replica: Replica) -> bytes:
    """Rendezvous hashing: of nodes that are alike each gets its share of the models, and everybody agrees which."""
    what = replica.sha256 or replica.fingerprint or ""
    return hashlib.blake2b(f"{what}\n{replica.node_id}".encode(), digest_size=8).digest() if what else b""


def worth_a_second(
    ready: Sequence[Replica], loadable: Iterable[Replica], tokens: int = EXPECTED_TOKENS
) -> Replica | None:
    """Where to load a model once more, since the queue for it is longer than an idle node needs to load it.

    None while one of those that run it has a free slot, and while it is being loaded somewhere: each queue causes one
    load at a time, however many nodes wait.
    """
    running = [replica for replica in ready if not replica.upstream and not replica.troubled]
    others = soonest_ready(loadable)
    if not running or any(replica.slots_free for replica in running):
        return None
    if any(replica.state == "loading" for replica in others):
        return None
    busy = {replica.node_id for replica in running}
    able = [replica for replica in others if replica.state == "available" and replica.fits and replica.weight > 0]
    idle = [replica for replica in able if not replica.at_work and not replica.troubled and replica.node_id not in busy]
    if not idle or idle[0].pinned is False:
        return None
    assumed = speed_to_assume(running)
    wait_s = min(waiting_s(replica, tokens / (known_speed(replica) or assumed)) for replica in running)
    return idle[0] if wait_s > max(SECOND_MARGIN * ready_in_s(idle[0]), SECOND_LEAST_S) else None
