"""What a peer table is asked: who is here, who was, what leads nowhere. Snapshots, made when asked."""

from __future__ import annotations

from federation.advertisement import MAX_HINTS, PeerHint
from federation.hostport import Address
from federation.peer import AddressRejected, Peer, PeerState, Source
from federation.peer_records import PeerRecords


class PeerQueries:
    """The reading half of a `PeerTable`."""

    def __init__(self, held: PeerRecords) -> None:
        self._held = held

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
