"""Which peers lend memory for a model that is too large for this machine, and why the others do not. Pure.

A lender's llama.cpp is of the host's very build: it is told operations by their numbers, which other builds count
otherwise. What lenders say of themselves decides whom to ask, and never what is sent before they have granted it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.advertisement import LendOffer
from federation.hostport import Address
from federation.lending import same_llama_cpp
from federation.peer import Peer
from swarm.registry.model_memory import MIB
from swarm.registry.pooled_fit import MOST_RTT_S, PoolMachine

MOST_NAMED = 3  # nodes that hold a model, in one sentence
LIAR_S = 600.0  # one that took more than it lends, or could not hold what it had granted, is not asked for so long
DRAINED_S = 40.0  # one that takes its memory back: until what it says of itself has surely come
OFFERED_STEP_BYTES = 16 * MIB  # of what is free: less makes no model fit that did not
UNKNOWN_RTT_S = 0.001  # of a peer that was never measured: a LAN's


@dataclass(frozen=True, slots=True)
class LendingPeer:
    """A peer that lends, reached at `address`."""

    node_id: str
    name: str
    address: Address
    offer: LendOffer
    rtt_s: float

    def machine(self, link_bytes_per_s: float | None, named: bool) -> PoolMachine:
        """As the plan sees it. `named`: the user named it, and takes what comes of its link."""
        offer = self.offer
        return PoolMachine(
            self.name, self.node_id, offer.bytes_free, offer.bytes_per_s, self.rtt_s, link_bytes_per_s, named
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a lender is not asked `until` an instant (monotonic seconds).

    `answers`: it is asked again as soon as it has answered anything after `since`, since it was only taken for gone.
    """

    why: str
    since: float
    until: float
    answers: bool = False

    def holds(self, now: float, last_answer_at: float) -> bool:
        return now < self.until and not (self.answers and last_answer_at > self.since)


@dataclass(frozen=True, slots=True)
class Lenders:
    """`usable` ones, and of the other peers that lend the name and why they are not."""

    usable: tuple[LendingPeer, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    def without(self, refused: Mapping[str, str]) -> Lenders:
        """The same, of which some were asked and refused, in words by their ids."""
        gone = [(one.name, refused[one.node_id]) for one in self.usable if one.node_id in refused]
        left = tuple(one for one in self.usable if one.node_id not in refused)
        return Lenders(left, (*self.refused, *gone))

    @property
    def refusals(self) -> str:
        """Who lends and is of no use here, as the end of a sentence."""
        return "".join(f"; {name}: {why}" for name, why in self.refused)


def lenders_among(
    peers: Iterable[Peer], build: str, rpc: str | None, doubts: Mapping[str, Doubt], now: float
) -> Lenders:
    """The lenders among `peers`, for a host whose llama.cpp is `build` with the protocol `rpc`, None where not known.

    `doubts` are by the ids of nodes.
    """
    usable: list[LendingPeer] = []
    refused: list[tuple[str, str]] = []
    for peer in peers:
        offer = peer.description.lends
        if offer is None:
            continue
        doubt = doubts.get(peer.id)
        if not same_llama_cpp(build, rpc or offer.rpc, offer.build, offer.rpc):
            own = build if rpc is None else f"{build} (RPC {rpc})"
            why = f"its llama.cpp is {offer.build} (RPC {offer.rpc}) and this node's {own}: make both the same build"
        elif offer.draining or peer.description.draining:
            why = "it takes its memory back"
        elif doubt is not None and doubt.holds(now, peer.last_answer_at):
            why = doubt.why
        else:
            usable.append(LendingPeer(peer.id, peer.label, peer.address, offer, rtt_s_of(peer)))
            continue
        refused.append((peer.label, why))
    return Lenders(tuple(usable), tuple(refused))


def whom_it_waits_for(before: Sequence[str], lenders: Lenders) -> str:
    """The lender that a model waits for: of those that had parts of it `before` the ones that are missing now."""
    missing = [name for name in before if name not in {one.name for one in lenders.usable}]
    return ", ".join(missing or dict(lenders.refused)) or "lenders"


def rtt_s_of(peer: Peer) -> float:
    """How far away a peer is, by the quickest of its last answers: one that is busy answers later, and is no further
    away."""
    known_ms = [rtt_ms for rtt_ms in (peer.rtt_ms, peer.least_rtt_ms) if rtt_ms is not None]
    return min(known_ms) / 1000 if known_ms else UNKNOWN_RTT_S


def offers_key(peers: Iterable[Peer]) -> frozenset[tuple[str, int, str, bool, bool]]:
    """What matters of all offers: where it changes, a model that lacked lenders is tried again.

    What is free wavers with what other programs take, and how far away somebody is with what the machines do.
    """
    return frozenset(
        (
            peer.id,
            offer.bytes_free // OFFERED_STEP_BYTES,
            f"{offer.build} {offer.rpc}",
            offer.draining or peer.description.draining,
            rtt_s_of(peer) <= MOST_RTT_S,
        )
        for peer in peers
        if (offer := peer.description.lends) is not None
    )


def holding(peers: Iterable[Peer], model_id: str) -> tuple[Peer, ...]:
    """The peers that run the model or have it on their disk, with room for it; those that run it first."""
    running: list[Peer] = []
    able: list[Peer] = []
    for peer in peers:
        if any(served.id == model_id and served.state == "ready" for served in peer.description.models):
            running.append(peer)
        elif any(model.id == model_id and model.fits for model in peer.loadable):
            able.append(peer)
    return tuple([*running, *able][:MOST_NAMED])
