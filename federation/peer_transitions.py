"""What follows from what a peer table is told: the transitions of contacts and records. Pure."""

from __future__ import annotations

from collections.abc import Callable

from federation.advertisement import NodeDescription
from federation.contact import Contact, ProbeSchedule, Standing
from federation.identities import differ, double_words, why_self
from federation.news import Happening, HintAllowance, NewsBoard
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
from federation.probing import Answer, Sight
from federation.timing import CONFLICTS_TO_REJECT, Timing

Changes = tuple[Change, ...]

_MUCH_FASTER = 0.5  # another address replaces a working one only at half its round trip: no flapping between equals
_NOTICEABLE_MS = 2.0  # and only if the difference is more than this


class PeerTransitions(PeerQueries):
    """The deciding half of a `PeerTable`."""

    def __init__(
        self, self_id: str, held: PeerRecords, self_instance: str | None, timing: Timing, random: Callable[[], float]
    ) -> None:
        super().__init__(self_id, held, NewsBoard())
        self._self_instance = self_instance
        self._timing = timing
        self._schedule = ProbeSchedule(timing, random)
        self._hints = HintAllowance()

    def _refresh(self, record: Record, contact: Contact, answer: Answer, now: float) -> Changes:
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
            self._post(record, Happening.JOINED, now)
        else:
            was, record.state = record.state, PeerState.ALIVE
            self._board.retract(description.id)
            recovered = "answers again" if was is PeerState.SUSPECT else None
            reason = "; ".join(filter(None, (recovered, difference)))
            changes = (PeerChanged(self._held.view(record), was, reason),) if reason else ()
        is_settled = not record.is_dead and answer.sight in (None, Sight.HERE)  # else both need to know more soon
        contact.due_at = self._schedule.after_answer(
            self._held.standing(contact), now, self._held.here if is_settled else 0
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
        self._post(record, Happening.DOUBTED, now)
        return (PeerChanged(self._held.view(record), PeerState.ALIVE, reason),)

    def _leave(self, record: Record, reason: str, now: float) -> Changes:
        if record.is_dead:
            return ()
        record.state = PeerState.DEAD
        record.left_at = now
        for contact in self._held.contacts_of(record):
            contact.due_at = min(contact.due_at, now + self._timing.retry_first_s)
        self._post(record, Happening.LEFT, now)
        return (PeerLeft(self._held.view(record), reason),)

    def _post(self, record: Record, what: Happening, now: float) -> None:
        """Tell the others, who will see for themselves."""
        description = record.description
        self._board.post(description.id, what, self._held.hint(record).address, description.instance, now)

    def _hurry(self, record: Record, now: float) -> None:
        """Probe every address of it as soon as the pace allows."""
        for contact in self._held.contacts_of(record):
            contact.due_at = min(contact.due_at, self._schedule.next_in_step(contact, now))

    def _is_stale(self, contact: Contact, now: float) -> bool:
        """Whether the address has been useless for long: never proven, or a failing alternative to one that works."""
        if contact.source is Source.STATIC or now - contact.since < self._timing.forget_unproven_s:
            return False
        standing = self._held.standing(contact)
        return standing is Standing.UNPROVEN or (standing is Standing.ALTERNATE and contact.failures > 0)

    # Answers that make no peer

    def _why_no_peer(self, description: NodeDescription) -> tuple[Why, str] | None:
        """Why a node that is not recorded yet cannot be, wherever it is; None if it can."""
        if description.id == self._self_id:
            return why_self(description, self._self_instance)
        return (Why.LEAVING, f"{description.name} is shutting down") if description.draining else None

    def _make_room(self, contact: Contact, now: float) -> tuple[Changes, str | None]:
        """Let somebody go for what answers at `contact`, if need be; why it cannot be recorded, if it cannot."""
        room = self._held.room_for(contact)
        if room.gone is None:
            return (), room.why_not
        changes = self._leave(self._held.records[room.gone], "makes room for a node of another address", now)
        self._held.forget(room.gone)
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
        contact.due_at = self._schedule.after_failure(contact, Standing.UNPROVEN, now, self._held.lost)
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

    def _is_current(self, record: Record, run: str | None) -> bool:
        """Whether word of that run is word of the process in use."""
        return not differ(run, record.description.instance)


def _is_much_faster(contact: Contact, route: Contact) -> bool:
    if contact.rtt_ms is None or route.rtt_ms is None or route.rtt_ms - contact.rtt_ms < _NOTICEABLE_MS:
        return False
    return contact.rtt_ms < _MUCH_FASTER * route.rtt_ms
