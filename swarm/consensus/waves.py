"""When voters are asked, how long they are waited for, and how their samples differ. Plain arithmetic.

The least that can decide is asked first, the rest where it cannot. Shares of time are starting values, chosen so that
one silent voter costs a vote less than half of its time again; see each constant.

Samples differ in seed and in temperature. Each model's best single answer is its greedy one, and a second would be the
first again: so where a client leaves the sampling to the swarm and answers are counted, one seat of each model is
greedy and the others are varied, as far as was measured to pay (SAMPLED_AT; docs/voting.md has the figures). What a
client says of its sampling goes for all seats, but for temperature 0, which would make k votes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

from swarm.consensus.count import POSTERIOR_STOP, Lead, posterior
from swarm.consensus.options import Kind
from swarm.consensus.question import Question
from swarm.consensus.tally import Tally
from swarm.consensus.weights import KnownSource, VoterWeights
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest

GRACE_SHARE = 0.5  # what the voters beyond the quorum get, of the time since the last were asked
FIRST_PATIENCE_SHARE = 1.0  # after one answer the rest of its wave gets as long again: lengths vary that much
PATIENCE_SHARE = 0.25  # ... and once half of it has, this much, if the others are out of sight and may be frozen
RETRY_SHARE = 0.5  # of a ballot's time that must be left for a lost voter to be worth replacing

MAX_VOTES = 64  # published gains flatten at 10-20 votes; comparing answers pairwise grows with the square
GREEDY = 0.0
DIVERSE_TEMPERATURE = 0.7  # what the self-consistency papers sample at: varied, still coherent
# Where the first seat is greedy: of the kinds that were measured, each at that which its vote is best at.
SAMPLED_AT: Mapping[Kind, float] = MappingProxyType({"tool_calls": 0.5, "number": 0.5, "choice": 0.5})
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

    @property
    def greedy(self) -> bool:
        """Nothing of it is left to chance."""
        return self.temperature == GREEDY


@dataclass(frozen=True, slots=True)
class Voter:
    """Who has a seat, as far as its sampling depends on it.

    `own`: it is this node's. `choosy`: it gets no temperature but the client's, since it thinks before it answers (the
    makers of such models warn that greedy ones repeat themselves without end), or is another service's.
    """

    model: str
    own: bool = False
    choosy: bool = False


@dataclass(frozen=True, slots=True)
class Temperatures:
    """The temperatures of one ballot: of the `first` seat of each model, of the `others`, and of `choosy` voters.

    None: the engine's default. `shown`: the leader has the first, too, because a client may see its answer grow.
    """

    first: float | None
    others: float | None
    choosy: tuple[float | None, float | None]
    shown: bool = False

    def of(self, voter: Voter, first: bool) -> float | None:
        if voter.choosy:
            return self.choosy[not first]
        return self.first if first else self.others


def temperatures(request: GenerationRequest, question: Question) -> Temperatures:
    """At what temperatures the seats of a ballot on `request` answer."""
    own = request.temperature
    if own == 0:
        varied = SAMPLED_AT.get(question.expected_kind, DIVERSE_TEMPERATURE) if _is_counted(question) else None
        others = DIVERSE_TEMPERATURE if varied is None else varied
        return Temperatures(own, others, (own, DIVERSE_TEMPERATURE), shown=True)
    if own is not None or _has_own_sampling(request) or not _is_counted(question):
        return Temperatures(own, own, (own, own), shown=True)
    return Temperatures(GREEDY, SAMPLED_AT.get(question.expected_kind), (None, None))


def _has_own_sampling(request: GenerationRequest) -> bool:
    """The client said from which tokens is drawn, so that greedy is not what it wants."""
    return any(value is not None for value in (request.top_p, request.top_k, request.min_p))


def _is_counted(question: Question) -> bool:
    """Whether answers are told equal or not: not prose, and no strategy that takes one as it comes, or the middle."""
    return question.strategy.counts and question.expected_kind != "text"


def first_seats(voters: Sequence[Voter], leader_too: bool = False) -> frozenset[int]:
    """Which of the seats are the first of their models: of a model that this node runs its own first seat.

    Which model a peer runs is its own word: whoever takes the lead by a name must not take the best sample from
    everybody. `leader_too`: the first of all of each model's seats is one as well.
    """
    of_model: dict[str, int] = {}
    of_own: dict[str, int] = {}
    for index, voter in enumerate(voters):
        of_model.setdefault(voter.model, index)
        if voter.own:
            of_own.setdefault(voter.model, index)
    return frozenset([*(of_model | of_own).values(), *(of_model.values() if leader_too else ())])


def ballot_samplings(
    request: GenerationRequest, question: Question, voters: Sequence[Voter], base_seed: int
) -> tuple[SamplingChange, ...]:
    """The sampling of each seat, in the order of `voters`.

    Seeds are distinct, in 0..2^32-1, and the same for the same client seed; `base_seed` (the caller's random number)
    stands in where the client gave none. Raises BadRequest for a number of voters outside 1..MAX_VOTES.
    """
    if not 1 <= len(voters) <= MAX_VOTES:
        raise BadRequest(f"{len(voters)} votes asked for: use 1 to {MAX_VOTES}", param="swarm.votes")
    drawn = temperatures(request, question)
    first = first_seats(voters, leader_too=drawn.shown)
    seeds = _seeds(base_seed if request.seed is None else request.seed, len(voters))
    return tuple(
        SamplingChange(drawn.of(voter, index in first), seed)
        for index, (voter, seed) in enumerate(zip(voters, seeds, strict=True))
    )


def moved(
    samplings: Sequence[SamplingChange], to: Voter, drawn: Temperatures, greedy_models: Collection[str]
) -> tuple[SamplingChange, ...]:
    """The samplings of seats that another voter takes: their own, but that no model is greedy twice.

    `greedy_models` are those that have a greedy seat without these. What a client said itself goes for whoever comes.
    """
    if drawn.shown or not (to.choosy or to.model in greedy_models):
        return tuple(samplings)
    others = drawn.of(to, first=False)
    return tuple(replace(each, temperature=others) if to.choosy or each.greedy else each for each in samplings)


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
