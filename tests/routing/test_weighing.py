"""Weights of a ballot's seats: what was measured of a model, and never half of the vote for one peer's word."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Kind, Strategy
from swarm.consensus.question import Question
from swarm.generation import GenerationRequest
from swarm.registry.weights_file import Measured, Measurements, Weights
from swarm.routing.policy import seat_weights, source_at
from swarm.routing.replicas import Replica
from tests.doubles.replicas import replica

NUMBER: Kind = "number"
ASKED = GenerationRequest(model="swarm", messages=({"role": "user", "content": "Reply with only a number: 1 + 1"},))
MEASURED: Measurements = {"good": {NUMBER: Measured(49, 50)}, "poor": {NUMBER: Measured(20, 50)}}


def shares(seats: list[Replica], measured: Measurements = MEASURED) -> dict[str, Fraction]:
    """Each party's share of the weight."""
    weights = seat_weights(Question.of(ASKED, Strategy.WEIGHTED), Weights(measured), seats)
    found: dict[str, Fraction] = {}
    for seat in seats:
        found[seat.party] = found.get(seat.party, Fraction(0)) + weights.of(source_at(seat), NUMBER)
    return {party: weight / sum(found.values()) for party, weight in found.items()}


HERE = replica("here", model="poor")


def test_what_was_measured_counts_in_full_where_it_gives_no_peer_half_of_the_vote() -> None:
    seats = [replica("here", model="good"), replica("a", model="poor"), replica("b", model="poor")]
    assert shares(seats)["here"] > Fraction(1, 2), "this node knows what it runs itself"
    spread = [HERE, replica("a", model="good"), replica("b", model="good"), replica("c", model="good")]
    assert shares(spread)["a"] > shares(spread)["here"]


def test_the_name_of_a_good_model_does_not_outvote_everybody() -> None:
    seats = [HERE, HERE, replica("a", model="poor"), replica("b", model="poor"), replica("liar", model="good")]
    assert Fraction(1, 5) < shares(seats)["liar"] < Fraction(1, 2)


def test_beside_one_member_the_measure_counts_and_beside_one_stranger_it_does_not() -> None:
    stranger = replica("a", model="good")
    assert shares([HERE, HERE, HERE, stranger, stranger])["a"] < Fraction(1, 2)
    member = replica("a", model="good", member=True)
    assert shares([HERE, HERE, HERE, member, member])["a"] > Fraction(1, 2)


@given(
    peers=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["good", "poor", "other"])), max_size=7),
    own=st.integers(1, 5),
    right=st.integers(0, 50),
)
@settings(deadline=None)
def test_no_weight_makes_a_peer_the_owner_of_a_vote_that_its_seats_do_not(
    peers: list[tuple[str, str]], own: int, right: int
) -> None:
    seats = [HERE] * own + [replica(node, model=model) for node, model in peers]
    measured = {**MEASURED, "other": {NUMBER: Measured(right, 50)}}
    by_heads = {party: Fraction(sum(seat.party == party for seat in seats), len(seats)) for party, _ in peers}
    weighed = shares(seats, measured)
    for party, share in by_heads.items():
        assert weighed[party] < Fraction(1, 2) or share >= Fraction(1, 2)
