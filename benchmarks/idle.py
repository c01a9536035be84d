"""What a node costs that serves nothing: resident memory, and computing time over a while.

    python benchmarks/idle.py [--quick] [--json FILE]

Starts nodes as a user would, waits until they are ready and have settled, and reads what the system says of the process
and its children: resident memory (RSS, shared libraries included), memory of their own (USS), and the share of one core
over the interval. A bare Python interpreter is measured beside them, since no node can take less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil
from load import RunError
from measure import Figure, Target
from nodes import command_line_node
from report import parser, progress, publish, read_environment

MEMORY_TARGET = Target("at most", 120.0)
CPU_TARGET = Target("at most", 1.0)
PEERS = 2
DEMO = ("--model", "demo", "--threads", "1")
ECHO = ("--model", "demo", "--engine", "echo")


@dataclass(frozen=True, slots=True)
class Idle:
    """One reading of a process and its children."""

    rss_mib: float
    uss_mib: float
    cpu_percent: float


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def read_idle(processes: Sequence[psutil.Process], interval_s: float) -> list[Idle]:
    """What each of `processes` (with its children) takes, all over the same interval."""
    trees = [tree(process) for process in processes]
    before, began = [cpu_s(members) for members in trees], time.perf_counter()
    time.sleep(interval_s)
    wall_s = time.perf_counter() - began
    readings: list[Idle] = []
    for members, cpu_before in zip(trees, before, strict=True):
        cpu_percent = (cpu_s(members) - cpu_before) / wall_s * 100
        memory = [process.memory_full_info() for process in members]
        rss_mib, uss_mib = (sum(getattr(m, kind) for m in memory) / 2**20 for kind in ("rss", "uss"))
        readings.append(Idle(rss_mib, uss_mib, cpu_percent))
    return readings


@contextmanager
def bare_interpreter() -> Generator[psutil.Process]:
    """Python with an event loop that waits, and nothing else."""
    code = "import asyncio, sys; asyncio.run(asyncio.to_thread(sys.stdin.read))"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        yield psutil.Process(child.pid)
        assert child.stdin is not None
        child.stdin.close()


def check_peers(url: str, expected: int) -> None:
    """Raises RunError unless the node knows exactly so many others: each one costs it a probe a second."""
    with urllib.request.urlopen(f"{url}/v1/federation/health", timeout=10) as response:
        peers = [peer["name"] for peer in json.load(response)["peers"]]
    if len(peers) != expected:
        raise RunError(f"the node sees {len(peers)} peers {peers}, not {expected}: stop other nodes on this network")


def node_alone(options: Sequence[str], settle_s: float, interval_s: float) -> Idle:
    """A node of a federation that finds nobody."""
    with command_line_node("--federation", *options) as node:
        time.sleep(settle_s)
        [reading] = read_idle([node.process], interval_s)
        check_peers(node.url, 0)
        return reading


def node_with_peers(options: Sequence[str], settle_s: float, interval_s: float) -> Idle:
    """A node with two peers on the same machine."""
    with ExitStack() as stack:
        first = stack.enter_context(command_line_node("--federation", *options))
        for _ in range(PEERS):
            stack.enter_context(command_line_node("--federation", *options))
        time.sleep(settle_s)
        [reading] = read_idle([first.process], interval_s)
        check_peers(first.url, PEERS)
        return reading


def bare(settle_s: float, interval_s: float) -> Idle:
    with bare_interpreter() as process:
        time.sleep(settle_s)
        return read_idle([process], interval_s)[0]


def figures_of(name: str, readings: Sequence[Idle], promised: bool) -> list[Figure]:
    rss, cpu = tuple(r.rss_mib for r in readings), tuple(r.cpu_percent for r in readings)
    mark = "**" if promised else ""
    return [
        Figure(f"{mark}{name}, resident{mark}", "MiB", rss, MEMORY_TARGET if promised else None),
        Figure(f"{name}, its own (USS)", "MiB", tuple(r.uss_mib for r in readings)),
        Figure(f"{mark}{name}, of a core{mark}", "%", cpu, CPU_TARGET if promised else None),
    ]


def measure(options: argparse.Namespace) -> list[Figure]:
    wait = (options.settle, options.seconds)
    sides = {
        "embedded model": (lambda: node_alone(DEMO, *wait), True),
        "echo engine": (lambda: node_alone(ECHO, *wait), True),
        f"embedded model, {PEERS} peers": (lambda: node_with_peers(DEMO, *wait), False),
        "bare Python": (lambda: bare(*wait), False),
    }
    readings: dict[str, list[Idle]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, (read, _) in sides.items():
            progress(f"round {number + 1}: {name}, {options.seconds:.0f} s")
            readings[name].append(read())
    return [figure for name, (_, promised) in sides.items() for figure in figures_of(name, readings[name], promised)]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 3")
    made.add_argument("--seconds", type=float, metavar="S", help="of each reading (default 30)")
    made.add_argument("--settle", type=float, metavar="S", help="between ready and the reading (default 10)")
    options = made.parse_args()
    for name, small, full in (("rounds", 1, 3), ("seconds", 5.0, 30.0), ("settle", 5.0, 10.0)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    environment = read_environment()
    publish(environment, measure(options), options.json)


if __name__ == "__main__":
    main()
