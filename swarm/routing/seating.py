"""Who sits where in a ballot: samplings dealt to seats, seats run in batches, later waves seated anew. Plain choices.

A batch is one call to one replica, and its voters share a prefill; so they have one temperature.

A *party* is what counts as one voter's owner: this node, a member of a paired swarm, or in an open swarm all peers
behind one address. A peer's share of the seats, whatever it says of itself, is what is left to each where all parties
have as many; own workers fill the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from swarm.consensus.waves import SamplingChange
from swarm.routing.replicas import Replica, ReplicaKey

Seat = tuple[Replica, SamplingChange]


@dataclass(frozen=True, slots=True)
class Batch:
    """Voters of one replica that run together: same temperature, one prefill."""

    replica: Replica
    samplings: tuple[SamplingChange, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The model of every voter."""
        return (self.replica.model,) * len(self.samplings)

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple((self.replica, sampling) for sampling in self.samplings)


@dataclass(frozen=True, slots=True)
class OwnVoters:
    """What a ballot's own voters mean for the next: `running` at each place, `warm` where a prompt is in a cache.

    `seated` is how many seats each party has had so far, whatever became of them.
    """

    running: Mapping[ReplicaKey, int]
    warm: frozenset[ReplicaKey]
    seated: Mapping[str, int] = field(default_factory=dict[str, int])


Reseat = Callable[[Sequence[Batch], OwnVoters], tuple[Batch, ...]]


def key_of(replica: Replica) -> ReplicaKey:
    return replica.key


def batches_of(seats: Iterable[Seat]) -> tuple[Batch, ...]:
    """The seats by replica, in their order; where a replica gets several temperatures it runs a batch for each."""
    together: dict[tuple[ReplicaKey, float | None], tuple[Replica, list[SamplingChange]]] = {}
    for replica, sampling in seats:
        together.setdefault((key_of(replica), sampling.temperature), (replica, []))[1].append(sampling)
    return tuple(Batch(replica, tuple(samplings)) for replica, samplings in together.values())


def sampled_here_too(seats: Sequence[Replica], samplings: Sequence[SamplingChange]) -> tuple[SamplingChange, ...]:
    """The samplings, with the client's own temperature for this node's first voter as well where a peer leads.

    The leader has it, because the strongest model's best answer is the best there is. But which model a peer runs is
    its own word: whoever takes the lead by a name must not take the best sample from everybody.
    """
    here = next((index for index, seat in enumerate(seats) if seat.local), 0)
    own = samplings[0].temperature
    return tuple(replace(s, temperature=own) if index == here else s for index, s in enumerate(samplings))


def in_waves(
    seats: Sequence[Replica], samplings: Sequence[SamplingChange], first: int
) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """The batches of the first `first` seats, and those of the rest; each seat has its own sampling."""
    dealt = list(zip(seats, samplings, strict=True))
    return batches_of(dealt[:first]), batches_of(dealt[first:])


def seated_as_planned(held: Sequence[Batch], _: OwnVoters) -> tuple[Batch, ...]:
    return tuple(held)


def seated_anew(
    held: Sequence[Batch], own: OwnVoters, now: Iterable[Replica], *, idle_only: bool, share: int | None = None
) -> tuple[Batch, ...]:
    """Where the batches held back run now: at home, or where the same model has room and the prompt in a cache already.

    A batch moves as a whole, so that its seeds do not depend on who was how fast. With `idle_only` no more is asked of
    any place than is idle by now: spare capacity is what nobody else wants. Without it voters queue at home. No peer
    gets more than its `share` of the ballot's seats by a move.
    """
    planned = Counter(own.seated)
    for batch in held:
        planned[batch.replica.party] += len(batch.samplings)
    places = {key_of(replica): replica for replica in now}
    seated: list[Batch] = []
    chosen: set[ReplicaKey] = {key_of(batch.replica) for batch in held if key_of(batch.replica) in own.warm}
    for batch in held:
        home, seats = key_of(batch.replica), len(batch.samplings)
        if batch.replica.upstream:
            seated.append(batch)
            continue
        better = [
            place
            for place, replica in places.items()
            if replica.model == batch.replica.model
            and place in own.warm - chosen
            and replica.slots_free >= seats
            and not replica.troubled
            and (share is None or replica.local or planned[replica.party] + seats <= share)
        ]
        if home not in own.warm and better:
            place = min(better)
            chosen.add(place)
            planned[batch.replica.party] -= seats
            planned[places[place].party] += seats
            seated.append(Batch(places[place], batch.samplings))
            continue
        room = _idle_at_home(batch, places.get(home), own) if idle_only else seats
        if room > 0:
            seated.append(Batch(batch.replica, batch.samplings[:room]))
    return tuple(seated)


def _idle_at_home(batch: Batch, now: Replica | None, own: OwnVoters) -> int:
    """Slots idle where `batch` was planned. What a peer reports is old, and may be this very ballot's first wave."""
    free = 0 if now is None else now.slots_free
    if batch.replica.local or now is None:
        return free
    return max(free, batch.replica.slots_free - own.running.get(key_of(batch.replica), 0))


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
