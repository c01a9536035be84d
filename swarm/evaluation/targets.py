"""What votes are to do, and whether these findings say that they do: each target with its figure and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.evaluation.curves import USUAL_VOTES
from swarm.evaluation.findings import Findings
from swarm.evaluation.intervals import Estimate

TargetVerdict = Literal["met", "missed", "met, within noise", "missed, within noise"]

NEVER_BELOW = -0.02  # a vote of 5 against the greedy answer: the lower end of the interval
GAIN = 0.03  # ... and the gain where one sample is right so often
GAINING = (0.5, 0.9)
SURE_GAIN = 0.02  # by confidence over the majority of as many votes
AUROC = 0.85
POOL_VOTES, POOL_LOSS = 3, -0.01  # of several models against the best of them
RACE_SET = "tools"
RACE_BY, RACE_RIGHT, RACE_ASKED, RACE_LOSS = 3, 0.975, 3.7, -0.005


@dataclass(frozen=True, slots=True)
class VoteTarget:
    """What is measured, the target in words, what came out in words, and the verdict."""

    measure: str
    target: str
    measured: str
    verdict: TargetVerdict


def percent(share: Estimate) -> str:
    """A share with its interval."""
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def points(difference: Estimate) -> str:
    """A difference of shares with its interval."""
    return f"{100 * difference.value:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def amount(number: Estimate) -> str:
    """A number with its interval."""
    return f"{number.value:.2f} ({number.low:.2f} to {number.high:.2f})"


def area(value: Estimate | None) -> str:
    """An area under a curve with its interval; a dash where there is none."""
    return "-" if value is None else f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def judged(figure: Estimate, least: float) -> TargetVerdict:
    """Whether `figure` is at least so much, and whether this run can tell."""
    unsure = figure.low < least <= figure.high
    if figure.value >= least:
        return "met, within noise" if unsure else "met"
    return "missed, within noise" if unsure else "missed"


def targets(all_findings: Sequence[Findings]) -> list[VoteTarget]:
    """Those that these findings can speak to, one kind after another."""
    speak = (_against_greedy, _by_confidence, _signs, _pools, _races)
    return [target for of in speak for findings in all_findings for target in of(findings)]


def _against_greedy(findings: Findings) -> Iterator[VoteTarget]:
    for member in findings.members:
        gain = member.over_greedy.get(USUAL_VOTES)
        if gain is None:
            continue
        measure = f"{findings.name}, {member.model}: vote of {USUAL_VOTES} against the greedy answer"
        if GAINING[0] <= member.one.value <= GAINING[1]:
            yield VoteTarget(
                measure,
                f"at least +{100 * GAIN:.0f} points (one sample is right in {100 * member.one.value:.0f} %)",
                points(gain),
                judged(gain, GAIN),
            )
        yield VoteTarget(
            measure,
            f"interval above {100 * NEVER_BELOW:.0f} points",
            points(gain),
            "met" if gain.low >= NEVER_BELOW else "missed, within noise" if gain.value >= NEVER_BELOW else "missed",
        )


def _by_confidence(findings: Findings) -> Iterator[VoteTarget]:
    main = findings.signals[0]
    measure = f"{findings.name}, {main.model}: {main.k} votes by confidence against the majority of"
    if main.gain is not None:
        aim = f"at least +{100 * SURE_GAIN:.0f} points"
        yield VoteTarget(f"{measure} {main.k}", aim, points(main.gain), judged(main.gain, SURE_GAIN))
    if main.gain_over_more is not None:
        found = points(main.gain_over_more)
        yield VoteTarget(f"{measure} {main.more}", "at least equal", found, judged(main.gain_over_more, 0.0))


def _signs(findings: Findings) -> Iterator[VoteTarget]:
    main = findings.signals[0]
    best = main.best
    if best is not None:
        yield VoteTarget(
            f"{findings.name}, {main.model}: the best sign that an outcome is right, AUROC",
            f"at least {AUROC}",
            area(best),
            judged(best, AUROC),
        )


def _pools(findings: Findings) -> Iterator[VoteTarget]:
    if findings.pool is None:
        return
    for row in findings.pool.against:
        if row.votes != POOL_VOTES:
            continue
        measure = (
            f"{findings.name}: {row.votes} votes of {len(findings.pool.models)} models against {row.votes} of the best"
        )
        least = f"at least {100 * POOL_LOSS:.0f} point"
        yield VoteTarget(measure, least, points(row.over_best), judged(row.over_best, POOL_LOSS))
        if row.weighted_over_best is not None:
            found = points(row.weighted_over_best)
            yield VoteTarget(f"{measure}, by measured weights", least, found, judged(row.weighted_over_best, POOL_LOSS))


def _races(findings: Findings) -> Iterator[VoteTarget]:
    """A chain of steps needs each of them right: what a race asks for that, on questions that all call tools.

    How many are right and what that takes is the questions' matter: those targets are for the shipped ones.
    """
    if set(findings.kinds) != {"tool_calls"}:
        return
    for race in findings.races.ahead:
        if race.by != RACE_BY:
            continue
        measure = f"{findings.name}, {findings.main.model}: ahead by {race.by}"
        if findings.name == RACE_SET:
            asked = judged(Estimate(-race.asked.value, -race.asked.high, -race.asked.low), -RACE_ASKED)
            least = f"at least {100 * RACE_RIGHT:.1f} %"
            yield VoteTarget(f"{measure}, right", least, percent(race.right), judged(race.right, RACE_RIGHT))
            yield VoteTarget(f"{measure}, votes asked", f"at most {RACE_ASKED}", amount(race.asked), asked)
        yield VoteTarget(
            f"{measure} against the majority of {findings.races.most}",
            f"within {-100 * RACE_LOSS:.1f} points",
            points(race.over_majority),
            judged(race.over_majority, RACE_LOSS),
        )
