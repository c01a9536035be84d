"""When voters are asked, and how long they are waited for: the least that can decide first, the rest where it cannot.

Plain arithmetic. Shares of time are starting values, chosen so that one silent voter costs a vote less than half of its
time again; see each constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from swarm.consensus.lead import Lead
from swarm.consensus.posterior import POSTERIOR_STOP, posterior
from swarm.consensus.tally import Tally
from swarm.consensus.weights import VoterWeights

GRACE_SHARE = 0.5  # what the voters beyond the quorum get, of the time since the last were asked
FIRST_PATIENCE_SHARE = 1.0  # after one answer the rest of its wave gets as long again: lengths vary that much
PATIENCE_SHARE = 0.25  # ... and once half of it has, this much, if the others are out of sight and may be frozen
RETRY_SHARE = 0.5  # of a ballot's time that must be left for a lost voter to be worth replacing


def first_wave(models: Sequence[str], weights: VoterWeights, min_votes: int = 1) -> int:
    """How many of the seats, given by their models in order, are asked at once: the least that can decide alone.

    They are more than half of all, outweigh the rest in every kind, and are at least `min_votes`.
    """
    seats = len(models)
    least = min(seats, max(seats // 2 + 1, min_votes))
    for first in range(least, seats):
        if all(
            weights.outstanding(models[:first], (kind,)) > weights.outstanding(models[first:], (kind,))
            for kind in weights.by_kind
        ):
            return first
    return seats


def may_decide_alone(
    counted: Tally,
    outstanding: Sequence[str],
    held: Sequence[str],
    weights: VoterWeights,
    *,
    posterior_too: bool = False,
) -> bool:
    """Whether the voters `outstanding` could still end the vote without those `held` back, both given by their models.

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
