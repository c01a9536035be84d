"""How sure a model was of each of its answers, and what a vote makes of it."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.confidence import DOUBTFUL, LEAST, MOST, Confidence, weights_by_rank
from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import is_settled, tally
from swarm.consensus.verdict import decide
from swarm.engines.assembly import WINDOW, drawn_logprobs, lowest_window
from swarm.generation import Candidate

ASKED = Question(Strategy.CONFIDENT, wants_final_answer=True, by_confidence=True)


def ranked(given_: dict[str, tuple[str, float | None]], greedy: tuple[str, ...] = ()) -> dict[str, Fraction]:
    """The weights of voters, each given by its source and its confidence."""
    return weights_by_rank({voter: Confidence(*claim, greedy=voter in greedy) for voter, claim in given_.items()})


@pytest.mark.parametrize(
    ("logprobs", "lowest"),
    [
        ([], None),
        ([-1.0], -1.0),
        ([-1.0, -3.0], -2.0),
        ([0.0] * WINDOW + [-1.6], -0.1),
        ([-1.6] + [0.0] * 40, -0.1),
        ([0.0] * 20 + [-0.8] * WINDOW + [0.0] * 20, -0.8),
    ],
)
def test_an_answer_is_as_sure_as_its_weakest_passage(logprobs: list[float], lowest: float | None) -> None:
    found = lowest_window(logprobs)
    assert found == (None if lowest is None else pytest.approx(lowest))


@settings(deadline=None)
@given(st.lists(st.floats(-20, 0), min_size=1, max_size=60))
def test_the_lowest_of_all_windows_is_found(logprobs: list[float]) -> None:
    width = min(WINDOW, len(logprobs))
    means = [math.fsum(logprobs[at : at + width]) / width for at in range(len(logprobs) - width + 1)]
    assert lowest_window(logprobs) == pytest.approx(min(means), abs=1e-9)


@pytest.mark.parametrize(
    "content",
    [None, {}, {"content": "x"}, {"content": [1, {"logprob": "x"}, {"logprob": math.nan}, {"logprob": -math.inf}]}],
)
def test_rubbish_of_a_peer_is_no_confidence(content: Any) -> None:
    assert lowest_window(drawn_logprobs(content)) is None


def test_ranks_are_spread_evenly_from_the_least_to_the_most() -> None:
    weights = ranked({f"v{n}": ("here", -float(n)) for n in range(5)})
    assert list(weights.values()) == [Fraction(8, 5), Fraction(13, 10), Fraction(1), Fraction(7, 10), Fraction(2, 5)]


def test_a_claim_counts_among_the_answers_of_the_one_who_makes_it() -> None:
    """A peer that says it is sure of everything weighs what one weighs that says nothing."""
    given_ = {"a": ("here", -2.0), "b": ("here", -1.0), "x": ("peer", 0.0), "y": ("peer", 0.0), "z": ("alone", 99.0)}
    assert ranked(given_) == {"a": LEAST, "b": MOST, "x": 1, "y": 1, "z": 1}


@pytest.mark.parametrize(
    ("greedy", "others", "weights"),
    [
        (-0.2, (-0.1, -0.29, -0.31), (Fraction(6, 5), MOST, Fraction(4, 5), DOUBTFUL)),
        (-0.2, (-0.4, -0.5), (MOST, DOUBTFUL, DOUBTFUL)),
        (0.0, (0.0, -0.01), (Fraction(13, 10), Fraction(13, 10), DOUBTFUL)),
    ],
    ids=["half again less sure", "all", "certain"],
)
def test_what_is_much_less_sure_than_the_greedy_answer_hardly_counts(
    greedy: float, others: tuple[float, ...], weights: tuple[Fraction, ...]
) -> None:
    given_: dict[str, tuple[str, float | None]] = {"g": ("here", greedy)}
    given_ |= {f"v{n}": ("here", logprob) for n, logprob in enumerate(others)}
    assert tuple(ranked(given_, greedy=("g",)).values()) == weights


def test_a_peers_greedy_answer_says_nothing_of_the_others() -> None:
    given_ = {"g": ("peer", 0.0), "x": ("peer", -1.0), "a": ("here", -2.0), "b": ("here", -1.0)}
    assert ranked(given_, greedy=("g",)) == {"g": MOST, "x": DOUBTFUL, "a": LEAST, "b": MOST}


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.floats(-9, 0), min_size=1, max_size=9),
    st.dictionaries(st.text(max_size=3), st.floats(-9, 0), min_size=1, max_size=4),
)
def test_no_claims_of_a_peer_gain_it_weight(claims: dict[str, float], honest: dict[str, float]) -> None:
    """Whatever it says of its answers, together they weigh no more than their number; others weigh what they did."""
    theirs = {f"p{voter}": Confidence("peer", claim, greedy=not at) for at, (voter, claim) in enumerate(claims.items())}
    ours = {f"h{voter}": Confidence("here", claim) for voter, claim in honest.items()}
    weights = weights_by_rank(theirs | ours)
    assert sum(weights[voter] for voter in theirs) <= len(theirs)
    assert {voter: weights[voter] for voter in ours} == weights_by_rank(ours)


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf, -math.inf])
def test_where_one_is_not_known_none_of_the_group_is_weighed(unknown: float | None) -> None:
    given_ = {"a": ("here", -2.0), "b": ("here", unknown), "c": ("there", -1.0), "d": ("there", -3.0)}
    assert ranked(given_) == {"a": 1, "b": 1, "c": MOST, "d": LEAST}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=3), st.tuples(st.sampled_from("ab"), st.none() | st.floats(-9, 0)), min_size=1, max_size=9
    )
)
def test_a_group_weighs_as_much_as_it_has_voters(given_: dict[str, tuple[str, float | None]]) -> None:
    weights = ranked(given_)
    for group in "ab":
        members = [weights[voter] for voter, (of, _) in given_.items() if of == group]
        assert sum(members) == len(members)
        assert all(LEAST <= weight <= MOST for weight in members)


def vote(*answers: tuple[int, float | None], node: str = "here", model: str = "m", first: int = 0) -> list[Candidate]:
    return [
        Candidate(voter=f"v{n}@{node}", node=node, model=model, text=f"Answer: {answer}", confidence=confidence)
        for n, (answer, confidence) in enumerate(answers, first)
    ]


@pytest.mark.parametrize(
    ("votes", "winner", "agreement"),
    [
        (vote((1, -0.1), (1, -0.2), (2, -0.3)), 1, 13 / 15),
        (vote((1, -0.3), (1, -0.2), (2, -0.1), (2, -0.15), (1, -0.4)), 2, 2.9 / 5),
        (vote((1, -0.5), (1, -0.4), (1, -0.3), (1, -0.2), (2, -0.1)), 1, 3.4 / 5),
        (vote((1, None), (1, None), (2, None)), 1, 2 / 3),
        ([*vote((1, -0.3), (1, -0.2), (2, -0.1)), *vote((2, 0.0), node="peer")], 2, 2.6 / 4),
    ],
    ids=["sure and more", "fewer and surer", "four are more than one", "not known", "a peer has one vote"],
)
def test_who_wins(votes: list[Candidate], winner: int, agreement: float) -> None:
    verdict = decide(ASKED, votes, asked=len(votes), wanted=len(votes), stopped_by="all_in", peers={"peer": "peer"})
    assert verdict.winner is not None
    assert verdict.winner.text == f"Answer: {winner}"
    assert verdict.agreement == pytest.approx(agreement)
    assert verdict.quorum


ANSWERS = st.lists(st.tuples(st.integers(1, 3), st.none() | st.floats(-3, 0)), min_size=1, max_size=9)


@settings(deadline=None)
@given(answers=ANSWERS, seed=st.integers(0, 99))
def test_no_order_of_arrival_matters_and_a_doubled_voter_counts_once(
    answers: list[tuple[int, float | None]], seed: int
) -> None:
    votes = vote(*answers)
    shuffled = Random(seed).sample([*votes, votes[0]], len(votes) + 1)
    one, other = tally(ASKED, votes), tally(ASKED, shuffled)
    assert (one.winner, one.voting_weight) == (other.winner, other.voting_weight)


@settings(deadline=None)
@given(answers=ANSWERS)
def test_nothing_is_settled_before_the_last_answer(answers: list[tuple[int, float | None]]) -> None:
    """A further answer changes the rank of every other."""
    standing = tally(ASKED, vote(*answers))
    assert not is_settled(standing, ["m"])
    assert is_settled(standing, [])
