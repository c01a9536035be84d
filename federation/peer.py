"""Another node as seen from this one, and the changes that a peer table reports. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from federation.advertisement import LoadableModel, NodeDescription
from federation.hostport import Address


class PeerState(StrEnum):
    """`alive` answers; `suspect` missed something and is being asked again; `dead` is out until it answers."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


class Source(IntEnum):
    """How an address became known; the higher stays when it is learned twice."""

    EXCHANGE = 0  # another node named it, or it called here
    MDNS = 1
    DNS = 2  # a name given with --peer has it among its addresses
    STATIC = 3  # --peer, or a line of --peer-file

    @property
    def word(self) -> str:
        return self.name.lower()


class Why(StrEnum):
    """Why there is no peer at an address, in one word or two that never change; the reason beside it says more."""

    DOWN = "down"  # nobody listens, no such host, no answer
    NO_NODE = "no node"  # something else answers there
    VERSION = "other version"
    ITSELF = "itself"
    COPY = "copied identity"
    LEAVING = "leaving"
    FULL = "full"  # this node knows as many as it can
    UNTRUSTED = "untrusted"  # no member of this swarm, or this node is none of its


_WHY = {"protocol": Why.NO_NODE, "status": Why.NO_NODE, "version": Why.VERSION, "untrusted": Why.UNTRUSTED}


def why_of(kind: str) -> Why:
    """What the kind of a failed exchange (`PeerError.kind`) says of the address."""
    return _WHY.get(kind, Why.DOWN)


@dataclass(frozen=True, slots=True)
class Peer:
    """A snapshot. `label` is the name, made unique where two peers share one. Times are on the table's clock."""

    id: str
    label: str
    state: PeerState
    description: NodeDescription
    address: Address  # the one in use: it answered, and fastest
    addresses: tuple[Address, ...]  # all that lead to this node, `address` among them
    source: Source
    rtt_ms: float | None
    last_answer_at: float
    described_at: float = 0.0  # when the probe was sent whose answer `description` is
    loadable: tuple[LoadableModel, ...] = ()  # that it could load, by the list last had of it
    least_rtt_ms: float | None = None  # of the last probes: what the way takes, whatever the two are busy with

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def url(self) -> str:
        """Where this node reaches it, which is not always what it says of itself."""
        return self.address.url

    def silent_s(self, now: float) -> float:
        """Seconds since it last answered anything."""
        return max(0.0, now - self.last_answer_at)


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """It answered and may be routed to. `returned`: it had been lost before."""

    peer: Peer
    returned: bool


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """Still a member: it went from state `was` to the peer's, or other models, a restart, because of `reason`."""

    peer: Peer
    was: PeerState
    reason: str


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """It may no longer be routed to, because of `reason`."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class AddressRejected:
    """What answers (or does not) at `address` is not a peer, because of `reason`. Reported once per reason.

    `node_id` is whose address it is said to be, so that a node with several is reported once; None for unknown.
    `dropped`: it was given with --peer, can never lead to a peer, and is kept no longer.
    """

    address: Address
    source: Source
    reason: str
    why: Why = Why.DOWN
    node_id: str | None = field(default=None, compare=False)
    dropped: bool = field(default=False, compare=False)


Change = PeerJoined | PeerChanged | PeerLeft | AddressRejected


def describe_difference(old: NodeDescription, new: NodeDescription) -> str | None:
    """What a person would want to know of; None if only load figures differ."""
    differences: list[str] = []
    if old.instance != new.instance:
        differences.append("restarted")
    if old.name != new.name:
        differences.append(f"was named {old.name}")
    if old.mode != new.mode:
        differences.append(f"is now {new.mode}")
    if old.version != new.version:
        differences.append(f"now runs {new.version}")
    models = [model.id for model in new.models]
    if [model.id for model in old.models] != models:
        differences.append(f"now serves {', '.join(models) or 'no model'}")
    return "; ".join(differences) or None
