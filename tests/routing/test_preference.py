"""Who comes first and why: tables of cases, and what holds for any replicas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BadRequest
from swarm.generation import GenerationRequest
from swarm.routing.preference import (
    ASSUMED_TOKENS_PER_S,
    KeptCopies,
    by_preference,
    cost_s,
    expected_tokens,
    fit_to_vote,
    queued_behind,
    reason_for,
    speed_to_assume,
    with_slots_for,
)
from swarm.routing.replicas import Replica
from tests.doubles.replicas import replica

TABLE: list[tuple[str, Replica, Replica, str]] = [
    ("a free slot", replica("a"), replica("here", free=0), "free slot"),
    ("the stronger model", replica("a", params=8), replica("here", params=2), "strongest model"),
    ("a known strength", replica("a", params=1, model="x"), replica("here"), "strongest model"),
    ("strength before a free slot", replica("here", params=8, free=0), replica("a", model="x", params=1),
     "strongest model"),
    ("the measured before the large", replica("a", model="x", params=1, measured=2.0),
     replica("here", params=8, measured=1.0), "strongest model"),
    ("a strong one under suspicion before a weak one", replica("a", params=8, suspect=True, free=0),
     replica("here", params=1, weak=True), "strongest model"),
    ("a weak one where requests to the strong fail", replica("here", params=1, weak=True),
     replica("a", params=8, circuit="open"), "others failing"),
    ("here, all else alike", replica("here"), replica("a"), "here"),
    ("here, nearly as fast", replica("here", tokens_per_s=100), replica("a", tokens_per_s=110), "here"),
    ("a fast peer before slow here", replica("a", tokens_per_s=100), replica("here", tokens_per_s=1), "fastest"),
    ("the faster peer", replica("b", tokens_per_s=100), replica("a", tokens_per_s=1), "fastest"),
    ("a peer that was never asked", replica("a"), replica("here", tokens_per_s=50), "fastest"),
    ("a wait for the fast before the slow", replica("here", slots=1, free=0, tokens_per_s=100),
     replica("a", slots=1, tokens_per_s=1), "fastest"),
    ("an idle peer before a node at work", replica("a"), replica("here", free=3), "fastest"),
    ("the emptier peer", replica("b", free=3), replica("a", free=2), "fastest"),
    ("the shorter queue", replica("b", free=0, waiting=1), replica("a", free=0, waiting=3), "fastest"),
    ("the shorter wait told", replica("b", free=0, waiting=1, wait_s=1.0),
     replica("a", free=0, waiting=1, wait_s=9.0), "fastest"),
    ("own figures before told ones", replica("a", own_tokens_per_s=90.0, tokens_per_s=1.0),
     replica("b", tokens_per_s=50.0), "fastest"),
    ("the sooner first word", replica("b", first_s=0.1), replica("a", first_s=9.0), "fastest"),
    ("the nearer peer", replica("b", rtt_s=0.01), replica("a", rtt_s=0.2), "fastest"),
    ("where the conversation is", replica("a", warm=True, free=1), replica("here"), "warm prefix"),
    ("not where it is, if that is busy", replica("here"), replica("a", warm=True, free=0), "free slot"),
    ("strength before the conversation", replica("a", params=8), replica("here", params=2, warm=True),
     "strongest model"),
    ("a pin", replica("a", free=0, waiting=9, pinned=True), replica("here", pinned=False), "pinned"),
    ("no pin of a node that fails", replica("here", pinned=False), replica("a", pinned=True, circuit="open"),
     "others failing"),
    ("a pin binds its own model only", replica("here", params=8), replica("a", model="x", params=2, pinned=True),
     "strongest model"),
    ("a weight of nothing is last", replica("a", free=0, waiting=9), replica("here", weight=0.0), "weight"),
    ("a small weight", replica("a"), replica("here", weight=0.25), "weight"),
    ("a large weight", replica("a", weight=4.0), replica("here"), "weight"),
    ("a suspect is last", replica("a", free=0, weight=0.0), replica("b", suspect=True), "others failing"),
    ("an open circuit after a suspect", replica("b", suspect=True), replica("a", circuit="open"), "fastest"),
    ("a half open circuit is as good as any", replica("a", circuit="half_open"), replica("b"), "fastest"),
    ("the id", replica("a"), replica("b"), "fastest"),
]  # fmt: skip


def test_who_is_next_in_a_fast_nodes_queue_stays_and_who_is_last_leaves_for_a_slow_idle_peer() -> None:
    here = replica("here", free=0, waiting=20, tokens_per_s=40.0)
    laptop = replica("laptop", tokens_per_s=5.0)
    first_of = {ahead: by_preference([queued_behind(ahead, here), laptop])[0].node for ahead in (0, 19)}
    assert first_of == {0: "here", 19: "laptop"}
    told = replace(here, wait_s=40.0)
    assert queued_behind(0, told).wait_s == pytest.approx(40.0 / 21)


@pytest.mark.parametrize(("best", "other", "reason"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_the_better_replica_for_one_answer(best: Replica, other: Replica, reason: str) -> None:
    assert by_preference([best, other]) == by_preference([other, best]) == (best, other)
    assert reason_for((best, other)) == reason


def test_the_only_one_and_the_upstream_are_called_so() -> None:
    assert reason_for([replica("here")]) == "only one"
    assert reason_for([replica("here"), replica("up", upstream=True, rank=1)]) == "only one"
    assert reason_for([replica("up", upstream=True, rank=-1), replica("here")]) == "upstream"


def test_several_choices_need_that_many_free_slots_at_once() -> None:
    small, large = replica("here", free=2, tokens_per_s=9), replica("a", free=3, tokens_per_s=9)
    assert by_preference([small, large], choices=3)[0] == large
    assert by_preference([replace(small, slots_free=3), large], choices=3)[0].local


def test_replicas_too_small_for_the_choices_are_left_out() -> None:
    small, large = replica("here", slots=2), replica("a", slots=8, free=0)
    assert with_slots_for(3, [small, large]) == (large,)
    with pytest.raises(BadRequest, match="n is 9; 'm' gives at most 8 answers at once") as caught:
        with_slots_for(9, [small, large])
    assert caught.value.param == "n"


def test_a_burst_is_dealt_out_evenly_over_equal_nodes() -> None:
    """As the ledger makes it seen: every request asked counts at once."""
    nodes = {name: replica(name, tokens_per_s=30) for name in ("here", "a", "b")}
    for _ in range(30):
        first = by_preference(nodes.values())[0]
        free = max(0, first.slots_free - 1)
        nodes[first.node] = replace(first, slots_free=free, waiting=first.waiting + (first.slots_free == 0))
    loads = sorted(node.load for node in nodes.values())
    assert loads[-1] - loads[0] <= 2
    assert sum(loads) == 30


def test_a_node_twice_as_fast_gets_about_twice_as_much() -> None:
    nodes = {"here": replica("here", tokens_per_s=20), "a": replica("a", tokens_per_s=50)}  # a peer is handicapped
    for _ in range(60):
        first = by_preference(nodes.values())[0]
        free = max(0, first.slots_free - 1)
        nodes[first.node] = replace(first, slots_free=free, waiting=first.waiting + (first.slots_free == 0))
    assert 35 <= nodes["a"].load <= 45


@pytest.mark.parametrize(
    ("replicas", "fit"),
    [
        ([replica("here"), replica("a")], {"here", "a"}),
        ([replica("here"), replica("a", suspect=True), replica("b", circuit="open")], {"here"}),
        ([replica("a", suspect=True), replica("b", circuit="open")], {"a", "b"}),
        ([replica("here", weight=0.0), replica("a")], {"a"}),
        ([replica("here", weight=0.0)], {"here"}),
        ([replica("here", pinned=False), replica("a", pinned=True)], {"a"}),
        ([replica("here", pinned=False), replica("a", pinned=True, suspect=True)], {"here"}),
        ([replica("here", model="x"), replica("a", pinned=True, params=1), replica("b", pinned=False)], {"here", "a"}),
        ([replica("here", model="x"), replica("a"), replica("b", params=1, model="y")], {"here", "b"}),
        ([replica("here", pinned=False), replica("a", pinned=True, weight=0.0)], {"a"}),
    ],
)
def test_who_is_fit_to_vote(replicas: list[Replica], fit: set[str]) -> None:
    assert {replica.node for replica in fit_to_vote(replicas)} == fit


def test_an_unknown_speed_is_taken_for_better_than_the_best() -> None:
    assert speed_to_assume([replica("a")]) == ASSUMED_TOKENS_PER_S
    assert speed_to_assume([replica("a", tokens_per_s=10), replica("b", tokens_per_s=0.0)]) > 10


@pytest.mark.parametrize("tokens", [1, 16, 256])
def test_a_short_answer_does_not_wait_here_behind_answers_of_which_nothing_is_known(tokens: int) -> None:
    """A chat's title is asked for while its first answers run: those do not end sooner because it is short."""
    full, idle = replica("here", free=0), replica("a", rtt_s=0.2)
    assert by_preference([full, idle], tokens=tokens)[0] is idle


def test_a_short_answer_is_planned_for_where_one_is_asked_for() -> None:
    assert [expected_tokens(GenerationRequest(model="m", max_tokens=n)) for n in (None, 9, 9999, 0)] == [
        256, 9, 256, 1,
    ]  # fmt: skip


def some(node: str, model: str, facts: dict[str, Any]) -> Replica:
    return replica(node, model=model, **{**facts, "free": min(facts["free"], facts["slots"])})


any_facts = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 5),
        "free": st.integers(0, 5),
        "waiting": st.integers(0, 5),
        "params": st.sampled_from([None, 1, 8]),
        "tokens_per_s": st.sampled_from([None, 0.0, 5.0, 50.0]),
        "wait_s": st.sampled_from([None, 0.0, 0.5, 20.0]),
        "warm": st.booleans(),
        "pinned": st.sampled_from([None, True, False]),
        "weight": st.sampled_from([0.0, 0.25, 1.0, 3.0]),
        "suspect": st.booleans(),
        "circuit": st.sampled_from(["closed", "open", "half_open"]),
    }
)
any_replicas = st.lists(
    st.builds(some, st.sampled_from(["here", "a", "b", "c"]), st.sampled_from(["x", "y"]), any_facts),
    min_size=1,
    max_size=8,
    unique_by=lambda r: r.key,
)


@given(replicas=any_replicas, order=st.randoms(use_true_random=False), choices=st.integers(1, 3))
def test_the_order_is_total_and_the_same_however_the_replicas_come(
    replicas: list[Replica], order: Any, choices: int
) -> None:
    ranked = by_preference(replicas, choices)
    order.shuffle(replicas)
    assert by_preference(replicas, choices) == ranked
    assert sorted(replica.key for replica in ranked) == sorted(replica.key for replica in replicas)
    assert reason_for(ranked, choices)


@given(replicas=any_replicas, most=st.integers(1, 8), choices=st.integers(1, 3))
@settings(deadline=None)
def test_of_very_many_the_first_are_those_of_the_whole_order_for_the_same_reason(
    replicas: list[Replica], most: int, choices: int
) -> None:
    whole, first = by_preference(replicas, choices), by_preference(replicas, choices, most=most)
    assert first == whole[: len(first)]
    assert len(first) >= min(most, len(whole))
    if len(first) > 1:  # of one alone there is nothing to say
        assert reason_for(first, choices) == reason_for(whole, choices)


def test_a_weight_of_0_is_the_reason_among_very_many_too() -> None:
    replicas = [
        replica("a", tokens_per_s=5.0),
        replica("b", tokens_per_s=5.0),
        replica("c", weight=0.0, tokens_per_s=50.0),
    ]
    whole, first = by_preference(replicas), by_preference(replicas, most=2)
    assert reason_for(first) == reason_for(whole) == "weight"


def test_of_a_hundred_nodes_only_the_strongest_are_put_in_order() -> None:
    strong = [replica(f"s{number}", params=8) for number in range(70)]
    others = [replica(f"o{number}", model="x", params=4) for number in range(300)]
    weak = [replica(f"w{number}", model="y", params=1, weak=True) for number in range(300)]
    assert {each.node for each in with_slots_for(1, [*weak, *others, *strong])} == {each.node for each in strong}
    few = [replace(each, suspect=True) for each in strong[7:]]
    ranked = with_slots_for(1, [*weak, *others, *few, *strong[:7]])
    assert ranked == by_preference([*others, *strong[:7]]), "whoever is under suspicion comes after those"
    assert len(with_slots_for(1, [*weak, *strong[:7]])) == 307, "where few are strong the others are not left out"


def test_a_changed_replica_is_made_once_for_as_long_as_the_change_is_the_same() -> None:
    copies, one, alike = KeptCopies(), replica("a"), replica("a")
    weak = copies.of(one, weak=True)
    assert weak == replace(one, weak=True)
    assert copies.of(one, weak=True) is weak
    assert copies.of(alike, weak=True) is not weak
    assert copies.of(one, tokens_per_s=2.0) == replace(one, tokens_per_s=2.0)
    assert copies.of(one, tokens_per_s=3.0).tokens_per_s == 3.0


@given(replicas=any_replicas, which=st.integers(0, 7), more=st.integers(1, 4), choices=st.integers(1, 3))
def test_more_load_never_moves_a_replica_forward(replicas: list[Replica], which: int, more: int, choices: int) -> None:
    one = replace(replicas[which % len(replicas)], wait_s=None)
    rest = [replica for replica in replicas if replica.key != one.key]
    taken = min(more, one.slots_free)
    loaded = replace(one, slots_free=one.slots_free - taken, waiting=one.waiting + more - taken)
    before = by_preference([one, *rest], choices).index(one)
    assert by_preference([loaded, *rest], choices).index(loaded) >= before
    assert cost_s(loaded, 100, 20.0, choices) >= cost_s(one, 100, 20.0, choices)


@given(replicas=any_replicas)
def test_nobody_troubled_comes_before_somebody_who_is_well(replicas: list[Replica]) -> None:
    troubled = [replica.troubled for replica in by_preference(replicas)]
    assert troubled == sorted(troubled)
    fit = fit_to_vote(replicas)
    assert fit
    assert set(fit) <= set(replicas)
