"""What a peer table is asked: who is here, who was, what leads nowhere. Snapshots, made when asked."""

from __future__ import annotations

from federation.advertisement import MAX_HINTS, PeerHint
from federation.hostport import Address, same_host
from federation.news import News, NewsBoard
from federation.peer import AddressRejected, Peer, PeerState, Source
from federation.peer_records import PeerRecords
from federation.probing import Sight, view_digest


class PeerQueries:
    """The reading half of a `PeerTable`."""

    def __init__(self, self_id: str, held: PeerRecords, board: NewsBoard) -> None:
        self._self_id = self_id
        self._held = held
        self._board = board

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

    def is_at(self, node_id: str, host: str) -> bool:
        """Whether that peer has answered at an address of `host`: an outsider cannot call from there."""
        record = self._held.records.get(node_id)
        found = same_host(host)
        return record is not None and any(same_host(address.host) == found for address in record.addresses)

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

    def news(self, now: float, to: str | None = None) -> tuple[News, ...]:
        """What this node has found out of late, for the node `to`."""
        return self._board.told(now, to)

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
