"""Plots as SVG, of what votes buy: accuracy against votes, beside the baselines, and against tokens; risk and coverage.

The only file that needs matplotlib (in pyproject.toml the extra `bench`). The same findings give the same bytes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.errors import SetupError
from swarm.evaluation.findings import Findings
from swarm.evaluation.intervals import Estimate

PANEL_INCHES = (5.2, 3.8)

# Fixed, and text kept as text: small files whose differences in a repository say what has changed.
STYLE = {"svg.hashsalt": "swarm", "svg.fonttype": "none", "font.size": 9.0, "axes.grid": True, "grid.alpha": 0.3}


def draw_plots(all_findings: Sequence[Findings], folder: Path) -> dict[str, Path]:
    """Title -> file of each plot, a panel for each set. Raises SetupError without matplotlib, or for a bad folder."""
    pyplot = pyplot_or_refusal()
    made = {
        "Accuracy against the number of votes": (folder / "votes-accuracy.svg", _draw_accuracy),
        "Accuracy against tokens": (folder / "votes-tokens.svg", _draw_tokens),
        "Risk against coverage": (folder / "votes-risk-coverage.svg", _draw_risk),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, draw in made.values():
            _draw(pyplot, all_findings, path, draw)
    except OSError as error:
        raise SetupError(f"cannot write the plots to {folder}: {error.strerror}") from error
    return {title: path for title, (path, _) in made.items()}


def check_plots_possible() -> None:
    """Raises SetupError with the remedy where matplotlib is missing: before hours of drawing samples, not after."""
    pyplot_or_refusal()


def plots_are_possible() -> bool:
    """Whether matplotlib is here."""
    return importlib.util.find_spec("matplotlib") is not None


def pyplot_or_refusal() -> Any:
    """matplotlib, drawing into files. Raises SetupError with the remedy where it is missing."""
    try:
        import matplotlib as mpl

        mpl.use("svg")
        from matplotlib import pyplot
    except ImportError as error:
        raise SetupError(
            f"--plot needs matplotlib: {sys.executable} -m pip install matplotlib, "
            "or leave --plot out for the report as text"
        ) from error
    return pyplot


def _draw(pyplot: Any, all_findings: Sequence[Findings], path: Path, draw: Callable[[Any, Findings], None]) -> None:
    width, height = PANEL_INCHES
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1, len(all_findings), figsize=(width * len(all_findings), height), squeeze=False, layout="constrained"
        )
        for panel, findings in zip(axes[0], all_findings, strict=True):
            draw(panel, findings)
            panel.set_title(f"{findings.name}, {findings.problems} problems")
            panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # hides no line there
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _draw_accuracy(panel: Any, findings: Findings) -> None:
    main = findings.main
    panel.axhline(100 * main.greedy.value, color="tab:gray", linestyle="--", label=f"{main.model}, greedy")
    panel.axhline(100 * main.one.value, color="tab:olive", linestyle=":", label=f"{main.model}, one sample")
    for member in findings.members:
        _line(panel, member.votes, f"votes of {member.model}", band=member is main)
    if main.confident is not None:
        _line(panel, main.confident, f"{main.model}, by confidence", band=False, style="s--")
    _line(panel, main.plain, f"{main.model}, samples alone", band=False, style=".:")
    if findings.pool is not None:
        together = {row.votes: row.right for row in findings.pool.against}
        _line(panel, together, "all models together", band=True, color="black")
    any_of = [100 * share.value for share in main.any_of.values()]
    panel.plot(list(main.any_of), any_of, ":", color="tab:pink", label=f"{main.model}, any of them")
    panel.set_xticks(list(main.votes))
    panel.set_xlabel("votes")
    panel.set_ylabel("right, %")


def _draw_tokens(panel: Any, findings: Findings) -> None:
    main, races = findings.main, findings.races
    for member in findings.members:
        _points(
            panel, [(member.spent(k), share) for k, share in member.votes.items()], f"votes of {member.model}", "o-"
        )
    if main.confident is not None:
        sure = [(main.spent(k), share) for k, share in main.confident.items()]
        _points(panel, sure, f"{main.model}, by confidence", "s--")
    _points(panel, [(k * main.tokens, share) for k, share in main.plain.items()], f"{main.model}, samples alone", ".:")
    if races.ahead:
        ahead = [(race.tokens.value, race.right) for race in races.ahead]
        _points(panel, ahead, f"{main.model}, ahead by {', '.join(str(race.by) for race in races.ahead)}", "*-")
        majority = [(races.majority_tokens.value, races.majority)]
        _points(panel, majority, f"{main.model}, majority of {races.most}, lead stop", "X")
    if findings.pool is not None:
        _points(panel, [(row.tokens, row.right) for row in findings.pool.against], "all models together", "D-", "black")
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("tokens of an answer, all votes together")
    panel.set_ylabel("right, %")


def _points(panel: Any, of: Sequence[tuple[float, Estimate]], label: str, style: str, color: str | None = None) -> None:
    tokens, shares = [at for at, _ in of], [100 * share.value for _, share in of]
    panel.plot(tokens, shares, style, markersize=4, linewidth=1, label=label, color=color)


def _line(
    panel: Any, curve: Mapping[int, Estimate], label: str, band: bool, color: str | None = None, style: str = "o-"
) -> None:
    ks, shares = list(curve), list(curve.values())
    [line] = panel.plot(ks, [100 * share.value for share in shares], style, markersize=3, label=label, color=color)
    if band:
        low, high = [100 * share.low for share in shares], [100 * share.high for share in shares]
        panel.fill_between(ks, low, high, alpha=0.15, color=line.get_color(), linewidth=0)


def _draw_risk(panel: Any, findings: Findings) -> None:
    trust = findings.trust
    coverage = [100 * row.coverage for row in trust.curve]
    risk = [100 * (1 - row.accuracy.value) for row in trust.curve]
    name = f"votes of {trust.k}" + ("" if trust.auroc is None else f", AUROC {trust.auroc.value:.2f}")
    [line] = panel.plot(coverage, risk, "o-", markersize=3, label=name)
    low = [100 * (1 - row.accuracy.high) for row in trust.curve]
    high = [100 * (1 - row.accuracy.low) for row in trust.curve]
    panel.fill_between(coverage, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
    panel.set_xlabel("votes trusted, % (those that agree most)")
    panel.set_ylabel("of these wrong, %")
    panel.set_xlim(0, 102)
    panel.set_ylim(bottom=0)
