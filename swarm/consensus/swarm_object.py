"""The `swarm` object of a response: a verdict, or how a ballot stands while it is held, as JSON for clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from pydantic import JsonValue

from swarm.consensus.answers import Flaw
from swarm.consensus.question import Question
from swarm.consensus.reading import answer_of, read
from swarm.consensus.verdict import CandidateSummary, CascadeOutcome, Verdict
from swarm.consensus.weights import WEIGHT_DECIMALS
from swarm.generation import Candidate, JsonObject


def swarm_object(verdict: Verdict, *, coordinator: str, elapsed_ms: int) -> JsonObject:
    """`verdict` as JSON. `similarity`, `judge` and `shortfall` are there where they can mean something."""
    shown: JsonObject = {
        "strategy": verdict.strategy,
        "kind": verdict.kind,
        "outcome": verdict.outcome,
        "votes": verdict.votes,
        "asked": verdict.asked,
        "wanted": verdict.wanted,
        "saved": verdict.saved,
        "agreement": None if verdict.agreement is None else round(verdict.agreement, WEIGHT_DECIMALS),
        "margin": _tidy(verdict.margin),
        "weights": verdict.weights,
        "stopped_by": verdict.stopped_by,
        "quorum": verdict.quorum,
        "degraded": verdict.degraded,
        "winner": None if verdict.winner is None else verdict.winner.voter,
        "coordinator": coordinator,
        "elapsed_ms": elapsed_ms,
        "total_completion_tokens": verdict.total_completion_tokens,
        "wasted_tokens": verdict.wasted_tokens,
        "candidates": [_shown(summary) for summary in verdict.candidates],
    }
    if verdict.similarity is not None:
        shown["similarity"] = round(verdict.similarity, WEIGHT_DECIMALS)
    if verdict.strategy == "judge":
        shown["judge"] = verdict.judge
    if verdict.shortfall is not None:
        shown["shortfall"] = verdict.shortfall
    if verdict.cascade is not None:
        shown["cascade"] = _cascade(verdict.cascade)
    return shown


def _cascade(cascade: CascadeOutcome) -> JsonObject:
    if cascade.strong is None:
        return {"strong": None, "why_not": cascade.why_not}
    return {
        "strong": cascade.strong,
        "asked": cascade.asked,
        "agreement": None if cascade.agreement is None else round(cascade.agreement, WEIGHT_DECIMALS),
        "threshold": None if cascade.threshold is None else round(cascade.threshold, WEIGHT_DECIMALS),
        "measured": cascade.measured,
    }


def _shown(summary: CandidateSummary) -> JsonObject:
    shown: JsonObject = {
        "voter": summary.voter,
        "model": summary.model,
        "group": summary.group,
        "weight": round(summary.weight, WEIGHT_DECIMALS),
        "tokens": summary.tokens,
        "ms": summary.elapsed_ms,
    }
    if summary.temperature is not None:
        shown["temperature"] = summary.temperature
    if summary.repaired:
        shown["repaired"] = list(summary.repaired)
    if summary.abstained is not None:
        shown["abstained"] = summary.abstained
    return shown


def _tidy(number: float) -> JsonValue:
    """Whole numbers without a decimal point, the rest rounded."""
    return int(number) if number.is_integer() else round(number, WEIGHT_DECIMALS)


MAX_SHOWN_CHARS = 200  # of each answer: a standing goes out on every arrival, with everybody's answer in it
MAX_READ_CHARS = 4 * MAX_SHOWN_CHARS  # of each answer, before its white space is folded


@dataclass(frozen=True, slots=True)
class OutstandingSeats:
    """Voters of one model on one node that were asked and have not answered."""

    node: str
    model: str
    seats: int


@dataclass(frozen=True, slots=True)
class BallotStanding:
    """One moment of a ballot. `verdict` is what it would be if it ended now; `answers` are by voter, and short."""

    verdict: Verdict
    answers: Mapping[str, str]
    out: tuple[OutstandingSeats, ...]


def short_answers(question: Question, candidates: Iterable[Candidate]) -> dict[str, str]:
    """What each voter said, in a line: the number or choice that it gave, its calls, else how its words begin."""
    return {candidate.voter: short_answer(question, candidate) for candidate in candidates}


def short_answer(question: Question, candidate: Candidate) -> str:
    """One answer in a line of at most MAX_SHOWN_CHARS; "" where there is none."""
    if candidate.tool_calls:
        return shortened("; ".join(f"{call.name}({call.arguments[:MAX_READ_CHARS]})" for call in candidate.tool_calls))
    reading = read(question, candidate)
    if not isinstance(reading, Flaw) and reading.final is not None:
        return shortened(_value(reading.final.value))
    said = answer_of(candidate)
    return shortened(candidate.text if said is None else said)


def shortened(text: str) -> str:
    """`text` as one line, with an ellipsis where there is more of it."""
    line = " ".join(text[:MAX_READ_CHARS].split())
    if len(line) > MAX_SHOWN_CHARS or len(text) > MAX_READ_CHARS:
        return line[: MAX_SHOWN_CHARS - 1] + "…"
    return line


def _value(value: Fraction | str) -> str:
    """A number as people write it: exact as a decimal where that is short, else as a fraction."""
    if isinstance(value, str) or value.denominator == 1:
        return str(value)
    decimal = repr(float(value)) if abs(value) < 10**15 else ""
    return decimal if decimal and Fraction(decimal) == value else str(value)


def standing_object(standing: BallotStanding, *, coordinator: str, elapsed_ms: int) -> JsonObject:
    """The `swarm` object of this moment: not `final`, stopped by nothing, with everybody's answer and who is `out`."""
    shown = swarm_object(standing.verdict, coordinator=coordinator, elapsed_ms=elapsed_ms)
    out: list[JsonValue] = [{"node": seat.node, "model": seat.model, "seats": seat.seats} for seat in standing.out]
    return {
        **shown,
        "final": False,
        "stopped_by": None,
        "candidates": [_with_answer(candidate, standing.answers) for candidate in _objects(shown["candidates"])],
        "out": out,
    }


def _with_answer(candidate: JsonObject, answers: Mapping[str, str]) -> JsonValue:
    return {**candidate, "answer": answers.get(str(candidate["voter"]), "")}


def _objects(value: JsonValue) -> list[JsonObject]:
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []
