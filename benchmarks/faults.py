"""The figures about faults: real nodes that come, die, freeze, are cut off, lose packets, are restarted, pass on.

    sudo python benchmarks/faults.py [--trials 20] [--only PART ...] [--quick] [--json FILE]

Parts: join, kill, freeze, partition (`detection.py`), lossy, rolling, proxied, two-nodes and copy (`file_transfer.py`),
each explained in its own file. Prints one table with the median and the worst of all trials. Needs root, `ip` and
`nft`, since it makes network namespaces; all of it is removed at the end, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

import aiohttp
import detection
import file_transfer
from load import RunError
from lossy import lossy
from measure import Figure
from proxied import proxied
from report import as_json, number, parser, progress, read_environment
from rolling import rolling
from two_nodes import two_nodes

FAILURES = (RunError, AssertionError, OSError, aiohttp.ClientError, ExceptionGroup)
MOST_COPY_ROUNDS = 10  # each takes ten seconds


def parts(options: argparse.Namespace) -> dict[str, Callable[[], list[Figure]]]:
    """What can be measured, in the order of the table."""
    trials: int = options.trials
    return {
        "join": lambda: asyncio.run(detection.joining(trials)),
        "kill": lambda: asyncio.run(detection.killing(trials)),
        "freeze": lambda: asyncio.run(detection.freezing(trials)),
        "partition": lambda: asyncio.run(detection.parting(trials)),
        "lossy": lambda: asyncio.run(lossy(options.minutes, options.percent)),
        "rolling": lambda: asyncio.run(rolling(trials)),
        "proxied": lambda: asyncio.run(proxied(trials, options.layers)),
        "two-nodes": lambda: asyncio.run(two_nodes(trials, options.pair_layers)),
        "copy": lambda: file_transfer.measure(argparse.Namespace(rounds=min(trials, MOST_COPY_ROUNDS))),
    }


PARTS = ("join", "kill", "freeze", "partition", "lossy", "rolling", "proxied", "two-nodes", "copy")


def worst(figure: Figure) -> float:
    """The sample furthest on the wrong side of the target; without one, the highest."""
    least = figure.target is not None and figure.target.bound == "at least"
    return min(figure.samples) if least else max(figure.samples)


def extreme(figure: Figure) -> str:
    """The worst trial of what is promised; of what is only told, the range."""
    if figure.target is not None:
        return f"{number(worst(figure))} {figure.unit}".strip()
    return f"{number(min(figure.samples))} to {number(max(figure.samples))}"


def verdict(figure: Figure) -> str:
    """Whether the median keeps the promise, and whether every single trial did."""
    if figure.target is None:
        return ""
    if not figure.target.holds(figure.median):
        return "**missed**"
    return "met" if figure.target.holds(worst(figure)) else "met; its worst missed"


def table(figures: Sequence[Figure]) -> str:
    """Median and worst of each, to paste."""
    rows = ["| measure | median | worst | trials | target | |", "|---|--:|--:|--:|--:|---|"]
    for figure in figures:
        target = "" if figure.target is None else f"{figure.target.bound} {number(figure.target.value)}"
        unit = f" {figure.unit}" if figure.unit else ""
        rows.append(
            f"| {figure.name} | {number(figure.median)}{unit} | {extreme(figure)} "
            f"| {len(figure.samples)} | {target} | {verdict(figure)} |"
        )
    return "\n".join(rows)


def read_options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    made.add_argument("--trials", type=int, metavar="N", help="of everything but lossy (default 20)")
    made.add_argument("--minutes", type=float, metavar="N", help="of loss (default 10)")
    made.add_argument("--percent", type=int, nargs="+", default=[10, 30], metavar="N", help="lost (default 10 30)")
    made.add_argument("--layers", type=int, metavar="N", help="of the model passed on (default 24: the 0.5B shape)")
    made.add_argument("--pair-layers", type=int, metavar="N", help="of the model of two-nodes (default 4)")
    options = made.parse_args()
    defaults = (("trials", 2, 20), ("minutes", 0.5, 10.0), ("layers", 2, 24), ("pair_layers", 2, 4))
    for name, small, full in defaults:
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    return options


@dataclass(slots=True)
class Outcome:
    """What has been measured so far, and which parts could not be."""

    figures: list[Figure] = field(default_factory=list[Figure])
    failed: list[str] = field(default_factory=list[str])


def measure(options: argparse.Namespace, outcome: Outcome) -> None:
    """Each part that is wanted, into the outcome: one that fails must not cost the others, half an hour of them."""
    for name, part in parts(options).items():
        if name not in options.only:
            continue
        began = time.monotonic()
        try:
            outcome.figures += part()
        except FAILURES as error:
            outcome.failed.append(name)
            progress(f"{name}: {''.join(traceback.format_exception(error))}")
        progress(f"{name}: {time.monotonic() - began:.0f} s\n{table(outcome.figures)}")


def _as_ctrl_c(_: int, __: FrameType | None) -> None:
    """What was set up is taken down on the way out."""
    signal.raise_signal(signal.SIGINT)


def main() -> int:
    options = read_options()
    environment, outcome = read_environment(), Outcome()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs come without it
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        measure(options, outcome)
    except KeyboardInterrupt:
        outcome.failed.append("what came after this (interrupted)")
    print("\n" + "  \n".join(environment.lines()) + "\n\n" + table(outcome.figures))
    if outcome.failed:
        print(f"\nnot measured, see above: {', '.join(outcome.failed)}")
    if options.json is not None:
        options.json.write_text(as_json(environment, outcome.figures) + "\n")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
