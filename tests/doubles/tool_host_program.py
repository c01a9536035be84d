"""A tool host in a process of its own, as a user that is not root: what `tool_hosts.py` starts and talks to.

Everything is imported before it becomes another user, who may not read this checkout. One JSON object a line: the first
answer says which sandbox there is; then each call has an answer when it is over, and `cancel` ends one.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import concurrent.futures.thread
import ctypes
import errno
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema.validators  # noqa: F401

from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import AUTO, ToolPlan
from swarm.tools.protected_paths import PROTECTED
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.sandbox import CommandLimits, Confinement, Sandbox, StartLines
from swarm.tools.sandboxed_process import find_sandbox

NOBODY = 65534
assert concurrent.futures.thread


@dataclass(frozen=True)
class Weakened(Sandbox):
    """A sandbox whose command line lacks something: `without` it, `instead` of it, or with something `before` it."""

    without: tuple[tuple[str, ...], ...] = ()
    instead: tuple[tuple[str, str], ...] = ()
    before: tuple[str, ...] = ()
    unfiltered: bool = False

    def command_line(
        self, confinement: Confinement, command: tuple[str, ...], *, start: StartLines | None = None, name: str = ""
    ) -> tuple[str, ...]:
        if self.unfiltered:
            confinement = replace(confinement, calls=None)
        line = list(super().command_line(confinement, command, start=start, name=name))
        end = len(line) - len(command)  # the command itself stays as it is
        for words in self.without:
            starts = [at for at in range(end) if tuple(line[at : at + len(words)]) == words]
            assert starts, f"{words} is no part of the command line"
            for at in reversed(starts):
                del line[at : at + len(words)]
                end -= len(words)
        for old, new in self.instead:
            assert any(old in word for word in line[:end]), f"{old!r} is in no word of the command line"
            line[:end] = [word.replace(old, new) for word in line[:end]]
        return (*self.before, *line)


async def serve(told: dict[str, Any]) -> None:
    plan = ToolPlan(tuple(told["tools"]), Path(told["root"]), told["network"], AUTO, told["unsandboxed"])
    limits = CommandLimits(**told["limits"])
    files = RootedFiles(plan.root, rules=() if told["unprotected"] else PROTECTED)
    sandbox = None
    if weak := told["weakened"]:
        found = await asyncio.to_thread(find_sandbox, AUTO)
        assert isinstance(found, Sandbox), found
        parts = {field: getattr(found, field) for field in Sandbox.__slots__}
        parts["options"] = found.options - set(weak.get("lacking", []))
        sandbox = Weakened(
            **parts,
            without=tuple(map(tuple, weak.get("without", []))),
            instead=tuple((old, new) for old, new in weak.get("instead", [])),
            before=tuple(weak.get("before", [])),
            unfiltered=weak.get("unfiltered", False),
        )
    async with LocalToolHost(plan, sandbox=sandbox, limits=limits, files=files) as host:
        say({"sandbox": str(host.sandbox), "tools": [tool.name for tool in host.tools()]})
        calls: dict[int, asyncio.Task[None]] = {}
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            if "cancel" in asked:
                calls[asked["cancel"]].cancel()
            else:
                calls[asked["id"]] = asyncio.create_task(answer(host, asked))


async def answer(host: LocalToolHost, asked: dict[str, Any]) -> None:
    said: dict[str, Any] = {"id": asked["id"]}
    try:
        said |= asdict(await host.execute(asked["tool"], asked["arguments"], asked["timeout_s"]))
    except asyncio.CancelledError:
        said["cancelled"] = True
    except Exception as error:  # noqa: BLE001 (the test is told)
        said["error"] = repr(error)
    say(said)


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def no_pidfd(pid: int, flags: int = 0) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def keep_a_key(key: str) -> None:
    """In the session's keyring, where the kernel has one: a new one, so that others' stay as they are."""
    numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine)
    if numbers and key:
        add_key, keyctl = numbers
        libc = ctypes.CDLL(None)
        libc.syscall(keyctl, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING
        libc.syscall(add_key, b"user", b"swarm-test", key.encode(), len(key), -3)


def main() -> None:
    told = json.loads(sys.argv[1])
    for path in told["inherited"]:
        os.set_inheritable(os.open(path, os.O_RDONLY), True)
    if told["old_kernel"]:
        os.pidfd_open = no_pidfd  # type: ignore[assignment]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    keep_a_key(os.environ.get("SWARM_API_KEY", ""))
    asyncio.run(serve(told))


if __name__ == "__main__":
    main()
