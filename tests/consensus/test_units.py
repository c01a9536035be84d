"""Units of measure in a vote: told apart, converted, and left out where the question fixes them."""

import pytest

from swarm.consensus.final_answer import parse_quantity
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import is_settled, tally
from swarm.generation import Candidate

ASKED = Question(Strategy.AUTO, wants_final_answer=True)


def said(*values: str) -> list[Candidate]:
    return [Candidate(voter=f"v{n}", text=f"Answer: {value}", model="m") for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (["5 km", "5 miles"], [1, 1]),
        (["5 km", "5000 m", "5 kilometers"], [3]),
        (["30 minutes", "0.5 hours", "1800 s"], [3]),
        (["60 km/h", "60 kilometers per hour", "60 mph"], [2, 1]),
        (["5 km", "5 km", "5"], [3]),  # most name it: the bare number is meant so too
        (["5 km", "5 km", "5 miles", "5"], [3, 1]),
        (["5 km", "5", "5"], [3]),  # most name none: the question fixes it
        (["5 km", "5 miles", "5", "5"], [4]),
        (["42 apples", "42", "$42", "42 km"], [4]),
        (["12 kg", "12 km"], [1, 1]),
        (["B", "5 km", "5 km", "5"], [3, 1]),
    ],
)
def test_how_numbers_with_units_are_grouped(values: list[str], groups: list[int]) -> None:
    counted = tally(ASKED, said(*values))
    assert [len(group.ballots) for group in counted.groups] == groups
    assert tally(ASKED, said(*reversed(values))).kind == counted.kind


def test_a_vote_does_not_stop_while_the_unit_may_still_turn() -> None:
    assert is_settled(tally(ASKED, said("5 km", "5 km", "5 km")), ["m"] * 2)
    assert not is_settled(tally(ASKED, said("5 km", "5 km", "5")), ["m"] * 2)
    assert is_settled(tally(ASKED, said("5", "5", "5")), ["m"] * 2)


@pytest.mark.parametrize("text", ["20 °C", "42 apples", "5 m of rope", "50%", "$5"])
def test_what_is_no_known_measure_is_no_unit(text: str) -> None:
    quantity = parse_quantity(text)
    assert quantity is None or quantity[1] is None
