"""How the samples of one ballot differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.consensus.waves import MAX_VOTES, ballot_samplings
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest


def request(temperature: float | None = None, seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="hi", temperature=temperature, seed=seed)


@pytest.mark.parametrize(
    ("asked", "later"), [(0.0, 0.7), (None, None), (0.2, 0.2), (1.3, 1.3)], ids=["greedy", "default", "low", "high"]
)
def test_only_greedy_samples_are_varied_and_never_the_first(asked: float | None, later: float | None) -> None:
    samplings = ballot_samplings(request(asked), 4, base_seed=1)
    assert [sampling.temperature for sampling in samplings] == [asked, later, later, later]


def test_the_clients_seed_is_the_first_and_decides_the_others() -> None:
    samplings = ballot_samplings(request(seed=7), 5, base_seed=1)
    assert samplings[0].seed == 7
    assert samplings == ballot_samplings(request(seed=7), 5, base_seed=2)
    assert samplings != ballot_samplings(request(seed=8), 5, base_seed=1)


def test_without_a_seed_the_callers_number_stands_in() -> None:
    assert ballot_samplings(request(), 5, base_seed=1) == ballot_samplings(request(seed=1), 5, base_seed=9)


@given(seed=st.integers(-(2**70), 2**70), k=st.integers(1, MAX_VOTES))
def test_seeds_are_distinct_and_fit_32_bits(seed: int, k: int) -> None:
    seeds = [sampling.seed for sampling in ballot_samplings(request(seed=seed), k, base_seed=0)]
    assert len(set(seeds)) == k
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds == [sampling.seed for sampling in ballot_samplings(request(seed=seed), MAX_VOTES, base_seed=0)][:k]


@pytest.mark.parametrize("k", [0, -1, MAX_VOTES + 1])
def test_an_impossible_number_of_votes_is_refused(k: int) -> None:
    with pytest.raises(BadRequest, match=f"{k} votes"):
        ballot_samplings(request(), k, base_seed=0)
