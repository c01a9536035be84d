"""Who is here: a pure state machine from events and the time to changes. `membership.py` performs its effects.

    event                        alive            suspect          dead
    probe answered               alive            alive            alive (joined)
    refused                      suspect          dead (2nd time)  dead
    failed or silent, 1.5 s      suspect          suspect          dead
    silent for 4.4 s             suspect          dead             dead
    traffic succeeded            alive            alive            dead (probed soon)
    traffic failed               suspect          suspect          dead
    others doubt or miss it      alive (probed)   suspect (probed) dead
    goodbye, draining, one-way   dead             dead             dead

An address becomes a contact when somebody proposes it, and belongs to a peer only after a node answered there.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from federation.advertisement import MAX_HINTS, Loadables, NodeDescription, PeerHint
from federation.hostport import Address, same_host, worth_a_probe
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
from federation.peer_records import (
    AddressRole,
    Contact,
    PeerRecords,
    ProbeSchedule,
    Record,
    check,
    differ,
    double_words,
    is_double,
    is_first_again,
    is_successor,
    why_self,
)
from federation.probing import HintAllowance, News, NewsBoard, NewsKind, ProbeAnswer, ProbeQuestion, Sight, view_digest
from federation.timing import CONFLICTS_TO_REJECT, DEAD_AFTER_FAILURES, LISTS_AT_ONCE, TableBounds, Timing

Changes = tuple[Change, ...]

_MUCH_FASTER = 0.5  # another address replaces a working one only at half its round trip: no flapping between equals
_NOTICEABLE_MS = 2.0  # and only if the difference is more than this


P = ParamSpec("P")
R = TypeVar("R")


def _event(method: Callable[Concatenate[PeerTable, P], R]) -> Callable[Concatenate[PeerTable, P], R]:
    """What may change a table: the snapshots made before are not given again."""

    @wraps(method)
    def changing(self: PeerTable, *arguments: P.args, **named: P.kwargs) -> R:
        self._alive = None  # pyright: ignore[reportPrivateUsage]  # its own class's
        return method(self, *arguments, **named)

    return changing


class PeerTable:
    """Every node that has answered, every address proposed, and what is to be probed next.

    Events (`proposed`, `probe_answered`, ...) return what they changed; `due_probes` and `question` say what to ask
    whom; the other methods are queries, whose snapshots are made when asked. `now` is monotonic seconds, never
    decreasing. Every method returns at once. Not for use by several threads.

    In a swarm of more than a few nodes each peer is probed less often (`timing.stretch`), so what descriptions say of
    load may be as old as that interval: with 100 nodes some 17 s.

    Invariants, which hold between any two calls and which `validate` checks:

    - An address is one contact and leads to at most one peer; that peer lists it among its addresses, once.
    - A peer has at least one address, at most `TableBounds.addresses_per_peer`, and its route is one of them.
    - This node is not a peer of its own, there are at most `TableBounds.peers` peers, and no contact is a host name.
    - Only a peer that has joined is alive or suspect, and only a known run of it was described by its last answer.
    - What `alive` shows is what is held.
    - At most MAX_PROBES_AT_ONCE probes are under way to an address; while one is, it is known since when the address
      has been silent. Refusals are failures.
    """

    def __init__(
        self,
        self_id: str,
        *,
        self_name: str = "",
        self_instance: str | None = None,
        timing: Timing | None = None,
        random: Callable[[], float] = random_module.random,
        is_open: Callable[[], bool] = lambda: True,
        bounds: TableBounds | None = None,
    ) -> None:
        self._self_id = self_id
        self._self_instance = self_instance
        self._timing = timing or Timing()
        self._bounds = bounds or TableBounds()
        self._held = PeerRecords(self_name, is_open, self._bounds)
        self._board = NewsBoard()
        self._schedule = ProbeSchedule(self._timing, random)
        self._hints = HintAllowance()
        self._looked_at: float | None = None
        self._alive: tuple[Peer, ...] | None = None  # as last shown, since the last event

    # Events: each returns what it changed.

    @_event
    def proposed(self, address: Address, source: Source, now: float, node_id: str | None = None) -> Changes:
        """Somebody says a node may answer there. It will be probed; a known address that is not alive, soon.

        Which node that is, `node_id`, is believed only as far as not to report it to people twice.

        Never a name: names are the user's, and `DnsSource` looks them up. A peer could name thousands.
        """
        if address.is_name:
            return ()
        contact = self._held.contacts.get(address)
        if contact is None:
            if self._held.has_room_for(address, source):
                self._held.contacts[address] = Contact(address, source, due_at=now, since=now, claimed_id=node_id)
            return ()
        contact.claimed_id = node_id or contact.claimed_id
        contact.source = max(contact.source, source)
        contact.since = now if contact.node_id is None else contact.since
        if self._held.role_of(contact) in (AddressRole.LOST, AddressRole.UNPROVEN):
            contact.due_at = min(contact.due_at, self._schedule.next_in_step(contact, now))
        return ()

    @_event
    def probe_answered(self, address: Address, answer: ProbeAnswer, rtt_ms: float, now: float) -> Changes:
        """A probe brought a valid description. Other probes of that address, still under way, may be given up."""
        contact = self._held.contacts.get(address)
        if contact is None:  # forgotten while the probe ran
            return ()
        description = answer.description
        contact.in_flight, contact.claimed_id = 0, description.id
        moved = self._moved_away(contact, now) if contact.node_id != description.id else ()
        record = self._held.records.get(description.id)
        if record is not None and (route := self._held.contacts[record.route]) is not contact:
            if is_first_again(address, record, description):
                moved += self._first_again(record, contact, now)
            elif is_double(contact, route, record, description, now, self._timing):
                return (*moved, *self._doubled(contact, record, now))
            elif is_successor(address, record, description) and len(record.owners) < self._bounds.addresses_per_peer:
                record.owners.append(address)
        if record is None:
            why_not = self._why_no_peer(description)
            if why_not is not None:
                return (*moved, *self._reject(contact, *why_not, now))
            made_way, full = self._make_room(contact, now)
            if full is not None:
                return (*moved, *self._reject(contact, Why.FULL, full, now))
            moved += made_way
            record = self._held.records[description.id] = Record(
                description, address, last_answer_at=now, since=now, owners=[address]
            )
        self._held.attach(contact, description.id)
        contact.succeed(rtt_ms, now)
        return (*moved, *self._refresh(record, contact, answer, now))

    @_event
    def probe_failed(self, address: Address, reason: str, refused: bool, now: float, why: Why = Why.DOWN) -> Changes:
        """A probe brought nothing acceptable. `refused`: the machine answered that nobody listens."""
        self._notice_stall(now)
        contact = self._held.contacts.get(address)
        if contact is None:
            return ()
        contact.fail(refused, reason)
        changes: Changes = ()
        record = self._held.record_of(contact)
        if record is None:
            is_worth_saying = contact.source is Source.STATIC or contact.failures >= DEAD_AFTER_FAILURES
            changes = self._report(contact, why, reason) if is_worth_saying else ()
        elif record.route == address:
            is_lost = contact.is_lost(now, self._timing)
            changes = self._leave(record, reason, now) if is_lost else self._suspect(record, reason, now)
        standing = self._held.role_of(contact)
        contact.due_at = self._schedule.after_failure(contact, standing, now, self._held.lost)
        return changes

    @_event
    def traffic_ok(self, node_id: str, now: float) -> Changes:
        """A real request was answered: proof of life, though only a probe brings a dead peer back."""
        record = self._held.records.get(node_id)
        if record is None:
            return ()
        record.last_answer_at = now
        if record.is_dead:
            self._hurry(record, now)
            return ()
        self._held.contacts[record.route].clear_failures(now)
        if record.state is PeerState.ALIVE:
            return ()
        record.state = PeerState.ALIVE
        self._board.retract(node_id)
        return (PeerChanged(self._held.view(record), PeerState.SUSPECT, "answers requests again"),)

    @_event
    def traffic_failed(self, node_id: str, now: float) -> Changes:
        """A real request failed: a suspicion, which a probe confirms or refutes at once. Never fatal by itself."""
        record = self._held.records.get(node_id)
        if record is None or record.state is not PeerState.ALIVE:
            return ()
        changes = self._suspect(record, "a request to it failed", now)
        self._held.contacts[record.route].due_at = now
        return changes

    @_event
    def goodbye(self, node_id: str, now: float, instance: str | None = None, remote: str | None = None) -> Changes:
        """It says that it leaves: believed until it answers a probe without `draining`.

        Not believed of another `instance` than the one in use, which is a copy of its data directory, or out of date.
        `remote` is the host from which it was said, None where a certificate proved who says it: anybody else has to
        name the instance and to be at one of the node's addresses; else it is a doubt, which a probe settles.
        """
        record = self._held.records.get(node_id)
        if record is None or not self._is_current(record, instance):
            return ()
        if remote is not None and (instance is None or not self.is_at(node_id, remote)):
            return self.doubted(node_id, now)
        return self._leave(record, "said goodbye", now)

    @_event
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

    @_event
    def doubted(self, node_id: str, now: float) -> Changes:
        """A hint that it left (an mDNS goodbye, which lost multicast imitates): probe soon, conclude nothing."""
        record = self._held.records.get(node_id)
        if record is not None:
            self._hurry(record, now)
        return ()

    @_event
    def news_received(self, news: Iterable[News], sender_id: str, now: float, remote: str | None = None) -> Changes:
        """What another node found: reasons to probe at once, within an allowance, and never more than that.

        Taken only from peers that are here; a hinted loopback address means the sender's machine. `remote` is where it
        came from, None where the sender is known by its certificate, or was asked itself.
        """
        sender = self._held.records.get(sender_id)
        if sender is None or sender.is_dead or (remote is not None and not self.is_at(sender_id, remote)):
            return ()
        for item in news:
            record = self._held.records.get(item.id)
            if item.id == self._self_id or not self._is_of_use(item, record, now):
                continue
            if not worth_a_probe(item.address, sender.route):
                continue
            if not self._hints.take(now):
                break
            if item.what is NewsKind.JOINED:
                self.proposed(item.address, Source.EXCHANGE, now)
            if record is not None:
                self._hurry(record, now)
        return ()

    @_event
    def called(self, node_id: str, now: float, remote: str | None = None) -> Changes:
        """It asks this node: no proof that it can be asked, but a reason to try, and not to forget it.

        `remote` is where from, None where a certificate proved who asks: from elsewhere it may be anybody.
        """
        record = self._held.records.get(node_id)
        if record is not None and record.is_dead and (remote is None or self.is_at(node_id, remote)):
            record.left_at = now
            self._hurry(record, now)
        return ()

    @_event
    def withdrawn(self, address: Address) -> Changes:
        """A person took it off the list: from now on it stays only as long as it is of use."""
        contact = self._held.contacts.get(address)
        if contact is not None and contact.source is Source.STATIC:
            contact.source = Source.EXCHANGE
        return ()

    @_event
    def woke(self, now: float) -> Changes:
        """This machine slept, or moved to another network: nothing known is sure any more. Probe everything."""
        for contact in self._held.contacts.values():
            contact.due_at = now
        return ()

    @_event
    def tick(self, now: float) -> Changes:
        """Judge the silent and forget the lost; what a person gave with --peer never. Call it each second at least."""
        self._notice_stall(now)
        changes = tuple(change for record in self._held.records.values() for change in self._judge(record, now))
        for node_id, record in list(self._held.records.items()):
            is_over = record.is_dead and now - record.left_at >= self._timing.forget_lost_s
            if is_over and not self._held.is_static(record):
                self._held.forget(node_id)
        for contact in list(self._held.contacts.values()):
            if self._is_stale(contact, now):
                self._held.drop(contact)
        return changes

    # Probes

    def due_probes(self, now: float) -> tuple[Address, ...]:
        """The addresses to probe now, with `question`. Each probe counts as under way until one is answered or fails.

        An address in use may be due again beside a probe that is late: let that one have another connection.
        """
        due = [contact for contact in self._held.contacts.values() if self._is_due(contact, now)]
        for contact in due:
            record = self._held.record_of(contact)
            if contact.in_flight and record is not None:
                self._post(record, NewsKind.DOUBTED, now)  # late: others may look too, long before it is a suspicion
            contact.start(now)
        return tuple(contact.address for contact in due)

    def question(self, address: Address, now: float) -> ProbeQuestion:
        """What to ask at an address that is due."""
        contact = self._held.contacts[address]
        record = self._held.record_of(contact)
        timeout_s = self._schedule.timeout_s(contact, self._held.role_of(contact))
        if record is None or record.answer is None:
            return ProbeQuestion(timeout_s, news=self._board.items(now))
        known = record.answer if record.answer.tag is not None else None
        introduces = record.answer.sight is not Sight.HERE
        return ProbeQuestion(timeout_s, known, self._board.items(now, to=record.description.id), introduces)

    def next_due(self) -> float | None:
        """When `due_probes` or `tick` next has something; None while there is nothing to wait for but answers."""
        starts = (self._schedule.next_start(held, self._held.role_of(held)) for held in self._held.contacts.values())
        verdicts = (self._verdict_at(record) for record in self._held.records.values())
        return min((at for at in (*starts, *verdicts) if at is not None), default=None)

    @_event
    def due_lists(self, now: float) -> tuple[Peer, ...]:
        """The peers to ask now for what they could load; each counts as being asked until `list_received`."""
        records = self._held.records.values()
        room = LISTS_AT_ONCE - sum(record.listing.in_flight for record in records)
        alive = (record for record in records if not record.is_dead)
        due = [record for record in alive if record.listing.is_due(record.description.loadable, now)]
        due.sort(key=lambda record: record.listing.due_at)
        for record in due[: max(room, 0)]:
            record.listing.start(now, self._timing)
        return tuple(self._held.view(record) for record in due[: max(room, 0)])

    @_event
    def list_received(self, node_id: str, found: Loadables | None, now: float) -> None:
        """What that peer could load came, None where it could not be had: then it is asked ever more rarely."""
        record = self._held.records.get(node_id)
        if record is not None:
            record.listing.end(found, record.description.loadable, now, self._timing)

    # Queries

    def alive(self) -> tuple[Peer, ...]:
        """The peers that may be routed to: alive ones first, then suspects; never a dead one."""
        if self._alive is None:
            self._alive = self._seen_alive()
        return self._alive

    def _seen_alive(self) -> tuple[Peer, ...]:
        members = [peer for peer in self._held.views() if peer.state is not PeerState.DEAD]
        return tuple(sorted(members, key=lambda peer: peer.state is PeerState.SUSPECT))

    def peers(self) -> tuple[Peer, ...]:
        """Every node that has answered, dead ones included until forgotten, by label."""
        return tuple(self._held.views())

    def get(self, node_id: str) -> Peer | None:
        """One peer by id."""
        record = self._held.records.get(node_id)
        return None if record is None else self._held.view(record)

    def is_at(self, node_id: str, host: str) -> bool:
        """Whether that peer has answered at an address of `host`: an outsider cannot call from there."""
        record = self._held.records.get(node_id)
        found = same_host(host)
        return record is not None and any(same_host(address.host) == found for address in record.addresses)

    def hints(self) -> tuple[PeerHint, ...]:
        """What to report to others: alive peers only, so that the dead do not go round for ever."""
        alive = [record for record in self._held.records.values() if record.state is PeerState.ALIVE]
        return tuple(map(self._held.hint, alive[:MAX_HINTS]))

    def rejected(self) -> tuple[AddressRejected, ...]:
        """What has been proposed and leads to no peer, with the reason last found."""
        held = self._held.contacts.values()
        return tuple(contact.reported for contact in held if contact.node_id is None and contact.reported is not None)

    def news(self, now: float, to: str | None = None) -> tuple[News, ...]:
        """What this node has found out of late, for the node `to`."""
        return self._board.items(now, to)

    def view(self) -> str:
        """A digest of who is here, this node included: equal where two nodes agree."""
        here = (node_id for node_id, record in self._held.records.items() if not record.is_dead)
        return view_digest(frozenset((self._self_id, *here)))

    def sees_otherwise(self, node_id: str) -> bool:
        """Whether that peer finds others here than this node does, or does not say."""
        record = self._held.records.get(node_id)
        return record is None or record.answer is None or record.answer.view != self.view()

    def sight_of(self, node_id: str) -> Sight:
        """How this node finds one that asks it. One that said goodbye and asks again is only not met yet."""
        record = self._held.records.get(node_id)
        if record is None:
            return Sight.UNKNOWN
        if not record.is_dead:
            return Sight.HERE
        fails = all(contact.failures for contact in self._held.contacts_of(record))
        return Sight.UNREACHABLE if fails else Sight.UNKNOWN

    def validate(self) -> None:
        """Check the invariants of the class; tests do after each event. Raises AssertionError naming the broken one."""
        self._held.validate()
        for node_id, record in self._held.records.items():
            check(node_id != self._self_id, f"{node_id} is this node itself, and recorded as a peer")
            check(record.is_dead or record.has_joined, f"{node_id} is {record.state} and has never joined")
            check(
                record.answer is None or record.answer.description == record.description,
                f"{node_id} is described otherwise than by its last answer",
            )
        check(self._alive in (None, self._seen_alive()), "who is alive has changed, and the old is still shown")
        for address in self._held.contacts:
            check(not address.is_name, f"{address} is a host name, which nobody probes")

    # Transitions of a peer

    def _refresh(self, record: Record, contact: Contact, answer: ProbeAnswer, now: float) -> Changes:
        """The node answered through `contact`: update its record and say what changed."""
        description = answer.description
        difference = describe_difference(record.description, description)
        record.description, record.answer = description, answer
        record.described_at = now - (contact.rtt_ms or 0.0) / 1000
        record.last_answer_at = now
        self._choose_route(record, contact)
        changes: Changes = ()
        if description.draining:
            changes = self._leave(record, "is shutting down", now)
        elif (reason := self._one_way(record, answer.sight, now)) is not None:
            changes = self._leave(record, reason, now)
        elif record.is_dead:
            record.state = PeerState.ALIVE
            changes = (PeerJoined(self._held.view(record), returned=record.has_joined),)
            record.has_joined = True
            self._post(record, NewsKind.JOINED, now)
        else:
            was, record.state = record.state, PeerState.ALIVE
            self._board.retract(description.id)
            recovered = "answers again" if was is PeerState.SUSPECT else None
            reason = "; ".join(filter(None, (recovered, difference)))
            changes = (PeerChanged(self._held.view(record), was, reason),) if reason else ()
        is_settled = not record.is_dead and answer.sight in (None, Sight.HERE)  # else both need to know more soon
        contact.due_at = self._schedule.after_answer(
            self._held.role_of(contact), now, self._held.here if is_settled else 0
        )
        return changes

    def _one_way(self, record: Record, sight: Sight | None, now: float) -> str | None:
        """Why a node that answers is none to rely on: it has said for long that it cannot reach this one."""
        if sight is not Sight.UNREACHABLE:
            record.one_way_since = None
            return None
        if record.one_way_since is None:
            record.one_way_since = now
        if now - record.one_way_since < self._timing.one_way_s:
            return None
        return "answers, but cannot reach this node (any more): is a firewall here, or the way back, closed?"

    def _choose_route(self, record: Record, contact: Contact) -> None:
        """Keep the route unless it fails or the address that just answered is plainly better.

        The first owner's address is taken again when it answers again: what stood in for it may be somebody else.
        """
        route, first = self._held.contacts[record.route], record.owners[0]
        fails = record.state is not PeerState.ALIVE or route.failures > 0
        is_back = record.is_away and contact.address == first and not _is_much_faster(route, contact)
        if fails or is_back or _is_much_faster(contact, route):
            record.is_away = contact.address != first and (record.is_away or (fails and route.address == first))
            record.route = contact.address

    def _judge(self, record: Record, now: float) -> Changes:
        """What the silence of the address in use amounts to by now."""
        route = self._held.contacts[record.route]
        suspect_at = self._schedule.suspect_at(route)
        if record.is_dead or suspect_at is None:
            return ()
        reason = route.problem or f"{route.address} did not answer in time"
        if route.is_lost(now, self._timing):
            return self._leave(record, reason, now)
        return self._suspect(record, reason, now) if now >= suspect_at else ()

    def _verdict_at(self, record: Record) -> float | None:
        """When `_judge` may next have something to say."""
        route = self._held.contacts[record.route]
        if record.is_dead or route.silent_since is None:
            return None
        if record.state is PeerState.ALIVE:
            return self._schedule.suspect_at(route)
        return route.silent_since + self._timing.give_up_s

    def _suspect(self, record: Record, reason: str, now: float) -> Changes:
        if record.state is not PeerState.ALIVE:
            return ()
        record.state = PeerState.SUSPECT
        self._hurry(record, now)
        self._post(record, NewsKind.DOUBTED, now)
        return (PeerChanged(self._held.view(record), PeerState.ALIVE, reason),)

    def _leave(self, record: Record, reason: str, now: float) -> Changes:
        if record.is_dead:
            return ()
        record.state = PeerState.DEAD
        record.left_at = now
        for contact in self._held.contacts_of(record):
            contact.due_at = min(contact.due_at, now + self._timing.retry_first_s)
        self._post(record, NewsKind.LEFT, now)
        return (PeerLeft(self._held.view(record), reason),)

    def _post(self, record: Record, what: NewsKind, now: float) -> None:
        """Report it to the others, who will see for themselves."""
        description = record.description
        self._board.post(description.id, what, self._held.hint(record).address, description.instance, now)

    def _hurry(self, record: Record, now: float) -> None:
        """Probe every address of it as soon as the pace allows."""
        for contact in self._held.contacts_of(record):
            contact.due_at = min(contact.due_at, self._schedule.next_in_step(contact, now))

    # Answers that make no peer

    def _why_no_peer(self, description: NodeDescription) -> tuple[Why, str] | None:
        """Why a node that is not recorded yet cannot be, wherever it is; None if it can."""
        if description.id == self._self_id:
            return why_self(description, self._self_instance)
        return (Why.LEAVING, f"{description.name} is shutting down") if description.draining else None

    def _make_room(self, contact: Contact, now: float) -> tuple[Changes, str | None]:
        """Let somebody go for what answers at `contact`, if need be; why it cannot be recorded, if it cannot."""
        room = self._held.admission_of(contact)
        if room.evicts is None:
            return (), room.refusal
        changes = self._leave(self._held.records[room.evicts], "makes room for a node of another address", now)
        self._held.forget(room.evicts)
        return changes, None

    def _first_again(self, record: Record, contact: Contact, now: float) -> Changes:
        """An earlier owner of the id answers again: those who took it over meanwhile are out."""
        self._held.attach(contact, record.description.id)
        record.route = contact.address
        later = record.owners[record.owners.index(contact.address) + 1 :]
        changes: Changes = ()
        for other in [other for other in self._held.contacts_of(record) if other.address in later]:
            changes += self._reject(other, Why.COPY, double_words(record), now)
        del record.owners[record.owners.index(contact.address) + 1 :]
        return changes

    def _doubled(self, contact: Contact, record: Record, now: float) -> Changes:
        contact.conflicts += 1
        if contact.conflicts >= CONFLICTS_TO_REJECT:
            return self._reject(contact, Why.COPY, double_words(record), now)
        contact.due_at = now + self._timing.probe_interval_s  # a restarted node: its route will show the same soon
        return ()

    def _reject(self, contact: Contact, why: Why, reason: str, now: float) -> Changes:
        changes = self._moved_away(contact, now)
        contact.fail(refused=False, problem=reason)
        contact.due_at = self._schedule.after_failure(contact, AddressRole.UNPROVEN, now, self._held.lost)
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
        said = AddressRejected(contact.address, contact.source, reason, why, contact.claimed_id)
        if contact.reported == said:
            return ()
        contact.reported = said
        return (said,)

    # What is due, stale, or worth a probe

    def _is_stale(self, contact: Contact, now: float) -> bool:
        """Whether the address has been useless for long: never proven, or a failing alternative to one that works."""
        if contact.source is Source.STATIC or now - contact.since < self._timing.forget_unproven_s:
            return False
        standing = self._held.role_of(contact)
        return standing is AddressRole.UNPROVEN or (standing is AddressRole.ALTERNATE and contact.failures > 0)

    def _is_due(self, contact: Contact, now: float) -> bool:
        start_at = self._schedule.next_start(contact, self._held.role_of(contact))
        return start_at is not None and start_at <= now

    def _is_of_use(self, item: News, record: Record | None, now: float) -> bool:
        """Whether the news may be true and is not known here, by evidence as young."""
        if item.what is NewsKind.JOINED:
            return record is None or record.is_dead
        if record is None or record.is_dead or not self._is_current(record, item.run):
            return False
        return record.last_answer_at < now - item.age_s

    def _is_current(self, record: Record, run: str | None) -> bool:
        """Whether what is said of that run is said of the process in use."""
        return not differ(run, record.description.instance)

    def _notice_stall(self, now: float) -> None:
        """Time in which this process did not run (a frozen machine, a blocked loop) is nobody's silence."""
        slept_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if slept_s > self._timing.stall_s:
            for contact in self._held.contacts.values():
                contact.forgive(slept_s, now)


def _is_much_faster(contact: Contact, route: Contact) -> bool:
    if contact.rtt_ms is None or route.rtt_ms is None or route.rtt_ms - contact.rtt_ms < _NOTICEABLE_MS:
        return False
    return contact.rtt_ms < _MUCH_FASTER * route.rtt_ms
