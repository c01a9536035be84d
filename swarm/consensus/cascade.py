"""`cascade`: small models vote first. Where enough of them agree their answer stands, else the strongest answers.

What agreement is worth has to be measured (`swarm bench votes`), for one set of small models, one strong one and one
kind of answer. Where it was not, all of them have to agree: two of different models, or three. On sums two answers of
one model that agreed cost 3 points against the strong model's own; three of one model, or one each of two, cost none.

Agreement is the share of the small voters that gave the answer. One that gave nothing to count is against it, one that
was lost is neither for it nor against. The strongest sees nothing of what the others said, and once it was asked its
answer stands whatever they say: unless it has none, and then the best of theirs does, as a degraded answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from swarm.consensus.answers import AbstainReason
from swarm.consensus.strategies import ZERO, Ballot, Group
from swarm.consensus.tally import Tally, is_settled
from swarm.consensus.weights import KnownSource
from swarm.registry.weights_file import MeasuredCascade

Step = Literal["wait", "agreed", "strongest"]

LEAST, LEAST_OF_ONE_MODEL = 2, 3  # votes for an answer that stands; of one model, where nothing was measured
LEAST_VOTES = LEAST + 1  # that a cascade can have: two small ones, and the strongest
_NOT_HEARD = (AbstainReason.FAILED, AbstainReason.GAVE_WAY, AbstainReason.DUPLICATE, AbstainReason.NO_WEIGHT)
_EXACT = 1000  # shares come as floats: those of so many votes, or fewer, are meant exactly


@dataclass(frozen=True, slots=True)
class Threshold:
    """The share of the small voters that has to agree, 0..1, and whether it was `measured`."""

    agreement: Fraction = Fraction(1)
    measured: bool = False


UNANIMOUS = Threshold()


@dataclass(frozen=True, slots=True)
class Cascade:
    """Who answers where the others do not agree, and how many of them have to, by kind of answer.

    `strong` is a model; None where nobody is stronger than the others, who hold a plain vote then, for the reason
    `why_not`.
    """

    strong: str | None
    thresholds: Mapping[str, Threshold] = field(default_factory=dict[str, Threshold])
    why_not: str | None = None

    def threshold(self, kind: str) -> Threshold:
        return self.thresholds.get(kind, UNANIMOUS)


def known_thresholds(
    measured: Mapping[str, MeasuredCascade], small: Collection[str], strong: str, votes: int
) -> dict[str, Threshold]:
    """What was measured of these very models, by kind, where as many of the small ones vote as were measured."""
    return {
        kind: Threshold(Fraction(one.agreement).limit_denominator(_EXACT), measured=True)
        for kind, one in measured.items()
        if one.strong == strong and set(one.small) == set(small) and votes >= one.votes
    }


def share_agreeing(small: Tally, outstanding: int = 0) -> Fraction:
    """The share of the small voters behind their answer, if whoever is outstanding will be against it."""
    voters = _heard(small) + outstanding
    return small.groups[0].weight / voters if small.groups and voters else ZERO


def next_step(
    small: Tally, outstanding: Sequence[KnownSource], threshold: Threshold, strangers: Mapping[str, str]
) -> Step:
    """What follows from the small ones' votes so far, with those `outstanding`.

    `agreed` holds whatever they say, and `strongest` is told as soon as they cannot agree any more. `strangers` have
    the party of each node that nobody invited, by its name in candidates: what is of one such party alone is agreed on
    by nobody.
    """
    if _agree(small, outstanding, threshold, strangers):
        return "agreed"
    return "wait" if outstanding and _may_agree(small, len(outstanding), threshold) else "strongest"


def _agree(
    small: Tally, outstanding: Sequence[KnownSource], threshold: Threshold, strangers: Mapping[str, str]
) -> bool:
    if small.winner is None or not small.groups or share_agreeing(small, len(outstanding)) < threshold.agreement:
        return False
    agreeing = small.groups[0].ballots
    return (
        len(agreeing) >= _least(agreeing, threshold)
        and not _of_one_stranger(agreeing, strangers)
        and is_settled(small, outstanding)
    )


def _least(agreeing: Sequence[Ballot], threshold: Threshold) -> int:
    one_model = len({ballot.candidate.model for ballot in agreeing}) == 1
    return LEAST_OF_ONE_MODEL if one_model and not threshold.measured else LEAST


def _of_one_stranger(agreeing: Sequence[Ballot], strangers: Mapping[str, str]) -> bool:
    parties = {strangers.get(ballot.candidate.node) for ballot in agreeing}
    return len(parties) == 1 and parties != {None}


def _may_agree(small: Tally, outstanding: int, threshold: Threshold) -> bool:
    """Whether all who are outstanding together could bring any answer there."""
    most = max((group.weight for group in small.groups), default=ZERO) + outstanding
    return most >= max(LEAST, threshold.agreement * (_heard(small) + outstanding))


def _heard(small: Tally) -> int:
    """The voters that said something, counted or not."""
    return small.votes + sum(abstention.reason not in _NOT_HEARD for abstention in small.abstentions)


def with_the_strongest(counted: Tally, alone: Tally) -> Tally | None:
    """The tally with the strongest model's answer as the one that stands, given how it counts `alone`.

    None where it is no answer. Where the others' are of another kind it is a group of its own.
    """
    if alone.winner is None:
        return None
    voter = alone.winner.voter
    for group in counted.groups:
        own = [ballot for ballot in group.ballots if ballot.candidate.voter == voter]
        if own:
            first = Group((*own, *(ballot for ballot in group.ballots if ballot not in own)))
            return replace(counted, winner=own[0].candidate, groups=(first, *_others(counted, group)), similarity=None)
    return replace(
        counted,
        kind=alone.kind,
        kinds=alone.kinds,
        winner=alone.winner,
        groups=(alone.groups[0], *_others(counted, None)),
        abstentions=tuple(one for one in counted.abstentions if one.candidate.voter != voter),
        similarity=None,
    )


def _others(counted: Tally, group: Group | None) -> list[Group]:
    return sorted((one for one in counted.groups if one is not group), key=lambda one: one.rank)


def why_no_answer_stands(strong: str, asked: bool) -> str:
    """What a client is told where neither the small ones agreed nor the strongest answered."""
    if not asked:
        return f"the smaller models did not agree, and {strong} was not asked in time"
    return f"the smaller models did not agree, and {strong} gave no answer that counts"
