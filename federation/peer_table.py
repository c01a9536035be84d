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

from federation.advertisement import NodeDescription
from federation.contact import Contact, ProbeSchedule, Standing
from federation.hostport import Address
from federation.identities import differ, double_words, is_double, why_self
from federation.peer import (
    AddressRejected,
    Change,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerState,
    Source,
    Why,
    describe_difference,
)
from federation.peer_queries import PeerQueries
from federation.peer_records import PeerRecords, Record
from federation.timing import CONFLICTS_TO_REJECT, DEAD_AFTER_FAILURES, MAX_PEERS, Timing

Changes = tuple[Change, ...]

_MUCH_FASTER = 0.5  # another address replaces a working one only at half its round trip: no flapping between equals
_NOTICEABLE_MS = 2.0  # and only if the difference is more than this


class PeerTable(PeerQueries):
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
        super().__init__(PeerRecords(self_name))
        self._self_id = self_id
        self._self_instance = self_instance
        self._timing = timing or Timing()
        self._schedule = ProbeSchedule(self._timing, random)

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
        if record is not None and is_double(
            contact, self._held.contacts[record.route], record, description, now, self._timing
        ):
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
        if record is None or differ(instance, record.description.instance):
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

    # Probes

    def due_probes(self, now: float) -> tuple[Address, ...]:
        """The addresses to probe now. Each counts as being probed until `probe_answered` or `probe_failed`."""
        due = [contact for contact in self._held.contacts.values() if not contact.in_flight and contact.due_at <= now]
        for contact in due:
            contact.start(now)
        return tuple(contact.address for contact in due)

    def next_due(self) -> float | None:
        """When `due_probes` next has something; None while there is nothing that is not being probed."""
        return min((contact.due_at for contact in self._held.contacts.values() if not contact.in_flight), default=None)

    # Transitions

    def _refresh(self, record: Record, contact: Contact, description: NodeDescription, now: float) -> Changes:
        """The node answered through `contact`: update its record and say what changed."""
        difference = describe_difference(record.description, description)
        record.description = description
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
            return why_self(description, self._self_instance)
        if description.draining:
            return Why.LEAVING, f"{description.name} is shutting down"
        return None if self._held.make_room() else (Why.FULL, f"this node already knows {MAX_PEERS} peers")

    def _doubled(self, contact: Contact, record: Record, now: float) -> Changes:
        contact.conflicts += 1
        if contact.conflicts >= CONFLICTS_TO_REJECT:
            return self._reject(contact, Why.COPY, double_words(record), now)
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


def _is_much_faster(contact: Contact, route: Contact) -> bool:
    if contact.rtt_ms is None or route.rtt_ms is None or route.rtt_ms - contact.rtt_ms < _NOTICEABLE_MS:
        return False
    return contact.rtt_ms < _MUCH_FASTER * route.rtt_ms
