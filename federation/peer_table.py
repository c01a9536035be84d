"""Who is here: a pure state machine from events and the time to changes. `membership.py` performs its effects.

    event                      alive      suspect                            dead
    probe answered             alive      alive                              alive (joined)
    probe failed on the route  suspect    suspect; dead on enough evidence   dead
    traffic succeeded          alive      alive                              dead (probed soon)
    traffic failed             suspect    suspect                            dead
    goodbye, or draining       dead       dead                               dead

An address becomes a contact when somebody proposes it, and belongs to a peer only after a node answered there.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable

from federation.advertisement import MAX_HINTS, NodeDescription, PeerHint
from federation.contact import Contact, ProbeSchedule, Standing
from federation.hostport import Address
from federation.peer import (
    AddressRejected,
    Change,
    Peer,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerState,
    Source,
    Why,
    describe_difference,
)
from federation.peer_records import PeerRecords, Record
from federation.timing import CONFLICTS_TO_REJECT, DEAD_AFTER_FAILURES, MAX_PEERS, Timing

Changes = tuple[Change, ...]

_MUCH_FASTER = 0.5  # another address replaces a working one only at half its round trip: no flapping between equals
_NOTICEABLE_MS = 2.0  # and only if the difference is more than this


class PeerTable:
    """Not for use by several threads. `now` is monotonic seconds, never decreasing; every method returns at once."""

    def __init__(
        self,
        self_id: str,
        *,
        self_name: str = "",
        self_instance: str | None = None,
        timing: Timing | None = None,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._self_id = self_id
        self._self_instance = self_instance
        self._timing = timing or Timing()
        self._schedule = ProbeSchedule(self._timing, random)
        self._held = PeerRecords(self_name)

    # Events: each returns what it changed.

    def proposed(self, address: Address, source: Source, now: float) -> Changes:
        """Somebody says a node may answer there. It will be probed; a known address that is not alive, soon."""
        contact = self._held.contacts.get(address)
        if contact is None:
            if self._held.has_room_for(source):
                self._held.contacts[address] = Contact(address, source, due_at=now, since=now)
            return ()
        contact.source = max(contact.source, source)
        contact.since = now if contact.node_id is None else contact.since
        if self._held.standing(contact) in (Standing.LOST, Standing.UNPROVEN):
            contact.due_at = min(contact.due_at, self._schedule.next_in_step(contact, now))
        return ()

    def probe_answered(self, address: Address, description: NodeDescription, rtt_ms: float, now: float) -> Changes:
        """A probe brought a valid description."""
        contact = self._held.contacts.get(address)
        if contact is None:  # forgotten while the probe ran
            return ()
        contact.in_flight = False
        moved = self._moved_away(contact, now) if contact.node_id != description.id else ()
        record = self._held.records.get(description.id)
        if record is not None and self._is_double(contact, record, description, now):
            return (*moved, *self._doubled(contact, record, now))
        if record is None:
            why_not = self._why_no_peer(description)
            if why_not is not None:
                return (*moved, *self._reject(contact, *why_not, now))
            record = self._held.records[description.id] = Record(description, address, last_answer_at=now)
        self._held.attach(contact, description.id)
        contact.succeed(rtt_ms, now)
        return (*moved, *self._refresh(record, contact, description, now))

    def probe_failed(self, address: Address, reason: str, refused: bool, now: float, why: Why = Why.DOWN) -> Changes:
        """A probe brought nothing acceptable. `refused`: the machine answered that nobody listens."""
        contact = self._held.contacts.get(address)
        if contact is None:
            return ()
        contact.in_flight = False
        contact.fail(refused)
        changes: Changes = ()
        record = self._held.record_of(contact)
        if record is None:
            is_worth_saying = contact.source is Source.STATIC or contact.failures >= DEAD_AFTER_FAILURES
            changes = self._report(contact, why, reason) if is_worth_saying else ()
        elif record.route == address:
            changes = self._leave(record, reason, now) if contact.is_lost else self._suspect(record, reason, now)
        contact.due_at = self._schedule.after_failure(contact, self._held.standing(contact), now)
        return changes

    def traffic_ok(self, node_id: str, now: float) -> Changes:
        """A real request was answered: proof of life, though only a probe brings a dead peer back."""
        record = self._held.records.get(node_id)
        if record is None:
            return ()
        record.last_answer_at = now
        if record.is_dead:
            self._hurry(record, now)
            return ()
        self._held.contacts[record.route].clear_failures()
        if record.state is PeerState.ALIVE:
            return ()
        record.state = PeerState.ALIVE
        return (PeerChanged(self._held.view(record), PeerState.SUSPECT, "answers requests again"),)

    def traffic_failed(self, node_id: str, now: float) -> Changes:
        """A real request failed: a suspicion, which a probe confirms or refutes at once. Never fatal by itself."""
        record = self._held.records.get(node_id)
        if record is None or record.state is not PeerState.ALIVE:
            return ()
        changes = self._suspect(record, "a request to it failed", now)
        self._held.contacts[record.route].due_at = now
        return changes

    def goodbye(self, node_id: str, now: float, instance: str | None = None) -> Changes:
        """It says that it leaves: believed until it answers a probe without `draining`.

        Not believed of another `instance` than the one in use, which is a copy of its data directory, or out of date.
        """
        record = self._held.records.get(node_id)
        if record is None or _differ(instance, record.description.instance):
            return ()
        return self._leave(record, "said goodbye", now)

    def expelled(self, node_id: str, reason: str, now: float) -> Changes:
        """It may not be a peer any more: out now. Its addresses are asked again, in case it may be one later."""
        record = self._held.records.get(node_id)
        if record is None:
            return ()
        changes = self._leave(record, reason, now)
        for contact in self._held.contacts_of(record):
            self._held.detach(contact)
            contact.since = now
        return changes

    def doubted(self, node_id: str, now: float) -> Changes:
        """A hint that it left (an mDNS goodbye, which lost multicast imitates): probe soon, conclude nothing."""
        record = self._held.records.get(node_id)
        if record is not None:
            self._hurry(record, now)
        return ()

    def withdrawn(self, address: Address) -> Changes:
        """A person took it off the list: from now on it stays only as long as it is of use."""
        contact = self._held.contacts.get(address)
        if contact is not None and contact.source is Source.STATIC:
            contact.source = Source.EXCHANGE
        return ()

    def woke(self, now: float) -> Changes:
        """This machine slept, or moved to another network: nothing known is sure any more. Probe everything."""
        for contact in self._held.contacts.values():
            contact.due_at = now
        return ()

    def tick(self, now: float) -> Changes:
        """Forget what has been silent for long; what a person gave with --peer never. Call it now and then."""
        for node_id, record in list(self._held.records.items()):
            is_over = record.is_dead and now - record.left_at >= self._timing.forget_lost_s
            if is_over and not self._held.is_static(record):
                self._held.forget(node_id)
        for contact in list(self._held.contacts.values()):
            if self._is_stale(contact, now):
                self._held.drop(contact)
        return ()

    # Queries

    def alive(self) -> tuple[Peer, ...]:
        """The peers that may be routed to: alive ones first, then suspects; never a dead one."""
        members = [peer for peer in self._held.views() if peer.state is not PeerState.DEAD]
        return tuple(sorted(members, key=lambda peer: peer.state is PeerState.SUSPECT))

    def peers(self) -> tuple[Peer, ...]:
        """Every node that has answered, dead ones included until forgotten, by label."""
        return tuple(self._held.views())

    def get(self, node_id: str) -> Peer | None:
        """One peer by id."""
        record = self._held.records.get(node_id)
        return None if record is None else self._held.view(record)

    def due_probes(self, now: float) -> tuple[Address, ...]:
        """The addresses to probe now. Each counts as being probed until `probe_answered` or `probe_failed`."""
        due = [contact for contact in self._held.contacts.values() if not contact.in_flight and contact.due_at <= now]
        for contact in due:
            contact.start(now)
        return tuple(contact.address for contact in due)

    def next_due(self) -> float | None:
        """When `due_probes` next has something; None while there is nothing that is not being probed."""
        return min((contact.due_at for contact in self._held.contacts.values() if not contact.in_flight), default=None)

    def hints(self) -> tuple[PeerHint, ...]:
        """What to tell others: alive peers only, so that the dead do not go round for ever."""
        alive = [record for record in self._held.records.values() if record.state is PeerState.ALIVE]
        return tuple(map(self._held.hint, alive[:MAX_HINTS]))

    def addresses(self, source: Source | None = None) -> tuple[Address, ...]:
        """Every address held, proven or not; or those of one source."""
        held = self._held.contacts.values()
        return tuple(contact.address for contact in held if source is None or contact.source is source)

    def rejected(self) -> tuple[AddressRejected, ...]:
        """What has been proposed and leads to no peer, with the reason last found."""
        held = self._held.contacts.values()
        return tuple(contact.reported for contact in held if contact.node_id is None and contact.reported is not None)

    # Transitions

    def _refresh(self, record: Record, contact: Contact, description: NodeDescription, now: float) -> Changes:
        """The node answered through `contact`: update its record and say what changed."""
        difference = describe_difference(record.description, description)
        record.description = description
        record.described_at = now - (contact.rtt_ms or 0.0) / 1000
        record.last_answer_at = now
        self._choose_route(record, contact)
        changes: Changes = ()
        if description.draining:
            changes = self._leave(record, "is shutting down", now)
        elif record.is_dead:
            record.state = PeerState.ALIVE
            changes = (PeerJoined(self._held.view(record), returned=record.has_joined),)
            record.has_joined = True
        else:
            was, record.state = record.state, PeerState.ALIVE
            recovered = "answers again" if was is PeerState.SUSPECT else None
            reason = "; ".join(filter(None, (recovered, difference)))
            changes = (PeerChanged(self._held.view(record), was, reason),) if reason else ()
        contact.due_at = self._schedule.after_answer(self._held.standing(contact), now)
        return changes

    def _choose_route(self, record: Record, contact: Contact) -> None:
        """Keep the route unless it fails or the address that just answered is plainly better."""
        route = self._held.contacts[record.route]
        if record.state is not PeerState.ALIVE or route.failures or _is_much_faster(contact, route):
            record.route = contact.address

    def _suspect(self, record: Record, reason: str, now: float) -> Changes:
        if record.state is not PeerState.ALIVE:
            return ()
        record.state = PeerState.SUSPECT
        self._hurry(record, now)
        return (PeerChanged(self._held.view(record), PeerState.ALIVE, reason),)

    def _leave(self, record: Record, reason: str, now: float) -> Changes:
        if record.is_dead:
            return ()
        record.state = PeerState.DEAD
        record.left_at = now
        for contact in self._held.contacts_of(record):
            contact.due_at = min(contact.due_at, now + self._timing.retry_first_s)
        return (PeerLeft(self._held.view(record), reason),)

    def _hurry(self, record: Record, now: float) -> None:
        """Probe every address of it as soon as the pace allows."""
        for contact in self._held.contacts_of(record):
            contact.due_at = min(contact.due_at, self._schedule.next_in_step(contact, now))

    def _is_stale(self, contact: Contact, now: float) -> bool:
        """Whether the address has been useless for long: never proven, or a failing alternative to one that works."""
        if contact.source is Source.STATIC or now - contact.since < self._timing.forget_unproven_s:
            return False
        return self._held.standing(contact) in (Standing.UNPROVEN, Standing.ALTERNATE)

    # Answers that make no peer

    def _why_no_peer(self, description: NodeDescription) -> tuple[Why, str] | None:
        """Why a node that is not recorded yet cannot be; None if it can."""
        if description.id == self._self_id:
            return self._why_self(description)
        if description.draining:
            return Why.LEAVING, f"{description.name} is shutting down"
        return None if self._held.make_room() else (Why.FULL, f"this node already knows {MAX_PEERS} peers")

    def _why_self(self, description: NodeDescription) -> tuple[Why, str]:
        if not _differ(description.instance, self._self_instance):
            return Why.ITSELF, "is this node itself"
        return Why.COPY, (
            f"another node ({description.name}) uses this node's id {self._self_id}: "
            "one data directory is a copy of the other; delete node.pem in the copy"
        )

    def _is_double(self, contact: Contact, record: Record, description: NodeDescription, now: float) -> bool:
        """Whether two processes answer as one id at the same time, each at its own address."""
        route = self._held.contacts[record.route]
        known = record.description.instance
        if record.is_dead or contact is route or route.failures or None in (known, description.instance):
            return False
        return known != description.instance and now - route.since <= self._timing.conflict_window_s

    def _doubled(self, contact: Contact, record: Record, now: float) -> Changes:
        contact.conflicts += 1
        if contact.conflicts >= CONFLICTS_TO_REJECT:
            reason = (
                f"uses the id of {record.description.name} at {record.route}: "
                "one data directory is a copy of the other; delete node.pem in the copy"
            )
            return self._reject(contact, Why.COPY, reason, now)
        contact.due_at = now + self._timing.probe_interval_s  # a restarted node: its route will show the same soon
        return ()

    def _reject(self, contact: Contact, why: Why, reason: str, now: float) -> Changes:
        changes = self._moved_away(contact, now)
        contact.fail(refused=False)
        contact.due_at = self._schedule.after_failure(contact, Standing.UNPROVEN, now)
        return (*changes, *self._report(contact, why, reason))

    def _moved_away(self, contact: Contact, now: float) -> Changes:
        """The address no longer leads to the node it belonged to, if any."""
        record = self._held.record_of(contact)
        if record is None:
            return ()
        reason = f"{contact.address} does not lead to it any more"
        changes: Changes = ()
        if record.addresses == [contact.address]:
            changes = self._leave(record, reason, now)
        elif record.route == contact.address:
            changes = self._suspect(record, reason, now)
        self._held.detach(contact)
        return changes

    def _report(self, contact: Contact, why: Why, reason: str) -> Changes:
        said = AddressRejected(contact.address, contact.source, reason, why)
        if contact.reported == said:
            return ()
        contact.reported = said
        return (said,)


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two marks of a run are of different runs; unknown ones are given the benefit of the doubt."""
    return one is not None and other is not None and one != other


def _is_much_faster(contact: Contact, route: Contact) -> bool:
    if contact.rtt_ms is None or route.rtt_ms is None or route.rtt_ms - contact.rtt_ms < _NOTICEABLE_MS:
        return False
    return contact.rtt_ms < _MUCH_FASTER * route.rtt_ms
