"""One real node: `python main.py` in a process of its own, in a network namespace or on this machine's loopback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.doubles.handing_over import command_with_listeners
from tests.doubles.model_homes import VARIABLES
from tests.e2e.network import Machine
from tests.e2e.waiting import eventually

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (sys.executable, str(ROOT / "main.py"))
READY_S: Final = 30.0  # takes a second alone; several nodes start at once beside other tests on two cores
SAID_S: Final = 5.0  # a thread of its own writes to terminals
KILL_TIMEOUT_S: Final = 10.0  # the kernel takes milliseconds

_API_LINE = re.compile(r"^\s*API\s+(?P<url>http://[^/\s]+)/v1\b", re.MULTILINE)


def environment(home: Path) -> dict[str, str]:
    """This process's, with a home of its own and nothing that points back to the real one."""
    ours = ("XDG_", "SWARM_", *VARIABLES)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HOME": str(home)}


class NodeProcess:
    """A node serving the embedded model, from `start` (or `with`) to `kill`; it can be started again afterwards.

    `model` None: the one that it chooses itself.
    `arguments` are added to the command line; `machine` None means this machine, on a free loopback port. `listener`
    is handed over to each run, as systemd does it, and stays open between them. `program` takes main.py's arguments,
    also those of the commands on its machine.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        machine: Machine | None = None,
        arguments: Sequence[str] = (),
        listener: socket.socket | None = None,
        program: Sequence[str] = PROGRAM,
        model: str | None = "demo",
    ) -> None:
        self.name = name
        self.program = tuple(program)
        self._model = model
        self._folder = folder
        self.machine = machine
        self._arguments = tuple(arguments)
        self._listener = listener
        self._process: subprocess.Popen[bytes] | None = None
        self._out = folder / "out.txt"
        self._err = folder / "err.txt"
        folder.mkdir(parents=True, exist_ok=True)

    # Life

    def start(self) -> None:
        """Start it; what earlier runs wrote is dropped."""
        own_model = "--model" in self._arguments  # given twice it names two models
        options = (
            *(() if own_model or self._model is None else ("--model", self._model)),
            "--threads",
            "1",
            "--name",
            self.name,
            "--data-dir",
            str(self._folder / "data"),
        )
        place = () if self.machine else ("--port", "0")
        command = (*self.program, *options, *place, *self._arguments)
        listeners = [] if self._listener is None else [self._listener]
        if listeners:
            command = command_with_listeners(command, listeners)
        with ExitStack() as files:
            out, err = (files.enter_context(path.open("wb")) for path in (self._out, self._err))
            self._process = subprocess.Popen(
                self.machine.command(*command) if self.machine else command,
                cwd=self._folder,
                env=environment(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=[listener.fileno() for listener in listeners],
                start_new_session=True,  # a Ctrl-C meant for pytest is not meant for the node
            )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} was never started"
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone. Does nothing to a node that has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(KILL_TIMEOUT_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    async def says(self, words: str) -> None:
        """Return when its terminal has a line with `words`, an expression: a moment after what they are about."""
        line = re.compile(words, re.MULTILINE)

        async def said() -> bool:
            return line.search(self.output) is not None or line.search(self.errors) is not None

        try:
            await eventually(said, SAID_S, words)
        except AssertionError as error:
            raise AssertionError(f"{self.name} does not say {words}\n{self.logs()}") from error

    async def ready(self) -> None:
        """Return when it says that it is ready; fails at once if it ends instead."""

        async def says_ready() -> bool:
            assert self.exit_code is None, f"{self.name} ended with {self.exit_code}\n{self.logs()}"
            return "\nready: " in self.output

        await eventually(says_ready, READY_S, f"{self.name} says that it is ready")

    async def ended(self, timeout_s: float) -> int:
        """Its exit code, as soon as it has ended."""

        async def code() -> int | None:
            return self.exit_code

        ended = await eventually(code, timeout_s, f"{self.name} ends", until=lambda code: code is not None)
        assert ended is not None
        return ended

    # What it says

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text() if self._err.exists() else ""

    def logs(self) -> str:
        """Everything it said, for a test that failed."""
        return f"exit code {self.exit_code}\n--- stdout\n{self.output}--- stderr\n{self.errors}"

    @property
    def url(self) -> str:
        """Where its banner says that it serves."""
        match = _API_LINE.search(self.output)
        assert match, f"{self.name}'s banner names no URL:\n{self.logs()}"
        return match["url"]
