"""Who serves what: this node's models as it tells its peers, and everybody's as replicas. Plain conversions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from federation.advertisement import MAX_WAIT_S, ServedModel
from federation.hostport import neighbourhood
from federation.peer import Peer, PeerState
from swarm.registry.known_sizes import checked_params
from swarm.routing.replicas import Replica
from swarm.workers.pool import ModelState


def served_models(states: Iterable[ModelState]) -> tuple[ServedModel, ...]:
    """What peers are told; a model whose engine is down is not served."""
    return tuple(_served(state) for state in states if state.problem is None)


def _served(state: ModelState) -> ServedModel:
    return ServedModel(
        id=state.model_id,
        context_tokens=state.context_tokens,
        params=state.params,
        slots=state.slots,
        slots_free=state.slots_free,
        tokens_per_s=state.tokens_per_s,
        embeddings=state.can.embeddings,
        rerank=state.can.rerank,
        infill=state.can.infill,
        generates=state.can.generates,
        waiting=state.waiting,
        wait_s=None if state.wait_s is None else min(state.wait_s, MAX_WAIT_S),
    )


def local_replicas(states: Iterable[ModelState], node_id: str, node: str) -> tuple[Replica, ...]:
    """This node's own models."""
    return tuple(replica_of(model, node_id, node) for model in served_models(states))


def resting_replicas(states: Iterable[ModelState], node_id: str, node: str) -> tuple[Replica, ...]:
    """This node's models whose engines are being loaded again: nobody can be answered there, and they are known."""
    return tuple(replica_of(_served(state), node_id, node) for state in states if state.problem is not None)


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
            told_params=model.params,
            told_tokens_per_s=model.tokens_per_s,
            owner="" if members else neighbourhood(peer.addresses) or "",
            member=members,
            name=peer.name,
            told_at=peer.described_at,
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
        embeddings=model.embeddings,
        rerank=model.rerank,
        infill=model.infill,
        generates=model.generates,
        waiting=model.waiting,
        wait_s=model.wait_s,
        suspect=suspect,
    )
