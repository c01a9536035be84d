"""Which kind of answer the replies in words are compared as, and how firmly that is settled.

Answers that call tools: which tools, and with which arguments. Ids are left out: each voter makes its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from swarm.consensus.groups import ZERO, Ballot
from swarm.consensus.options import Kind
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading
from swarm.consensus.weights import VoterWeights

ProseKind = Literal["json", "code", "final", "text"]

_KINDS: Mapping[ProseKind, tuple[Kind, ...]] = {
    "json": ("json",),
    "code": ("code",),
    "final": ("number", "choice"),
    "text": ("text",),
}
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


def kinds_counted(kind: ProseKind) -> tuple[Kind, ...]:
    """The kinds by which answers of `kind` are weighed: numbers and choices stand against each other."""
    return _KINDS[kind]


def weight_as(ballot: Ballot, kind: ProseKind, weights: VoterWeights) -> Fraction:
    """What `ballot` weighs where `kind` is counted; a final answer by the kind that it is."""
    kinds = _KINDS[kind]
    if kind == "final" and ballot.reading.final is not None:
        kinds = (ballot.reading.final.kind,)
    return ballot.heads * weights.at_most(ballot.candidate.model, kinds)


def prose_kind(question: Question, ballots: Sequence[Ballot], weights: VoterWeights) -> tuple[ProseKind, Fraction]:
    """The first kind that over half of `ballots` carry, by heads, else text; and its lead.

    By heads, because what form replies take is no matter of being right; an answer without weight in its kind carries
    nothing. The lead is exact: with fewer heads outstanding, no further ballots can change the kind. Where JSON was
    demanded every ballot is JSON, now and later.
    """
    heads = sum((ballot.heads for ballot in ballots), ZERO)
    if question.wants_json:
        return "json", heads
    lead = heads
    for kind in _IN_ORDER_WHERE_ASKED if question.wants_final_answer else _IN_ORDER:
        carried = sum((ballot.heads for ballot in ballots if _carries(ballot, kind, weights)), ZERO)
        if 2 * carried > heads:
            return kind, min(lead, 2 * carried - heads)
        lead = min(lead, heads - 2 * carried)
    return "text", lead


def _carries(ballot: Ballot, kind: ProseKind, weights: VoterWeights) -> bool:
    return answer_of_kind(ballot.reading, kind) is not None and weight_as(ballot, kind, weights) > ZERO
