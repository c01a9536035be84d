"""The node's view of itself and its swarm: one typed object, from which everything that reports on the node is made.

`ViewSources.look` makes it. `/v1/federation/health` is its part `federation` as JSON; `swarm status` reads that JSON
back into the same types (`parse_view`); `/openapi.json` describes these types; the gauges of `/metrics` are numbers
from it; and `changes.py` tells subscribers when it changes. So a field is added here, and nowhere else.

The types are plain dataclasses: they are checked when JSON is parsed, and cost nothing when the node makes them of its
own values. Commands import this module, so nothing that is slow to import may be imported here at run time.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import Field, TypeAdapter, ValidationError

from swarm.errors import SwarmError
from swarm.gateway.http.access import PeersAccess

if TYPE_CHECKING:
    from federation.advertisement import LendOffer, NodeDescription
    from federation.dns_source import ResolvedName
    from federation.membership import Membership, RecentChange
    from federation.peer import AddressRejected, Peer
    from federation.trust import Trust
    from swarm.engines.engine import Computation
    from swarm.gateway.http.access import AccessRules
    from swarm.gateway.http.in_progress import Condition, Work
    from swarm.routing.dispatcher import Dispatcher
    from swarm.routing.observations import ConductCounts
    from swarm.routing.upstream import Upstream
    from swarm.workers.model_workers import LoadProgress, ModelState
from swarm.workers.pool import WorkerPool

# What the node reports over HTTP. Docstrings and field names appear in /openapi.json.


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """This node: `mode` is open or paired."""

    id: str
    name: str
    version: str
    url: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEntry:
    """A member of this paired swarm."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustEntry:
    """Who may be a peer: `mode` is open or paired. `problem`: this node was put out of its swarm.

    `absent` are members not seen since this node started, or lost and forgotten since.
    """

    mode: str
    problem: str | None
    absent: tuple[MemberEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """Who may do what here; `docs/trust.md` has the table.

    `peers`: who may ask as a node. nobody: this node has a key, and no members; none: it is in no federation.
    """

    api: Literal["anyone", "key"]
    peers: PeersAccess
    management: Literal["this machine", "this machine or admin key"]


# Has the fields of routing's `ConductCounts`, which takes long to import.
@dataclass(frozen=True, slots=True, kw_only=True)
class ConductEntry:
    """How a peer has behaved towards this node, in counts of answers.

    `malformed` were none, `overstated` named impossible token counts. Of `votes` that others settled it was against
    `dissent`. Of `paced` answers the speed was measured; `refuted` were far slower than the peer claims to be. Of
    `replays`, answers that others had begun, `differing` came out otherwise.
    """

    answers: int = 0
    malformed: int = 0
    overstated: int = 0
    votes: int = 0
    dissent: int = 0
    paced: int = 0
    refuted: int = 0
    replays: int = 0
    differing: int = 0


HeldBytes = Annotated[int, Field(ge=0)]
STEADY_LENT_BYTES: Final = 64 * 2**20  # of what is free to be lent, by so much other programs make it waver: no news


@dataclass(frozen=True, slots=True, kw_only=True)
class LentEntry:
    """Memory that holds a part of `model` for another member, whose name is `node`: so many `bytes` of one `pool`."""

    node: str
    model: str
    bytes: HeldBytes
    pool: str = "ram"


@dataclass(frozen=True, slots=True, kw_only=True)
class LendingEntry:
    """Memory that a node lends for parts of other members' models: `free_bytes` of `total_bytes` are to be had.

    `build` is that of its llama.cpp: only hosts with the same one use it. While it is `draining` it lends nothing new
    and wants back what it has lent. `lent` says to whom, of this node alone; `problem`, of a peer, why this node uses
    nothing of it although it would pool. `bytes_per_s` of weights are read there, as it says itself.
    """

    total_bytes: HeldBytes
    free_bytes: HeldBytes
    build: str
    bytes_per_s: Annotated[float, Field(ge=0)] | None = None
    draining: bool = False
    lent: tuple[LentEntry, ...] = ()
    problem: str | None = None

    def steadied(self, before: LendingEntry | None) -> LendingEntry:
        """With what was free `before` where that has only wavered since."""
        if before is None or abs(self.free_bytes - before.free_bytes) > STEADY_LENT_BYTES:
            return self
        return replace(self, free_bytes=before.free_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEntry:
    """A peer as this node sees it: `state` is alive, suspect or dead, `source` how its address became known.

    `engines` says in words with what it computes those of its models of which it tells that, `pooled` which machines
    those lie on that lie on several. `circuit` is open while requests to it fail and it is left alone. `problems` are
    facts about its conduct with their numbers, for a person to judge: nothing is done about them. `lending` is memory
    that it offers. `rtt_ms` is what a probe takes on average, `least_rtt_ms` the least of the last ones.
    """

    id: str
    name: str
    url: str
    state: str
    models: tuple[str, ...]
    rtt_ms: float | None
    last_seen_s: float
    slots_free: int
    source: str
    circuit: str
    conduct: ConductEntry
    problems: tuple[str, ...]
    engines: dict[str, str] = field(default_factory=dict[str, str])
    pooled: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    lending: LendingEntry | None = None
    least_rtt_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEntry:
    """A change of one peer, `state` the new one; `times` counts the same one within a minute, `at` the last."""

    at: str
    peer: str
    id: str
    state: str
    reason: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedEntry:
    """An address that was proposed and leads to no peer.

    `why` is one of: down, no node, other version, itself, copied identity, leaving, full, untrusted.
    """

    address: str
    source: str
    why: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NameEntry:
    """A host name given with `--peer`, and the addresses it stood for when last looked up."""

    name: str
    addresses: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEntry:
    """A source of peers beside `--peer`, and why it does not work now."""

    source: str
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamEntry:
    """The server that this node may ask beside nodes: `reach` is machine, network or internet.

    Its address without a path, and never a key. `models` and `requests` are numbers of them.
    """

    host: str
    mode: str
    reach: str
    model: str | None
    models: int
    requests: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEntry:
    """How far the load of a model is: `share` from 0 to 1, `left_s` seconds; None where nothing is known."""

    share: float | None = None
    left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputationEntry:
    """With what a model is computed: an engine in its version, on these `devices` beside the processor.

    `gpu_layers` of its `layers` are on those; None where the engine does not tell. `words` say all of that.
    """

    name: str
    version: str
    devices: tuple[str, ...]
    gpu_layers: int | None
    layers: int | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """A model that this node runs, or that comes or goes; `problem` says why it does not run now, or is doubted to
    compute.

    `state` is loading, ready, draining, unloading or failed, `reason` why it failed. A `pinned` one is not unloaded to
    make room. `size_bytes` are on the disk, `taken_bytes` in memory, as measured. `waiting` requests have no slot yet.
    `computation` says more of the `engine`, while the model is loaded. `nodes` are the machines that it lies on, this
    one first; none where it lies on this one alone.
    """

    id: str
    engine: str
    slots: int
    slots_free: int
    waiting: int
    problem: str | None
    state: str = "ready"
    reason: str | None = None
    pinned: bool = False
    size_bytes: int | None = None
    taken_bytes: int | None = None
    loading: LoadEntry | None = None
    computation: ComputationEntry | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationView:
    """The swarm as this node sees it. `models` says which nodes serve each model; `own_models` has those of this node.

    `status` is ok, or why this node is not ready. `peers` has dead ones, too, until they are forgotten.

    `upstreams` are in the order in which they are asked, `upstream` the first, for readers of earlier versions.
    `records`: it keeps the prompts of its last votes, in memory (--record). `tools` are those that it executes for
    clients, by their names. `lending` is memory that it lends to other members (--lend), and to whom.
    """

    status: str
    node: NodeEntry
    trust: TrustEntry
    access: AccessEntry
    peers: tuple[PeerEntry, ...]
    changes: tuple[ChangeEntry, ...]
    rejected: tuple[RejectedEntry, ...]
    names: tuple[NameEntry, ...]
    sources: tuple[SourceEntry, ...]
    models: dict[str, list[str]]
    own_models: tuple[OwnModel, ...]
    upstream: UpstreamEntry | None
    upstreams: tuple[UpstreamEntry, ...]
    records: bool
    tools: tuple[str, ...]
    lending: LendingEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEntry:
    """A request in progress. `id` is its X-Request-Id; `from`: whether a client or another node asked.

    `key` is the name of its key, None where it has none; `model` what it asks for, None before its body is read.
    `waiting`: for a worker, or for its model; of votes that is not told. `tokens`: about how many
    of its answer have come; None before the first, where it is answered whole, and where another node asks.
    What it asks is nobody's business.
    """

    id: str
    path: str
    from_: Annotated[Literal["client", "node"], Field(alias="from")]
    key: str | None
    model: str | None
    state: Literal["waiting", "running"]
    tokens: int | None
    running_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestListing:
    """The requests in progress, the oldest first."""

    object: Literal["list"]
    data: tuple[RequestEntry, ...]


# What the node knows beside that, for its gauges and for those who watch it from inside.


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """This node at one moment.

    `loading`: its first model does not run yet; `draining`: it shuts down. `requests` are in progress, those that wait
    or were passed on included. `file_transfers` to peers are under way; None where it shares no files.
    `peers_by_state` counts peers known now, `changes_to_state` how often one went to each state since the start.
    """

    federation: FederationView
    loading: bool
    draining: bool
    requests: int
    file_transfers: int | None
    peers_by_state: Mapping[str, int]
    changes_to_state: Mapping[str, int]

    @property
    def models(self) -> tuple[OwnModel, ...]:
        """Those of this node."""
        return self.federation.own_models

    @property
    def peers_alive(self) -> int:
        """Peers that may be asked: those that are suspected, too."""
        return sum(peer.state != "dead" for peer in self.federation.peers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSources:
    """Where the view comes from: the parts of a running node. `file_transfers` None: it shares no files.

    A node that never `loads_models` is well without any. `tools` are the names of those that it executes. `lent` says
    who has memory of this node, and `unused_lenders` why it uses none of other members', by their names here.
    """

    describe: Callable[[], NodeDescription]
    dispatcher: Dispatcher
    pool: WorkerPool
    membership: Membership
    condition: Condition
    access: AccessRules
    trust: Trust | None
    file_transfers: Callable[[], int] | None
    records: bool = False
    loads_models: bool = True
    tools: Callable[[], tuple[str, ...]] = tuple[str, ...]
    lent: Callable[[], Sequence[LentEntry]] = tuple[LentEntry, ...]
    unused_lenders: Callable[[], Mapping[str, str]] = dict[str, str]

    def look(self) -> NodeView:
        """The view of this moment. Reads only what is in memory, in about 0.1 ms for each peer."""
        membership = self.membership
        peers, changes = membership.peers(), membership.change_counts()
        return NodeView(
            federation=self._federation(peers),
            loading=self.condition.loading,
            draining=self.condition.draining,
            requests=len(self.condition.in_progress),
            file_transfers=None if self.file_transfers is None else self.file_transfers(),
            peers_by_state=Counter(peer.state.value for peer in peers),
            changes_to_state={state.value: count for state, count in changes.items()},
        )

    def not_ready(self) -> str | None:
        """Why this node does not answer as it was started to, in one line; None while it does.

        Models that were loaded because somebody asked come, go and fail without that: only pinned ones count.
        """
        if self.condition.draining:
            return "draining"
        if self.condition.loading:  # it passes requests on already; who restarts nodes in turn must wait for its model
            return "loading the model"
        for state in self.pool.states():  # others may answer for it: a balancer asks them without this detour
            problem = state.problem or state.stalled or (state.reason if state.phase == "failed" else None)
            if problem is not None and state.pinned:
                return f"model {state.model_id!r}: {problem}"
        if self.dispatcher.knows_any():
            return None
        upstreams = self.dispatcher.upstreams
        if (problem := next((offer.problem for offer in upstreams.offers() if offer.problem), None)) is not None:
            return problem
        return "no model is running" if self.loads_models else None

    def requests(self) -> RequestListing:
        """The requests in progress."""
        now = time.monotonic()
        running = sorted(self.condition.in_progress.now(), key=lambda work: work.began)
        return RequestListing(object="list", data=tuple(request_entry(work, now) for work in running))

    def requests_by_key(self) -> dict[str, object]:
        """The requests in progress by their ids; of those that share one, the others are told apart by a number."""
        found: dict[str, object] = {}
        for entry in self.requests().data:
            key, number = entry.id, 2
            while key in found:
                key, number = f"{entry.id} ({number})", number + 1
            found[key] = json_object(entry)
        return found

    def _federation(self, peers: Sequence[Peer]) -> FederationView:
        node, membership, now = self.describe(), self.membership, time.monotonic()
        circuits, conduct = self.dispatcher.circuits(), self.dispatcher.conduct()
        upstreams = tuple(map(upstream_entry, self.dispatcher.upstreams))
        unused = self.unused_lenders()
        served: dict[str, list[str]] = {}
        for replica in self.dispatcher.replicas():
            served.setdefault(replica.model, []).append(replica.node)
        return FederationView(
            status=self.not_ready() or "ok",
            node=NodeEntry(id=node.id, name=node.name, version=node.version, url=node.url, mode=node.mode),
            trust=trust_entry(self.trust, peers),
            access=access_entry(self.access, self.trust),
            peers=tuple(
                peer_entry(
                    peer,
                    now,
                    circuits.get(peer.id, "closed"),
                    *conduct.get(peer.id, (None, ())),
                    unused.get(peer.label),
                )
                for peer in peers
            ),
            changes=tuple(map(change_entry, membership.changes())),
            rejected=tuple(map(rejected_entry, membership.rejected())),
            names=tuple(map(name_entry, membership.names())),
            sources=tuple(SourceEntry(source=name, problem=why) for name, why in membership.sources.items()),
            models=served,
            own_models=tuple(map(own_model, self.pool.states())),
            upstream=next(iter(upstreams), None),
            upstreams=upstreams,
            records=self.records,
            tools=self.tools(),
            lending=lending_entry(node.lends, lent=self.lent()),
        )


# One entry each


def own_model(state: ModelState) -> OwnModel:
    """One of this node's models; one that stalls has a problem, too."""
    return OwnModel(
        id=state.model_id,
        engine=state.engine,
        slots=state.slots,
        slots_free=state.slots_free,
        waiting=state.waiting,
        problem=state.problem or state.stalled,
        state=state.phase,
        reason=state.reason if state.phase == "failed" else None,
        pinned=state.pinned,
        size_bytes=state.size_bytes,
        taken_bytes=state.taken_bytes,
        loading=None if state.load is None else load_entry(state.load),
        computation=None if state.computation is None else computation_entry(state.computation),
        nodes=state.nodes,
    )


def computation_entry(computation: Computation) -> ComputationEntry:
    """With what a model is computed."""
    return ComputationEntry(
        name=computation.engine,
        version=computation.version,
        devices=computation.devices,
        gpu_layers=computation.gpu_layers,
        layers=computation.layers,
        words=str(computation),
    )


def load_entry(load: LoadProgress) -> LoadEntry:
    """How far a load is, in figures that people read."""
    share, left_s = load.share, load.left_s
    return LoadEntry(
        share=None if share is None else round(share, 2), left_s=None if left_s is None else round(left_s, 1)
    )


def lending_entry(
    offer: LendOffer | None, lent: Sequence[LentEntry] = (), problem: str | None = None
) -> LendingEntry | None:
    """Memory that a node lends, by its offer; None where it lends none. `lent` and `problem` as there."""
    if offer is None:
        return None
    return LendingEntry(
        total_bytes=offer.bytes_total, free_bytes=offer.bytes_free, build=offer.build, bytes_per_s=offer.bytes_per_s,
        draining=offer.draining, lent=tuple(lent), problem=problem,
    )  # fmt: skip


def peer_entry(
    peer: Peer,
    now: float,
    circuit: str = "closed",
    account: ConductCounts | None = None,
    problems: Sequence[str] = (),
    unused: str | None = None,
) -> PeerEntry:
    """`now` is monotonic seconds; `account` None: nothing was asked of it. `unused`: why its memory is not used."""
    return PeerEntry(
        id=peer.id,
        name=peer.label,
        url=peer.url,
        state=peer.state.value,
        models=tuple(model.id for model in peer.description.models),
        rtt_ms=None if peer.rtt_ms is None else round(peer.rtt_ms, 2),
        last_seen_s=round(peer.silent_s(now), 2),
        slots_free=peer.description.slots_free,
        source=peer.source.word,
        circuit=circuit,
        conduct=ConductEntry() if account is None else conduct_entry(account),
        problems=tuple(problems),
        engines={model.id: model.engine for model in peer.description.models if model.engine},
        pooled={model.id: model.nodes for model in peer.description.models if model.nodes},
        lending=lending_entry(peer.description.lends, problem=unused),
        least_rtt_ms=None if peer.least_rtt_ms is None else round(peer.least_rtt_ms, 2),
    )


def conduct_entry(account: ConductCounts) -> ConductEntry:
    """The counts of how a peer behaved."""
    return ConductEntry(**asdict(account))


def trust_entry(trust: Trust | None, peers: Sequence[Peer]) -> TrustEntry:
    """`peers` are those known: members not among them are absent."""
    if trust is None:
        return TrustEntry(mode="open", problem=None, absent=())
    seen = {peer.id for peer in peers}
    absent = () if trust.problem is not None else (entry for entry in trust.others if entry.id not in seen)
    return TrustEntry(
        mode=trust.mode,
        problem=trust.problem,
        absent=tuple(MemberEntry(id=entry.id, name=entry.name) for entry in absent),
    )


def access_entry(rules: AccessRules, trust: Trust | None) -> AccessEntry:
    """Who may do what under `rules`; without `trust` the node is open."""
    return AccessEntry(
        api="key" if rules.wants_key else "anyone",
        peers=rules.peers("open" if trust is None else trust.mode),
        management="this machine or admin key" if rules.admin_digests else "this machine",
    )


def upstream_entry(upstream: Upstream) -> UpstreamEntry:
    """An upstream at this moment."""
    offer = upstream.offer()
    return UpstreamEntry(
        host=offer.host,
        mode=offer.mode,
        reach=upstream.plan.address.reach,
        model=offer.default,
        models=len(offer.models),
        requests=upstream.http.requests,
        problem=offer.problem,
    )


def rejected_entry(rejected: AddressRejected) -> RejectedEntry:
    """One address that leads to no peer."""
    return RejectedEntry(
        address=str(rejected.address),
        source=rejected.source.word,
        why=rejected.why.value,
        reason=rejected.reason,
    )


def name_entry(resolved: ResolvedName) -> NameEntry:
    """One host name given with --peer."""
    return NameEntry(
        name=str(resolved.name),
        addresses=tuple(str(address) for address in resolved.addresses),
        problem=resolved.problem,
    )


def change_entry(change: RecentChange) -> ChangeEntry:
    """One change among the peers; `at` is UTC, as 2026-01-31T12:00:00Z."""
    return ChangeEntry(
        at=change.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        peer=change.peer,
        id=change.id,
        state=change.state.value,
        reason=change.reason,
        times=change.times,
    )


def request_entry(work: Work, now: float) -> RequestEntry:
    """One request in progress; `now` is monotonic seconds."""
    return RequestEntry(
        id=work.request_id,
        path=work.path,
        from_="node" if work.for_a_node else "client",
        key=work.key,
        model=work.model,
        state="waiting" if work.waits else "running",
        tokens=work.tokens,
        running_s=round(now - work.began, 2),
    )


# To JSON and back


@functools.cache
def _adapter(kind: type[object]) -> TypeAdapter[object]:
    return TypeAdapter(kind)


def json_object(entry: object) -> dict[str, object]:
    """An entry as the JSON object that goes over the wire; nothing is checked, the node made it itself."""
    return cast("dict[str, object]", _adapter(type(entry)).dump_python(entry, by_alias=True))


# What nodes of earlier versions leave out of their answer, and what is read instead: that there is nothing to report.
_LEFT_OUT: Mapping[str, object] = {
    "trust": {}, "access": {}, "changes": (), "rejected": (), "names": (), "sources": (), "own_models": (),
    "upstream": None, "records": False, "tools": (), "lending": None,
}  # fmt: skip
_LEFT_OUT_OF_TRUST: Mapping[str, object] = {"mode": "open", "problem": None, "absent": ()}
_LEFT_OUT_OF_ACCESS: Mapping[str, object] = {"api": "anyone", "peers": "anyone", "management": "this machine"}
_LEFT_OUT_OF_PEERS: Mapping[str, object] = {
    "circuit": "closed",
    "conduct": {},
    "problems": (),
    "engines": {},
    "pooled": {},
}


def parse_view(answer: Mapping[str, Any]) -> FederationView:
    """The answer of `/v1/federation/health`, of this node's version or an earlier one. Raises SwarmError for others."""
    whole: dict[str, Any] = {**_LEFT_OUT, **answer}
    if "upstreams" not in answer:  # they had one at most
        whole["upstreams"] = () if whole["upstream"] is None else (whole["upstream"],)
    try:
        whole["trust"] = {**_LEFT_OUT_OF_TRUST, **whole["trust"]}
        whole["access"] = {**_LEFT_OUT_OF_ACCESS, **whole["access"]}
        whole["peers"] = [{**_LEFT_OUT_OF_PEERS, **peer} for peer in whole["peers"]]
        return cast("FederationView", _adapter(FederationView).validate_python(whole))
    except (ValidationError, KeyError, TypeError) as error:
        raise SwarmError(
            "the node describes its swarm in a form that this version does not read: "
            "update the older of the two, or ask with --json"
        ) from error
