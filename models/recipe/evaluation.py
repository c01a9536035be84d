"""Measure models through the real engine and write what came out as JSON and Markdown.

    python -m models.recipe.evaluation MODEL.gguf [MORE.gguf ...] --out FOLDER

The first model's samples are voted on, too; of the others single answers are measured, also for a vote of all models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.recipe.asking import engine_of
from models.recipe.intervals import Gain, Share
from models.recipe.measures import (
    Greedy,
    Problems,
    Vote,
    measure_abilities,
    measure_greedy,
    measure_siblings,
    measure_vote,
)

ARITHMETIC = (Problems(8, 99), Problems(5, 99), Problems(3, 99))  # the first is what votes are judged by
TARGETS = {
    "facts": 0.97,
    "call exact, one tool": 0.92,
    "call exact, 2-4 tools": 0.82,
    "call exact, two or more arguments": 0.80,
    "no call when none is needed": 0.95,
    "JSON valid": 0.97,
    "well-formed calls returned as tool_calls": 1.0,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything measured of one model; `votes` may be empty."""

    abilities: dict[str, Share]
    greedy: dict[str, Greedy]
    votes: dict[str, Vote]


async def measure(path: Path, threads: int, scale: float = 1.0, with_votes: bool = True) -> Measured:
    """Load the model in `path` and measure it. Votes cost most of the time: sixteen answers to each problem."""
    kinds = [Problems(k.terms, k.largest, max(2, int(k.count * scale))) for k in ARITHMETIC]
    async with engine_of(path, threads) as engine:
        return Measured(
            abilities=await measure_abilities(engine, scale),
            greedy={kind.name: await measure_greedy(engine, kind) for kind in kinds},
            votes={kind.name: await measure_vote(engine, kind) for kind in kinds if with_votes},
        )


def quality(measured: Measured) -> float:
    """One number to compare two builds of the same model by: the mean of abilities and of greedy arithmetic."""
    shares = [share.value for share in measured.abilities.values()]
    shares += [greedy.share.value for greedy in measured.greedy.values()]
    return sum(shares) / len(shares)


def _percent(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.value:.1f} % ({100 * low:.1f} to {100 * high:.1f}), {share.right} of {share.count}"


def _points(gain: Gain) -> str:
    low, high = (100 * bound for bound in gain.interval)
    return f"{100 * gain.value:+.1f} points ({low:+.1f} to {high:+.1f})"


def report(measured: Measured, siblings: dict[str, tuple[Share, Gain]]) -> str:
    """The figures as Markdown tables."""
    lines = ["| measure (greedy, held-out) | target | measured, 95 % interval |", "|---|---|---|"]
    for name, share in measured.abilities.items():
        target = f"{100 * TARGETS[name]:.0f} %" if name in TARGETS else ""
        lines.append(f"| {name} | {target} | {_percent(share)} |")
    lines += [
        "",
        "| arithmetic | one sample at 0.8 | majority of 5 | majority of 15 | greedy |",
        "|---|---|---|---|---|",
    ]
    for name, vote in measured.votes.items():
        lines.append(
            f"| {name} | {100 * vote.one:.1f} % | {100 * vote.of_5.value:.1f} %, {_points(vote.gain_of_5)} | "
            f"{100 * vote.of_15.value:.1f} %, {_points(vote.gain_of_15)} | {_percent(measured.greedy[name].share)} |"
        )
    if siblings:
        lines += ["", "| three siblings, greedy | majority | gain over the best alone |", "|---|---|---|"]
        for name, (share, gain) in siblings.items():
            lines.append(f"| {name} | {_percent(share)} | {_points(gain)} |")
    return "\n".join(lines) + "\n"


def as_json(measured: Measured, siblings: dict[str, tuple[Share, Gain]]) -> dict[str, Any]:
    """The same figures for programs."""
    return {
        "quality": quality(measured),
        "abilities": {
            name: {**asdict(share), "interval": share.interval} for name, share in measured.abilities.items()
        },
        "greedy": {name: asdict(greedy.share) for name, greedy in measured.greedy.items()},
        "votes": {name: asdict(vote) for name, vote in measured.votes.items()},
        "siblings": {name: {"share": asdict(s), "gain": asdict(g)} for name, (s, g) in siblings.items()},
    }


def siblings_together(measured: Sequence[Measured]) -> dict[str, tuple[Share, Gain]]:
    """The vote of several models, each greedy, on every kind of problem."""
    together: dict[str, tuple[Share, Gain]] = {}
    for kind in ARITHMETIC:
        numbers = [each.greedy[kind.name].numbers for each in measured]
        asked = Problems(kind.terms, kind.largest, len(numbers[0]))
        together[kind.name] = measure_siblings(asked, numbers)
    return together


async def evaluate(paths: list[Path], threads: int, scale: float = 1.0) -> tuple[str, dict[str, Any]]:
    """Markdown and JSON of the first model, and of all together in the vote."""
    measured = [await measure(path, threads, scale, with_votes=at == 0) for at, path in enumerate(paths)]
    together = siblings_together(measured) if len(measured) > 1 else {}
    return report(measured[0], together), as_json(measured[0], together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the items to ask, for a quick look")
    arguments = parser.parse_args()
    text, figures = asyncio.run(evaluate(arguments.models, arguments.threads, arguments.scale))
    sys.stdout.write(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "figures.md").write_text(text, encoding="utf-8")
        (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
