"""Somebody who sits at a terminal, types, and reads what comes."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import struct
import subprocess
import termios
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pyte

from tests.e2e.node_process import PROGRAM, environment

ENDED_S = 60.0  # far above what any of these takes on a busy machine
CTRL_C, CTRL_D, CTRL_R, UP = b"\x03", b"\x04", b"\x12", b"\x1b[A"
NEW_LINE = b"\x1b\r"  # Alt-Enter
SCROLLBACK = 2000


class ScreenText(io.StringIO):
    """Looks like a terminal to the program, and keeps what is written."""

    encoding = "utf-8"  # type: ignore[assignment]  # of the base class it can be read only

    def isatty(self) -> bool:
        return True


class Typist:
    """Somebody at a terminal in which `swarm` runs. `screen` is all that it has shown, `picture` what is there now."""

    def __init__(self, master: int, process: subprocess.Popen[bytes], columns: int = 80, rows: int = 24) -> None:
        self._master, self.process = master, process
        self.picture = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.picture)
        self.resize(columns, rows)
        self._read = 0
        self._more = asyncio.Event()
        self.screen = ""
        asyncio.get_running_loop().add_reader(master, self._take)

    def _take(self) -> None:
        try:
            self._took(os.read(self._master, 65536))
        except OSError:  # the program has gone
            asyncio.get_running_loop().remove_reader(self._master)
        self._more.set()

    def _took(self, piece: bytes) -> None:
        self._stream.feed(piece)
        self.screen += piece.decode(errors="replace").replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """What stands on the screen now, without spaces at the ends."""
        return [line.rstrip() for line in self.picture.display]

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def resize(self, columns: int, rows: int) -> None:
        """Make the window as large as that."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.picture.resize(rows, columns)

    async def shows(self, holds: Callable[[list[str]], object]) -> list[str]:
        """The lines of the screen, once they are such. Raises AssertionError with what is there instead."""
        try:
            async with asyncio.timeout(ENDED_S):
                while not holds(self.lines):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError("waited in vain; on the screen:\n" + "\n".join(self.lines)) from None
        return self.lines

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
        return await asyncio.to_thread(self.process.wait, ENDED_S)

    async def leaves_on_ctrl_c(self) -> int:
        """The same, by Ctrl-C, pressed once more where it came before `input` listened to it (CPython's readline)."""
        for _ in range(round(ENDED_S)):
            self.type(CTRL_C)
            with suppress(subprocess.TimeoutExpired):
                return await asyncio.to_thread(self.process.wait, 1.0)
        raise AssertionError(f"Ctrl-C ends nothing: {self.screen}")


class Reader(Typist):
    """Reads what stands there, in place of what was written: `screen` is that, after all that can be scrolled to. Its
    lines have no blanks at their ends, but the cursor's. `written` is what came."""

    def __init__(self, master: int, process: subprocess.Popen[bytes], columns: int, rows: int) -> None:
        super().__init__(master, process, columns, rows)
        self.written = ""
        self.picture = self._history = pyte.HistoryScreen(columns, rows, history=SCROLLBACK, ratio=0.5)
        self.picture.write_process_input = lambda answer: self.type(answer.encode())  # where the cursor is
        self._stream = pyte.ByteStream(self.picture)

    def _took(self, piece: bytes) -> None:
        self.written += piece.decode(errors="replace")
        self._stream.feed(piece)
        width = range(self.picture.columns)
        above = ["".join(line[at].data for at in width).rstrip() for line in self._history.history.top]
        shown, cursor = self.lines, self.picture.cursor
        shown[cursor.y] = shown[cursor.y].ljust(cursor.x)
        self.screen = "\n".join([*above, *shown])

    async def says(self, line: str) -> None:
        await self.sees("> ")
        self.type(line.encode() + b"\r")
        await self.sees(f"{line}\n")


def of_a_terminal(folder: Path) -> dict[str, str]:
    """The variables of a program there: without a size, which the terminal has (pytest-xdist gives its workers one)."""
    return {name: value for name, value in environment(folder).items() if name not in ("COLUMNS", "LINES")}


@asynccontextmanager
async def reading_a_terminal(folder: Path, *words: str) -> AsyncGenerator[Reader]:
    """The same as `at_a_terminal`, with somebody who reads what stands on the screen."""
    variables = {**of_a_terminal(folder), "TERM": "xterm"}
    variables.pop("NO_COLOR", None)
    async with at_a_terminal_of([*PROGRAM, *words], variables, None, kind=Reader) as reader:
        assert isinstance(reader, Reader)
        yield reader


@asynccontextmanager
async def at_a_terminal(
    folder: Path, *words: str, term: str = "xterm", columns: int = 80, rows: int = 24
) -> AsyncGenerator[Typist]:
    """`swarm` with these words in a terminal of its own, as if its home were `folder`; killed at the end."""
    variables = {**of_a_terminal(folder), "TERM": term, "INPUTRC": os.devnull}
    async with at_a_terminal_of([*PROGRAM, *words], variables, None, columns, rows) as typist:
        yield typist


@asynccontextmanager
async def at_a_terminal_of(
    command: list[str],
    variables: dict[str, str],
    folder: Path | None,
    columns: int = 80,
    rows: int = 24,
    kind: type[Typist] = Typist,
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
        typist = kind(master, process, columns, rows)
        try:
            yield typist
        finally:
            asyncio.get_running_loop().remove_reader(master)
            process.kill()
            os.close(master)


def own_terminal() -> None:
    """Make the terminal the controlling one, so that it makes signals of Ctrl-C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
