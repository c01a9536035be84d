"""What a peer table remembers: contacts (addresses) and records (nodes that answered), within their bounds.

Invariants: a contact belongs to at most one record; a record's addresses are contacts of its own, and its route is one
of them; a record has at least one address.

Telling a restart from a copy: one node id, one process. Two at once mean a copied data directory. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from federation.advertisement import NodeDescription, PeerHint
from federation.contact import Contact, Standing
from federation.hostport import Address, neighbourhood
from federation.peer import Peer, PeerState, Source, Why
from federation.probing import Answer
from federation.timing import (
    MAX_ADDRESSES_PER_PEER,
    MAX_PEERS,
    MAX_PEERS_PER_ADDRESS,
    MAX_STATIC,
    MAX_UNPROVEN,
    MAX_UNPROVEN_PER_ADDRESS,
    Timing,
)

_LABEL_ID_CHARS = 4  # of the id, appended to a name that two nodes share


@dataclass(slots=True)
class Record:
    """A node that has answered. `has_joined`: it has been routable before; `left_at`: when it last ceased to be.

    `owners` are the addresses at which a process of this id was met while no earlier one answered, the first first: the
    earlier wins where two do. `is_away`: the first did not answer, and another address is used instead.
    """

    description: NodeDescription
    route: Address
    last_answer_at: float
    since: float = 0.0  # when it was met
    owners: list[Address] = field(default_factory=list[Address])
    is_away: bool = False
    described_at: float = 0.0
    state: PeerState = PeerState.DEAD
    has_joined: bool = False
    left_at: float = 0.0
    addresses: list[Address] = field(default_factory=list[Address])
    answer: Answer | None = None  # the last one, tag and all; None until a probe brought it
    one_way_since: float | None = None  # it answers, and has said since then that it cannot reach this node

    @property
    def is_dead(self) -> bool:
        return self.state is PeerState.DEAD


@dataclass(frozen=True, slots=True)
class Room:
    """Whether one more node may be recorded: `gone` has to make way for it, if anybody; else the reason `why_not`."""

    gone: str | None = None
    why_not: str | None = None


class PeerRecords:
    """Keeps the invariants above; knows nothing of probes, time or reasons.

    `is_open`: nothing but its address tells one machine's nodes from another's, so that all at one share a node's room.
    """

    def __init__(self, self_name: str, is_open: Callable[[], bool] = lambda: True) -> None:
        self._self_name = self_name
        self._is_open = is_open
        self.contacts: dict[Address, Contact] = {}
        self.records: dict[str, Record] = {}

    def record_of(self, contact: Contact) -> Record | None:
        """The node this address belongs to."""
        return None if contact.node_id is None else self.records[contact.node_id]

    def contacts_of(self, record: Record) -> list[Contact]:
        return [self.contacts[address] for address in record.addresses]

    def standing(self, contact: Contact) -> Standing:
        record = self.record_of(contact)
        if record is None:
            return Standing.UNPROVEN
        if record.is_dead:
            return Standing.LOST
        if record.route == contact.address:
            return Standing.ROUTE
        return Standing.RESCUE if record.state is PeerState.SUSPECT else Standing.ALTERNATE

    @property
    def here(self) -> int:
        """How many may be routed to."""
        return sum(not record.is_dead for record in self.records.values())

    @property
    def lost(self) -> int:
        return len(self.records) - self.here

    def is_static(self, record: Record) -> bool:
        """Whether a person gave one of its addresses."""
        return any(contact.source is Source.STATIC for contact in self.contacts_of(record))

    def place_of(self, *addresses: Address) -> str | None:
        """Whom a node at these is taken for, for want of anything better; None where its id is as good as any."""
        return neighbourhood(addresses) if self._is_open() else None

    def has_room_for(self, address: Address, source: Source) -> bool:
        """Whether one more address may be proposed; the least promising unproven one makes way if that helps."""
        if source is Source.STATIC:
            return sum(contact.source is Source.STATIC for contact in self.contacts.values()) < MAX_STATIC
        unproven = [
            contact
            for contact in self.contacts.values()
            if contact.node_id is None and contact.source is not Source.STATIC
        ]
        place = self.place_of(address)
        beside = [contact for contact in unproven if place is not None and self.place_of(contact.address) == place]
        if len(beside) >= MAX_UNPROVEN_PER_ADDRESS:
            unproven = beside
        elif len(unproven) < MAX_UNPROVEN:
            return True
        worst = max(unproven, key=lambda contact: contact.failures)
        if not worst.failures:
            return False
        self.drop(worst)
        return True

    def room_for(self, contact: Contact) -> Room:
        """Whether what answers at `contact` may be recorded. The dead make way first, the one lost longest ago.

        Then, in an open swarm, the newest at the most crowded address, so that no crowd keeps another machine out; and
        for what a person named the newest of all that nobody did.
        """
        place = self.place_of(contact.address)
        strangers = {node_id: record for node_id, record in self.records.items() if not self.is_static(record)}
        places = {node_id: self.place_of(*record.addresses) for node_id, record in strangers.items()}
        beside = [node_id for node_id, where in places.items() if place is not None and where == place]
        is_named = contact.source is Source.STATIC
        if len(beside) >= MAX_PEERS_PER_ADDRESS and not is_named:
            gone = self._longest_lost(beside)
            why = f"this node already knows {len(beside)} peers at {place}, and takes no more of one address while open"
            return Room(gone, None if gone else why)
        if len(self.records) < MAX_PEERS:
            return Room()
        gone = self._longest_lost(strangers)
        if gone is None:
            crowds = Counter(where for where in places.values() if where is not None)
            crowd, size = max(crowds.items(), key=lambda found: found[1], default=("", 0))
            crowded = [node_id for node_id, where in places.items() if where == crowd and size > len(beside) + 1]
            movable = crowded or (list(strangers) if is_named else [])
            gone = max(movable, key=lambda node_id: self.records[node_id].since, default=None)
        return Room(gone, None if gone else f"this node already knows {MAX_PEERS} peers")

    def _longest_lost(self, node_ids: Iterable[str]) -> str | None:
        lost = [node_id for node_id in node_ids if self.records[node_id].is_dead]
        return min(lost, key=lambda node_id: self.records[node_id].left_at, default=None)

    def attach(self, contact: Contact, node_id: str) -> None:
        """The contact, which belongs to nobody or to this node, leads to the recorded node."""
        record = self.records[node_id]
        if contact.address in record.addresses:
            return
        if len(record.addresses) >= MAX_ADDRESSES_PER_PEER:
            spare = [held for held in self.contacts_of(record) if held.address != record.route]
            self.drop(max(spare, key=lambda held: (held.source is not Source.STATIC, held.failures, -held.since)))
        record.addresses.append(contact.address)
        contact.node_id = node_id

    def detach(self, contact: Contact) -> None:
        """The contact leads to nobody known; the record it was of goes with its last address."""
        record = self.record_of(contact)
        if record is None:
            return
        record.addresses.remove(contact.address)
        contact.node_id = None
        contact.round_trip = None
        if not record.addresses:
            del self.records[record.description.id]
        elif record.route == contact.address:
            record.route = min(self.contacts_of(record), key=lambda held: held.failures).address

    def drop(self, contact: Contact) -> None:
        """Forget one address."""
        self.detach(contact)
        del self.contacts[contact.address]

    def forget(self, node_id: str) -> None:
        """Forget a node and all its addresses."""
        for contact in self.contacts_of(self.records[node_id]):
            self.drop(contact)

    def view(self, record: Record) -> Peer:
        """The snapshot that leaves the table."""
        return self._view(record, self._name_counts())

    def views(self) -> list[Peer]:
        """All snapshots, by label."""
        counts = self._name_counts()
        return sorted((self._view(record, counts) for record in self.records.values()), key=lambda peer: peer.label)

    def hint(self, record: Record) -> PeerHint:
        """Where others may find it: an address that works and means the same on another machine, if there is one."""
        working = [contact.address for contact in self.contacts_of(record) if not contact.failures]
        portable = [address for address in (record.route, *working) if not address.is_loopback]
        host, port = portable[0] if portable else record.route
        return PeerHint(id=record.description.id, name=record.description.name, host=host, port=port)

    def _name_counts(self) -> Counter[str]:
        names = (record.description.name for record in self.records.values())
        return Counter([self._self_name, *names])

    def _view(self, record: Record, name_counts: Counter[str]) -> Peer:
        description = record.description
        is_shared = name_counts[description.name] > 1
        return Peer(
            id=description.id,
            label=f"{description.name}-{description.id[:_LABEL_ID_CHARS]}" if is_shared else description.name,
            state=record.state,
            description=description,
            address=record.route,
            addresses=tuple(record.addresses),
            source=max(contact.source for contact in self.contacts_of(record)),
            rtt_ms=self.contacts[record.route].rtt_ms,
            last_answer_at=record.last_answer_at,
            described_at=record.described_at,
        )


_REMEDY = "one data directory is a copy of the other; delete node.pem in the copy"


def differ(one: str | None, other: str | None) -> bool:
    """Whether two marks of a run are of different runs; unknown ones are given the benefit of the doubt."""
    return one is not None and other is not None and one != other


def why_self(description: NodeDescription, self_instance: str | None) -> tuple[Why, str]:
    """What answers with this node's own id: itself, or a copy of it."""
    if not differ(description.instance, self_instance):
        return Why.ITSELF, "is this node itself"
    return Why.COPY, f"another node ({description.name}) uses this node's id {description.id}: {_REMEDY}"


def double_words(record: Record) -> str:
    """Why a second process with the id of `record` is no peer."""
    return f"uses the id of {record.description.name} at {record.route}: {_REMEDY}"


def is_double(
    contact: Contact, route: Contact, record: Record, description: NodeDescription, now: float, timing: Timing
) -> bool:
    """Whether two processes answer as one id at the same time, each at its own address."""
    known = record.description.instance
    if record.is_dead or contact is route or route.failures or None in (known, description.instance):
        return False
    return known != description.instance and now - route.since <= timing.conflict_window_s


def is_first_again(address: Address, record: Record, description: NodeDescription) -> bool:
    """Whether a process at `address` had the id before the one in use, which took it over while that one was silent."""
    if not differ(record.description.instance, description.instance) or address not in record.owners:
        return False
    return record.route not in record.owners[: record.owners.index(address)]


def is_successor(address: Address, record: Record, description: NodeDescription) -> bool:
    """Whether another process takes the id over at an address of its own: a node that moved, or a copy of it."""
    return differ(record.description.instance, description.instance) and address not in record.addresses
