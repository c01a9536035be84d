"""A node as a user starts it, whose engine is paced: a swarm of many on one machine, each as fast as it is said to be.

    python benchmarks/paced_node.py --pace FILE [--times 2.5] [--told FILE] -- OPTIONS OF SWARM

`--pace` is what `pace_of.py` has measured of a real engine; `--times`: it takes so many times as long. `--told` is a
file for what the engine has done so far, written anew once a second: how late its tokens were, and the counts of its
machine. The node is the product's own, started with `--engine echo`, whose engine waits here (`paced_engine.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's, whatever is installed

from benchmarks.paced_engine import PacedEngine, loader
from benchmarks.paced_time import Pace
from swarm import cli
from swarm.engines import echo

TELL_S = 1.0


def tell(engine: PacedEngine, file: Path) -> None:
    """Write what `engine` has done to `file`, now and each second."""
    said = {"late": engine.lateness.counts, **asdict(engine.machine.counts)}
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(json.dumps(said))
    unfinished.replace(file)
    asyncio.get_running_loop().call_later(TELL_S, tell, engine, file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pace", type=Path, required=True, metavar="FILE")
    parser.add_argument("--times", type=float, default=1.0, metavar="N", help="as long (default 1)")
    parser.add_argument("--told", type=Path, metavar="FILE")
    parser.add_argument("options", nargs="*", help="of the node, after --")
    args = parser.parse_args()
    told: Path | None = args.told
    made = (lambda _: None) if told is None else (lambda engine: tell(engine, told))
    echo.load = loader(Pace.read(args.pace).times(args.times), made)
    return cli.main(["--engine", "echo", *args.options])


if __name__ == "__main__":
    sys.exit(main())
