"""How the samples of one ballot differ."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.waves import (
    GREEDY,
    MAX_VOTES,
    SamplingChange,
    Temperatures,
    Voter,
    ballot_samplings,
    first_seats,
    moved,
    temperatures,
)
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest

ASKED: dict[str, dict[str, object]] = {
    "tools": {"tools": [{"function": {"name": "f"}}]},
    "sum": {"prompt": "What is 4 + 4?"},
    "choice": {"response_format": {"type": "choice", "choice": ["yes", "no"]}},
    "json": {"response_format": {"type": "json_object"}},
    "code": {"prompt": "Write a Python function that sorts a list."},
    "prose": {"prompt": "Tell me of the sea."},
}
M, OWN, THINKS, OTHER, OWN_OTHER = (
    Voter("m"),
    Voter("m", own=True),
    Voter("m", choosy=True),
    Voter("o"),
    Voter("o", True),
)


def request(kind: str = "sum", **fields: object) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": "m", "prompt": "hi"} | ASKED[kind] | fields)


def samplings(
    asked: GenerationRequest, voters: Sequence[Voter] = (M,) * 4, strategy: Strategy = Strategy.AUTO, base: int = 1
) -> tuple[SamplingChange, ...]:
    return ballot_samplings(asked, Question.of(asked, strategy), voters, base)


def at(
    asked: GenerationRequest, voters: Sequence[Voter] = (M,) * 3, strategy: Strategy = Strategy.AUTO
) -> list[float | None]:
    return [each.temperature for each in samplings(asked, voters, strategy)]


@pytest.mark.parametrize(
    ("kind", "others"), [("tools", 0.5), ("sum", 0.5), ("choice", 0.5), ("json", None), ("code", None)]
)
def test_where_the_client_says_nothing_and_answers_are_counted_the_first_is_greedy(
    kind: str, others: float | None
) -> None:
    for strategy in (Strategy.AUTO, Strategy.MAJORITY, Strategy.WEIGHTED, Strategy.CONFIDENT, Strategy.JUDGE):
        assert at(request(kind), strategy=strategy) == [0.0, others, others]
    assert at(request(kind, seed=3, max_tokens=5, repeat_penalty=1.1)) == [0.0, others, others], "that is no sampling"


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("strategy", [Strategy.FIRST, Strategy.MEDOID, Strategy.SINGLE])
def test_what_is_not_counted_is_sampled_as_ever(kind: str, strategy: Strategy) -> None:
    assert at(request("prose")) == at(request("prose"), strategy=Strategy.MAJORITY) == [None] * 3
    assert at(request(kind), strategy=strategy) == [None] * 3
    assert at(request(kind, temperature=0), strategy=strategy) == [0, 0.7, 0.7]


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize(
    ("fields", "temperature"),
    [
        ({"temperature": 0.2}, 0.2),
        ({"temperature": 1.3, "top_p": 0.5}, 1.3),
        ({"top_p": 0.9}, None),
        ({"top_k": 5}, None),
        ({"top_k": 1}, None),
        ({"min_p": 0.1}, None),
    ],
)
def test_a_clients_own_sampling_goes_for_every_seat(
    kind: str, fields: dict[str, object], temperature: float | None
) -> None:
    assert at(request(kind, **fields), [M, OWN, THINKS, OTHER, M]) == [temperature] * 5


@pytest.mark.parametrize(
    ("kind", "others"), [("tools", 0.5), ("sum", 0.5), ("json", 0.7), ("code", 0.7), ("prose", 0.7)]
)
def test_temperature_0_is_repeated_by_the_first_seat_of_each_model_alone(kind: str, others: float) -> None:
    asked = request(kind, temperature=0)
    assert at(asked, [M, M, OTHER, M, OTHER]) == [0, others, 0, others, others]
    assert at(asked, [M, M, OWN]) == [0, others, 0], "the leader, whose answer is seen, and one that is no peer's word"
    assert at(asked, [THINKS, THINKS]) == [0, 0.7], "what the client says, it says to all"


@pytest.mark.parametrize(
    ("voters", "greedy"),
    [
        ([M, M, OTHER, OTHER, M], {0, 2}),
        ([M, M, OWN, OWN], {2}),
        ([M, OTHER, OWN_OTHER, OWN], {2, 3}),
        ([OTHER, OWN, OWN, M], {0, 1}),
        ([OWN], {0}),
    ],
)
def test_each_model_has_one_greedy_seat_and_this_nodes_own_where_it_has_one(
    voters: list[Voter], greedy: set[int]
) -> None:
    assert {index for index, each in enumerate(samplings(request(), voters)) if each.greedy} == greedy


def test_a_model_that_thinks_and_another_service_are_sampled_as_they_like() -> None:
    assert at(request("tools"), [THINKS, THINKS, OTHER, OTHER]) == [None, None, 0.0, 0.5]


voters = st.lists(
    st.builds(Voter, st.sampled_from("abc"), own=st.booleans(), choosy=st.booleans()), min_size=1, max_size=MAX_VOTES
)


@settings(deadline=None)
@given(voters=voters, kind=st.sampled_from(sorted(ASKED)), temperature=st.sampled_from([None, 0.0, 0.3]))
def test_no_model_is_greedy_twice_by_itself(voters: list[Voter], kind: str, temperature: float | None) -> None:
    asked = request(kind, temperature=temperature)
    greedy = [voter for voter, each in zip(voters, samplings(asked, voters), strict=True) if each.greedy]
    if temperature is None:
        assert len({voter.model for voter in greedy}) == len(greedy)
        assert not any(voter.choosy for voter in greedy)
        for voter in greedy:
            assert voter.own or not any(other.own and other.model == voter.model for other in voters)
    else:
        assert len(greedy) <= 2 * len({voter.model for voter in voters}) * (temperature == 0)
    for voter in {voter.model for voter in voters}:
        ours = [index for index, other in enumerate(voters) if other.model == voter]
        assert first_seats(voters) & set(ours), "every model has a first seat"


def test_seats_that_move_keep_their_sampling_unless_a_model_would_be_greedy_twice() -> None:
    drawn = temperatures(request(), Question.of(request(), Strategy.AUTO))
    greedy, sampled = SamplingChange(GREEDY, 1), SamplingChange(0.5, 2)
    assert moved([greedy], M, drawn, ()) == (greedy,)
    assert moved([greedy], M, drawn, {"other"}) == (greedy,)
    assert moved([greedy], M, drawn, {"m"}) == (SamplingChange(0.5, 1),)
    assert moved([greedy], THINKS, drawn, ()) == (SamplingChange(None, 1),)
    assert moved([greedy, sampled], M, drawn, ()) == (greedy, sampled)
    assert moved([greedy, sampled], THINKS, drawn, ()) == (SamplingChange(None, 1), SamplingChange(None, 2))
    assert moved([sampled, sampled], M, drawn, ()) == (sampled, sampled)


def test_what_a_client_said_itself_moves_as_it_is() -> None:
    zero, varied = SamplingChange(0, 1), SamplingChange(0.7, 2)
    drawn = temperatures(request("prose", temperature=0), Question.of(request("prose"), Strategy.AUTO))
    assert moved([zero], M, drawn, {"m"}) == (zero,)
    assert moved([varied], M, drawn, {"m"}) == (varied,)
    same = Temperatures(0.3, 0.3, (0.3, 0.3), shown=True)
    assert moved([SamplingChange(0.3, 1)] * 2, M, same, {"m"}) == (SamplingChange(0.3, 1),) * 2


def test_the_clients_seed_is_the_first_and_decides_the_others() -> None:
    seeded = samplings(request(seed=7), base=1)
    assert seeded[0].seed == 7
    assert seeded == samplings(request(seed=7), base=2)
    assert seeded != samplings(request(seed=8), base=1)


def test_without_a_seed_the_callers_number_stands_in() -> None:
    assert samplings(request(), base=1) == samplings(request(seed=1), base=9)


@settings(deadline=None)
@given(seed=st.integers(-(2**70), 2**70), k=st.integers(1, MAX_VOTES))
def test_seeds_are_distinct_and_fit_32_bits(seed: int, k: int) -> None:
    seeds = [sampling.seed for sampling in samplings(request(seed=seed), [M] * k)]
    assert len(set(seeds)) == k
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds == [sampling.seed for sampling in samplings(request(seed=seed), [M] * MAX_VOTES)][:k]


@pytest.mark.parametrize("k", [0, MAX_VOTES + 1])
def test_an_impossible_number_of_votes_is_refused(k: int) -> None:
    with pytest.raises(BadRequest, match=f"{k} votes"):
        samplings(request(), [M] * k)
