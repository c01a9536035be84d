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

from federation.contact import Contact, Standing
from federation.hostport import Address, worth_a_probe
from federation.identities import is_double, is_first_again, is_successor
from federation.news import Happening, News
from federation.peer import PeerChanged, PeerState, Source, Why
from federation.peer_records import PeerRecords, Record
from federation.peer_transitions import Changes, PeerTransitions
from federation.probing import Answer, Question, Sight
from federation.timing import DEAD_AFTER_FAILURES, MAX_ADDRESSES_PER_PEER, Timing


class PeerTable(PeerTransitions):
    """Not for use by several threads. `now` is monotonic seconds, never decreasing; every method returns at once.

    In a swarm of more than a few nodes each peer is probed less often (`timing.stretch`), so what descriptions say of
    load may be as old as that interval: with 100 nodes some 17 s.
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
    ) -> None:
        super().__init__(self_id, PeerRecords(self_name, is_open), self_instance, timing or Timing(), random)
        self._looked_at: float | None = None

    # Events: each returns what it changed.

    def proposed(self, address: Address, source: Source, now: float, node_id: str | None = None) -> Changes:
        """Somebody says a node may answer there. It will be probed; a known address that is not alive, soon.

        Which node that is, `node_id`, is believed only as far as not to tell people of it twice.

        Never a name: names are the user's, and `DnsSource` looks them up. A peer could tell thousands.
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
        if self._held.standing(contact) in (Standing.LOST, Standing.UNPROVEN):
            contact.due_at = min(contact.due_at, self._schedule.next_in_step(contact, now))
        return ()

    def probe_answered(self, address: Address, answer: Answer, rtt_ms: float, now: float) -> Changes:
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
            elif is_successor(address, record, description) and len(record.owners) < MAX_ADDRESSES_PER_PEER:
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
        standing = self._held.standing(contact)
        contact.due_at = self._schedule.after_failure(contact, standing, now, self._held.lost)
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
        self._held.contacts[record.route].clear_failures(now)
        if record.state is PeerState.ALIVE:
            return ()
        record.state = PeerState.ALIVE
        self._board.retract(node_id)
        return (PeerChanged(self._held.view(record), PeerState.SUSPECT, "answers requests again"),)

    def traffic_failed(self, node_id: str, now: float) -> Changes:
        """A real request failed: a suspicion, which a probe confirms or refutes at once. Never fatal by itself."""
        record = self._held.records.get(node_id)
        if record is None or record.state is not PeerState.ALIVE:
            return ()
        changes = self._suspect(record, "a request to it failed", now)
        self._held.contacts[record.route].due_at = now
        return changes

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

    def heard(self, news: Iterable[News], informant_id: str, now: float, remote: str | None = None) -> Changes:
        """What another node found: reasons to probe at once, within an allowance, and never more than that.

        Listened to only from peers that are here; a hinted loopback address means the informant's machine. `remote` is
        whence it came, None where the informant is known by its certificate, or was asked itself.
        """
        informant = self._held.records.get(informant_id)
        if informant is None or informant.is_dead or (remote is not None and not self.is_at(informant_id, remote)):
            return ()
        for item in news:
            record = self._held.records.get(item.id)
            if item.id == self._self_id or not self._is_of_use(item, record, now):
                continue
            if not worth_a_probe(item.address, informant.route):
                continue
            if not self._hints.take(now):
                break
            if item.what is Happening.JOINED:
                self.proposed(item.address, Source.EXCHANGE, now)
            if record is not None:
                self._hurry(record, now)
        return ()

    def called(self, node_id: str, now: float, remote: str | None = None) -> Changes:
        """It asks this node: no proof that it can be asked, but a reason to try, and not to forget it.

        `remote` is whence, None where a certificate proved who asks: from elsewhere it may be anybody.
        """
        record = self._held.records.get(node_id)
        if record is not None and record.is_dead and (remote is None or self.is_at(node_id, remote)):
            record.left_at = now
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
                self._post(record, Happening.DOUBTED, now)  # late: others may look too, long before it is a suspicion
            contact.start(now)
        return tuple(contact.address for contact in due)

    def question(self, address: Address, now: float) -> Question:
        """What to ask at an address that is due."""
        contact = self._held.contacts[address]
        record = self._held.record_of(contact)
        timeout_s = self._schedule.timeout_s(contact, self._held.standing(contact))
        if record is None or record.answer is None:
            return Question(timeout_s, news=self._board.told(now))
        known = record.answer if record.answer.tag is not None else None
        introduces = record.answer.sight is not Sight.HERE
        return Question(timeout_s, known, self._board.told(now, to=record.description.id), introduces)

    def next_due(self) -> float | None:
        """When `due_probes` or `tick` next has something; None while there is nothing to wait for but answers."""
        starts = (self._schedule.next_start(held, self._held.standing(held)) for held in self._held.contacts.values())
        verdicts = (self._verdict_at(record) for record in self._held.records.values())
        return min((at for at in (*starts, *verdicts) if at is not None), default=None)

    def _is_due(self, contact: Contact, now: float) -> bool:
        start_at = self._schedule.next_start(contact, self._held.standing(contact))
        return start_at is not None and start_at <= now

    def _is_of_use(self, item: News, record: Record | None, now: float) -> bool:
        """Whether the news may be true and is not known here, by evidence as young."""
        if item.what is Happening.JOINED:
            return record is None or record.is_dead
        if record is None or record.is_dead or not self._is_current(record, item.run):
            return False
        return record.last_answer_at < now - item.age_s

    def _notice_stall(self, now: float) -> None:
        """Time in which this process did not run (a frozen machine, a blocked loop) is nobody's silence."""
        slept_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if slept_s > self._timing.stall_s:
            for contact in self._held.contacts.values():
                contact.forgive(slept_s, now)
