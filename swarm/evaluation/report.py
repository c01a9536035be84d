"""The findings as Markdown: every figure with its 95 % interval, and everything that is needed to make it again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import SetupError
from swarm.evaluation.curves import Against
from swarm.evaluation.findings import USUAL_VOTES, Findings
from swarm.evaluation.promises import kept_promises, percent, points

BEGIN, END = "<!-- swarm bench votes -->", "<!-- end of swarm bench votes -->"

HOW_TO_PLOT = "Plots: `pip install 'local-swarm[bench]'`, then the same command with `--plot FOLDER`."
_ABOUT = (
    "Intervals are 95 % bootstrap intervals over problems; differences are paired, problem by problem. A vote of k is "
    "the mean over random subsets of k of the samples drawn, each counted by the tally that serves requests. With 200 "
    "problems a share is known to about 6 points: a difference under 5 is no claim."
)


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
