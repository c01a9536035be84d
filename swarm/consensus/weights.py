"""What a ballot weighs: how good its node, or else its model, was measured to be at the kind that is counted.

w = ln(p·(L-1) / (1-p)) with p = (s+2)/(n+4), the log odds of being right among L options: the weights under which a
weighted majority of independent voters is the most probable answer. They are clipped to 4:1, because independent is
what voters are not, and several samples of one model count for less where other models vote too. Weights average 1
over the seats of a ballot, so that they can stand beside equal ones, and are rounded to what the client is shown:
whoever adds up the `swarm` object comes to the same result.

What was measured of a node goes before what was measured of its model: a node that was found to be no better than a
guess weighs 0 whatever model it says it runs, and whoever was not measured weighs what its model does, never more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, NamedTuple

from swarm.consensus.options import KINDS, Kind, Strategy
from swarm.generation import Candidate
from swarm.registry.weights_file import Measured, Measurements

MAX_RATIO = 4  # of the heaviest voter to the lightest: 50 questions say no more, and no one voter should dictate
SAMPLES_OF_ONE_MODEL_RHO = (
    0.5  # how much alike the errors of one model's samples are; two models agree in 60 % of theirs
)
WEIGHT_DECIMALS = 4

Basis = Literal["equal", "measured"]

_ONE = Fraction(1)
_NOT_MEASURED = Measured(0, 0)  # (0+2)/(0+4): right half of the time


class VoterSource(NamedTuple):
    """Whose an answer is: its model, by the name that it has here, and the id of the node that was asked.

    Without a node it stands for every node of that model that was not measured itself.
    """

    model: str
    node: str = ""


KnownSource = VoterSource | str | None  # of a seat: its node and model, or its model alone, or nothing is known
Own = Mapping[VoterSource, Mapping[str, Measured]]  # what was measured of single nodes, by kind


def source_of(candidate: Candidate) -> VoterSource:
    """Whose answer it is; `node_id` is written into it here, by whom it was asked of, and by nobody else."""
    return VoterSource(candidate.model, candidate.node_id)


@dataclass(frozen=True, slots=True)
class VoterWeights:
    """The weights of one ballot, fixed when it is planned. `by_kind` has the kinds with measured weights, by model id.

    In the other kinds everybody weighs 1. A model that was not planned (a replacement) weighs as little as any.
    `by_node` goes before: nodes that were measured themselves, also in kinds without weights, where it is 1 or 0.
    """

    by_kind: Mapping[Kind, Mapping[str, Fraction]] = field(default_factory=dict[Kind, Mapping[str, Fraction]])
    by_node: Mapping[Kind, Mapping[VoterSource, Fraction]] = field(
        default_factory=dict[Kind, Mapping[VoterSource, Fraction]]
    )

    def of(self, voter: VoterSource | str, kind: Kind) -> Fraction:
        """The weight of a ballot of `voter` (or of a model, on a node that was not measured) counted as `kind`.

        0: it has no say.
        """
        source = VoterSource(voter) if isinstance(voter, str) else voter
        own = self.of_node(source, kind)
        if own is not None:
            return own
        weights = self.by_kind.get(kind)
        if weights is None:
            return _ONE
        found = weights.get(source.model)
        return found if found is not None else min((weight for weight in self._all(kind) if weight), default=_ONE)

    def of_node(self, source: VoterSource, kind: Kind) -> Fraction | None:
        """The weight of a node that was measured itself in `kind`; None of another."""
        return self.by_node[kind].get(source) if kind in self.by_node else None

    def is_measured(self, source: VoterSource, kind: Kind) -> bool:
        """Whether something that was measured says what its ballots weigh in `kind`."""
        return kind in self.by_kind or self.of_node(source, kind) is not None

    def has_no_say(self, source: VoterSource) -> bool:
        """Whether its ballots weigh nothing, whatever they are."""
        return not any(self.of(source, kind) for kind in KINDS)

    def basis(self, kind: Kind) -> Basis:
        """Whether the weights in `kind` were measured or are all 1."""
        return "measured" if kind in self.by_kind else "equal"

    def at_most(self, voter: KnownSource, kinds: Sequence[Kind]) -> Fraction:
        """The most that a ballot of `voter` can weigh, whichever of `kinds` it turns out to be."""
        if isinstance(voter, VoterSource):
            return max(self.of(voter, kind) for kind in kinds)
        return max(self._most(voter, kind) for kind in kinds)

    def _most(self, model: str | None, kind: Kind) -> Fraction:
        """The most of any node of `model`; None: of anybody."""
        if model is None:
            anybody = _ONE if kind not in self.by_kind else Fraction(0)
            return max((anybody, *self._all(kind))) or _ONE
        nodes = (weight for source, weight in self.by_node.get(kind, {}).items() if source.model == model)
        return max((self.of(model, kind), *nodes))

    def _all(self, kind: Kind) -> list[Fraction]:
        return [*self.by_kind.get(kind, {}).values(), *self.by_node.get(kind, {}).values()]

    def outstanding(self, voters: Iterable[KnownSource], kinds: Sequence[Kind]) -> Fraction:
        """The most that the seats still out can weigh; without `kinds` their number."""
        if not kinds:
            return Fraction(sum(1 for _ in voters))
        return sum((self.at_most(voter, kinds) for voter in voters), Fraction(0))


EQUAL = VoterWeights()


def ballot_weights(
    strategy: Strategy,
    measurements: Measurements,
    voters: Sequence[VoterSource | str],
    max_ratio: float = MAX_RATIO,
    own: Own = MappingProxyType({}),
) -> VoterWeights:
    """The weights of a ballot that asks `voters`, one for each seat; the heaviest is `max_ratio` times the lightest.

    `own` is what was measured of single nodes, of those with a seat and of others that may get one later; of the rest
    it is what was measured of their models. `majority` and `cascade` weigh all alike. `weighted` uses what was measured
    of anybody asked, and takes the others to be right half of the time; the rest of the strategies only use weights in
    a kind where everybody asked was measured. Whatever the strategy: a node that was itself measured to be no better
    than a guess has no say.
    """
    asked = [VoterSource(voter) if isinstance(voter, str) else voter for voter in voters]
    by_kind: dict[Kind, Mapping[str, Fraction]] = {}
    by_node: dict[Kind, Mapping[VoterSource, Fraction]] = {}
    for kind in KINDS:
        nodes = {source: of_node[kind] for source, of_node in own.items() if kind in of_node}
        seats = Counter(source if source in nodes else VoterSource(source.model) for source in asked)
        models = {source: _of_model(measurements, source, kind) for source in seats if source not in nodes}
        unknown = any(counts is None for counts in models.values())
        enough = len(seats) > 0 and not unknown
        if strategy == Strategy.WEIGHTED:
            enough = any(source in nodes or models[source] is not None for source in seats)
        weights: dict[VoterSource, Fraction] = {}
        if strategy not in (Strategy.MAJORITY, Strategy.CASCADE) and enough:
            counts = {source: counts or _NOT_MEASURED for source, counts in models.items()}
            weights = _weights(counts | nodes, seats, max_ratio)
        if weights:
            by_kind[kind] = {source.model: weight for source, weight in weights.items() if source not in nodes}
        elif nodes and any(source not in nodes or log_odds(nodes[source]) > 0 for source in seats):
            weights = {source: _ONE if log_odds(counts) > 0 else Fraction(0) for source, counts in nodes.items()}
        if nodes and weights:
            by_node[kind] = {source: weight for source, weight in weights.items() if source in nodes}
    return VoterWeights(by_kind, by_node)


def _of_model(measurements: Measurements, source: VoterSource, kind: Kind) -> Measured | None:
    return measurements.get(source.model, {}).get(kind)


def log_odds(counts: Measured) -> float:
    """How much an answer of this model says: the log odds of being right against one of the other options."""
    return math.log((counts.correct + 2) * (counts.options - 1) / (counts.asked - counts.correct + 2))


def _weights(
    counts: Mapping[VoterSource, Measured], seats: Mapping[VoterSource, int], max_ratio: float
) -> dict[VoterSource, Fraction]:
    """By source, `seats` having those of the ballot; 0 for one that is no better than a guess; nothing where all are.

    One without a seat weighs what it would with the others' scale, and no more than the best of them.
    """
    odds = {source: log_odds(measured) for source, measured in counts.items()}
    best = max(odds[source] for source in seats)
    if best <= 0:
        return {}
    clipped = {source: min(max(value, best / max_ratio), best) if value > 0 else 0.0 for source, value in odds.items()}
    of_model: Counter[str] = Counter()  # voters: who has no say takes nothing from others of its model
    for source, number in seats.items():
        of_model[source.model] += number if clipped[source] else 0
    models = sum(number > 0 for number in of_model.values())
    value_of = {source: value * _discount(of_model[source.model], models) for source, value in clipped.items()}
    voting = [source for source in seats if value_of[source] > 0]
    mean = math.fsum(value_of[source] * seats[source] for source in voting) / sum(seats[source] for source in voting)
    return {
        source: Fraction(round(value / mean * 10**WEIGHT_DECIMALS), 10**WEIGHT_DECIMALS)
        for source, value in value_of.items()
    }


def _discount(samples: int, models: int) -> float:
    """What each of `samples` of one model counts: together m/(1+(m-1)·rho); 1 where there is no other model."""
    return 1.0 if models == 1 else 1 / (1 + max(samples - 1, 0) * SAMPLES_OF_ONE_MODEL_RHO)
