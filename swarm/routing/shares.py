"""How many seats of a ballot one peer may have, whatever it says of itself. Pure.

A *party* is what counts as one voter's owner: this node, a member of a paired swarm, or in an open swarm all peers
behind one address. A peer's share is what is left to each where all parties have as many; own workers fill the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from swarm.routing.replicas import Replica


def parties_of(replicas: Iterable[Replica]) -> frozenset[str]:
    """Everybody that these replicas belong to."""
    return frozenset(replica.party for replica in replicas)


def share_of_a_peer(parties: int, votes: int) -> int:
    """The seats that one peer may have of `votes`, where so many parties can vote."""
    return max(1, votes // max(1, parties))


def seat_limits(room: Mapping[Replica, int], votes: int) -> dict[str, int]:
    """The most seats of each party; `room` has everybody who can vote, best first, and for how many seats.

    This node has no limit but its room. Beside it a peer has its share, and less where its seats would be half of those
    that there is room for: one each may be as many as this node's. Where this node serves nothing, what is left goes
    one each to the peers whose speed it has measured, best first: to nobody for what it says of itself.
    """
    roomy: dict[str, int] = {}
    for replica, seats in room.items():
        roomy[replica.party] = roomy.get(replica.party, 0) + seats
    own = {replica.party for replica in room if replica.local}
    share = share_of_a_peer(len(roomy), votes)
    if own:
        while share > 1 and _could_be_half(share, roomy, own, votes):
            share -= 1
    limits = {replica.party: votes if replica.local else share for replica in room}
    if own:
        return limits
    left = votes - sum(min(share, roomy[party]) for party in limits)
    measured = dict.fromkeys(replica.party for replica in room if replica.own_tokens_per_s is not None)
    for party in [party for party in measured if roomy[party] > share][: max(0, left)]:
        limits[party] += 1
    return limits


def _could_be_half(share: int, roomy: Mapping[str, int], own: Collection[str], votes: int) -> bool:
    """Whether one peer with so many seats would have half of a ballot of `votes`, or more, for lack of room."""
    seats = sum(min(share, room) for party, room in roomy.items() if party not in own)
    seats = min(votes, seats + sum(roomy[party] for party in own))
    most = max((min(share, room) for party, room in roomy.items() if party not in own), default=0)
    return 2 * most >= seats


def room_left(replica: Replica, share: int, seated: Mapping[str, int]) -> int:
    """How many more seats `replica` may take at once in a ballot in which each party has `seated` so many."""
    limit = replica.slots if replica.local else share
    return max(0, min(replica.slots, limit - seated.get(replica.party, 0)))
