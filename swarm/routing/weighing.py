"""What measured weights mean for who is asked: plain choices over models, before any answer is there."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.consensus.kind_names import KINDS, Kind
from swarm.consensus.question import Question
from swarm.consensus.weights import Measurements, ballot_weights
from swarm.routing.replicas import Replica


def kinds_to_expect(question: Question) -> tuple[Kind, ...]:
    """The kinds that answers may turn out to be, as far as the request tells."""
    prose: tuple[Kind, ...] = KINDS
    if question.wants_json:
        prose = ("json",)
    elif question.wants_final_answer:
        prose = ("number", "choice")
    return ("tool_calls", *(kind for kind in prose if kind != "tool_calls")) if question.tools else prose


def with_a_say(replicas: Sequence[Replica], question: Question, measurements: Measurements) -> tuple[Replica, ...]:
    """The replicas whose answer may weigh something; all, where that is nobody or nothing was measured.

    A model has no say that was measured to be no better than a guess, in every kind to be expected that was measured.
    """
    weights = ballot_weights(question.strategy, measurements, [replica.model for replica in replicas])
    counted = [weights.by_kind[kind] for kind in kinds_to_expect(question) if kind in weights.by_kind]
    able = tuple(r for r in replicas if not counted or any(of_kind.get(r.model, 1) > 0 for of_kind in counted))
    return able or tuple(replicas)
