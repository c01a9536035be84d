"""What the tools of a node cost over doing the same by hand: a command in the sandbox, a file, a search.

    python benchmarks/tools.py [--quick] [--json FILE]

`bash` is measured as a user that is not root, with `true` in the sandbox and with no sandbox, beside the bare
subprocess. `read` is a file of 2,000 bytes beside reading it in Python; `grep` a tree of 400 files beside ripgrep
itself, in the same order. The time of a call is that of `LocalToolHost.execute`, with its checks and its clean output.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import concurrent.futures.thread  # as another user this interpreter may not be readable any more
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema.validators  # for the same reason
from measure import Figure, Target
from report import parser, progress, publish, read_environment

from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from swarm.tools.sandboxed_process import NoSandbox
from swarm.tools.search import find_ripgrep

NOBODY = 65534
FILES, LINES = 400, 40
assert concurrent.futures.thread
assert jsonschema.validators


def make_tree(root: Path) -> None:
    for number in range(FILES):
        folder = root / f"part{number % 20}"
        folder.mkdir(exist_ok=True)
        lines = [f"line {line} of file {number}: {'x' * 30}" for line in range(LINES)]
        (folder / f"file{number}.txt").write_text("\n".join(lines))
    (root / "part7" / "file7.txt").write_text("the needle\n")
    (root / "one.txt").write_text("some words of text\n" * 105)


async def timed(ways: dict[str, Callable[[], Awaitable[object]]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, one after the other in every round; the first is not counted."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            await way()
            if at:
                took[name].append((time.perf_counter() - began) * 1000)
    return took


def over(name: str, with_it: list[float], without: list[float], most_ms: float | None = None) -> Figure:
    samples = tuple(one - other for one, other in zip(with_it, without, strict=True))
    return Figure(name, "ms", samples, None if most_ms is None else Target("at most", most_ms))


async def files(root: Path, rounds: int) -> list[Figure]:
    ripgrep = find_ripgrep()
    one = root / "one.txt"
    async with LocalToolHost(ToolPlan(("read", "grep"), root)) as host:

        async def by_hand() -> None:
            one.read_text()

        async def search_by_hand() -> None:
            command = [ripgrep, "--sort=path", "-n", "needle", "."] if ripgrep else ["grep", "-rn", "needle", "."]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=root)
            await process.communicate()

        async def called(tool: str, **arguments: Any) -> None:
            result = await host.execute(tool, arguments)
            assert result.exit_code == 0, result

        took = await timed(
            {
                "read by hand": by_hand,
                "`read`": lambda: called("read", path="one.txt"),
                "rg by hand": search_by_hand,
                "`grep`": lambda: called("grep", pattern="needle"),
            },
            rounds,
        )
    return [
        *(Figure(name, "ms", tuple(samples)) for name, samples in took.items()),
        over("`read` over the file system", took["`read`"], took["read by hand"], 5),
        over("`grep` over ripgrep itself", took["`grep`"], took["rg by hand"], 5),
    ]


async def commands(root: Path, rounds: int) -> list[Figure]:
    names = ("write", "bash")
    plan = ToolPlan(names, root)
    async with LocalToolHost(plan) as host, LocalToolHost(ToolPlan(names, root, unsandboxed=True)) as bare:
        if isinstance(host.sandbox, NoSandbox) or isinstance(bare.sandbox, NoSandbox):
            progress(f"no commands are measured: {host.sandbox}")
            return []

        async def by_hand() -> None:
            process = await asyncio.create_subprocess_exec("/bin/bash", "-c", "true", stdout=asyncio.subprocess.PIPE)
            await process.communicate()

        async def called(on: LocalToolHost) -> None:
            result = await on.execute("bash", {"command": "true"})
            assert result.exit_code == 0, result

        took = await timed(
            {
                "`bash -c true` by hand": by_hand,
                "`bash` without a sandbox": lambda: called(bare),
                f"`bash` in {host.sandbox.title if host.sandbox else ''}": lambda: called(host),
            },
            rounds,
        )
    by_hand_ms, bare_ms, sandboxed_ms = took.values()
    return [
        *(Figure(name, "ms", tuple(samples)) for name, samples in took.items()),
        over("`bash` in the sandbox over none", sandboxed_ms, bare_ms, 60),
        over("`bash` in the sandbox over a bare subprocess", sandboxed_ms, by_hand_ms),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 101")
    options = made.parse_args()
    rounds = options.rounds or (11 if options.quick else 101)
    environment = read_environment()
    with tempfile.TemporaryDirectory(prefix="swarm-tools-", dir="/var/tmp") as folder:
        root = Path(folder).resolve()
        make_tree(root)
        progress(f"files, {rounds} rounds")
        figures = asyncio.run(files(root, rounds))
        if os.geteuid() == 0:  # root has no commands
            for path in (root, *root.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            child = os.fork()
            if child == 0:
                run_as_nobody(root, rounds, options.json, environment, figures)
            os.waitpid(child, 0)
            return
        progress(f"commands, {rounds} rounds")
        figures += asyncio.run(commands(root, rounds))
    publish(environment, figures, options.json)


def run_as_nobody(root: Path, rounds: int, json: Path | None, environment: Any, figures: list[Figure]) -> None:
    """The rest, in a child that is another user and prints what came out. Does not return."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    try:
        progress(f"commands, {rounds} rounds")
        publish(environment, figures + asyncio.run(commands(root, rounds)), json)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
