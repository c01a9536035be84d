"""Who sits where: batches, waves, and where a second wave runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from federation.advertisement import Capabilities
from swarm.consensus.waves import SamplingChange
from swarm.engines.openai_dialect import request_body
from swarm.generation import GenerationRequest
from swarm.routing.policy import (
    MAX_VOTES,
    Batch,
    OwnVoters,
    batches_of,
    in_waves,
    key_of,
    seated_anew,
    spread,
    strongest_first,
)
from swarm.routing.replica_client import with_samplings
from swarm.routing.replicas import Replica
from tests.doubles.replicas import replica as nodes_replica

NOBODY = OwnVoters({}, frozenset())


def replica(node: str, free: int = 4, model: str = "m", upstream: bool = False) -> Replica:
    url = None if node == "here" else f"http://{node}"
    return Replica(node, node, model, slots=4, slots_free=free, url=url, upstream=upstream)


def sampling(seed: int, temperature: float | None = 0.7) -> SamplingChange:
    return SamplingChange(temperature, seed)


def shown(batches: tuple[Batch, ...]) -> list[tuple[str, list[int]]]:
    return [(batch.replica.node, [change.seed for change in batch.samplings]) for batch in batches]


def test_a_replica_runs_one_batch_for_each_temperature() -> None:
    here, there = replica("here"), replica("a")
    seats = [(here, sampling(1, 0.0)), (there, sampling(2)), (here, sampling(3)), (here, sampling(4))]
    assert shown(batches_of(seats)) == [("here", [1]), ("a", [2]), ("here", [3, 4])]


@pytest.mark.parametrize(
    ("temperatures", "batches"),
    [
        ((0.0, 0.7, 0.7), [[1, 2, 3]]),
        ((None, 0.7), [[1, 2]]),
        ((0.7, 0.7, 0.7), [[1, 2, 3]]),
        ((0.7, 0.0, 0.7), [[1, 3], [2]]),
        ((0.0, 0.0, 0.7), [[1, 2], [3]]),
        ((0.0, 0.7, 1.0), [[1], [2], [3]]),
        ((0.0, 0.7, 0.7, 0.7, 0.7), [[1], [2, 3, 4, 5]]),  # more than there are slots
        ((0.0,), [[1]]),
    ],
)
def test_where_the_engine_can_the_first_voter_of_a_batch_has_its_own_temperature(
    temperatures: tuple[float | None, ...], batches: list[list[int]]
) -> None:
    able = replace(replica("here"), capabilities=Capabilities(first_temperature=True))
    seats = [(able, sampling(seed + 1, temperature)) for seed, temperature in enumerate(temperatures)]
    assert [seeds for _, seeds in shown(batches_of(seats))] == batches
    apart = [temperature for _, seeds in shown(batches_of(seats)) for temperature in seeds]
    assert sorted(apart) == list(range(1, len(temperatures) + 1))
    of_a_peer = replace(able, url="http://here")
    each = dict.fromkeys(temperatures)
    assert len(batches_of([(of_a_peer, change) for _, change in seats])) == len(each)


def test_a_request_says_how_the_voters_of_a_batch_are_drawn() -> None:
    request = GenerationRequest(model="m", prompt="p", temperature=0.0)
    able = replace(replica("here"), capabilities=Capabilities(first_temperature=True))
    (batch,) = batches_of([(able, sampling(1, 0.0)), (able, sampling(2))])
    said = with_samplings(request, batch)
    assert (said.first_temperature, said.temperature, said.seed) == (0.0, 0.7, 1)
    assert "first_temperature" not in request_body(said, 2)
    alone = with_samplings(request, Batch(able, batch.samplings[:1]))
    assert (alone.first_temperature, alone.temperature) == (None, 0.0)


def test_what_moves_to_a_peer_has_one_temperature() -> None:
    able = replace(replica("here"), capabilities=Capabilities(first_temperature=True))
    (batch,) = batches_of([(able, sampling(1, 0.0)), (able, sampling(2)), (able, sampling(3))])
    assert batch.moved(able) == batch
    moved = batch.moved(replica("a"))
    assert [change.temperature for change in moved.samplings] == [0.7] * 3
    assert [change.seed for change in moved.samplings] == [1, 2, 3]
    assert [change.temperature for change in batch.moved(replica("a"), 1).samplings] == [0.0]


def test_a_wave_is_the_beginning_of_the_seats() -> None:
    here, there = replica("here"), replica("a")
    first, later = in_waves([here, there, here, there, here], [sampling(seed) for seed in range(5)], 3)
    assert (shown(first), shown(later)) == ([("here", [0, 2]), ("a", [1])], [("a", [3]), ("here", [4])])


def test_of_votes_that_give_way_the_first_runs_by_itself_at_its_place() -> None:
    here, there = replica("here"), replica("a")
    seats, samplings = [here, there, here, here, there], [sampling(seed) for seed in range(5)]
    first, later = in_waves(seats, samplings, 3, give_way=True)
    assert (shown(first), shown(later)) == ([("here", [0]), ("a", [1])], [("here", [2, 3]), ("a", [4])])
    assert [batch.gives_way for batch in (*first, *later)] == [False, True, True, True]
    assert all(batch.gives_way for batch in seated_anew(later, OwnVoters({}, frozenset()), seats, idle_only=True))


def test_a_second_wave_runs_at_home_where_the_prompt_is_warm_or_nowhere() -> None:
    here, there = replica("here"), replica("a")
    held = [Batch(here, (sampling(1),)), Batch(there, (sampling(2),))]
    for warm in (frozenset[tuple[str, str]](), frozenset({key_of(here), key_of(there)})):
        assert seated_anew(held, OwnVoters({}, warm), [here, there], idle_only=True) == tuple(held)


def test_a_batch_moves_as_a_whole_to_where_its_prompt_is_warm() -> None:
    here, there = replica("here"), replica("a")
    held = [Batch(here, (sampling(1), sampling(2)))]
    own = OwnVoters({key_of(here): 1}, frozenset({key_of(there)}), asked=frozenset({"here", "a"}))
    assert shown(seated_anew(held, own, [here, there], idle_only=False)) == [("a", [1, 2])]
    assert shown(seated_anew(held, own, [here, replica("a", free=1)], idle_only=False)) == [("here", [1, 2])]
    other = replica("a", model="other")
    assert shown(seated_anew(held, OwnVoters({}, frozenset({key_of(other)})), [here, other], idle_only=False)) == [
        ("here", [1, 2])
    ]


def test_two_batches_do_not_share_one_warm_prompt() -> None:
    here, a, b = replica("here"), replica("a"), replica("b")
    held = [Batch(here, (sampling(1),)), Batch(a, (sampling(2),))]
    own = OwnVoters({}, frozenset({key_of(b)}), asked=frozenset({"here", "a", "b"}))
    assert shown(seated_anew(held, own, [here, a, b], idle_only=False)) == [("b", [1]), ("a", [2])]


def test_spare_capacity_is_what_is_idle_by_now() -> None:
    held = [Batch(replica("here"), (sampling(1), sampling(2)))]
    assert shown(seated_anew(held, NOBODY, [replica("here", free=1)], idle_only=True)) == [("here", [1])]
    assert seated_anew(held, NOBODY, [replica("here", free=0)], idle_only=True) == ()
    assert seated_anew(held, NOBODY, [], idle_only=True) == ()
    assert shown(seated_anew(held, NOBODY, [replica("here", free=0)], idle_only=False)) == [("here", [1, 2])]


def test_a_peers_old_news_of_our_own_first_wave_does_not_count_against_the_second() -> None:
    held = [Batch(replica("a", free=2), (sampling(1),))]
    own = OwnVoters({("a", "m"): 1}, frozenset())
    assert shown(seated_anew(held, own, [replica("a", free=0)], idle_only=True)) == [("a", [1])]


def test_an_upstream_stays_where_it_is() -> None:
    held = [Batch(replica("cloud", upstream=True), (sampling(1),))]
    assert seated_anew(held, NOBODY, [replica("here")], idle_only=True) == tuple(held)


def test_the_first_voter_of_a_node_does_not_move_to_where_the_prompt_is_warm() -> None:
    here, there = replica("here"), replica("a")
    held = [Batch(there, (sampling(1),)), Batch(there, (sampling(2, 0.5),))]
    warm = frozenset({key_of(here)})
    asked = OwnVoters({}, warm, asked=frozenset({"here"}))
    assert shown(seated_anew(held, asked, [here, there], idle_only=False)) == [("a", [1]), ("a", [2])]
    again = OwnVoters({}, warm, asked=frozenset({"here", "a"}))
    assert shown(seated_anew(held, again, [here, there], idle_only=False)) == [("here", [1]), ("a", [2])]


@given(
    slots=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    busy=st.lists(st.integers(0, 5), min_size=6, max_size=6),
    votes=st.integers(1, MAX_VOTES),
    idle_only=st.booleans(),
    first=st.integers(1, MAX_VOTES),
    warm=st.booleans(),
)
def test_every_able_node_is_asked_before_any_has_a_second_seat(
    slots: list[int], busy: list[int], votes: int, idle_only: bool, first: int, warm: bool
) -> None:
    """Whatever the slots of each, whoever is busy, in both waves, and wherever the second wave may move to."""
    names = ["here", *"abcde"][: len(slots)]
    nodes = [
        nodes_replica(name, slots=count, free=max(0, count - taken))
        for name, count, taken in zip(names, slots, busy, strict=False)
    ]
    dealt = spread(nodes, votes, idle_only)
    assume(dealt)
    seats = strongest_first(dealt)
    able = {node.node for node in nodes if (node.slots_free if idle_only else node.slots)}
    first = min(first, len(seats))
    now, held = in_waves(seats, [sampling(seed) for seed in range(len(seats))], first)
    order = [seat.node for seat in seats]
    asked = {batch.replica.node for batch in now}
    assert len(set(order[: len(able)])) == min(len(able), len(order)), "the first seats are of as many nodes"
    own = OwnVoters({}, frozenset(key_of(node) for node in nodes if warm and node.node in asked), {}, frozenset(asked))
    later = {batch.replica.node for batch in seated_anew(held, own, nodes, idle_only=False)}
    assert asked | later == set(order), "and nobody loses its first seat to a second one"
