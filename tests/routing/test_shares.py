"""How many seats a peer can have: tables of cases, and what holds whatever peers say of themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from federation.advertisement import Capabilities
from swarm.routing.policy import (
    MAX_VOTES,
    Asking,
    Defaults,
    LeftOut,
    VoteOptions,
    left_out,
    make_plan,
    parties_of,
    room_left,
    seat_limits,
    share_of_a_peer,
    spread,
)
from swarm.routing.preference import assessed, fit_to_vote
from swarm.routing.replicas import Replica, for_tools
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
    plan = make_plan([replica("here"), replica("a"), replica("b")], VoteOptions(votes=5), Defaults(5), Asking(10))
    assert (plan.share(), plan.share(without="b")) == (1, 2)
    assert room_left(replica("a", slots=9), 2, {"a": 1}) == 1
    assert room_left(replica("a", slots=9), 1, {"a": 1}) == 0
    assert room_left(replica("here", slots=3), 1, {"here": 1}) == 2, "own workers have no share"
    assert room_left(replica("here", slots=3), 1, {"here": 3}) == 0


def test_a_model_of_unknown_size_has_no_seat_while_another_can_vote() -> None:
    stranger, known = replica("liar", model="made-up", **BIG), replica("a", model="demo", params=2_000_000)
    for others in ([replica("here", model="echo")], [known]):
        plan = make_plan([stranger, *others], VoteOptions(votes=5), Defaults(5), Asking(10))
        assert "liar" not in {seat.node for seat in plan.seats}
    alone = make_plan([stranger, replica("b", model="other")], VoteOptions(votes=4), Defaults(5), Asking(10))
    assert {seat.node for seat in alone.seats} == {"liar", "b"}
    assert make_plan([stranger, replace(known, suspect=True)], VoteOptions(votes=2), Defaults(5), Asking(10)).asked == 2


def voting(replicas: list[Replica], asked_for: bool = True) -> list[Replica]:
    return [r for r in replicas if r.key in {fit.key for fit in fit_to_vote(assessed(replicas, {}), asked_for)}]


@pytest.mark.parametrize(
    ("sizes", "invited"),
    [
        ([100, 100, 100, 24], [100, 100, 100]),
        ([100, 100, 100, 25], [100, 100, 100, 25]),
        ([100, 100, 1], [100, 100]),
        ([100, 1, 1, 1], [100]),
        ([2, 2, 135], [135]),
        ([100, 30, 5], [100, 30]),
        ([5], [5]),
    ],
    ids=["weak", "a quarter", "few are left", "one is left", "in any order", "by the strongest alone", "alone"],
)
@pytest.mark.parametrize("asked_for", [True, False])
def test_weak_models_have_no_seat_beside_this_nodes_own_however_few_are_left(
    sizes: list[int], invited: list[int], asked_for: bool
) -> None:
    largest = max(sizes)
    nodes = [replica(f"n{i}", model=f"m{i}", params=size) for i, size in enumerate(sizes)]
    nodes = [replace(node, url=None) if node.params == largest else node for node in nodes]
    assert [r.params for r in voting(nodes, asked_for)] == invited


def test_a_large_name_of_one_or_two_peers_puts_nobody_out_of_a_vote_that_is_asked_for() -> None:
    large = {"model": "llama3.3:70b", "params": 70_000_000_000, "slots": 32}
    small = [replica("here", params=2), replica("a", params=2), replica("b", params=2)]
    liars = [replica(f"liar-{number}", **large) for number in range(3)]
    for count in (1, 2):
        assert voting([*small, *liars[:count]]) == [*small, *liars[:count]]
        assert voting([*small, *liars[:count]], asked_for=False) == liars[:count], "as prose: the strongest answers"
    assert voting([*small, *liars]) == liars, "three can: docs/trust.md says so"
    same = [replace(liar, owner="10.0.0.9") for liar in liars]
    assert voting([*small, *same]) == [*small, *same], "and never from one address"


def test_beside_one_peer_it_counts_whether_somebody_invited_it() -> None:
    here, peer = replica("here", params=2), replica("a", model="large", params=9)
    invited = replace(peer, member=True)
    assert voting([here, peer]) == [here, peer]
    assert voting([here, invited]) == [invited]


def test_measured_weights_give_the_small_their_seats() -> None:
    here, small = replica("here", model="large", params=100), replica("a", model="small", params=2)
    odds = {"large": 1.0, "small": 2.0}
    assert fit_to_vote(assessed([here, small], odds, weighed=True)) == (
        replace(here, measured=1.0),
        replace(small, measured=2.0),
    )
    assert [r.model for r in fit_to_vote(assessed([here, small], odds))] == ["large"], "of something else"
    assert [r.model for r in fit_to_vote(assessed([here, small], {"small": 2.0}, weighed=False))] == ["large"]


def test_a_measured_model_of_unknown_size_has_a_seat() -> None:
    here, own = replica("here", params=100), replica("a", model="custom")
    assert len(fit_to_vote(assessed([here, own], {"m": 1.0, "custom": 1.0}, weighed=True))) == 2
    assert fit_to_vote(assessed([here, own], {})) == (here,)


def test_a_strong_node_that_its_owner_gave_no_weight_makes_nobody_weak() -> None:
    here, idle = replica("here", params=2), replica("a", model="large", params=100, weight=0.0, member=True)
    assert voting([here, idle]) == [here]


def test_the_weak_vote_where_requests_to_all_the_strong_fail() -> None:
    here, failing = replica("here", params=2), replica("a", model="large", params=100, circuit="open", member=True)
    assert voting([here, failing]) == [here]
    assert voting([here, replace(failing, circuit="closed", suspect=True)])[0].node == "a", "a doubt is no failure"


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=8),
    slots=st.lists(st.integers(1, 6), min_size=8, max_size=8),
    votes=st.integers(1, MAX_VOTES),
)
def test_no_vote_has_a_seat_under_a_quarter_of_this_nodes_own_model(
    sizes: list[int], slots: list[int], votes: int
) -> None:
    most = 1000
    nodes = [replica("here", model="own", params=most, slots=slots[0])]
    nodes += [replica(f"n{i}", model=f"m{i}", params=size, slots=slots[i % 8]) for i, size in enumerate(sizes)]
    for options in (VoteOptions(), VoteOptions(votes=votes)):
        plan = make_plan(assessed(nodes, {}), options, Defaults(5), Asking(10))
        if plan.mode == "vote":
            assert all((seat.params or 0) >= most / 4 for seat in plan.seats)


def test_limits_name_every_party_once() -> None:
    room = {replica("here"): 4, replica("a", owner="x"): 4, replica("b", owner="x"): 4}
    assert seat_limits(room, 4) == {"here": 4, "x": 1}


def test_who_has_no_seat_is_told_with_the_reason() -> None:
    nodes = [
        replica("here", model="strong", params=134_515_008),
        replica("a", model="demo", params=2_166_720),
        replica("b", model="demo", params=2_166_720),
        replica("c", model="custom", reported_params=10**15),
        replica("d", model="strong", params=134_515_008, circuit="open"),
        replica("e", model="strong", params=134_515_008, weight=0.0),
    ]
    able = assessed(nodes, {})
    sizes = {node.model: node.params for node in nodes}
    assert left_out(able, able, False, sizes) == (
        LeftOut("custom", ("c",), "its size is not known here: ask for it by its name"),
        LeftOut("demo", ("a", "b"), "2.2M parameters, less than a quarter of strong's 134.5M"),
        LeftOut("strong", ("d",), "does not answer"),
        LeftOut("strong", ("e",), "has weight 0 in [routing.weights]"),
    )
    assert left_out(able, able[:1], False, sizes)[0].why == "measured to be no better than a guess"
    calling = replica("here", model="new", params=8 * 10**9, capabilities=Capabilities(tools=True))
    old = replica("a", model="old", params=7 * 10**9, capabilities=Capabilities(tools=False))
    tools = assessed(for_tools([calling, old]), {})
    (told,) = left_out(tools, tools, False, {"new": calling.params, "old": old.params})
    assert told.why == "has no form of its own for tools: its 7B parameters count for a quarter, beside new's 8B"
