"""The findings as Markdown: every figure with its 95 % interval, and everything that is needed to make it again.

A report on the embedded models begins with what this project promises of votes on them, and whether the run keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swarm.errors import SetupError
from swarm.evaluation.curves import Against
from swarm.evaluation.findings import USUAL_VOTES, Findings
from swarm.evaluation.intervals import Estimate

BEGIN, END = "<!-- swarm bench votes -->", "<!-- end of swarm bench votes -->"

HOW_TO_PLOT = (
    "Plots: install matplotlib for the Python that runs this (in a checkout "
    "`.venv/bin/python -m pip install matplotlib`), then the same command with `--plot FOLDER`."
)
_ABOUT = (
    "Intervals are 95 % bootstrap intervals over problems; differences are paired, problem by problem. A vote of k is "
    "the mean over random subsets of k of the samples drawn, each counted by the tally that serves requests. With 200 "
    "problems a share is known to about 6 points: a difference under 5 is no claim."
)

# What is promised of votes on the embedded models.
PromiseVerdict = Literal["met", "missed", "met, within noise", "missed, within noise"]

GAIN_POINTS = 8.0  # of a majority of 5 over one sample
SIBLINGS_POINTS = 3.0  # of three different models over the best of them, an aim
SAVED_SHARE = {5: 0.20, 9: 0.30}
LOST_POINTS = {1: 2.0, 2: 6.0}  # by so many liars of 5, at most
CALLS_POINTS, CALLS_ALREADY = 4.0, 0.97
AUROC = 0.75


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the figures are from. `notes` are lines about how the endpoint was asked."""

    command: str
    made: str
    version: str
    source: str
    strategy: str
    seed: int
    embedded: bool
    notes: tuple[str, ...] = ()


def render_report(provenance: Provenance, all_findings: Sequence[Findings], plots: Mapping[str, str]) -> str:
    """The report. `plots` are title -> path of each image as the report links to it."""
    lines = [f"`{provenance.command}`  ", f"{provenance.made}, local-swarm {provenance.version}  "]
    lines.append(f"{provenance.source}; strategy {provenance.strategy}, seed {provenance.seed}")
    for note in provenance.notes:
        lines[-1] += "  "
        lines.append(note)
    lines += ["", _ABOUT]
    if provenance.embedded and (kept := kept_promises(all_findings)):
        lines += ["", "| measure | target | measured (95 % interval) | |", "|---|---|---|---|"]
        lines += [f"| {row.measure} | {row.target} | {row.measured} | {row.verdict} |" for row in kept]
    for title, path in plots.items():
        lines += ["", f"![{title}]({path})"]
    if not plots:
        lines += ["", HOW_TO_PLOT]
    for findings in all_findings:
        lines += ["", *_section(findings)]
    return "\n".join(lines) + "\n"


def _section(findings: Findings) -> Iterator[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in findings.kinds.items())
    unfinished = f" of {findings.wanted} (interrupted)" if findings.problems < findings.wanted else ""
    yield f"### {findings.name}"
    yield ""
    yield (
        f"{findings.problems}{unfinished} problems ({kinds}); {findings.samples} samples of each model at temperature "
        f"{findings.temperature:g}, and one greedy."
    )
    yield from _members(findings)
    yield from _votes(findings)
    yield from _pool(findings)
    yield from _trust(findings)
    yield from _stops(findings)
    yield from _liars(findings)


def _members(findings: Findings) -> Iterator[str]:
    few, most = min(USUAL_VOTES, findings.samples), findings.samples
    yield ""
    yield f"| model alone | greedy | one sample | majority of {few} | majority of {most} | any of {few} | tokens |"
    yield "|---|---|---|---|---|---|--:|"
    for member in findings.members:
        shown = (member.greedy, member.one, member.votes[few], member.votes[most], member.any_of[few])
        cells = " | ".join(percent(share) for share in shown)
        yield f"| {member.model} | {cells} | {member.tokens:.0f} |"


def _votes(findings: Findings) -> Iterator[str]:
    main = findings.main
    yield ""
    yield f"| votes of {main.model} | right | over one sample | over greedy | any of them right |"
    yield "|--:|---|---|---|---|"
    for k, share in main.votes.items():
        gains = f"{points(main.over_one[k])} | {points(main.over_greedy[k])}"
        yield f"| {k} | {percent(share)} | {gains} | {percent(main.any_of[k])} |"


def _pool(findings: Findings) -> Iterator[str]:
    pool = findings.pool
    if pool is None:
        return
    against = {row.votes: row for row in pool.against}
    yield ""
    yield (
        f"| votes of {', '.join(pool.models)} together | right | over as many votes of {pool.best} "
        f"| over votes of {pool.best} for as many tokens | with measured weights, over as many votes of {pool.best} "
        "| any of them right |"
    )
    yield "|--:|---|---|---|---|---|"
    for k, share in pool.votes.items():
        gains = _gains(against[k]) if k in against else " | | "
        yield f"| {k} | {percent(share)} | {gains} | {percent(pool.any_of[k])} |"
    yield ""
    yield (
        f"{pool.best} was chosen as the best on these same problems, which flatters it and not the pool; the weights "
        "for one half of the problems were measured on the other half."
    )


def _gains(row: Against) -> str:
    weighted = "" if row.weighted is None else points(row.weighted)
    return f"{points(row.equal_votes)} | {points(row.equal_tokens)}, {row.equal_tokens_votes} votes | {weighted}"


def _trust(findings: Findings) -> Iterator[str]:
    for trust in findings.trust:
        yield ""
        if trust.auroc is None:
            yield f"Votes of {trust.k}: all outcomes are equally right, so agreement has nothing to tell apart."
            continue
        area = f"{trust.auroc.value:.3f} ({trust.auroc.low:.3f} to {trust.auroc.high:.3f})"
        yield f"Agreement of {trust.k} votes as a sign of being right: AUROC {area}."
        if trust.k > USUAL_VOTES:
            continue
        yield ""
        yield f"| trust only votes of {trust.k} that agree at least | covers | right |"
        yield "|--:|--:|---|"
        for row in reversed(trust.curve):
            yield f"| {100 * row.agreement:.0f} % | {100 * row.coverage:.1f} % | {percent(row.accuracy)} |"


def _stops(findings: Findings) -> Iterator[str]:
    if not findings.stops:
        return
    yield ""
    yield (
        "| lead stop | outcomes changed | seats saved, any arrival order | of these never asked "
        "| seats saved in one engine | tokens saved there | time saved there |"
    )
    yield "|---|--:|---|---|---|---|---|"
    for stop in findings.stops:
        shares = (stop.saved, stop.never_asked, stop.saved_in_one_engine, stop.tokens_saved, stop.time_saved)
        cells = " | ".join(percent(share) for share in shares)
        asked = "in two waves" if stop.waves else "all at once"
        yield f"| votes of {stop.k}, asked {asked} | {stop.changed} of {stop.votes} | {cells} |"
    yield ""
    yield (
        "In one engine all seats run together, a token each a step, so the shortest answer is the first. Time counts "
        "steps, as if a step cost the same for few seats as for many; below 0 the second wave ended later than asking "
        "all at once would have."
    )


def _liars(findings: Findings) -> Iterator[str]:
    liars = findings.liars
    if liars is None:
        return
    yield ""
    yield f"| liars among {liars.k} votes | right | lost |"
    yield "|--:|---|---|"
    yield f"| 0 | {percent(liars.honest)} | |"
    for count, lost in liars.lost.items():
        yield f"| {count} | {100 * (liars.honest.value + lost.value):.1f} % | {points(lost)} |"
    yield ""
    yield "A liar always gives the same wrong answer, and two give the same one."


def write_report(path: Path, report: str) -> None:
    """Write `report` to `path`; in a file that has the two marks (`BEGIN`, `END`), only what is between them changes.

    Raises SetupError where that is impossible.
    """
    try:
        page = path.read_text(encoding="utf-8") if path.exists() else ""
        before, begin, rest = page.partition(BEGIN)
        _, end, after = rest.partition(END)
        whole = f"{before}{begin}\n\n{report}\n{end}{after}" if begin and end else report
        path.write_text(whole, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot write the report to {path}: {getattr(error, 'strerror', None) or error}") from error


def link_from(report: Path | None, image: Path) -> str:
    """How the report refers to `image`."""
    if report is None:
        return image.as_posix()
    return Path(os.path.relpath(image.resolve(), report.resolve().parent)).as_posix()


@dataclass(frozen=True, slots=True)
class Kept:
    """One promise: what is measured, the target in words, what came out in words, and the verdict."""

    measure: str
    target: str
    measured: str
    verdict: PromiseVerdict


def kept_promises(all_findings: Sequence[Findings]) -> list[Kept]:
    """The promises that these findings can speak to."""
    found = {findings.name: findings for findings in all_findings}
    rows: list[Kept] = []
    if (arithmetic := found.get("arithmetic")) is not None:
        rows += [
            *_promised_gain(arithmetic),
            *_promised_siblings(arithmetic),
            *_promised_stops(arithmetic),
            *_promised_liars(arithmetic),
        ]
    if (tools := found.get("tools")) is not None:
        rows += _promised_calls(tools)
    if arithmetic is not None:
        rows += _promised_trust(arithmetic)
    return rows


def percent(share: Estimate) -> str:
    """A share with its interval."""
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def points(difference: Estimate) -> str:
    """A difference of shares with its interval."""
    return f"{100 * difference.value:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"


def judged(figure: Estimate, least: float) -> PromiseVerdict:
    """Whether `figure` is at least so much, and whether this run can tell."""
    unsure = figure.low < least <= figure.high
    if figure.value >= least:
        return "met, within noise" if unsure else "met"
    return "missed, within noise" if unsure else "missed"


def _promised_gain(findings: Findings) -> Iterator[Kept]:
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


def _promised_siblings(findings: Findings) -> Iterator[Kept]:
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


def _promised_stops(findings: Findings) -> Iterator[Kept]:
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


def _promised_liars(findings: Findings) -> Iterator[Kept]:
    if findings.liars is None:
        return
    for count, lost in findings.liars.lost.items():
        yield Kept(
            f"accuracy with {count} liar{'s' if count > 1 else ''} of {findings.liars.k}",
            f"within {LOST_POINTS[count]:.0f} points of none",
            points(lost),
            judged(lost, -LOST_POINTS[count] / 100),
        )


def _promised_calls(findings: Findings) -> Iterator[Kept]:
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


def _promised_trust(findings: Findings) -> Iterator[Kept]:
    for trust in findings.trust:
        if trust.auroc is not None and trust.k == USUAL_VOTES:
            yield Kept(
                f"agreement tells right from wrong at k={trust.k}, AUROC",
                f"at least {AUROC}",
                f"{trust.auroc.value:.2f} ({trust.auroc.low:.2f} to {trust.auroc.high:.2f})",
                judged(trust.auroc, AUROC),
            )
