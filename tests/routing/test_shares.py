"""How many seats a peer can have: tables of cases, and what holds whatever peers say of themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swarm.routing.policy import (
    MAX_VOTES,
    Defaults,
    VoteOptions,
    make_plan,
    parties_of,
    room_left,
    seat_limits,
    share_of_a_peer,
    spread,
)
from swarm.routing.replicas import SWARM_ALIAS, Replica, able
from tests.doubles.replicas import replica


def seats(replicas: list[Replica], votes: int, idle_only: bool = False) -> dict[str, int]:
    return dict(Counter(r.node for r in spread(replicas, votes, idle_only)))


BIG = {"slots": 32, "reported_params": 10**15, "tokens_per_s": 1e7}


@pytest.mark.parametrize(
    ("replicas", "votes", "expected"),
    [
        ([replica("here")], 5, {"here": 4}),
        ([replica("here", slots=8)], 5, {"here": 5}),
        ([replica("here"), replica("liar", **BIG)], 5, {"here": 3, "liar": 2}),
        ([replica("here"), replica("liar", **BIG)], 4, {"here": 3, "liar": 1}),
        ([replica("here"), replica("a"), replica("b"), replica("liar", **BIG)], 5,
         {"here": 2, "a": 1, "b": 1, "liar": 1}),
        ([replica("here"), replica("a"), replica("b"), replica("liar", **BIG)], 8,
         {"here": 2, "a": 2, "b": 2, "liar": 2}),
        ([replica("here", slots=1), replica("liar", **BIG)], 9, {"here": 1, "liar": 1}),
        ([replica("here", free=0), replica("liar", **BIG)], 2, {"here": 1, "liar": 1}),
        ([replica("liar", **BIG)], 5, {"liar": 5}),
        ([replica("a"), replica("b"), replica("liar", **BIG)], 5, {"a": 1, "b": 1, "liar": 1}),
        ([replica("a", own_tokens_per_s=9.0), replica("b", own_tokens_per_s=8.0), replica("liar", **BIG)], 5,
         {"a": 2, "b": 2, "liar": 1}),
        ([replica("a", own_tokens_per_s=9.0), replica("b", slots=1), replica("liar", slots=1)], 5, {"a": 2, "b": 1,
         "liar": 1}),
        ([replica("here"), replica("a", owner="10.0.0.9"), replica("b", owner="10.0.0.9"), replica("c")], 6,
         {"here": 2, "a": 1, "b": 1, "c": 2}),
        ([replica("here"), replica("cloud", upstream=True, slots=1)], 5, {"here": 4, "cloud": 1}),
    ],
    ids=[
        "one node", "one node with room", "a peer has less than half", "not even half", "one each, the rest here",
        "two each", "no room here to stand against two", "this node is busy and queues", "nobody else can",
        "nothing here: claims get nothing more", "nothing here: the measured get one more", "those who have room",
        "two behind one address are one", "an upstream is not a peer",
    ],
)  # fmt: skip
def test_a_peer_has_its_share_and_own_workers_fill_the_rest(
    replicas: list[Replica], votes: int, expected: dict[str, int]
) -> None:
    assert seats(replicas, votes) == expected


claims = {
    "reported_params": st.sampled_from([None, 1, 10**15]),
    "tokens_per_s": st.sampled_from([None, 0.1, 1e7]),
    "wait_s": st.sampled_from([None, 0.0, 1e6]),
    "waiting": st.integers(0, 3),
}
some_peers = st.lists(
    st.builds(
        lambda node, slots, busy, address, measured, told: replica(
            node,
            slots=slots,
            free=max(0, slots - busy),
            owner=address,
            own_tokens_per_s=measured,
            **told,
        ),
        st.sampled_from([f"p{number}" for number in range(9)]),
        st.sampled_from([1, 4, 4096]),
        st.integers(0, 4),
        st.sampled_from(["", "", "10.0.0.8", "10.0.0.9"]),
        st.sampled_from([None, 5.0, 500.0]),
        st.fixed_dictionaries(claims),
    ),
    max_size=8,
    unique_by=lambda r: r.node_id,
)


@given(
    peers=some_peers,
    own=st.none() | st.tuples(st.integers(1, 8), st.integers(0, 8)),
    votes=st.integers(1, MAX_VOTES),
    idle_only=st.booleans(),
)
def test_whatever_peers_claim_none_is_above_its_share(
    peers: list[Replica], own: tuple[int, int] | None, votes: int, idle_only: bool
) -> None:
    here = [] if own is None else [replica("here", slots=own[0], free=max(0, own[0] - own[1]))]
    everybody = [*here, *peers]
    assume(everybody)
    dealt = spread(everybody, votes, idle_only)
    by_party = Counter(r.party for r in dealt if not r.local)
    share = share_of_a_peer(len(parties_of(everybody)), votes)
    measured = {r.party for r in peers if r.own_tokens_per_s is not None}
    for party, count in by_party.items():
        assert count <= share + (not here and party in measured)
    if here:
        own_room = (here[0].slots_free if idle_only else here[0].slots) if here else 0
        own_seats = sum(r.local for r in dealt)
        assert len(dealt) == votes or own_seats == own_room, "own workers fill what is left"
        assert all(2 * count < len(dealt) or count == 1 for count in by_party.values()), "half is nobody's"


@given(slots=st.integers(1, 40), votes=st.integers(1, MAX_VOTES))
def test_a_vote_on_one_node_has_all_its_workers(slots: int, votes: int) -> None:
    assert len(spread([replica("here", slots=slots)], votes, idle_only=False)) == min(slots, votes)


@given(peers=some_peers, votes=st.integers(1, MAX_VOTES), told=st.fixed_dictionaries(claims))
def test_what_a_peer_says_of_itself_moves_no_seat(peers: list[Replica], votes: int, told: dict[str, object]) -> None:
    """Its slots can: room that is not there is not asked. Its size, speed and queue cannot."""
    told.pop("waiting")
    everybody = [replica("here"), *(replace(peer, waiting=0) for peer in peers)]
    others = [r if r.local else replace(r, **{**told, "wait_s": r.wait_s}) for r in everybody]
    assert seats(everybody, votes) == seats(others, votes)


def test_a_loss_leaves_a_larger_share_to_those_who_are_left_and_none_to_who_had_it() -> None:
    plan = make_plan([replica("here"), replica("a"), replica("b")], VoteOptions(votes=5), Defaults(5), 10)
    assert (plan.share(), plan.share(without="b")) == (1, 2)
    assert room_left(replica("a", slots=9), 2, {"a": 1}) == 1
    assert room_left(replica("a", slots=9), 1, {"a": 1}) == 0
    assert room_left(replica("here", slots=3), 1, {"here": 1}) == 2, "own workers have no share"
    assert room_left(replica("here", slots=3), 1, {"here": 3}) == 0


def test_a_model_of_unknown_size_has_no_seat_while_another_can_vote() -> None:
    stranger, known = replica("liar", model="made-up", **BIG), replica("a", model="demo", params=2_000_000)
    for others in ([replica("here", model="echo")], [known]):
        plan = make_plan([stranger, *others], VoteOptions(votes=5), Defaults(5), 10)
        assert "liar" not in {seat.node for seat in plan.seats}
    alone = make_plan([stranger, replica("b", model="other")], VoteOptions(votes=4), Defaults(5), 10)
    assert {seat.node for seat in alone.seats} == {"liar", "b"}
    assert make_plan([stranger, replace(known, suspect=True)], VoteOptions(votes=2), Defaults(5), 10).asked == 2


def test_a_large_name_of_one_or_two_peers_puts_nobody_out() -> None:
    large = {"model": "llama3.3:70b", "params": 70_000_000_000, "slots": 32}
    small = [replica("here", params=2), replica("a", params=2), replica("b", params=2)]
    liars = [replica(f"liar-{number}", **large) for number in range(3)]
    for count in (1, 2):
        assert able(SWARM_ALIAS, [*small, *liars[:count]]) == (*small, *liars[:count])
    assert able(SWARM_ALIAS, [*small, *liars]) == tuple(liars), "three can: docs/trust.md says so"
    same = [replace(liar, owner="10.0.0.9") for liar in liars]
    assert able(SWARM_ALIAS, [*small, *same]) == (*small, *same), "and never from one address"


def test_beside_one_peer_it_counts_whether_somebody_invited_it() -> None:
    here, peer = replica("here", params=2), replica("a", model="large", params=9)
    assert able(SWARM_ALIAS, [here, peer]) == (here, peer)
    assert able(SWARM_ALIAS, [here, replace(peer, member=True)]) == (replace(peer, member=True),)


def test_limits_name_every_party_once() -> None:
    room = {replica("here"): 4, replica("a", owner="x"): 4, replica("b", owner="x"): 4}
    assert seat_limits(room, 4) == {"here": 4, "x": 1}
