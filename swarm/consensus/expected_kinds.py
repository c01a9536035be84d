"""What can be said before anybody has answered: which kinds the answers may be, and whose answers are worth having."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.consensus.kind_names import Kind
from swarm.consensus.question import Question
from swarm.consensus.weights import ballot_weights
from swarm.registry.measured import Measurements


def expected_kinds(question: Question) -> tuple[Kind, ...]:
    """The kinds that the request asks for; none where it leaves the form of the answer to the voters."""
    if question.tools:
        return ("tool_calls",)
    if question.wants_json:
        return ("json",)
    return ("number", "choice") if question.wants_final_answer else ()


def worth_asking(question: Question, measurements: Measurements, models: Sequence[str]) -> frozenset[str]:
    """Those of `models` that were not measured to be no better than a guess at what `question` asks for."""
    kinds = expected_kinds(question)
    weights = ballot_weights(question.strategy, measurements, models)
    return frozenset(model for model in models if not kinds or weights.at_most(model, kinds) > 0)
