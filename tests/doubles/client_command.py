"""A client that is a command of its own, with a home of its own: run to its end, and interrupted in the middle."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.doubles.played_node import ENDLESS, ENDLESS_TASK, PlayedNode

RUN_S = 120.0  # a second on an idle machine: such programs import much


@dataclass(frozen=True, slots=True)
class ClientCommand:
    """`program`, told by `environment` alone; `always` are words that come before all others."""

    program: Path
    environment: dict[str, str] = field(repr=False)
    always: tuple[str, ...] = ()

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run it with these words, and with `more` in its environment."""
        return subprocess.run(
            [self.program, *self.always, *words],
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    def said(self, *words: str) -> str:
        """What it says; it has to end well."""
        ended = self.run(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def interrupted(self, node: PlayedNode, *words: str) -> int:
        """Ask for the answer without an end, and press Ctrl-C behind its words; what it ends with, every slot free.

        What is read of the answer came while it was being made.
        """
        with subprocess.Popen(
            [self.program, *self.always, *words, ENDLESS_TASK],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.read(len(ENDLESS)) == ENDLESS.encode()
                node.until_busy()
                process.send_signal(signal.SIGINT)
                node.until_idle()
                process.communicate(timeout=RUN_S)
            finally:
                process.kill()
        return process.returncode
