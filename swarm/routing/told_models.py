"""What peers serve, kept from one request to the next: of a hundred peers few tell something else in the meantime.

A plan looks at every model of every peer, so that what is made of a peer's description is made once: its replicas as
it told them (`ToldKeeper`), and the same under the names that models have here (`NamedKeeper`). What is not the same
object as before has changed. What this node knows better (`Router.with_local_knowledge`) comes
after, and is never kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from federation.advertisement import NodeDescription
from federation.peer import Peer
from swarm.routing.replicas import Holder, Identity, KnownNames, Replica, ReplicaKey, called_by, peer_replicas


@dataclass(frozen=True, slots=True, eq=False)
class ToldModels:
    """What one peer serves, as it told it. `holder` stays the same object while only other figures change."""

    node_id: str
    replicas: tuple[Replica, ...]
    holder: Holder | None


_Facts = tuple[object, ...]


class ToldKeeper:
    """As `peer_replicas`, peer by peer, and made anew only of those of which anything has changed."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._members = False
        self._kept: dict[str, tuple[NodeDescription, _Facts, ToldModels]] = {}

    def of(self, peers: Iterable[Peer], own: Mapping[str, int], members: bool = False) -> tuple[ToldModels, ...]:
        """What each of `peers` that serves anything does; `own` and `members` as in `peer_replicas`."""
        before = self._kept
        if own != self._own or members != self._members:
            before, self._own, self._members = {}, dict(own), members
        now: dict[str, tuple[NodeDescription, _Facts, ToldModels]] = {}
        for peer in peers:
            facts = (peer.described_at, peer.rtt_ms, peer.state, peer.label, peer.address, peer.addresses)
            kept = before.get(peer.id)
            if kept is None or kept[0] is not peer.description or kept[1] != facts:
                was = None if kept is None else kept[2].holder
                kept = peer.description, facts, _told_by(peer, own, members, was)
            now[peer.id] = kept
        self._kept = now
        return tuple(told for _, _, told in now.values() if told.replicas)


def _told_by(peer: Peer, own: Mapping[str, int], members: bool, was: Holder | None) -> ToldModels:
    replicas = peer_replicas((peer,), own, members)
    if not replicas:
        return ToldModels(peer.id, (), None)
    models = tuple(Identity(r.model_there, r.fingerprint, r.sha256, r.also) for r in replicas)
    holder = Holder(peer.id, replicas[0].party, False, models)
    return ToldModels(peer.id, replicas, was if was == holder else holder)


def told_replicas(told: Iterable[ToldModels]) -> tuple[Replica, ...]:
    """All of them, as they were told."""
    return tuple(itertools.chain.from_iterable(each.replicas for each in told))


class NamedModels:
    """What one peer serves, under the names that its models have here."""

    def __init__(self, told: ToldModels, replicas: tuple[Replica, ...]) -> None:
        self.told = told
        self.replicas = replicas
        self.keys = frozenset(replica.key for replica in replicas)
        self.by_name: dict[str, list[Replica]] = {}
        for replica in replicas:
            self.by_name.setdefault(replica.model, []).append(replica)


class ServedByPeers:
    """What all peers serve, under the names of here. It does not change."""

    def __init__(self, peers: Mapping[str, NamedModels]) -> None:
        self._peers = peers

    @cached_property
    def replicas(self) -> tuple[Replica, ...]:
        return tuple(itertools.chain.from_iterable(peer.replicas for peer in self._peers.values()))

    def called(self, name: str) -> tuple[Replica, ...]:
        """Those of the model that is called so."""
        return tuple(replica for peer in self._peers.values() for replica in peer.by_name.get(name, ()))

    def __contains__(self, place: object) -> bool:
        """Whether one of them is at that `ReplicaKey`."""
        node_id, _ = cast("ReplicaKey", place)
        peer = self._peers.get(node_id)
        return peer is not None and place in peer.keys


class NamedKeeper:
    """As `called_by`, peer by peer, and made anew only where what a peer told or a name has changed."""

    def __init__(self) -> None:
        self._told: tuple[ToldModels, ...] = ()
        self._names = KnownNames()
        self._own: dict[str, int] = {}
        self._peers: dict[str, NamedModels] = {}
        self._served = ServedByPeers({})

    def of(self, told: Sequence[ToldModels], names: KnownNames, own: Mapping[str, int]) -> ServedByPeers:
        """What they told under those `names`; `own` as in `called_by`. The same object while nothing has changed."""
        is_same = names is self._names and own == self._own
        if is_same and len(told) == len(self._told) and all(map(_is, told, self._told)):
            return self._served
        before = self._peers if is_same else {}
        now: dict[str, NamedModels] = {}
        for each in told:
            kept = before.get(each.node_id)
            if kept is None or kept.told is not each:
                kept = NamedModels(each, called_by(names, each.replicas, own))
            now[each.node_id] = kept
        self._told, self._names, self._own, self._peers = tuple(told), names, dict(own), now
        self._served = ServedByPeers(now)
        return self._served


def _is(one: object, other: object) -> bool:
    return one is other
