"""Which kind of answer the replies in words are compared as, and how firmly that is settled."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from swarm.consensus.groups import ZERO, Ballot, total_weight
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading

ProseKind = Literal["json", "code", "final", "text"]

_IN_ORDER: tuple[ProseKind, ...] = ("json", "code", "final")
_IN_ORDER_WHERE_ASKED: tuple[ProseKind, ...] = ("json", "final", "code")  # code beside a demanded answer is the working


def answer_of_kind(reading: Reading, kind: ProseKind) -> object | None:
    """What `reading` offers as an answer of `kind`, if anything."""
    match kind:
        case "json":
            return reading.json
        case "code":
            return reading.code
        case "final":
            return reading.final
        case "text":
            return reading.text


def prose_kind(question: Question, ballots: Sequence[Ballot]) -> tuple[ProseKind, Fraction]:
    """The first kind that over half the weight of `ballots` carries, else text; and its lead.

    The lead is exact: with less than that weight outstanding, no further ballots can change the kind. Where JSON was
    demanded every ballot is JSON, now and later.
    """
    weight = total_weight(ballots)
    if question.wants_json:
        return "json", weight
    lead = weight
    for kind in _IN_ORDER_WHERE_ASKED if question.wants_final_answer else _IN_ORDER:
        carried = sum((ballot.weight for ballot in ballots if answer_of_kind(ballot.reading, kind) is not None), ZERO)
        if 2 * carried > weight:
            return kind, min(lead, 2 * carried - weight)
        lead = min(lead, weight - 2 * carried)
    return "text", lead
