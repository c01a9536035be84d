"""The process that searches files for `grep`: a line of JSON in, a line of JSON out. Standard library only.

An expression can take for ever, and Python's cannot be stopped in a thread: this process ends itself after a search's
time, and is ended with the node. ripgrep, where there is one, is let see the root and the system's libraries only
(Landlock, Linux 5.13): it opens files by name, so that a folder swapped for a link would lead it outside. Where that
cannot be, Python's `re` searches, in files that are opened from folder to folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from swarm.tools.beneath import best_opener
from swarm.tools.glob_patterns import GlobPattern

# Made by programs, and thousands of files: they are searched where they are named.
SKIPPED: Final = (".git", ".hg", ".svn", "node_modules", ".venv", "__pycache__")
MOST_MATCHES: Final = 200
MOST_LINE_CHARS: Final = 300
MOST_FILE_BYTES: Final = 20_000_000  # of one that Python's `re` searches
_MEMORY_BYTES: Final = 2 << 30
_LIBRARIES: Final = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/nix", "/opt/homebrew")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# From <linux/landlock.h> and <linux/prctl.h>; the numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_RIGHTS: Final = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14))  # file rights that each version of Landlock knows
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for below the root: `path` is a file or folder there, `glob` which files of a folder."""

    pattern: str
    path: str
    glob: str | None
    ignore_case: bool
    limit_s: float


@dataclass(slots=True)
class SearchAnswer:
    """Matching lines as (path from what was searched, number, text); `more` than are told; or the `error` in words."""

    matches: list[tuple[str, int, str]] = field(default_factory=list[tuple[str, int, str]])
    more: bool = False
    error: str | None = None
    number: int = 0  # the system's own of the error, 0 for none


def serve(root: int, ripgrep: str | None) -> None:
    """Answer until the node closes the line."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    if sys.platform.startswith("linux"):  # a node that is killed closes the line, which is not looked at in a search
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    best_opener()  # found out while the whole file system can be seen
    if not (ripgrep and _confined(root, ripgrep)):
        ripgrep = None
    for line in sys.stdin.buffer:
        search = Search(**json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, search.limit_s)  # whatever hangs: the system ends this process
        try:
            found = searched(root, search, ripgrep, nothing)
        except OSError as error:
            found = SearchAnswer(error=error.strerror or str(error), number=error.errno or 0)
        except ValueError as error:  # of this program's own
            found = SearchAnswer(error=f"the pattern {error}")
        except (re.error, OverflowError, RecursionError, MemoryError) as error:
            found = SearchAnswer(error=f"the pattern cannot be searched for: {error or 'it takes too much memory'}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        sys.stdout.flush()


def searched(root: int, search: Search, ripgrep: str | None, nothing: int = -1) -> SearchAnswer:
    """What was found. Raises OSError for a path that cannot be had, re.error and ValueError for a pattern."""
    target = best_opener()(root, search.path, _READ)
    try:
        mode = os.fstat(target).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise ValueError("can only be looked for in files and folders")
        if ripgrep is not None:
            return _by_ripgrep(ripgrep, target, stat.S_ISDIR(mode), nothing, search)
        return _by_re(target, stat.S_ISDIR(mode), search)
    finally:
        os.close(target)


def _by_re(target: int, is_folder: bool, search: Search) -> SearchAnswer:
    expression = re.compile(search.pattern, re.IGNORECASE if search.ignore_case else 0)
    glob = GlobPattern(search.glob) if search.glob is not None else None
    found = SearchAnswer()
    for path, descriptor in _files(target, "", glob) if is_folder else [("", os.dup(target))]:
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MOST_FILE_BYTES)
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
            if expression.search(line):
                if len(found.matches) == MOST_MATCHES:
                    found.more = True
                    return found
                found.matches.append((path, number, line[:MOST_LINE_CHARS]))
    return found


def _files(folder: int, prefix: str, glob: GlobPattern | None) -> Iterator[tuple[str, int]]:
    """Regular files below a folder, opened: no link is followed. What cannot be read is passed over."""
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        return
    for name, is_folder in names:
        path = prefix + name
        try:
            if is_folder:
                if name in SKIPPED:
                    continue
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    yield from _files(below, f"{path}/", glob)
                finally:
                    os.close(below)
            elif glob is None or glob.matches(path.split("/")):
                descriptor = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=folder)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    yield path, descriptor
                else:
                    os.close(descriptor)
        except OSError:
            continue


def _by_ripgrep(ripgrep: str, target: int, is_folder: bool, nothing: int, search: Search) -> SearchAnswer:
    found = SearchAnswer()
    if is_folder:
        os.fchdir(target)
    command = ripgrep_command(ripgrep, is_folder, search)
    with subprocess.Popen(
        command,
        stdin=nothing if is_folder else target,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            path, _, rest = line.rpartition(b"\0") if is_folder else (b"", b"", line)
            if is_folder and not path:  # what ripgrep has to say of a file
                continue
            number, _, text = rest.partition(b":")
            if not number.isdigit():
                continue
            if len(found.matches) == MOST_MATCHES:
                found.more = True
                break
            shown = text.decode("utf-8", "replace").rstrip("\n")[:MOST_LINE_CHARS]
            found.matches.append((os.fsdecode(path).removeprefix("./"), int(number), shown))
        if found.more:
            process.kill()
        said = process.stderr.read(2000).decode("utf-8", "replace").strip()
    if process.returncode == 2 and said and not found.matches:
        found.error = said
    return found


def ripgrep_command(ripgrep: str, is_folder: bool, search: Search) -> list[str]:
    """What a caller gives is the value of an option in one word, never a word of its own: none can be an option."""
    command = [ripgrep, "--no-config", "--color=never", "--no-heading", "--line-number", "--null", "--no-messages"]
    command += ["--hidden", "--no-ignore", "--sort=path", "--max-columns=4096", "--max-columns-preview"]
    if search.ignore_case:
        command.append("--ignore-case")
    if is_folder:
        GlobPattern(search.glob or "*")  # the same patterns are refused, whoever searches
        if search.glob is not None:
            escaped = f"\\{search.glob}" if search.glob.startswith("!") else search.glob
            command.append(f"--glob={escaped}")
        command += [f"--glob=!**/{name}" for name in SKIPPED]
        command.append("--glob=!*\n*")  # a name of two lines would read like a match, or as another file's name
    where = ["--with-filename", "--", "."] if is_folder else ["--no-filename", "--", "-"]
    return [*command, f"--regexp={search.pattern}", *where]


class _Ruleset(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _confined(root: int, ripgrep: str) -> bool:
    """From now on this process and its children see the root, and what programs need to start. False where not."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    rights = sum(mask for since, mask in _RIGHTS if version >= since)
    handled = _Ruleset(rights)
    ruleset = libc.syscall(
        ctypes.c_long(_CREATE_RULESET), ctypes.byref(handled), ctypes.c_size_t(8), ctypes.c_uint32(0)
    )
    if ruleset < 0:
        return False
    allowed = [(root, _READ_FILE | _READ_DIR)]
    for path in (*_LIBRARIES, str(Path(ripgrep).resolve())):
        if Path(path).exists():
            mask = _EXECUTE | _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0)
            allowed.append((os.open(path, os.O_PATH | os.O_CLOEXEC), mask))
    for descriptor, mask in allowed:
        rule = _PathBeneath(mask, descriptor)
        arguments: tuple[Any, ...] = (ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        if libc.syscall(ctypes.c_long(_ADD_RULE), *arguments) != 0:
            return False
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return libc.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
