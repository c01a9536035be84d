"""The findings as Markdown: every figure with its 95 % interval, and everything that is needed to make it again.

It begins with what votes are to do (`targets.py`), and whether they did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import SetupError
from swarm.evaluation.agreement import TrustLevel
from swarm.evaluation.cascade import HALVINGS, STRONG_VOTES, CascadeFindings, CascadePoint
from swarm.evaluation.curves import USUAL_VOTES
from swarm.evaluation.findings import Findings
from swarm.evaluation.signals import Signals
from swarm.evaluation.targets import amount, area, percent, points, targets

LEAST_COVERED = 0.01  # more than by the threshold above, else it has no line of its own

BEGIN, END = "<!-- swarm bench votes -->", "<!-- end of swarm bench votes -->"

HOW_TO_PLOT = (
    "Plots: install matplotlib for the Python that runs this (in a checkout "
    "`.venv/bin/python -m pip install matplotlib`), then the same command with `--plot FOLDER`."
)
_ABOUT = (
    "A vote of k is held as a node holds it: the greedy answer of each model in its first seat, samples in the others, "
    "counted by the tally that serves requests; the mean over random subsets of the samples drawn. Intervals are 95 % "
    "bootstrap intervals over problems; differences are paired, problem by problem. With 200 problems a share is known "
    "to about 6 points: a difference under 5 is no claim, unless it is paired and its interval says so."
)
_NOT_SURE = "The endpoint gave no log-probabilities, so nothing is said here of votes by confidence."


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the figures are from. `notes` are lines about how the endpoint was asked."""

    command: str
    made: str
    version: str
    source: str
    strategy: str
    seed: int
    notes: tuple[str, ...] = ()


def render_report(provenance: Provenance, all_findings: Sequence[Findings], plots: Mapping[str, str]) -> str:
    """The report. `plots` are title -> path of each image as the report links to it."""
    lines = [f"`{provenance.command}`  ", f"{provenance.made}, local-swarm {provenance.version}  "]
    lines.append(f"{provenance.source}; strategy {provenance.strategy}, seed {provenance.seed}")
    for note in provenance.notes:
        lines[-1] += "  "
        lines.append(note)
    lines += ["", _ABOUT]
    if aims := targets(all_findings):
        lines += ["", "| measure | target | measured (95 % interval) | |", "|---|---|---|---|"]
        lines += [f"| {row.measure} | {row.target} | {row.measured} | {row.verdict} |" for row in aims]
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
    yield from _signals(findings)
    yield from _pool(findings)
    yield from _races(findings)
    yield from _trust(findings)
    for cascade in findings.cascades:
        yield from cascade_section(cascade)
    yield from _folded("What the lead stop saves, and what liars cost", [*_stops(findings), *_liars(findings)])


def _folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield from ("", f"<details><summary>{title}</summary>", *lines, "", "</details>")


def _members(findings: Findings) -> Iterator[str]:
    few = min(USUAL_VOTES, findings.samples)
    yield ""
    yield (
        f"| model alone | greedy | one sample | vote of {few} | over greedy | over one sample | any of {few} | tokens |"
    )
    yield "|---|---|---|---|---|---|---|--:|"
    for member in findings.members:
        shares = " | ".join(percent(share) for share in (member.greedy, member.one, member.votes[few]))
        gains = f"{points(member.over_greedy[few])} | {points(member.over_one[few])}"
        yield f"| {member.model} | {shares} | {gains} | {percent(member.any_of[few])} | {member.tokens:.0f} |"


def _votes(findings: Findings) -> Iterator[str]:
    main = findings.main
    sure = main.confident is not None
    yield ""
    yield (
        f"| votes of {main.model} | right | over greedy | over one sample | samples alone, none greedy "
        f"{'| by confidence ' if sure else ''}| any of them right |"
    )
    yield f"|--:|---|---|---|---|---|{'---|' if sure else ''}"
    for k, share in main.votes.items():
        gains = f"{points(main.over_greedy[k])} | {points(main.over_one[k])}"
        others = [main.plain[k], *([] if main.confident is None else [main.confident[k]]), main.any_of[k]]
        yield f"| {k} | {percent(share)} | {gains} | {' | '.join(percent(other) for other in others)} |"


def _signals(findings: Findings) -> Iterator[str]:
    yield ""
    sure = [one for one in findings.signals if one.sure]
    if not sure:
        yield _NOT_SURE
        return
    k, more = sure[0].k, sure[0].more
    over_more = "" if more is None else f"over the majority of {more} | "
    yield (
        f"| {k} votes by confidence | over the majority of {k} | {over_more}AUROC: agreement "
        "| confidence of one answer | both |"
    )
    yield f"|---|---|---|---|---|{'' if more is None else '---|'}"
    for one in sure:
        cells = [points(one.gain)] if one.gain is not None else [""]
        cells += [points(one.gain_over_more)] if one.gain_over_more is not None else []
        areas = [area(value) for value in (one.agreement, one.one_answer, one.both)]
        yield f"| {one.model} | {' | '.join([*cells, *areas])} |"
    yield ""
    yield (
        "AUROC: how often a right outcome scores above a wrong one. Both together: of four ways to put them together, "
        f"the one that does best on the other half of the problems ({_ways(sure)})."
    )


def _ways(signals: Sequence[Signals]) -> str:
    chosen = dict.fromkeys(way for one in signals for way in one.ways or ())
    return ", ".join(chosen) or "nothing to choose by"


def _pool(findings: Findings) -> Iterator[str]:
    pool = findings.pool
    if pool is None:
        return
    weighted = any(row.weighted is not None for row in pool.against)
    uneven = any(row.equal_tokens_votes != row.votes for row in pool.against)
    best = " and ".join(dict.fromkeys(pool.best))
    yield ""
    yield (
        f"| votes of {', '.join(pool.models)} together | right | over as many votes of the best "
        f"| over its greedy answer |{' over its votes for as many tokens |' if uneven else ''}"
        f"{' with measured weights | over as many votes of the best | over its greedy answer |' if weighted else ''}"
    )
    yield f"|--:|---|---|---|{'---|' if uneven else ''}{'---|---|---|' if weighted else ''}"
    for row in pool.against:
        cells = [percent(row.right), points(row.over_best), points(row.over_greedy)]
        cells += [f"{points(row.equal_tokens)}, {row.equal_tokens_votes} votes"] if uneven else []
        by_weight = (row.weighted, row.weighted_over_best, row.weighted_over_greedy)
        if by_weight[0] is not None and by_weight[1] is not None and by_weight[2] is not None:
            cells += [percent(by_weight[0]), points(by_weight[1]), points(by_weight[2])]
        yield f"| {row.votes} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"The best ({best}), the order of the seats and the weights are chosen on one half of the problems and "
        "measured on the other."
    )


def _races(findings: Findings) -> Iterator[str]:
    races = findings.races
    if not races.ahead:
        return
    yield ""
    yield (
        f"| votes of {races.model}, at most {races.most} | votes asked | right | undecided | right where decided "
        f"| over the majority of {races.most} |"
    )
    yield "|---|---|---|---|---|---|"
    yield f"| majority of {races.most}, lead stop | {amount(races.majority_asked)} | {percent(races.majority)} | | | |"
    for race in races.ahead:
        decided = "" if race.right_where_decided is None else percent(race.right_where_decided)
        yield (
            f"| ahead by {race.by} | {amount(race.asked)} | {percent(race.right)} | {percent(race.undecided)} "
            f"| {decided} | {points(race.over_majority)} |"
        )
    yield ""
    yield "An undecided vote gives the best answer there is, and is counted as right where that is."


def _trust(findings: Findings) -> Iterator[str]:
    trust = findings.trust
    yield ""
    if trust.auroc is None:
        yield f"Votes of {trust.k}: all outcomes are equally right, so agreement has nothing to tell apart."
        return
    yield f"| trust only votes of {trust.k} that agree at least | covers | right |"
    yield "|--:|--:|---|"
    for row in _told_apart(trust.curve):
        yield f"| {100 * row.agreement:.0f} % | {100 * row.coverage:.1f} % | {percent(row.accuracy)} |"


def _told_apart(curve: Sequence[TrustLevel]) -> list[TrustLevel]:
    """The thresholds from above, without those that let hardly more votes through than the one before."""
    shown: list[TrustLevel] = []
    for row in reversed(curve):
        if not shown or row is curve[0] or row.coverage >= shown[-1].coverage + LEAST_COVERED:
            shown.append(row)
    return shown


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
    yield f"| liars among {liars.k} votes | right | lost | lost where every node was measured |"
    yield "|--:|---|---|---|"
    yield f"| 0 | {percent(liars.honest)} | | |"
    for count, lost in liars.lost.items():
        weighed = f" {points(liars.lost_weighed[count])}" if count in liars.lost_weighed else ""
        yield f"| {count} | {100 * (liars.honest.value + lost.value):.1f} % | {points(lost)} |{weighed} |"
    yield ""
    yield "A liar always gives the same wrong answer, two give the same one, and each says it runs the others' model."
    yield "Nodes were measured on the other half of the problems; who is no better than a guess has no weight."


def cascade_section(found: CascadeFindings) -> Iterator[str]:
    """A cascade: what is asked of the strong model, and what that costs against its own answers, share by share."""
    yield ""
    strong = found.strong
    yield (
        f"**Cascade** ({found.kind}): {', '.join(found.small)} vote first, then {strong}, whose greedy answer is right "
        f"in {percent(found.greedy)} and its own vote of {STRONG_VOTES} in {percent(found.vote)}."
    )
    yield ""
    yield f"| small votes | stand where agreed | {strong} asked | right | over its greedy | over its vote | tokens |"
    yield "|--:|---|---|---|---|---|--:|"
    for point in found.curve:
        yield _cascade_row(f"{point.votes} | {100 * (point.agreement or 0):.0f} %", point)
    yield _cascade_row(f"{found.unmeasured.votes} | all: what a node does before it is measured", found.unmeasured)
    if found.held_out is not None:
        yield _cascade_row("| **chosen on one half, measured on the other**", found.held_out)
    yield ""
    chosen = found.chosen
    if chosen is None:
        yield f"No share keeps within a point of {strong}'s own answers: nothing is chosen, and all have to agree."
    else:
        agree = f"{100 * chosen.agreement:.0f} % of them agreeing"
        yield (
            f"Chosen: {chosen.votes} small votes, {agree}; the fewest questions for {strong} that lose at most a point "
            f"to its own answers. Halves: {HALVINGS} times at random."
        )


def _cascade_row(setting: str, point: CascadePoint) -> str:
    figures = (
        f"{percent(point.asked)} | {percent(point.right)} | {points(point.over_greedy)} | {points(point.over_vote)}"
    )
    return f"| {setting} | {figures} | {point.tokens:.0f} |"


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
