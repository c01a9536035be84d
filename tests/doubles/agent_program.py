"""`swarm agent` as an ordinary user runs it, in forks of one process that has loaded everything once.

Loading pydantic-ai takes seconds, and a suite runs the command dozens of times. `ForkedCommands` starts this module as
a program, which forks for each command: its own process, arguments, environment and user, the product's own `main`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

WAIT_S = 120.0  # far above what any command here takes; only a defect reaches it
ROOT = Path(__file__).resolve().parent.parent.parent
NOBODY = 65534  # tools refuse to run commands for root outside a container
PR_SET_KEEPCAPS, CAPABILITY_VERSION_3, CAP_DAC_READ_SEARCH = 8, 0x20080522, 1 << 2  # of Linux
BROKE = 99  # the exit code of a child whose command ended by an exception
LOADED = (  # what the command imports while it runs
    "anyio._backends._asyncio",
    "openai.resources.chat.completions",
    "pydantic_ai.direct",
    "pydantic_ai.models.openai",
    "swarm.agent.session",
    "swarm.agent.swarm_model",
    "swarm.agent.turns",
    "swarm.cli",
    "swarm.commands.agent",
    "swarm.tools.local_host",
)


def ordinary_user() -> int | None:
    """Whose the commands are where this process is root's; None: this process's own."""
    return NOBODY if hasattr(os, "geteuid") and os.geteuid() == 0 else None


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: its exit code (of a signal: less than 0), and what it wrote."""

    code: int
    output: str
    errors: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.output.splitlines()]


@dataclass(slots=True)
class Scratch:
    """A folder of its own for one user: `home`, where sessions are kept, and `repository`, which tools work in."""

    folder: Path
    user: int | None = field(default_factory=ordinary_user)

    @classmethod
    def make(cls, files: Mapping[str, str | bytes]) -> Scratch:
        """A new one whose repository has these files; those that begin with `#!` can be run."""
        scratch = cls(Path(tempfile.mkdtemp(prefix="swarm-agent-")).resolve())
        for path in (scratch.home, scratch.repository):
            path.mkdir()
        for name, content in files.items():
            path = scratch.repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content if isinstance(content, bytes) else content.encode()
            path.write_bytes(data)
            path.chmod(0o755 if data.startswith(b"#!") else 0o644)
        if scratch.user is not None:
            for path in (scratch.folder, *scratch.folder.rglob("*")):
                os.chown(path, scratch.user, scratch.user)
        return scratch

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def read(self, name: str) -> str:
        return (self.repository / name).read_text()

    def files(self) -> dict[str, str]:
        """All files of the repository, by their paths."""
        found = sorted(path for path in self.repository.rglob("*") if path.is_file())
        return {str(path.relative_to(self.repository)): path.read_text() for path in found}


class ForkedCommands:
    """Use as `async with`; `run` waits for its command's end."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.doubles.agent_program",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(WAIT_S if error is None else 0):
                await self._process.wait()
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def run(
        self,
        words: Sequence[str],
        scratch: Scratch,
        environment: Mapping[str, str] | None = None,
        meanwhile: Callable[[int], Awaitable[None]] | None = None,
    ) -> Ended:
        """`swarm` with these `words`, in the repository, nothing at its standard input.

        `meanwhile` is done while it runs; it gets the number of its process.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "words": list(words),
            "user": scratch.user,
            "folder": str(scratch.repository),
            "output": str(scratch.folder / "output"),
            "errors": str(scratch.folder / "errors"),
            "environment": {**user_environment(scratch), **(environment or {})},
        }
        async with self._one, asyncio.timeout(WAIT_S):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
            child = int(await self._process.stdout.readline())
            if meanwhile is not None:
                await meanwhile(child)
            code = int(await self._process.stdout.readline())
        return Ended(code, (scratch.folder / "output").read_text(), (scratch.folder / "errors").read_text())


def user_environment(scratch: Scratch) -> dict[str, str]:
    """What such a user has in the environment."""
    path = "/usr/local/bin:/usr/bin:/bin"
    return {"HOME": str(scratch.home), "PATH": path, "LANG": "C.UTF-8", "TERM": "dumb"}


def serve() -> None:
    """Fork for each order at standard input; write the number of the process, and its exit code when it has ended."""
    for module in LOADED:
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _become(order)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(order: Mapping[str, Any]) -> None:
    """Be the command that `order` has, to its end. Never returns."""
    code = BROKE
    try:
        for number, (path, flags) in enumerate(
            [
                (os.devnull, os.O_RDONLY),
                (order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                (order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            ]
        ):
            opened = os.open(path, flags, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        if order["user"] is not None:
            _become_user(order["user"])
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        from swarm.cli import main

        code = main(order["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        if code == BROKE and (error := sys.exception()) is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _become_user(user: int) -> None:
    """Be that user, who may still read what Python imports: root's own is often closed to everybody else.

    Reading is a capability of this process alone: what it starts has none.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    kept = (ctypes.c_uint32 * 6)(CAP_DAC_READ_SEARCH, CAP_DAC_READ_SEARCH, 0, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresuid(user, user, user)
    if libc.capset(header, kept):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    serve()
