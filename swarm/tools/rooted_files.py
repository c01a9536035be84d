"""Files below one root, by descriptors: what is read or written lies below it, whoever moves what meanwhile. Blocks.

Everything that goes wrong is a `ToolFailure` in words for a model: it names the path as the model gave it.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import stat
import sys
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from federation.printable_text import clean_line
from swarm.tools.beneath import Opener, best_opener, open_by_steps
from swarm.tools.definitions import MAX_FILE_BYTES
from swarm.tools.protected_paths import PROTECTED, ProtectedPath, protection_of
from swarm.tools.tool import ToolFailure

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO without a writer opens at once
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_SHOWN_CHARS: Final = 300  # of a path, in a message
_HANDLE: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LOOKED_AT: Final = 2000  # names, about 3 ms, before each command
_MOST_HELD: Final = 100  # descriptors of one command
_MOST_DEEP: Final = 100  # folders within each other, each of which takes a descriptor while it is walked through
_HEAVY: Final = ("node_modules/", "site-packages/")  # thousands of folders, none of which a person works in
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe, which has no end"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_WORDS: Final = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: a part of the path is a file",
    errno.ELOOP: "is a link that leads in a circle",
    errno.EXDEV: "leads out of the root: only files below it can be had",
    errno.EACCES: "may not be opened by this user",
    errno.EPERM: "may not be changed by this user",
    errno.ENAMETOOLONG: "is too long a path",
    errno.EROFS: "lies on a file system that is read-only",
    errno.ENOSPC: "was not written: the disk is full",
    errno.EDQUOT: "was not written: this user's disk space is used up",
    errno.ENXIO: "is a socket",
    errno.EISDIR: "is a folder",
    errno.EAGAIN: "is being moved about by somebody: try again",
}


def named(path: str) -> str:
    """A path as messages name it: the model's own words, on one line, and not all of a long one."""
    shown = clean_line(path[: MOST_SHOWN_CHARS + 1])
    return shown if len(shown) <= MOST_SHOWN_CHARS else f"{shown[:MOST_SHOWN_CHARS]}…"


def inside(path: str, root: Path) -> str:
    """`path` as a path relative to the root, "." for the root itself; absolute ones below the root are taken, too.

    Raises ToolFailure where it leads out of it by its words alone.
    """
    if "\0" in path:
        raise ToolFailure("a path cannot hold a zero character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ToolFailure("the path holds half a character: write it again") from error
    plain = posixpath.normpath(path)
    if plain.startswith("/"):
        plain = posixpath.relpath(plain, root)
    if plain == ".." or plain.startswith("../"):
        raise ToolFailure(f"{named(path)} leads out of the root {root}: only files below it can be had")
    return plain


class RootedFiles:
    """The files below `root`; `opener` is how a path is resolved there, `rules` what is not changed."""

    def __init__(self, root: Path, opener: Opener | None = None, rules: Sequence[ProtectedPath] = PROTECTED) -> None:
        self.root = root
        self._rules = rules
        self._first: frozenset[str] | None = None  # what was protected at the top before the first command
        self._opener = best_opener() if opener is None else opener

    @contextmanager
    def opened_root(self) -> Generator[int]:
        """A descriptor of the root. It is opened anew each time: whoever makes the folder again goes on."""
        try:
            descriptor = os.open(self.root, _FOLDER | os.O_NOFOLLOW)
        except OSError as error:
            gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            why = "is gone: make it again, or start with another" if gone else f"cannot be opened ({error.strerror})"
            raise ToolFailure(f"the root {self.root} {why}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def opened_folder(self, path: str) -> Generator[int]:
        """A descriptor of a folder below the root."""
        relative = inside(path, self.root)
        with self.opened_root() as root:
            try:
                descriptor = self._opener(root, relative, _FOLDER)
            except OSError as error:
                if error.errno == errno.ENOTDIR and self._is_file(root, relative):
                    raise ToolFailure(f"{named(path)} is a file, not a folder") from error
                raise failure(path, error) from error
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _is_file(self, root: int, relative: str) -> bool:
        try:
            os.close(self._opener(root, relative, _READ))
        except OSError:
            return False
        return True

    @contextmanager
    def opened_file(self, path: str) -> Generator[int]:
        """A descriptor, for reading, of a regular file below the root: of nothing that waits, or has no end."""
        relative = inside(path, self.root)
        with self.opened_root() as root:
            try:
                descriptor = self._opener(root, relative, _READ)
            except OSError as error:
                raise failure(path, error) from error
        try:
            kind = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(kind):
                what = next((words for is_it, words in _KINDS if is_it(kind)), "no file")
                raise ToolFailure(f"{named(path)} is {what}: only files can be read")
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, path: str, most_bytes: int = MAX_FILE_BYTES) -> bytes:
        """All of a file; ToolFailure where it is longer than `most_bytes`, or no regular file."""
        with self.opened_file(path) as descriptor:
            return _all_of(descriptor, path, most_bytes)

    def write(self, path: str, data: bytes) -> bool:
        """Put `data` in the place of a file, whole or not at all; True where there was none. Folders are made.

        A file that is replaced keeps its mode. ToolFailure for what is protected, for links (whose place would be
        taken), and for a file that has other names: those would go on showing what it held.
        """
        relative = inside(path, self.root)
        folder_path, _, name = relative.rpartition("/")
        if name in ("", ".", ".."):
            raise ToolFailure(f"{named(path)} is a folder")
        if relative.count("/") > _MOST_DEEP:
            raise ToolFailure(f"{named(path)} lies more than {_MOST_DEEP} folders deep: choose a shorter path")
        self._refuse_protected(path, tuple(relative.split("/")))
        with self.opened_root() as root:
            try:
                folder = self._made_folder(root, path, folder_path)
            except OSError as error:
                raise failure(path, error) from error
            try:
                self._refuse_protected(path, (*self._real_parts(root, folder, folder_path), name))
                mode = _mode_to_keep(folder, path, name)
                _replace(folder, name, data, mode)
                return mode is None
            except OSError as error:
                raise failure(path, error) from error
            finally:
                os.close(folder)

    def _made_folder(self, root: int, path: str, folder: str) -> int:
        """A descriptor of the folder, which is made if need be, with those above it."""
        try:
            return self._opener(root, folder or ".", _FOLDER)
        except FileNotFoundError:
            above, _, name = folder.rpartition("/")
            parent = self._made_folder(root, path, above)
            try:
                self._refuse_protected(path, (*self._real_parts(root, parent, above), name))
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=parent)
            finally:
                os.close(parent)
            return self._opener(root, folder, _FOLDER)

    def _refuse_protected(self, path: str, parts: tuple[str, ...]) -> None:
        if rule := protection_of(parts, self._rules):
            where = "/".join(rule.parts)
            raise ToolFailure(f"{named(path)} is not changed by tools: {where} is protected, since {rule.why}")

    def _real_parts(self, root: int, folder: int, path: str) -> tuple[str, ...]:
        """Where a folder that is open lies below the root, by its own names: links have led there."""
        base, real = _path_of(root), _path_of(folder)
        if base is None or real is None:
            return parts_by_steps(root, folder, path)
        if real == base:
            return ()
        if not real.startswith(base + "/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)  # moved out of the root since it was opened
        return tuple(real[len(base) + 1 :].split("/"))

    @contextmanager
    def opened_protected(self, by_name: bool) -> Generator[tuple[int, tuple[tuple[str, int], ...]]]:
        """The root, and what below it is protected, as descriptors that only say which file is meant.

        It is looked for in the folders at the top: `_MOST_LOOKED_AT` names, `_MOST_HELD` files. `by_name`: for who can
        use names only. A command that runs can put a link there meanwhile; but not in the place of what stood at the
        top before the first one began, since every command has that mounted: so it is these.
        """
        with self.opened_root() as root, ExitStack() as held:
            paths = _protected_below(root, self._rules)
            if self._first is None:
                self._first = frozenset(path for path in paths if "/" not in path)
            found: list[tuple[str, int]] = []
            for path in paths:
                if by_name and path not in self._first:
                    continue
                with suppress(OSError):  # gone again
                    descriptor = open_by_steps(root, path, _HANDLE)
                    held.callback(os.close, descriptor)
                    if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
                        found.append((path, descriptor))
            yield root, tuple(found)

    def files(self, path: str, most_seen: int, skipped: Collection[str] = ()) -> Iterator[tuple[str, int]]:
        """Files and folders below a folder, as paths relative to it, with their modes: no link is followed.

        Folders come before what is in them, names in order; those called as one of `skipped` are passed over.
        ToolFailure after `most_seen` names, and for folders more than `_MOST_DEEP` within each other.
        """
        left = [most_seen]
        with self.opened_folder(path) as descriptor:
            yield from _walk(descriptor, "", left, path, skipped)


def _walk(folder: int, prefix: str, left: list[int], path: str, skipped: Collection[str]) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False))
                           for entry in islice(entries, left[0] + 1))  # fmt: skip
    except OSError:
        return  # a folder that may not be read, or is gone again: the others can still be told of
    for name, is_folder, is_file in found:
        left[0] -= 1
        if left[0] < 0:
            raise ToolFailure(f"{named(path)} holds too many files: name a folder further down")
        if is_file:
            yield prefix + name, stat.S_IFREG
        elif is_folder and name not in skipped:
            yield prefix + name, stat.S_IFDIR
            if prefix.count("/") >= _MOST_DEEP:
                raise ToolFailure(
                    f"{named(path)} holds folders more than {_MOST_DEEP} deep: name a folder further down"
                )
            try:
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            except OSError:
                continue
            try:
                yield from _walk(below, f"{prefix}{name}/", left, path, skipped)
            finally:
                os.close(below)


def _protected_below(root: int, rules: Sequence[ProtectedPath]) -> list[str]:
    """Paths of what is protected, folders at the top first; what cannot be read is passed over."""
    found: list[str] = []
    folders = deque([""])
    left = _MOST_LOOKED_AT
    while folders and left > 0 and len(found) < _MOST_HELD:
        folder = folders.popleft()
        try:
            descriptor = open_by_steps(root, folder or ".", _FOLDER)
        except OSError:
            continue
        try:
            with os.scandir(descriptor) as entries:
                for entry in islice(entries, left):
                    left -= 1
                    path = f"{folder}{entry.name}"
                    if protection_of(path.split("/"), rules):
                        found.append(path)
                    elif entry.is_dir(follow_symlinks=False) and _is_worked_in(folder):
                        folders.append(f"{path}/")
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return found[:_MOST_HELD]


def _is_worked_in(folder: str) -> bool:
    return not folder.endswith(_HEAVY) and folder.count("/") < _MOST_DEEP


def failure(path: str, error: OSError) -> ToolFailure:
    """What the system said of a path, in words that help."""
    words = _WORDS.get(error.errno or 0) or f"cannot be used ({error.strerror or error})"
    return ToolFailure(f"{named(path)} {words}")


def _all_of(descriptor: int, path: str, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while piece := os.read(descriptor, min(1 << 20, most_bytes + 1 - length)):
        pieces.append(piece)
        length += len(piece)
        if length > most_bytes:
            size = max(length, os.fstat(descriptor).st_size)
            raise ToolFailure(
                f"{named(path)} has {size} bytes, and at most {most_bytes} are read: "
                "search it with grep, or take a part of it with bash"
            )
    return b"".join(pieces)


def _mode_to_keep(folder: int, path: str, name: str) -> int | None:
    """The mode of the file that would be replaced, None where there is none. ToolFailure where it must stay."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(there.st_mode):
        target = clean_line(os.readlink(name, dir_fd=folder))
        raise ToolFailure(f"{named(path)} is a link to {target}: write to the file itself")
    if not stat.S_ISREG(there.st_mode):
        what = next((words for is_it, words in _KINDS if is_it(there.st_mode)), "no file")
        raise ToolFailure(f"{named(path)} is {what}: only files can be written")
    if there.st_nlink > 1:
        raise ToolFailure(
            f"{named(path)} has {there.st_nlink} names (hard links), and some may lie outside of the root: "
            "it is not changed; copy it to a new name first"
        )
    return stat.S_IMODE(there.st_mode)


def _replace(folder: int, name: str, data: bytes, mode: int | None) -> None:
    """Write a file beside it and give it the name: readers see the one or the other, and links are never written to."""
    temporary = f".{secrets.token_hex(8)}.swarm-tmp"
    descriptor = os.open(temporary, _NEW, 0o666, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(file.fileno(), mode & 0o777)  # nothing that was written here runs as somebody else
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _path_of(descriptor: int) -> str | None:
    """The path of an open folder as the system knows it, None where it does not say."""
    if sys.platform == "darwin":
        import fcntl

        try:
            return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, b"\0" * 1024).rstrip(b"\0"))
        except OSError:
            return None
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return None


def parts_by_steps(root: int, folder: int, path: str) -> tuple[str, ...]:
    """The names down to an open folder, found by going up from it: each is looked for among its parent's entries."""
    top = os.fstat(root)
    parts: list[str] = []
    here = os.dup(folder)
    try:
        while not os.path.samestat(at := os.fstat(here), top):
            above = os.open("..", _FOLDER, dir_fd=here)
            os.close(here)
            here = above
            if os.path.samestat(at, os.fstat(here)):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)  # the top of everything, and no root met
            parts.append(_name_in(here, at))
        return tuple(reversed(parts))
    finally:
        os.close(here)


def _name_in(folder: int, wanted: os.stat_result) -> str:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.inode() == wanted.st_ino and os.path.samestat(entry.stat(follow_symlinks=False), wanted):
                return entry.name
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
