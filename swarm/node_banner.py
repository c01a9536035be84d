"""What a node tells the person in front of it: who it is when it starts, and who comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from federation.peer import AddressRejected, Change, Peer, PeerChanged, PeerJoined, PeerLeft, Why
from swarm.node_place import Place
from swarm.node_trust import trust_words
from swarm.version import program_version


def banner(place: Place, federated: bool, upstream_lines: Iterable[str]) -> Iterator[str]:
    """The lines that a node begins with."""
    name, node_id = place.identity.name, place.identity.node_id
    yield f"Local Swarm {program_version()} · node {name} ({node_id[:8]})"
    everywhere = place.addresses.is_everywhere and not place.announced.is_loopback
    here = f"  (on this machine also http://127.0.0.1:{place.port}/v1)" if everywhere else ""
    yield f"  API        http://{place.announced}/v1{here}"
    if federated:
        yield f"  network    {place.addresses.reason}"
        yield f"  trust      {trust_words(place.trust)}"
    else:
        yield "  federation off: this node answers alone (start with --federation to join others)"
    yield f"  access     {access_words(place)}"
    yield from upstream_lines


def access_words(place: Place) -> str:
    """What the banner says of who may use the API."""
    if place.access.wants_key:
        return "with an API key; peers need none" if place.access.federated else "with an API key"
    if place.announced.is_loopback:
        return "open to this machine"
    return "open: any machine on this network may use the API (close it with --api-key)"


def models_of(peer: Peer) -> str:
    """What the banner says a peer serves."""
    return ", ".join(model.id for model in peer.description.models) or "no model yet"


class PeerNews:
    """Says each change among the peers in a line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._models: dict[str, str] = {}  # by the id of those that are here, as last said

    def tell(self, change: Change) -> None:
        match change:
            case PeerJoined(peer, returned):
                self._models[peer.id] = models = models_of(peer)
                back = " is back" if returned else ""
                self._say(f"+ peer {peer.label}{back} at {peer.address} ({models})")
            case PeerLeft(peer, reason):
                self._models.pop(peer.id, None)
                self._say(f"- peer {peer.label}: {reason}")
            case PeerChanged(peer) if self._models.get(peer.id) != models_of(peer):
                self._models[peer.id] = models = models_of(peer)
                self._say(f"* peer {peer.label} now serves {models}")
            case AddressRejected(address, _, reason, Why.COPY):
                self._say(f"! {address} {reason}")
            case _:
                pass
