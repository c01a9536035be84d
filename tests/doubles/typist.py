"""Somebody who sits at a terminal, types, and reads what comes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import subprocess
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.e2e.node_process import PROGRAM, environment

ENDED_S = 60.0  # far above what any of these takes on a busy machine
CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\x1b[A"


class Typist:
    """Somebody at a terminal in which `swarm` runs. `screen` is all that it has shown."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master, self._process = master, process
        self._read = 0
        self._more = asyncio.Event()
        self.screen = ""
        asyncio.get_running_loop().add_reader(master, self._take)

    def _take(self) -> None:
        try:
            self.screen += os.read(self._master, 65536).decode(errors="replace").replace("\r\n", "\n")
        except OSError:  # the program has gone
            asyncio.get_running_loop().remove_reader(self._master)
        self._more.set()

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def sees(self, text: str) -> str:
        """Return when `text` has come after what was seen before; everything from there to its end."""
        timed_out = asyncio.get_running_loop().call_later(ENDED_S, self._more.set)
        try:
            while (found := self.screen.find(text, self._read)) < 0:
                assert asyncio.get_running_loop().time() < timed_out.when(), self.screen
                self._more.clear()
                await self._more.wait()
        finally:
            timed_out.cancel()
        before, self._read = self._read, found + len(text)
        return self.screen[before : self._read]

    async def says(self, line: str) -> None:
        await self.sees("> ")
        self.type(line.encode() + b"\n")
        await self.sees(f"{line}\n")

    async def left(self) -> int:
        """The exit code, once it has ended."""
        return await asyncio.to_thread(self._process.wait, ENDED_S)

    async def leaves_on_ctrl_c(self) -> int:
        """The same, by Ctrl-C, pressed once more where it came before `input` listened to it (CPython's readline)."""
        for _ in range(round(ENDED_S)):
            self.type(CTRL_C)
            with suppress(subprocess.TimeoutExpired):
                return await asyncio.to_thread(self._process.wait, 1.0)
        raise AssertionError(f"Ctrl-C ends nothing: {self.screen}")


@asynccontextmanager
async def at_a_terminal(folder: Path, *words: str) -> AsyncGenerator[Typist]:
    """`swarm` with these words in a terminal of its own, as if its home were `folder`; killed at the end."""
    variables = {**environment(folder), "TERM": "xterm", "INPUTRC": os.devnull}
    async with at_a_terminal_of([*PROGRAM, *words], variables, None) as typist:
        yield typist


@asynccontextmanager
async def at_a_terminal_of(
    command: list[str], variables: dict[str, str], folder: Path | None
) -> AsyncGenerator[Typist]:
    """Any program, started in `folder`."""
    master, slave = pty.openpty()
    with subprocess.Popen(  # noqa: ASYNC220 - starting one blocks for a moment only
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=variables,
        cwd=folder,
        start_new_session=True,
        preexec_fn=own_terminal,
    ) as process:
        os.close(slave)
        typist = Typist(master, process)
        try:
            yield typist
        finally:
            asyncio.get_running_loop().remove_reader(master)
            process.kill()
            os.close(master)


def own_terminal() -> None:
    """Make the terminal the controlling one, so that it makes signals of Ctrl-C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
