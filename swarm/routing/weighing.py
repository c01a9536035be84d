"""What measured weights mean for who is asked: plain choices over models, before any answer is there."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from swarm.consensus.kind_names import KINDS, Kind
from swarm.consensus.question import Question
from swarm.consensus.weights import EQUAL, MAX_RATIO, Measurements, VoterWeights, ballot_weights
from swarm.routing.replicas import Replica

RATIOS = (MAX_RATIO, 3, 2, 1.5, 1)  # of the heaviest voter to the lightest, tried in this order


def kinds_to_expect(question: Question) -> tuple[Kind, ...]:
    """The kinds that answers may turn out to be, as far as the request tells."""
    prose: tuple[Kind, ...] = KINDS
    if question.wants_json:
        prose = ("json",)
    elif question.wants_final_answer:
        prose = ("number", "choice")
    return ("tool_calls", *(kind for kind in prose if kind != "tool_calls")) if question.tools else prose


def seat_weights(question: Question, measurements: Measurements, seats: Sequence[Replica]) -> VoterWeights:
    """The weights of a ballot with these seats, as measured, and less far apart where one peer would have half of it.

    A weight belongs to a model, and which model a peer runs it says itself: the name of a good one must not outvote
    everybody. Only this node, and a single member beside it, may have that much.
    """
    models = [replica.model for replica in seats]
    for ratio in RATIOS:
        weights = ballot_weights(question.strategy, measurements, models, ratio)
        if not any(_rules(weights, kind, seats) for kind in weights.by_kind):
            return weights
    return EQUAL


def _rules(weights: VoterWeights, kind: Kind, seats: Sequence[Replica]) -> bool:
    """Whether one peer has half of the weight in `kind`, or more, in a ballot of three parties or with strangers."""
    if len({seat.party for seat in seats}) <= 2 and all(seat.local or seat.member for seat in seats):
        return False
    of_party: dict[str, Fraction] = {}
    for seat in seats:
        of_party[seat.party] = of_party.get(seat.party, Fraction(0)) + weights.of(seat.model, kind)
    peers = {seat.party for seat in seats if not seat.local}
    return len(of_party) > 1 and any(2 * of_party[party] >= sum(of_party.values()) for party in peers)


def with_a_say(replicas: Sequence[Replica], question: Question, measurements: Measurements) -> tuple[Replica, ...]:
    """The replicas whose answer may weigh something; all, where that is nobody or nothing was measured.

    A model has no say that was measured to be no better than a guess, in every kind to be expected that was measured.
    """
    weights = ballot_weights(question.strategy, measurements, [replica.model for replica in replicas])
    counted = [weights.by_kind[kind] for kind in kinds_to_expect(question) if kind in weights.by_kind]
    able = tuple(r for r in replicas if not counted or any(of_kind.get(r.model, 1) > 0 for of_kind in counted))
    return able or tuple(replicas)
