"""Recorded outputs, and fake tools that are real executables."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from hardware.command import RunTool, ToolOutcome, run_tool

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def recorded() -> Callable[[str], str]:
    """The text of one recorded output, such as "nvidia/one_gpu.csv"."""
    return lambda name: (RECORDED / name).read_text(encoding="utf-8")


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a shell script on the search path of `run_fake` under a tool's name; returns where it lies."""
    (tmp_path / "bin").mkdir()

    def write(tool: str, script: str) -> Path:
        path = tmp_path / "bin" / tool
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def run_fake(tmp_path: Path) -> RunTool:
    """Runs tools, as real processes, that `install` put there and no others."""
    return partial(run_tool, search_path=str(tmp_path / "bin"))


class ScriptedRun:
    """Answers each command with a prepared outcome, and remembers what was asked with which limit."""

    def __init__(self, answers: dict[tuple[str, ...], ToolOutcome]) -> None:
        self.answers = answers
        self.asked: list[tuple[tuple[str, ...], float]] = []

    def __call__(self, argv: Sequence[str], timeout_s: float, /) -> ToolOutcome:
        self.asked.append((tuple(argv), timeout_s))
        return self.answers[tuple(argv)]


@pytest.fixture
def scripted() -> type[ScriptedRun]:
    return ScriptedRun
