"""When voters are asked, how long they are waited for, and how their samples differ. Plain arithmetic.

The least that can decide is asked first, the rest where it cannot. Shares of time are starting values, chosen so that
one silent voter costs a vote less than half of its time again; see each constant. Samples differ in seed and, where a
client asked for temperature 0, in temperature: identical greedy repeats of one model would be one vote, not k.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from swarm.consensus.count import POSTERIOR_STOP, Lead, posterior
from swarm.consensus.tally import Tally
from swarm.consensus.weights import KnownSource, VoterWeights
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest

GRACE_SHARE = 0.5  # what the voters beyond the quorum get, of the time since the last were asked
FIRST_PATIENCE_SHARE = 1.0  # after one answer the rest of its wave gets as long again: lengths vary that much
PATIENCE_SHARE = 0.25  # ... and once half of it has, this much, if the others are out of sight and may be frozen
RETRY_SHARE = 0.5  # of a ballot's time that must be left for a lost voter to be worth replacing

MAX_VOTES = 64  # published gains flatten at 10-20 votes; comparing answers pairwise grows with the square
DIVERSE_TEMPERATURE = 0.7  # what the self-consistency papers sample at: varied, still coherent
_SEED_SPACE = 2**32
_DERIVED_SEED_SPACE = 2**31  # derived seeds also fit a signed 32-bit field, and never hit llama.cpp's 2^32-1 = "random"


def first_wave(voters: Sequence[KnownSource], weights: VoterWeights, min_votes: int = 1) -> int:
    """How many of the seats, given in order, are asked at once: the least that can decide alone.

    They are more than half of all, outweigh the rest in every kind, and are at least `min_votes`.
    """
    seats = len(voters)
    least = min(seats, max(seats // 2 + 1, min_votes))
    for first in range(least, seats):
        if all(
            weights.outstanding(voters[:first], (kind,)) > weights.outstanding(voters[first:], (kind,))
            for kind in weights.by_kind
        ):
            return first
    return seats


def may_decide_alone(
    counted: Tally,
    outstanding: Sequence[KnownSource],
    held: Sequence[KnownSource],
    weights: VoterWeights,
    *,
    posterior_too: bool = False,
) -> bool:
    """Whether the voters `outstanding` could still end the vote without those `held` back.

    Each may add its weight to every lead, so a False is certain; a True may turn out too hopeful.
    """
    if counted.leads is None:
        return True
    stages = counted.leads if counted.winner is not None else (Lead(Fraction(0)),)
    if all(
        lead.ahead + weights.outstanding(outstanding, lead.kinds) > weights.outstanding(held, lead.kinds)
        for lead in stages
    ):
        return True
    return posterior_too and _posterior_within_reach(counted, len(outstanding))


def _posterior_within_reach(counted: Tally, outstanding: int) -> bool:
    """Whether all `outstanding` agreeing with the first answer would be enough for the posterior stop."""
    votes = [len(group.ballots) for group in counted.groups]
    first, second = (max(votes, default=0), sorted(votes)[-2] if len(votes) > 1 else 0)
    return counted.similarity is None and posterior(first + outstanding, second) >= POSTERIOR_STOP


def patience_s(since_asked_s: float, answered: int, asked: int, in_sight: bool = False) -> float:
    """How much longer the first wave is waited for before the rest is asked all the same; some have answered.

    `in_sight`: those who have not are seen to generate.
    """
    share = PATIENCE_SHARE if 2 * answered >= asked and not in_sight else FIRST_PATIENCE_SHARE
    return since_asked_s * share


def worth_retrying(started: float, now: float, deadline: float) -> bool:
    """Whether enough of the time from `started` to `deadline` is left for another voter in the place of a lost one."""
    return deadline - now > RETRY_SHARE * (deadline - started)


def prefill_costs_more(prompt_tokens: int, completion_tokens: int) -> bool:
    """Whether reading a prompt again takes longer than a voter in mid-answer still needs.

    A voter that is late in its wave needs about a fifth of an answer more; reading a token costs about a fifth of
    writing one.
    """
    return prompt_tokens > completion_tokens


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
