"""First to be ahead by k, replayed: what is asked, when it ends, and what it says of the questions it cannot decide."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.tally import lead_over_others, tally
from swarm.evaluation.race import measure_races, race_vote
from swarm.evaluation.replay import places_of
from tests.evaluation.made_up import RIGHT, answered

OTHER = 7


def raced(said: list[int | str], by: int) -> tuple[int, bool]:
    """How many are asked of a greedy answer and these samples, and whether that decides."""
    one = answered({"a": said})
    run = race_vote(one.question, [one.greedy["a"], *one.samples["a"]], by)
    return len(run.asked), run.decided


@pytest.mark.parametrize(
    ("said", "by", "asked", "decided"),
    [
        ([RIGHT, RIGHT, OTHER, OTHER], 3, 3, True),
        ([OTHER, RIGHT, RIGHT, RIGHT], 3, 5, True),  # 2:1, two more make it 4:1
        ([OTHER, RIGHT, RIGHT, OTHER], 3, 5, False),  # 3:2 after five, and none is left
        ([OTHER, OTHER, OTHER, OTHER, OTHER], 3, 5, True),  # 1:2 after three, 1:4 after five: the other one wins
        (["hm", RIGHT, RIGHT, RIGHT], 3, 4, True),  # who says nothing is no vote against
        ([RIGHT], 2, 2, True),
        ([OTHER], 5, 2, False),
    ],
)
def test_the_least_that_can_decide_is_asked_again_and_again(
    said: list[int | str], by: int, asked: int, decided: bool
) -> None:
    assert raced(said, by) == (asked, decided)


@given(st.lists(st.sampled_from([RIGHT, RIGHT, OTHER, 1]), min_size=1, max_size=8), st.integers(1, 5))
@settings(deadline=None)
def test_a_race_ends_at_the_first_wave_with_that_lead_and_asks_for_no_seat_in_vain(said: list[int], by: int) -> None:
    one = answered({"a": said})
    seats = [one.greedy["a"], *one.samples["a"]]
    run = race_vote(one.question, seats, by)

    def lead(asked: int) -> float:
        candidates = [answer.candidate for answer in seats[:asked]]
        return float(lead_over_others(tally(one.question, candidates, places=places_of(seats))))

    asked = len(run.asked)
    assert run.asked == tuple(seats[:asked])
    assert run.decided == (lead(asked) >= by)
    assert run.decided or lead(asked) + len(seats) - asked < by
    assert all(lead(fewer) < by for fewer in range(asked)), "one more could not have been the last, had it come alone"


def test_races_by_hand() -> None:
    """One question all agree on; one where the greedy answer stands against two samples, one, and nobody."""
    sure = answered({"a": [RIGHT] * 4}, 1)
    torn = answered({"a": [OTHER] * 4}, 2)
    races = measure_races([sure, torn], "a", 5, seed=1)
    assert races.majority.value == 0.5
    assert races.majority_asked.value == pytest.approx((3 + (5 + 5) / 2) / 2, abs=1.0)
    two, three, five = races.ahead
    assert [race.by for race in races.ahead] == [2, 3, 5]
    assert (two.asked.value, two.right.value, two.undecided.value) == ((2 + 4) / 2, 0.5, 0.0)
    assert (three.asked.value, three.right.value, three.undecided.value) == ((3 + 5) / 2, 0.5, 0.0)
    assert (five.asked.value, five.undecided.value) == (5.0, 0.5)
    assert five.right_where_decided is not None
    assert five.right_where_decided.value == 1.0
    assert two.over_majority.value == 0.0
    assert two.tokens.value == 30.0


def test_with_three_votes_at_most_no_lead_of_five_is_run_for() -> None:
    races = measure_races([answered({"a": [RIGHT] * 3})], "a", 3, seed=1)
    assert [race.by for race in races.ahead] == [2, 3]
