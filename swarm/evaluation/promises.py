"""What this project promises of votes on the embedded models, and whether a run keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.evaluation.findings import USUAL_VOTES, Findings
from swarm.evaluation.intervals import Estimate

Verdict = Literal["met", "missed", "met, within noise", "missed, within noise"]

GAIN_POINTS = 8.0  # of a majority of 5 over one sample
SIBLINGS_POINTS = 3.0  # of three different models over the best of them, an aim
SAVED_SHARE = {5: 0.20, 9: 0.30}
LOST_POINTS = {1: 2.0, 2: 6.0}  # by so many liars of 5, at most
CALLS_POINTS, CALLS_ALREADY = 4.0, 0.97
AUROC = 0.75


@dataclass(frozen=True, slots=True)
class Kept:
    """One promise: what is measured, the target in words, what came out in words, and the verdict."""

    measure: str
    target: str
    measured: str
    verdict: Verdict


def kept_promises(all_findings: Sequence[Findings]) -> list[Kept]:
    """The promises that these findings can speak to."""
    found = {findings.name: findings for findings in all_findings}
    rows: list[Kept] = []
    if (arithmetic := found.get("arithmetic")) is not None:
        rows += [*_gain(arithmetic), *_siblings(arithmetic), *_stops(arithmetic), *_liars(arithmetic)]
    if (tools := found.get("tools")) is not None:
        rows += _calls(tools)
    if arithmetic is not None:
        rows += _trust(arithmetic)
    return rows


def percent(share: Estimate) -> str:
    """A share with its interval."""
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def points(difference: Estimate) -> str:
    """A difference of shares with its interval."""
    return f"{100 * difference.value:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def judged(figure: Estimate, least: float) -> Verdict:
    """Whether `figure` is at least so much, and whether this run can tell."""
    unsure = figure.low < least <= figure.high
    if figure.value >= least:
        return "met, within noise" if unsure else "met"
    return "missed, within noise" if unsure else "missed"


def _gain(findings: Findings) -> Iterator[Kept]:
    if USUAL_VOTES not in findings.main.votes:
        return
    gain = findings.main.over_one[USUAL_VOTES]
    yield Kept(
        f"majority of {USUAL_VOTES} over one sample",
        f"at least +{GAIN_POINTS:.0f} points, interval above 0",
        f"{points(gain)}: {100 * findings.main.one.value:.1f} % to "
        f"{100 * findings.main.votes[USUAL_VOTES].value:.1f} %",
        judged(gain, GAIN_POINTS / 100) if gain.low > 0 else "missed",
    )


def _siblings(findings: Findings) -> Iterator[Kept]:
    if findings.pool is None:
        return
    for against in findings.pool.against:
        yield Kept(
            f"{len(findings.pool.models)} siblings, {against.votes} votes in all, over {against.votes} votes of the "
            f"best sibling ({findings.pool.best})",
            f"reported; +{SIBLINGS_POINTS:.0f} points is the aim",
            points(against.equal_votes),
            judged(against.equal_votes, SIBLINGS_POINTS / 100),
        )


def _stops(findings: Findings) -> Iterator[Kept]:
    stops = [stop for stop in findings.stops if stop.waves]
    for stop in stops:
        yield Kept(
            f"outcome of the lead stop against the full vote of {stop.k}",
            "identical in 100 %",
            f"{stop.votes - stop.changed} of {stop.votes} identical",
            "met" if stop.changed == 0 else "missed",
        )
    for stop in stops:
        yield Kept(
            f"candidates saved by the lead stop at k={stop.k}",
            f"at least {100 * SAVED_SHARE[stop.k]:.0f} %",
            percent(stop.saved),
            judged(stop.saved, SAVED_SHARE[stop.k]),
        )


def _liars(findings: Findings) -> Iterator[Kept]:
    if findings.liars is None:
        return
    for count, lost in findings.liars.lost.items():
        yield Kept(
            f"accuracy with {count} liar{'s' if count > 1 else ''} of {findings.liars.k}",
            f"within {LOST_POINTS[count]:.0f} points of none",
            points(lost),
            judged(lost, -LOST_POINTS[count] / 100),
        )


def _calls(findings: Findings) -> Iterator[Kept]:
    main = findings.main
    if USUAL_VOTES not in main.votes:
        return
    gain = main.over_one[USUAL_VOTES]
    already = main.one.value >= CALLS_ALREADY
    yield Kept(
        f"tool-call vote of {USUAL_VOTES} over one sample at temperature {findings.temperature:g}, exact match",
        f"at least +{CALLS_POINTS:.0f} points, or one sample at least {100 * CALLS_ALREADY:.0f} %",
        f"{points(gain)}: {100 * main.one.value:.1f} % to {100 * main.votes[USUAL_VOTES].value:.1f} %",
        judged(main.one, CALLS_ALREADY) if already else judged(gain, CALLS_POINTS / 100),
    )


def _trust(findings: Findings) -> Iterator[Kept]:
    for trust in findings.trust:
        if trust.auroc is not None and trust.k == USUAL_VOTES:
            yield Kept(
                f"agreement tells right from wrong at k={trust.k}, AUROC",
                f"at least {AUROC}",
                f"{trust.auroc.value:.2f} ({trust.auroc.low:.2f} to {trust.auroc.high:.2f})",
                judged(trust.auroc, AUROC),
            )
