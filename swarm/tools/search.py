"""The tools that look for files: `glob`, by name, and `grep`, by what is in them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Any, Final

import swarm
from federation.printable_text import clean_line, clean_text
from federation.tasks import finished
from swarm.tools.bounded_output import cut_in_the_middle
from swarm.tools.glob_patterns import GlobPattern
from swarm.tools.rooted_files import RootedFiles, failure, inside
from swarm.tools.sandbox import NIX_PATH, SYSTEM_PATH
from swarm.tools.sandboxed_process import killed
from swarm.tools.search_worker import MOST_MATCHES, SKIPPED, Search
from swarm.tools.tool import MAX_OUTPUT_CHARS, TIMED_OUT_CODE, ToolFailure, ToolResult

MOST_SEEN: Final = 200_000  # names that one `glob` looks at, a second or two
MOST_PATHS: Final = 1000
MAX_PATTERN_CHARS: Final = 1000
_LATE_S: Final = 5.0  # for a process that does not end with its own clock
_ANSWER_BYTES: Final = 1 << 20
_RIPGREP_PATH: Final = f"{SYSTEM_PATH}:{NIX_PATH}:/opt/homebrew/bin"
_PACKAGES: Final = str(Path(swarm.__file__).resolve().parents[1])
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from swarm.tools.search_worker import serve; "
    "serve(int(sys.argv[2]), sys.argv[3] or None)"
)


def glob(files: RootedFiles, arguments: Mapping[str, Any], is_over: Callable[[], bool] = lambda: False) -> ToolResult:
    """Paths of files that a pattern means, from the root, in order. Blocks. Raises TimeoutError where it `is_over`."""
    folder = inside(arguments.get("path", "."), files.root)
    given = arguments["pattern"]
    if given.startswith(f"{files.root}/"):
        given = given[len(str(files.root)) + 1 :]
    if len(given) > MAX_PATTERN_CHARS:
        raise ToolFailure(f"the pattern has more than {MAX_PATTERN_CHARS} characters")
    try:
        pattern = GlobPattern(given)
    except ValueError as error:
        raise ToolFailure(f"the pattern {clean_line(given)} {error}") from error
    prefix = "" if folder == "." else f"{folder}/"
    wanted = set(given.split("/"))
    found: list[str] = []
    more = 0
    for path, mode in files.files(folder, MOST_SEEN, skipped=frozenset(SKIPPED) - wanted):
        if is_over():
            raise TimeoutError
        if stat.S_ISREG(mode) and pattern.matches(path.split("/")):
            if len(found) < MOST_PATHS:
                found.append(clean_line(prefix + path))
            else:
                more += 1
    if not found:
        return ToolResult(f"no file matches {clean_line(given)}")
    lines = "\n".join(found)
    if more:
        lines += f"\n[… {more} more files; narrow the pattern …]"
    output, cut = cut_in_the_middle(lines, MAX_OUTPUT_CHARS)
    return ToolResult(output, truncated=cut or more > 0)


def ended_search(limit_s: float) -> ToolResult:
    """What comes of a search whose time was up."""
    text = f"the search was ended after {limit_s:g} s: narrow it, or write a simpler pattern"
    return ToolResult(text, TIMED_OUT_CODE, timed_out=True)


def find_ripgrep() -> str | None:
    """ripgrep in the system's folders; not by the node's own PATH, which may name a folder of the project."""
    return which("rg", path=_RIPGREP_PATH)


class Searchers:
    """Processes that search below one root, kept between calls; each call has one to itself."""

    def __init__(self, files: RootedFiles, ripgrep: str | None) -> None:
        """`ripgrep` is the program to search with, None for Python's `re`."""
        self._files = files
        self._ripgrep = ripgrep
        self.by_ripgrep = ripgrep is not None
        self._idle: list[_Searcher] = []

    async def grep(self, arguments: Mapping[str, Any], limit_s: float) -> ToolResult:
        """Lines that an expression matches, at most `limit_s`. Cancelling ends the process that searches."""
        path = arguments.get("path", ".")
        relative = inside(path, self._files.root)
        ignore_case = arguments.get("ignore_case", False)
        search = Search(arguments["pattern"], relative, arguments.get("glob"), ignore_case, limit_s)
        try:
            json.dumps(asdict(search), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ToolFailure("the pattern holds half a character: write it again") from error
        if max(len(search.pattern), len(search.glob or "")) > MAX_PATTERN_CHARS:
            raise ToolFailure(f"the pattern has more than {MAX_PATTERN_CHARS} characters")
        if "\0" in search.pattern or "\0" in (search.glob or ""):
            raise ToolFailure("a pattern cannot hold a zero character")
        searcher = await self._taken()
        answer = None
        try:
            async with asyncio.timeout(limit_s + _LATE_S):  # it ends itself before
                answer = await searcher.asked(search)
        except TimeoutError:
            pass
        finally:
            if answer is None:
                await finished(asyncio.ensure_future(searcher.end()))
        if answer is None:
            if searcher.timed_out:
                return ended_search(limit_s)
            raise ToolFailure("the search ended without an answer: the pattern may take too much memory; narrow it")
        self._idle.append(searcher)
        return _result(answer, path, relative, search.pattern)

    async def _taken(self) -> _Searcher:
        """A process for the root as it is now: another folder may have been put into its place."""
        with self._files.opened_root() as root:
            at = os.fstat(root)
            while self._idle:
                searcher = self._idle.pop()
                if searcher.lives and os.path.samestat(searcher.root, at):
                    return searcher
                await searcher.end()
            return await _Searcher.started(root, at, self._ripgrep)

    async def close(self) -> None:
        """End all processes."""
        while self._idle:
            await self._idle.pop().end()


class _Searcher:
    def __init__(self, process: asyncio.subprocess.Process, root: os.stat_result) -> None:
        self._process = process
        self.root = root

    @classmethod
    async def started(cls, root: int, at: os.stat_result, ripgrep: str | None) -> _Searcher:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _PROGRAM, _PACKAGES, str(root), ripgrep or ""),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(root,),
            env={"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
            limit=_ANSWER_BYTES,
        )
        return cls(process, at)

    @property
    def timed_out(self) -> bool:
        """Whether it has ended since its time was up: by its own clock, or by `end`."""
        return self._process.returncode in (-signal.SIGALRM, -signal.SIGKILL)

    @property
    def lives(self) -> bool:
        return self._process.returncode is None

    async def asked(self, search: Search) -> dict[str, Any] | None:
        """The worker's answer; None where it has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(search)).encode() + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        except (OSError, ValueError):
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await killed(self._process)


def _result(answer: Mapping[str, Any], path: str, relative: str, pattern: str) -> ToolResult:
    if answer["number"]:
        raise failure(path, OSError(answer["number"], answer["error"]))
    if answer["error"]:
        raise ToolFailure(clean_text(answer["error"]), 2)
    lines: list[str] = []
    for name, number, text in answer["matches"]:
        parts = [part for part in (relative if relative != "." else "", name) if part]
        lines.append(f"{clean_line('/'.join(parts))}:{number}: {clean_text(text)}")
    if not lines:
        return ToolResult(f"no line matches {clean_line(pattern)}")
    if answer["more"]:
        lines.append(f"[… more than {MOST_MATCHES} lines match; narrow the search …]")
    output, cut = cut_in_the_middle("\n".join(lines), MAX_OUTPUT_CHARS)
    return ToolResult(output, truncated=cut or answer["more"])
