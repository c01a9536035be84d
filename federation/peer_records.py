"""What a peer table remembers, within bounds: contacts (addresses) and records (nodes that answered). Pure.

A `Contact` is an address as a target of probes, a `Record` is a node. `PeerRecords` keeps both and what holds between
them; `ProbeSchedule` says when to probe a contact next. The last functions tell a restarted node from a copied data
directory: one node id is one process, and two at once mean a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Self

from federation.advertisement import Loadables, NodeDescription, PeerHint
from federation.hostport import Address, neighbourhood
from federation.peer import AddressRejected, Peer, PeerState, Source, Why
from federation.probing import ProbeAnswer
from federation.timing import (
    DEAD_AFTER_FAILURES,
    DEAD_AFTER_REFUSALS,
    MAX_PROBES_AT_ONCE,
    TableBounds,
    Timing,
    lost_stretch,
    stretch,
)

_LABEL_ID_CHARS = 4  # of the id, appended to a name that two nodes share
_REMEDY = "one data directory is a copy of the other; delete node.pem in the copy"

_MAX_DOUBLINGS = 10  # keeps 2**n small; every cap is reached long before
_MEAN_GAIN: Final = 1 / 8  # RFC 6298's alpha
_RECENT: Final = 16  # measurements that are kept: with a probe every second or two, half a minute
_DEVIATION_GAIN: Final = 1 / 4  # its beta
_DEVIATIONS: Final = 4.0  # its K


class AddressRole(Enum):
    """What an address is to the table, which decides how eagerly it is asked."""

    ROUTE = auto()  # the address in use of an alive or suspect peer
    RESCUE = auto()  # another address of a suspect peer: it may save it
    ALTERNATE = auto()  # another address of an alive peer
    LOST = auto()  # any address of a dead peer
    UNPROVEN = auto()  # nobody acceptable has answered there


@dataclass(slots=True)
class Contact:
    """Mutable record of one address. Times are on the table's clock.

    `failures`, and the `refusals` among them, count since the last proof of life; `silent_since` is when the
    first probe left that nothing has been received since.
    """

    address: Address
    source: Source
    due_at: float
    since: float  # last proposed, or last acceptable answer: what forgetting counts from
    node_id: str | None = None
    claimed_id: str | None = None  # whom mDNS says it leads to, or whoever answered last says it is
    in_flight: int = 0
    started_at: float | None = None
    silent_since: float | None = None
    failures: int = 0
    refusals: int = 0
    conflicts: int = 0  # answers, one after the other, of a second process with its node's id
    round_trip: RoundTrip | None = None
    problem: str | None = None  # what the last failure was
    reported: AddressRejected | None = None  # what was last said of it

    @property
    def rtt_ms(self) -> float | None:
        return None if self.round_trip is None else self.round_trip.mean_ms

    @property
    def least_rtt_ms(self) -> float | None:
        return None if self.round_trip is None else self.round_trip.least_ms

    @property
    def usual_s(self) -> float:
        """What its answers hardly ever take longer than; 0 while unknown."""
        return 0.0 if self.round_trip is None else self.round_trip.at_most_s

    def validate(self) -> None:
        """Check what always holds of its counts. Raises AssertionError."""
        check(0 <= self.in_flight <= MAX_PROBES_AT_ONCE, f"{self.in_flight} probes are under way to {self.address}")
        check(0 <= self.refusals <= self.failures, f"{self.address} refused more often than it failed")
        is_timed = self.started_at is not None and self.silent_since is not None
        check(not self.in_flight or is_timed, f"a probe is under way to {self.address}, and nothing says since when")

    def start(self, now: float) -> None:
        """A probe leaves."""
        self.in_flight += 1
        self.started_at = now
        self.silent_since = now if self.silent_since is None else self.silent_since

    def succeed(self, rtt_ms: float, now: float) -> None:
        """The node it belongs to answered; whatever else is under way to it does not matter any more."""
        self.since = now
        self.in_flight = 0
        self.clear_failures(now)
        self.conflicts = 0
        self.reported = None
        self.round_trip = RoundTrip.first(rtt_ms) if self.round_trip is None else self.round_trip.after(rtt_ms)

    def fail(self, refused: bool, problem: str) -> None:
        """A probe brought nothing acceptable."""
        self.in_flight = max(0, self.in_flight - 1)
        self.failures += 1
        self.refusals += refused
        self.problem = problem

    def clear_failures(self, now: float) -> None:
        """Proof of life came, by a probe or by real traffic: what is under way now counts from here."""
        self.failures = 0
        self.refusals = 0
        self.problem = None
        self.silent_since = now if self.in_flight else None

    def is_lost(self, now: float, timing: Timing) -> bool:
        """Whether the evidence is enough to give the address up."""
        if self.refusals >= DEAD_AFTER_REFUSALS:
            return True
        return self.silent_since is not None and now >= self.silent_since + timing.give_up_s

    def forgive(self, stalled_s: float, now: float) -> None:
        """This process did not run for so long, and could not have received an answer."""
        if self.silent_since is not None:
            self.silent_since = min(now, self.silent_since + stalled_s)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How long one address takes to answer: mean and deviation in milliseconds, as TCP keeps them (RFC 6298, 2).

    Each probe is timed on its own, so an answer is never mistaken for that to another (Karn's problem does not arise).
    `recent_ms` are the last measurements themselves, of which the least says most of the way there: what both ends are
    busy with, and a new connection's handshake, only ever add to it.
    """

    mean_ms: float
    deviation_ms: float
    recent_ms: tuple[float, ...]

    @classmethod
    def first(cls, rtt_ms: float) -> Self:
        return cls(rtt_ms, rtt_ms / 2, (rtt_ms,))

    def after(self, rtt_ms: float) -> RoundTrip:
        """With one more measurement."""
        deviation_ms = self.deviation_ms + _DEVIATION_GAIN * (abs(self.mean_ms - rtt_ms) - self.deviation_ms)
        mean_ms = self.mean_ms + _MEAN_GAIN * (rtt_ms - self.mean_ms)
        return RoundTrip(mean_ms, deviation_ms, (*self.recent_ms[-_RECENT + 1 :], rtt_ms))

    @property
    def least_ms(self) -> float:
        return min(self.recent_ms)

    @property
    def at_most_s(self) -> float:
        """What an answer hardly ever takes longer than (RFC 6298's RTO), in seconds."""
        return (self.mean_ms + _DEVIATIONS * self.deviation_ms) / 1000


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
    answer: ProbeAnswer | None = None  # the last one, tag and all; None until a probe brought it
    one_way_since: float | None = None  # it answers, and has said since then that it cannot reach this node
    listing: Listing = field(default_factory=lambda: Listing())

    @property
    def is_dead(self) -> bool:
        return self.state is PeerState.DEAD


@dataclass(slots=True)
class Listing:
    """What one peer could load, as last had of it, and when to ask for it (again). Times are on the table's clock.

    It is asked for where the peer's description names another digest; `misses` questions in a row brought none that is
    named, so that whoever changes it all the time is asked ever more rarely.
    """

    held: Loadables | None = None
    in_flight: bool = False
    due_at: float = 0.0
    misses: int = 0

    def is_due(self, named: str | None, now: float) -> bool:
        """Whether to ask a peer that names the digest `named` now."""
        if named is None or self.in_flight or (self.held is not None and self.held.digest == named):
            return False
        return now >= self.due_at

    def start(self, now: float, timing: Timing) -> None:
        """It is asked for."""
        self.in_flight = True
        self.due_at = now + timing.list_interval_s

    def end(self, found: Loadables | None, named: str | None, now: float, timing: Timing) -> None:
        """`found` came, or nothing that can be used, of a peer that names the digest `named`."""
        self.in_flight = False
        self.held = found or self.held
        if found is not None and found.digest == named:
            self.misses = 0
            return
        pause_s = timing.list_interval_s * 2 ** min(self.misses, _MAX_DOUBLINGS)
        self.misses += 1
        self.due_at = now + min(pause_s, timing.list_retry_cap_s)


@dataclass(frozen=True, slots=True)
class RecordAdmission:
    """Whether one more node may be recorded: `gone` has to make way for it, if anybody; else the reason `why_not`."""

    evicts: str | None = None
    refusal: str | None = None


class PeerRecords:
    """Contacts by address and records by node id; `PeerTable` says what always holds between them.

    `is_open`: nothing but addresses tells one machine's nodes from another's, so that all at one address share bounds.
    """

    def __init__(
        self, self_name: str, is_open: Callable[[], bool] = lambda: True, bounds: TableBounds | None = None
    ) -> None:
        self._self_name = self_name
        self._bounds = bounds or TableBounds()
        self._is_open = is_open
        self.contacts: dict[Address, Contact] = {}
        self.records: dict[str, Record] = {}

    def validate(self) -> None:
        """Check what holds between contacts and records. Raises AssertionError that names what does not."""
        check(len(self.records) <= self._bounds.peers, f"{len(self.records)} peers, more than {self._bounds.peers}")
        for address, contact in self.contacts.items():
            check(contact.address == address, f"{address} is the contact of {contact.address}")
            owner = None if contact.node_id is None else self.records.get(contact.node_id)
            check(
                contact.node_id is None or owner is not None,
                f"{address} leads to {contact.node_id}, which is not a peer",
            )
            check(
                owner is None or address in owner.addresses, f"{address} is none of the addresses of {contact.node_id}"
            )
            contact.validate()
        for node_id, record in self.records.items():
            held = record.addresses
            check(record.description.id == node_id, f"{node_id} is the record of {record.description.id}")
            check(1 <= len(held) <= self._bounds.addresses_per_peer, f"{node_id} has {len(held)} addresses")
            check(len(set(held)) == len(held), f"{node_id} has an address twice")
            check(record.route in held, f"the route of {node_id}, {record.route}, is none of its addresses")
            for address in held:
                leads_to = self.contacts[address].node_id if address in self.contacts else None
                check(leads_to == node_id, f"{address} of {node_id} leads to {leads_to}")

    def record_of(self, contact: Contact) -> Record | None:
        """The node this address belongs to."""
        return None if contact.node_id is None else self.records[contact.node_id]

    def contacts_of(self, record: Record) -> list[Contact]:
        return [self.contacts[address] for address in record.addresses]

    def role_of(self, contact: Contact) -> AddressRole:
        record = self.record_of(contact)
        if record is None:
            return AddressRole.UNPROVEN
        if record.is_dead:
            return AddressRole.LOST
        if record.route == contact.address:
            return AddressRole.ROUTE
        return AddressRole.RESCUE if record.state is PeerState.SUSPECT else AddressRole.ALTERNATE

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
        """What a node at these shares bounds by in an open swarm; None where nodes are told apart by certificates."""
        return neighbourhood(addresses) if self._is_open() else None

    def has_room_for(self, address: Address, source: Source) -> bool:
        """Whether one more address may be proposed; the least promising unproven one makes way if that helps."""
        if source is Source.STATIC:
            return sum(contact.source is Source.STATIC for contact in self.contacts.values()) < self._bounds.static
        unproven = [
            contact
            for contact in self.contacts.values()
            if contact.node_id is None and contact.source is not Source.STATIC
        ]
        place = self.place_of(address)
        beside = [contact for contact in unproven if place is not None and self.place_of(contact.address) == place]
        if len(beside) >= self._bounds.unproven_per_address:
            unproven = beside
        elif len(unproven) < self._bounds.unproven:
            return True
        worst = max(unproven, key=lambda contact: contact.failures)
        if not worst.failures:
            return False
        self.drop(worst)
        return True

    def admission_of(self, contact: Contact) -> RecordAdmission:
        """Whether what answers at `contact` may be recorded. The dead make way first, the one lost longest ago.

        Then, in an open swarm, the newest at the most crowded address, so that no crowd keeps another machine out; and
        for what a person named the newest of all that nobody did.
        """
        place = self.place_of(contact.address)
        strangers = {node_id: record for node_id, record in self.records.items() if not self.is_static(record)}
        places = {node_id: self.place_of(*record.addresses) for node_id, record in strangers.items()}
        beside = [node_id for node_id, where in places.items() if place is not None and where == place]
        is_named = contact.source is Source.STATIC
        if len(beside) >= self._bounds.peers_per_address and not is_named:
            gone = self._longest_lost(beside)
            why = f"this node already knows {len(beside)} peers at {place}, and takes no more of one address while open"
            return RecordAdmission(gone, None if gone else why)
        if len(self.records) < self._bounds.peers:
            return RecordAdmission()
        gone = self._longest_lost(strangers)
        if gone is None:
            crowds = Counter(where for where in places.values() if where is not None)
            crowd, size = max(crowds.items(), key=lambda found: found[1], default=("", 0))
            crowded = [node_id for node_id, where in places.items() if where == crowd and size > len(beside) + 1]
            movable = crowded or (list(strangers) if is_named else [])
            gone = max(movable, key=lambda node_id: self.records[node_id].since, default=None)
        return RecordAdmission(gone, None if gone else f"this node already knows {self._bounds.peers} peers")

    def _longest_lost(self, node_ids: Iterable[str]) -> str | None:
        lost = [node_id for node_id in node_ids if self.records[node_id].is_dead]
        return min(lost, key=lambda node_id: self.records[node_id].left_at, default=None)

    def attach(self, contact: Contact, node_id: str) -> None:
        """The contact, which belongs to nobody or to this node, leads to the recorded node."""
        record = self.records[node_id]
        if contact.address in record.addresses:
            return
        if len(record.addresses) >= self._bounds.addresses_per_peer:
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
        sources = [contact.source for contact in self.contacts_of(record)]
        return Peer(
            id=description.id,
            label=f"{description.name}-{description.id[:_LABEL_ID_CHARS]}" if is_shared else description.name,
            state=record.state,
            description=description,
            address=record.route,
            addresses=tuple(record.addresses),
            source=max(sources),
            rtt_ms=self.contacts[record.route].rtt_ms,
            least_rtt_ms=self.contacts[record.route].least_rtt_ms,
            last_answer_at=record.last_answer_at,
            described_at=record.described_at,
            loadable=() if description.loadable is None or (held := record.listing.held) is None else held.models,
        )


class ProbeSchedule:
    """When to probe next, and how long to wait. `random` gives numbers in [0, 1) for the jitter."""

    def __init__(self, timing: Timing, random: Callable[[], float]) -> None:
        self._timing = timing
        self._random = random

    def after_answer(self, standing: AddressRole, now: float, peers: int) -> float:
        """The next time for an address that just answered, in a swarm of so many peers."""
        is_alternate = standing is AddressRole.ALTERNATE
        interval_s = self._timing.alternate_interval_s if is_alternate else self._timing.probe_interval_s
        longer = stretch(peers)
        return now + self._jittered(
            interval_s * longer, self._timing.jitter if longer == 1 else self._timing.crowd_jitter
        )

    def after_failure(self, contact: Contact, standing: AddressRole, now: float, lost: int) -> float:
        """The next time for an address whose probe just failed, with so many dead peers."""
        timing = self._timing
        match standing:
            case AddressRole.ROUTE if contact.refusals:
                return now + timing.refused_retry_s
            case AddressRole.ROUTE:
                return self.next_in_step(contact, now)
            case AddressRole.RESCUE if contact.failures < DEAD_AFTER_FAILURES:
                return self.next_in_step(contact, now)
            case AddressRole.RESCUE | AddressRole.ALTERNATE:
                return now + self._backoff(contact, timing.alternate_interval_s, timing.unproven_retry_cap_s)
            case AddressRole.LOST:
                slower = lost_stretch(lost)
                return now + self._backoff(contact, timing.retry_first_s * slower, timing.lost_retry_cap_s * slower)
            case AddressRole.UNPROVEN:
                return now + self._backoff(contact, timing.retry_first_s, timing.unproven_retry_cap_s)

    def next_in_step(self, contact: Contact, now: float) -> float:
        """One interval after the last probe started: at once after a slow failure, spaced after a quick one."""
        return now if contact.started_at is None else max(now, contact.started_at + self._timing.probe_interval_s)

    def next_start(self, contact: Contact, standing: AddressRole) -> float | None:
        """When a probe may leave; None until one that is under way ends.

        The address in use is asked again beside an unanswered probe, which then has a connection of its own.
        """
        if not contact.in_flight or contact.started_at is None:
            return contact.due_at
        if standing is not AddressRole.ROUTE or contact.in_flight >= MAX_PROBES_AT_ONCE:
            return None
        return contact.started_at + self.patience_s(contact)

    def patience_s(self, contact: Contact) -> float:
        """How long an answer usually takes at most, within bounds: then another connection is tried beside."""
        timing = self._timing
        return _within(timing.retransmit_min_s, contact.usual_s, timing.retransmit_max_s)

    def suspect_at(self, contact: Contact) -> float | None:
        """When its silence is worth a word."""
        if contact.silent_since is None:
            return None
        timing = self._timing
        return contact.silent_since + _within(timing.suspect_after_s, contact.usual_s, timing.suspect_late_s)

    def timeout_s(self, contact: Contact, standing: AddressRole) -> float:
        """How long a probe that leaves now is waited for: on the address in use, until a verdict is due."""
        if standing is not AddressRole.ROUTE or contact.started_at is None or contact.silent_since is None:
            return _within(self._timing.probe_timeout_s, contact.usual_s, self._timing.suspect_late_s)
        left_s = self._timing.give_up_s - (contact.started_at - contact.silent_since)
        return max(left_s, self._timing.retransmit_min_s)

    def _backoff(self, contact: Contact, first_s: float, cap_s: float) -> float:
        doublings = min(max(contact.failures - 1, 0), _MAX_DOUBLINGS)
        return self._jittered(min(first_s * 2**doublings, cap_s))

    def _jittered(self, interval_s: float, jitter: float | None = None) -> float:
        share = self._timing.jitter if jitter is None else jitter
        return interval_s * (1 + share * (2 * self._random() - 1))


def _within(least: float, value: float, most: float) -> float:
    return min(max(value, least), max(least, most))


def differ(one: str | None, other: str | None) -> bool:
    """Whether two marks of a run are of different runs; unknown ones are given the benefit of the doubt."""
    return one is not None and other is not None and one != other


def why_self(description: NodeDescription, self_instance: str | None) -> tuple[Why, str]:
    """What answers with this node's own id: itself, or a copy of it."""
    if not differ(description.instance, self_instance):
        return Why.ITSELF, "is this node itself"
    return Why.COPY, f"another node ({description.name}) uses this node's id {description.id}: {_REMEDY}"


def double_words(record: Record) -> str:
    """Why a second process with the id of `record` is not a peer."""
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


def check(holds: bool, otherwise: str) -> None:
    """Raises AssertionError with the words `otherwise` unless the invariant holds; no option of Python turns it off."""
    if not holds:
        raise AssertionError(otherwise)
