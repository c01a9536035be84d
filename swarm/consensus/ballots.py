"""How the samples of one ballot differ: identical greedy repeats of one model would be one vote, not k."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from swarm.errors import BadRequest
from swarm.generation import GenerationRequest

MAX_VOTES = 64  # published gains flatten at 10-20 votes; comparing answers pairwise grows with the square
DIVERSE_TEMPERATURE = 0.7  # what the self-consistency papers sample at: varied, still coherent

_SEED_SPACE = 2**32
_DERIVED_SEED_SPACE = 2**31  # derived seeds also fit a signed 32-bit field, and never hit llama.cpp's 2^32-1 = "random"


@dataclass(frozen=True, slots=True)
class SamplingChange:
    """What one sample uses instead of the request's own values. `temperature` None: the engine's default."""

    temperature: float | None
    seed: int


def ballot_samplings(request: GenerationRequest, k: int, base_seed: int) -> tuple[SamplingChange, ...]:
    """The sampling of each of `k` samples: the first is the client's own, greedy ones are varied from the second on.

    Seeds are distinct, in 0..2^32-1, and the same for the same client seed; `base_seed` (the caller's random number)
    stands in where the client gave none. Raises BadRequest for a `k` outside 1..MAX_VOTES.
    """
    if not 1 <= k <= MAX_VOTES:
        raise BadRequest(f"{k} votes asked for: use 1 to {MAX_VOTES}", param="swarm.votes")
    varied = DIVERSE_TEMPERATURE if request.temperature == 0 else request.temperature
    seeds = _seeds(base_seed if request.seed is None else request.seed, k)
    return tuple(SamplingChange(varied if index else request.temperature, seed) for index, seed in enumerate(seeds))


def _seeds(base: int, k: int) -> list[int]:
    """`k` distinct seeds, the first being `base` itself."""
    seeds = [base % _SEED_SPACE]
    counter = 0
    while len(seeds) < k:
        counter += 1
        digest = hashlib.sha256(f"{base}:{counter}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big") % _DERIVED_SEED_SPACE
        if seed not in seeds:
            seeds.append(seed)
    return seeds
