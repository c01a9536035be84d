"""Tool hosts of this machine in processes of their own, for tests of what commands can do to it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from swarm.tools.tool import ToolResult
from tests.doubles.waiting import POLL_S, WAIT_S

PROGRAM = Path(__file__).with_name("tool_host_program.py")
CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = 65534
SECRET = "the-secret-outside"  # what no command may ever say

needs_bwrap = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and shutil.which("bwrap")), reason="bwrap is for Linux, where CI installs it"
)


class ToolHostProcess:
    """A host that is asked in lines. It ends with its standard input."""

    def __init__(self, root: Path, environment: dict[str, str] | None = None, **told: Any) -> None:
        self.root = root
        all_told = {
            "root": str(root),
            "tools": ["read", "write", "edit", "glob", "bash"],
            "network": False,
            "unsandboxed": False,
            "limits": {},
            "weakened": None,
            "unprotected": False,
            "inherited": [],
            "old_kernel": False,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(all_told | told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), **(environment or {})},
            text=True,
        )
        self._numbers = itertools.count(1)
        self.first = self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the host's process ended"
        return json.loads(line)

    def begin(self, tool: str, limit_s: float | None = None, **arguments: Any) -> int:
        """Ask for a call; its answer comes with `ended`."""
        number = next(self._numbers)
        self._say({"id": number, "tool": tool, "arguments": arguments, "timeout_s": limit_s})
        return number

    def cancel(self, number: int) -> None:
        self._say({"cancel": number})

    def _say(self, value: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def ended(self) -> dict[str, Any]:
        """The next call that is over."""
        return self._heard()

    def call(self, tool: str, limit_s: float | None = None, **arguments: Any) -> ToolResult:
        self.begin(tool, limit_s, **arguments)
        said = self._heard()
        assert "error" not in said, said
        said.pop("id")
        return ToolResult(**said)

    def bash(self, command: str, limit_s: float | None = None) -> ToolResult:
        return self.call("bash", limit_s, command=command)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(WAIT_S)
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


@contextmanager
def tool_host(root: Path, **told: Any) -> Iterator[ToolHostProcess]:
    host = ToolHostProcess(root, **told)
    try:
        yield host
    finally:
        if host.process.returncode is None:
            host.close()


@contextmanager
def project_folder() -> Iterator[Path]:
    """A root that the hosts' user may write, with a secret beside it that everybody may read. Not in /tmp: inside, that
    is another."""
    with tempfile.TemporaryDirectory(prefix="swarm-tools-", dir="/var/tmp") as made:
        top = Path(made).resolve()
        top.chmod(0o755)
        (top / "secret.txt").write_text(SECRET)
        root = top / "root"
        root.mkdir()
        if os.geteuid() == 0:
            os.chown(root, NOBODY, NOBODY)
            os.chown(top, NOBODY, NOBODY)
        yield root


def marked(mark: str) -> list[psutil.Process]:
    """Processes of this machine with `mark` in their command line, and alive."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(mark in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def names(mark: str) -> set[str]:
    """What the marked processes are programs of."""
    found: set[str] = set()
    for process in marked(mark):
        with suppress(psutil.Error):
            found.add(process.name())
    return found


def end_marked(mark: str) -> None:
    for process in marked(mark):
        with suppress(psutil.Error):
            process.kill()


def until(holds: Callable[[], Any]) -> None:
    """Return when the condition holds; fail after WAIT_S."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(POLL_S)


def lines_of(result: ToolResult) -> Sequence[str]:
    return result.output.splitlines()
