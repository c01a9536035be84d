"""`first` and `single`: no vote. The first usable answer in the order given is the answer; nothing is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from swarm.consensus.abstention import Abstention, Flaw, Reason
from swarm.consensus.groups import Ballot
from swarm.consensus.question import Question
from swarm.consensus.reading import Reading, read
from swarm.generation import Candidate


def race(question: Question, candidates: Sequence[Candidate]) -> tuple[Ballot | None, tuple[Abstention, ...]]:
    """The winner, if any is usable, and everybody else. `first` skips what could not vote, `single` only failures."""
    winner: Ballot | None = None
    abstentions: list[Abstention] = []
    for candidate in candidates:
        reading = _usable(question, candidate)
        if isinstance(reading, Flaw):
            abstentions.append(Abstention(candidate, reading.reason, reading.detail))
        elif winner is not None:
            abstentions.append(Abstention(candidate, Reason.OUTRUN))
        else:
            winner = Ballot(candidate, reading, Fraction(1), -math.inf)
    return winner, tuple(abstentions)


def _usable(question: Question, candidate: Candidate) -> Reading | Flaw:
    """As `read`; but a lone answer is returned as it is, cut or malformed, like any server would."""
    reading = read(question, candidate)
    lone = question.strategy == "single" and candidate.error is None
    return Reading() if isinstance(reading, Flaw) and lone else reading
