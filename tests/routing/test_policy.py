"""Who is asked: tables of cases, and what holds for any replicas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.routing.policy import (
    LONG_PROMPT_CHARS,
    MAX_VOTES,
    Asking,
    Defaults,
    VoteOptions,
    left_out,
    make_plan,
    seat_limits,
    sized,
    spread,
    strategy_of,
)
from swarm.routing.preference import by_preference, fit_to_vote, strength_in
from swarm.routing.replicas import Replica
from tests.doubles.replicas import replica

FIVE = Defaults(votes=5)


def asked(seats: Iterable[Replica]) -> dict[tuple[str, str], int]:
    """How many voters each replica has."""
    return dict(Counter((replica.node, replica.model) for replica in seats))


@pytest.mark.parametrize(
    ("replicas", "votes", "idle_only", "expected"),
    [
        ([replica("here")], 3, False, {("here", "m"): 3}),
        ([replica("here"), replica("a")], 3, False, {("here", "m"): 2, ("a", "m"): 1}),
        ([replica("here"), replica("a"), replica("b")], 3, False, {("here", "m"): 1, ("a", "m"): 1, ("b", "m"): 1}),
        ([replica("here", slots=1), replica("a", slots=1)], 9, False, {("here", "m"): 1, ("a", "m"): 1}),
        ([replica("here", free=0), replica("a", free=1)], 5, True, {("a", "m"): 1}),
        ([replica("here", free=0), replica("a", free=0)], 5, True, {}),
        ([replica("here", free=0)], 2, False, {("here", "m"): 2}),
        (
            [replica("here", model="x"), replica("here", model="y"), replica("a", model="x")],
            3,
            False,
            {("here", "x"): 1, ("here", "y"): 1, ("a", "x"): 1},
        ),
        (
            [replica("here", model="x"), replica("a", model="x"), replica("a", model="y")],
            2,
            False,
            {("here", "x"): 1, ("a", "y"): 1},
        ),
    ],
    ids=[
        "alone", "two nodes", "three nodes", "all there is", "idle ones", "none idle", "busy ones queue",
        "a node's second model comes after every node", "another model before the same again",
    ],
)  # fmt: skip
def test_votes_are_dealt_out(
    replicas: list[Replica], votes: int, idle_only: bool, expected: dict[tuple[str, str], int]
) -> None:
    assert asked(spread(replicas, votes, idle_only)) == expected


any_replicas = st.lists(
    st.builds(
        lambda node, model, slots, busy, params: replica(
            node, model=model, slots=slots, free=max(0, slots - busy), params=params
        ),
        st.sampled_from(["here", "a", "b", "c"]),
        st.sampled_from(["x", "y"]),
        st.integers(1, 6),
        st.integers(0, 6),
        st.sampled_from([None, 1, 8]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda r: (r.node_id, r.model),
)


@given(replicas=any_replicas, votes=st.integers(1, MAX_VOTES), idle_only=st.booleans())
def test_nobody_is_asked_beyond_its_slots_and_nobody_in_vain(
    replicas: list[Replica], votes: int, idle_only: bool
) -> None:
    room = {r: r.slots_free if idle_only else r.slots for r in replicas}
    dealt = Counter(spread(replicas, votes, idle_only))
    assert all(0 < count <= room[seat] for seat, count in dealt.items())
    limits = seat_limits(room, votes)
    roomy = {party: sum(seats for r, seats in room.items() if r.party == party) for party in limits}
    possible = sum(min(limit, roomy[party]) for party, limit in limits.items())
    assert dealt.total() == min(votes, possible)


@given(replicas=any_replicas, votes=st.integers(1, MAX_VOTES), idle_only=st.booleans())
def test_every_node_is_asked_before_any_is_asked_twice(replicas: list[Replica], votes: int, idle_only: bool) -> None:
    given_to = Counter(seat.node_id for seat in spread(replicas, votes, idle_only))
    most = max(given_to.values(), default=0)
    limits = seat_limits({r: r.slots_free if idle_only else r.slots for r in by_preference(replicas)}, votes)
    for node in {r.node_id for r in replicas}:
        room = sum(r.slots_free if idle_only else r.slots for r in replicas if r.node_id == node)
        assert given_to[node] >= min(most - 1, room, limits[node])


@given(replicas=any_replicas, votes=st.integers(1, MAX_VOTES))
def test_the_plan_does_not_depend_on_the_order_of_the_replicas(replicas: list[Replica], votes: int) -> None:
    assert spread(replicas, votes, idle_only=False) == spread(replicas[::-1], votes, idle_only=False)


@pytest.mark.parametrize(
    ("options", "default", "used"),
    [
        (VoteOptions(), Strategy.AUTO, Strategy.AUTO),
        (VoteOptions(), Strategy.MEDOID, Strategy.MEDOID),
        (VoteOptions(Strategy.FIRST), Strategy.MEDOID, Strategy.FIRST),
        (VoteOptions(votes=3), Strategy.MEDOID, Strategy.MEDOID),
        (VoteOptions(), Strategy.SINGLE, Strategy.SINGLE),
        (VoteOptions(votes=3), Strategy.SINGLE, Strategy.AUTO),
        (VoteOptions(Strategy.MAJORITY), Strategy.SINGLE, Strategy.MAJORITY),
        (VoteOptions(Strategy.SINGLE), Strategy.AUTO, Strategy.SINGLE),
    ],
)
def test_the_requests_strategy_goes_before_the_nodes(options: VoteOptions, default: Strategy, used: Strategy) -> None:
    assert strategy_of(options, default) == used


@pytest.mark.parametrize(
    ("free", "options", "defaults", "mode", "wanted", "count"),
    [
        (4, VoteOptions(), FIVE, "vote", 5, 4),
        (2, VoteOptions(), FIVE, "vote", 5, 2),
        (1, VoteOptions(), FIVE, "single", 5, 1),
        (0, VoteOptions(), FIVE, "single", 5, 1),
        (0, VoteOptions(votes=3), FIVE, "vote", 3, 3),
        (0, VoteOptions(Strategy.MAJORITY), FIVE, "vote", 5, 4),
        (0, VoteOptions(votes=9), FIVE, "vote", 9, 4),
        (4, VoteOptions(votes=1), FIVE, "single", 1, 1),
        (4, VoteOptions(Strategy.SINGLE), FIVE, "single", 1, 1),
        (4, VoteOptions(), Defaults(votes=1), "single", 1, 1),
        (4, VoteOptions(), Defaults(5, Strategy.SINGLE), "single", 1, 1),
        (1, VoteOptions(), Defaults(5, Strategy.MAJORITY), "single", 5, 1),
        (1, VoteOptions(min_votes=3), FIVE, "vote", 5, 3),
        (4, VoteOptions(min_votes=7), FIVE, "vote", 7, 4),
        (0, VoteOptions(votes=2, min_votes=2), FIVE, "vote", 2, 2),
    ],
)
def test_load_decides_how_many_are_asked_unless_the_client_does(
    free: int, options: VoteOptions, defaults: Defaults, mode: str, wanted: int, count: int
) -> None:
    plan = make_plan([replica("here", free=free)], options, defaults, Asking(10))
    assert (plan.mode, plan.wanted, plan.asked) == (mode, wanted, count)


def test_a_very_long_prompt_is_answered_once_unless_the_client_wants_votes() -> None:
    here = [replica("here")]
    assert make_plan(here, VoteOptions(), FIVE, Asking(LONG_PROMPT_CHARS)).mode == "vote"
    assert make_plan(here, VoteOptions(), FIVE, Asking(LONG_PROMPT_CHARS + 1)).mode == "single"
    assert make_plan(here, VoteOptions(votes=3), FIVE, Asking(LONG_PROMPT_CHARS + 1)).asked == 3


def test_several_choices_are_asked_of_one_replica_and_never_a_vote() -> None:
    ranked = (replica("here"), replica("a"))
    plan = make_plan(ranked, VoteOptions(votes=3), FIVE, Asking(10, choices=3))
    assert (plan.mode, plan.strategy, plan.asked, plan.seats) == ("single", Strategy.SINGLE, 1, ranked)


def test_a_lone_answer_keeps_the_order_of_failover_and_a_vote_asks_its_voters_alone() -> None:
    ranked, voters = (replica("a"), replica("b")), [replica("b")]
    assert make_plan(ranked, VoteOptions(Strategy.SINGLE), FIVE, Asking(10), voters=voters).seats == ranked
    assert set(make_plan(ranked, VoteOptions(votes=2), FIVE, Asking(10), voters=voters).seats) == set(voters)


any_options = st.builds(
    VoteOptions,
    st.sampled_from([Strategy.AUTO, Strategy.MAJORITY, Strategy.MEDOID, Strategy.FIRST, Strategy.SINGLE]),
    st.none() | st.integers(1, MAX_VOTES),
    st.none() | st.integers(1, MAX_VOTES),
)


@given(
    replicas=any_replicas,
    options=any_options,
    votes=st.integers(1, MAX_VOTES),
    strategy=st.sampled_from([Strategy.AUTO, Strategy.SINGLE, Strategy.MAJORITY]),
    chars=st.sampled_from([0, LONG_PROMPT_CHARS * 2]),
)
def test_every_plan_asks_somebody_and_never_more_than_wanted(
    replicas: list[Replica], options: VoteOptions, votes: int, strategy: Strategy, chars: int
) -> None:
    plan = make_plan(replicas, options, Defaults(votes, strategy), Asking(chars))
    assert 1 <= plan.asked <= plan.wanted <= MAX_VOTES
    assert plan.strategy != Strategy.SINGLE if plan.mode == "vote" else plan.asked == 1
    busy = sum(max(0, count - seat.slots_free) for seat, count in Counter(plan.seats).items())
    if plan.mode == "vote" and not options.explicit and plan.asked > (options.min_votes or 1):
        assert busy == 0, "only what is idle, unless the client says otherwise"


facts_of_many = st.fixed_dictionaries(
    {},
    optional={
        "weak": st.booleans(),
        "suspect": st.booleans(),
        "weight": st.sampled_from([0.0, 1.0]),
        "pinned": st.sampled_from([None, True, False]),
        "params": st.sampled_from([None, 1, 8]),
    },
)


@given(
    able=st.lists(
        st.builds(
            lambda node, model, facts: replica(node, model=model, **facts),
            st.sampled_from(["here", "a", "b", "c"]),
            st.sampled_from(["x", "y", "z"]),
            facts_of_many,
        ),
        min_size=1,
        max_size=10,
        unique_by=lambda r: r.key,
    ),
    silent=st.sets(st.integers(0, 9)),
    asked_for=st.booleans(),
)
@settings(deadline=None)
def test_who_is_left_out_of_many_is_told_as_it_would_be_of_each(
    able: list[Replica], silent: set[int], asked_for: bool
) -> None:
    voters = [each for number, each in enumerate(able) if number not in silent] or able
    sizes = {"x": 8, "y": 4}
    told = left_out(able, voters, asked_for, sizes)
    fit, strength = {each.key for each in fit_to_vote(voters, asked_for)}, strength_in(able)
    out = sorted((each.model, each.node) for each in able if each.key not in fit)
    assert sorted((found.model, node) for found in told for node in found.nodes) == out
    assert [(found.model, found.why) for found in told] == sorted({(found.model, found.why) for found in told})
    why = {(found.model, node): found.why for found in told for node in found.nodes}
    for each in able:
        if each.key in fit:
            continue
        said = why[each.model, each.node]
        if each.key not in {voter.key for voter in voters}:
            assert said == "measured to be no better than a guess"
        elif each.weak:
            counted, params = strength(each)[1], sizes.get(each.model)
            as_told = f"{sized(counted)} parameters, less than a quarter of "
            has_no_form = params is not None and params > counted
            assert said.startswith("has no form of its own for tools" if has_no_form else as_told)
        elif each.troubled:
            assert said == "does not answer"
        elif each.weight <= 0:
            assert said == "has weight 0 in [routing.weights]"
        else:
            assert "weight" not in said
            assert "answer" not in said
