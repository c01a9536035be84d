"""The `swarm` object of a response: a verdict as clients see it."""

from __future__ import annotations

from pydantic import JsonValue

from swarm.consensus.verdict import CandidateSummary, Verdict
from swarm.consensus.weights import WEIGHT_DECIMALS
from swarm.generation import JsonObject


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
    return shown


def _shown(summary: CandidateSummary) -> JsonObject:
    shown: JsonObject = {
        "voter": summary.voter,
        "model": summary.model,
        "group": summary.group,
        "weight": round(summary.weight, WEIGHT_DECIMALS),
        "tokens": summary.tokens,
        "ms": summary.elapsed_ms,
    }
    if summary.abstained is not None:
        shown["abstained"] = summary.abstained
    return shown


def _tidy(number: float) -> JsonValue:
    """Whole numbers without a decimal point, the rest rounded."""
    return int(number) if number.is_integer() else round(number, WEIGHT_DECIMALS)
