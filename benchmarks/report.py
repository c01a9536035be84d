"""What a run prints: where and how it was made, a Markdown table of its figures, and the same as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from measure import Figure

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("xllamacpp", "aiohttp", "pydantic", "zeroconf")  # those whose version moves a figure
QUIET_LOAD = 0.3  # one-minute load average before the run; above it something else is running too


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything a reader needs to make the run again, and to doubt it."""

    command: str
    date: str
    commit: str
    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    load_before: float | None

    @property
    def warning(self) -> str | None:
        if self.load_before is not None and self.load_before > QUIET_LOAD:
            return f"the machine was busy before the run (load {self.load_before:.2f}): not figures to publish"
        return None

    def lines(self) -> list[str]:
        versions = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        lines = [
            f"`{self.command}`",
            f"{self.date}, commit {self.commit}",
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, {self.system}",
            f"Python {self.python}, {versions}",
        ]
        return [*lines, f"**{self.warning}**"] if self.warning else lines


def read_environment() -> Environment:
    """This machine and checkout, now. Call it before the first measurement: it takes the load average."""
    return Environment(
        command=shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=psutil.virtual_memory().total / 2**30,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        load_before=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def _output(*command: str) -> str | None:
    """What `command` prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> str:
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown (no git checkout)"
    return f"{commit} with uncommitted changes" if _output("git", "status", "--porcelain") else commit


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def number(value: float) -> str:
    """Three significant digits or whole numbers, whichever says more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(figures: Sequence[Figure]) -> str:
    """The figures as a table to paste."""
    rows = ["| figure | median | min-max | 95 % of the median | rounds | target | |", "|---|--:|--:|--:|--:|--:|---|"]
    for figure in figures:
        low, high = figure.interval
        target = "" if figure.target is None else f"{figure.target.bound} {number(figure.target.value)}"
        unit = f" {figure.unit}" if figure.unit else ""
        rows.append(
            f"| {figure.name} | {number(figure.median)}{unit} "
            f"| {number(min(figure.samples))}-{number(max(figure.samples))} | {number(low)}-{number(high)} "
            f"| {len(figure.samples)} | {target} | {figure.verdict} |"
        )
    return "\n".join(rows)


def as_json(environment: Environment, figures: Sequence[Figure]) -> str:
    """The run with every sample, for whoever computes differently."""
    fields = {name: getattr(environment, name) for name in Environment.__slots__}
    rows = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "median": figure.median,
            "median_95": figure.interval,
            "samples": figure.samples,
            "target": None if figure.target is None else f"{figure.target.bound} {figure.target.value}",
            "verdict": figure.verdict,
        }
        for figure in figures
    ]
    return json.dumps({"environment": fields, "figures": rows}, indent=1)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with what every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it works, no more")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every sample there too")
    return made


def publish(environment: Environment, figures: Sequence[Figure], json_file: Path | None) -> None:
    """Print the report; with `json_file`, write that too."""
    print("\n" + "  \n".join(environment.lines()) + "\n\n" + markdown(figures))
    if json_file is not None:
        json_file.write_text(as_json(environment, figures) + "\n")


def progress(text: str) -> None:
    """A line for whoever waits, apart from the report."""
    print(text, file=sys.stderr, flush=True)
