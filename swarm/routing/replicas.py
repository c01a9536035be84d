"""Where models can be run, here and on peers, as one list of plain facts; and what this node says that it serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from federation.advertisement import MAX_WAIT_S, Capabilities, ServedModel
from federation.hostport import neighbourhood
from federation.peer import Peer, PeerState
from swarm.errors import BadRequest, UnknownModel
from swarm.registry.known_sizes import checked_params
from swarm.workers.model_workers import ModelState

SWARM_ALIAS = "swarm"  # "whatever this swarm does best"
WEAK_SHARE = 0.25  # members under this share of the strongest model's parameters lower a vote (arXiv 2502.00674)

UNTOLD = Capabilities()  # of a model that says nothing of itself
ReplicaKey = tuple[str, str]  # of a replica: its node's id and its model
CircuitState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Replica:
    """One model on one node. `url` is None for this node itself.

    `params` is the model's size as this node knows it (its own file, the catalogue's figure for that name), None where
    it cannot; `reported_params` and `reported_tokens_per_s` are what a peer says, which decides nothing. `owner` is for
    whom it counts in a vote (see `party`), and a `member` is a peer that somebody invited.

    `engine` is the name of what runs it; None of a peer, which does not say.

    An `upstream` is asked by this node, and is none. Of two replicas the one with the lower `rank` is preferred.
    A peer's load figures (`slots_free`, `waiting`, `wait_s`) were true at the monotonic instant `reported_at`.

    `node` is the name that is shown; `name` the node's own, where two nodes share one.

    What this node adds: whether it doubts the peer (`suspect`) or its requests there fail (`circuit`), what the user
    decided (`weight`; `pinned`, False where the model is pinned to others, None where to nobody), whether it has
    `answered` lately, what was measured then (`first_s` to the first event where a slot was free, and
    `own_tokens_per_s` from then on, as if nobody else were answered there), and whether the conversation's last answer
    came from there (`warm`). And of a request for `swarm`, for which models are compared (`preference.assessed`): the
    log odds of a right answer that were `measured`, where all of them were, and whether it is too `weak` to be asked
    beside the strongest.
    """

    node_id: str
    node: str
    model: str
    slots: int
    slots_free: int
    url: str | None = None
    params: int | None = None
    reported_params: int | None = None
    reported_tokens_per_s: float | None = None
    context_tokens: int | None = None
    tokens_per_s: float | None = None
    capabilities: Capabilities = UNTOLD
    engine: str | None = None
    rank: int = 0
    upstream: bool = False
    name: str = ""
    waiting: int = 0
    wait_s: float | None = None
    reported_at: float = 0.0
    rtt_s: float = 0.0
    suspect: bool = False
    circuit: CircuitState = "closed"
    weight: float = 1.0
    pinned: bool | None = None
    first_s: float | None = None
    own_tokens_per_s: float | None = None
    warm: bool = False
    answered: bool = False
    owner: str = ""
    member: bool = False
    measured: float | None = None
    weak: bool = False
    state: str = "ready"

    @property
    def local(self) -> bool:
        return self.url is None

    @property
    def key(self) -> ReplicaKey:
        return self.node_id, self.model

    @property
    def party(self) -> str:
        """Whom its seats are counted for: its node, or in an open swarm the address that several peers share."""
        return self.owner or self.node_id

    @property
    def load(self) -> int:
        """Requests that run or wait there."""
        return self.slots - self.slots_free + self.waiting

    @property
    def troubled(self) -> bool:
        """It may not answer at all: others are asked before it."""
        return self.suspect or self.circuit == "open"


def for_tools(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """The replicas as a request with tools sees them: a model whose template knows none counts for WEAK_SHARE of it.

    It calls in a general form, which it was not trained on: so a smaller model that was is asked before it, unless it
    is so much smaller that it would have no vote beside it.
    """
    return tuple(
        replica
        if replica.capabilities.tools or replica.params is None
        else replace(replica, params=max(int(replica.params * WEAK_SHARE), 1))
        for replica in replicas
    )


def model_names(replicas: Iterable[Replica]) -> tuple[str, ...]:
    """Every served model id, each once, sorted."""
    return tuple(sorted({replica.model for replica in replicas}))


def named(name: str, replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """The replicas of the model called `name`. Raises UnknownModel with the list of what there is."""
    found = tuple(replica for replica in replicas if replica.model == name)
    if not found:
        raise UnknownModel(name, (*model_names(replicas), *([SWARM_ALIAS] if replicas else [])))
    return found


def able(name: str, replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """The replicas that may answer for `name`: that model's, or for the alias all that write text.

    Raises UnknownModel with the list of what there is.
    """
    everything = tuple(replicas)
    if name != SWARM_ALIAS:
        found = named(name, everything)
        if not any(replica.capabilities.generates for replica in found):
            raise BadRequest(f"model {name!r} writes no text: it is for embeddings or reranking", param="model")
        return tuple(replica for replica in found if replica.capabilities.generates)
    everything = tuple(replica for replica in everything if replica.capabilities.generates)
    if not everything:
        raise UnknownModel(name, (), "no node has loaded a model yet")
    return everything


def served_models(states: Iterable[ModelState]) -> tuple[ServedModel, ...]:
    """What this node reports to peers; a model whose engine is down is not served."""
    return tuple(_served(state) for state in states if state.problem is None)


def _served(state: ModelState) -> ServedModel:
    return ServedModel(
        id=state.model_id,
        context_tokens=state.context_tokens,
        params=state.params,
        slots=state.slots,
        slots_free=state.slots_free,
        tokens_per_s=state.tokens_per_s,
        capabilities=state.capabilities,
        waiting=state.waiting,
        wait_s=None if state.wait_s is None else min(state.wait_s, MAX_WAIT_S),
    )


def local_replicas(states: Iterable[ModelState], node_id: str, node: str) -> tuple[Replica, ...]:
    """This node's own models."""
    return tuple(_local(state, node_id, node) for state in states if state.problem is None)


def resting_replicas(states: Iterable[ModelState], node_id: str, node: str) -> tuple[Replica, ...]:
    """This node's models whose engines are being loaded again: nobody can be answered there, and they are known."""
    return tuple(_local(state, node_id, node) for state in states if state.problem is not None)


def _local(state: ModelState, node_id: str, node: str) -> Replica:
    return replace(replica_of(_served(state), node_id, node), engine=state.engine)


def own_sizes(states: Iterable[ModelState]) -> dict[str, int]:
    """The parameters of this node's own models, by id: it has read their files."""
    return {state.model_id: state.params for state in states if state.params is not None}


def peer_replicas(
    peers: Iterable[Peer], own: Mapping[str, int] = MappingProxyType({}), members: bool = False
) -> tuple[Replica, ...]:
    """What peers serve. One under suspicion counts as busy: it is asked only where nobody else can answer.

    How large their models are is what this node knows of these names (`own` are its own models' sizes), not what they
    say. `members`: this node is paired, so that each peer is one by its certificate; else peers behind one address are
    taken for one.
    """
    return tuple(
        replace(
            replica_of(model, peer.id, peer.label, peer.url, suspect=peer.state is not PeerState.ALIVE),
            params=checked_params(model.id, own),
            reported_params=model.params,
            reported_tokens_per_s=model.tokens_per_s,
            owner="" if members else neighbourhood(peer.addresses) or "",
            member=members,
            name=peer.name,
            reported_at=peer.described_at,
            rtt_s=(peer.rtt_ms or 0.0) / 1000,
        )
        for peer in peers
        for model in peer.description.models
        if model.slots and not peer.description.draining
    )


def replica_of(model: ServedModel, node_id: str, node: str, url: str | None = None, suspect: bool = False) -> Replica:
    return Replica(
        node_id=node_id,
        node=node,
        model=model.id,
        slots=model.slots,
        slots_free=0 if suspect else min(model.slots_free, model.slots),
        url=url,
        params=model.params,
        context_tokens=model.context_tokens,
        tokens_per_s=model.tokens_per_s,
        capabilities=model.capabilities,
        waiting=model.waiting,
        wait_s=model.wait_s,
        suspect=suspect,
    )
