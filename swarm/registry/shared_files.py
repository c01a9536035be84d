"""The files that this node gives its peers: those that it downloaded into its models folder, found by their sha256.

A peer names a hash and never a path. Only plain files are opened, and no link is followed on the way to one: what a
link in the models folder points to was never meant to be shared.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from federation.file_exchange import MAX_FILE_BYTES, MAX_FILES, MAX_NAME_CHARS, PieceHashes, SharedFile
from swarm.errors import SetupError, UnknownFile
from swarm.registry.file_hashes import FileHashes, hash_bytes, keep_hashes, kept_hashes
from swarm.registry.names import MAX_HUB_FOLDERS, check_hub_file

SHARED_SUFFIXES = (".gguf", ".safetensors")
MAX_VISITED = 20_000  # folder entries looked at: a models folder has some hundred
RESCAN_S = 2.0  # a list this old is good enough for whoever asks next

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe must not hang


@dataclass(frozen=True, slots=True)
class _Found:
    """A file below the models folder, by the names of the folders that lead to it; as it was when it was found."""

    parts: tuple[str, ...]
    size_bytes: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """OWNER/REPO/FILE."""
        return "/".join((self.parts[0].replace("--", "/", 1), *self.parts[1:]))


class SharedFiles:
    """What lies in `models_dir`. Every method blocks and may be called from any thread.

    A list of it that is `rescan_s` old is made anew for whoever asks.
    """

    def __init__(self, models_dir: Path, rescan_s: float = RESCAN_S) -> None:
        self._root = models_dir
        self._rescan_s = rescan_s
        self._lock = threading.Lock()
        self._hashes: dict[_Found, FileHashes | None] = {}
        self._by_sha256: Mapping[str, tuple[_Found, FileHashes]] = {}
        self._scanned_at: float | None = None

    @property
    def folder(self) -> Path:
        return self._root

    def listed(self) -> tuple[SharedFile, ...]:
        """What is told to peers: the files whose hashes are known."""
        self._rescan(self._rescan_s)
        return tuple(
            SharedFile(sha256=sha256, size_bytes=found.size_bytes, name=found.name)
            for sha256, (found, _) in self._by_sha256.items()
        )

    def pieces(self, sha256: str) -> PieceHashes:
        """The hashes of a file's pieces. Raises UnknownFile."""
        return self._known(sha256)[1].shared

    def open(self, sha256: str) -> tuple[BinaryIO, int]:
        """A file, open for reading, and its size. Raises UnknownFile, too, where it is not what it was any more."""
        found, _ = self._known(sha256)
        try:
            return _open_unchanged(self._root, found), found.size_bytes
        except OSError as error:
            raise UnknownFile(sha256) from error

    def hash_one(self, stop: threading.Event) -> bool:
        """Hash the next file whose hashes nobody knows; whether there was one. Raises WorkStopped."""
        self._rescan(max_age_s=0.0)
        found = next((found for found, hashes in self._hashes.items() if hashes is None), None)
        if found is None:
            return False
        try:
            with _open_unchanged(self._root, found) as file:
                hashes = hash_bytes(file, stop, gently=True)
        except OSError:
            hashes = None
        if hashes is not None and hashes.size_bytes == found.size_bytes:
            keep_hashes(self._root.joinpath(*found.parts), hashes, found.mtime_ns)
            self._note(found, hashes)
        else:
            self._note(found, FileHashes(0, "", ()))  # unreadable, or changing: not asked again before it changes
        return True

    def _known(self, sha256: str) -> tuple[_Found, FileHashes]:
        for max_age_s in (float("inf"), self._rescan_s):
            self._rescan(max_age_s)
            if (known := self._by_sha256.get(sha256)) is not None:
                return known
        raise UnknownFile(sha256)

    def _rescan(self, max_age_s: float) -> None:
        """Look at the folder again, unless somebody did so within `max_age_s`."""
        with self._lock:
            if self._scanned_at is not None and time.monotonic() - self._scanned_at < max_age_s:
                return
            before = self._hashes
            self._hashes = {found: before.get(found) or _kept(self._root, found) for found in _walk(self._root)}
            self._scanned_at = time.monotonic()
            self._index()

    def _note(self, found: _Found, hashes: FileHashes) -> None:
        with self._lock:
            if found in self._hashes:
                self._hashes[found] = hashes
                self._index()

    def _index(self) -> None:
        self._by_sha256 = {
            hashes.sha256: (found, hashes) for found, hashes in self._hashes.items() if hashes and hashes.pieces
        }


def _kept(root: Path, found: _Found) -> FileHashes | None:
    path = root.joinpath(*found.parts)
    try:
        return kept_hashes(path, path.stat(follow_symlinks=False))
    except OSError:
        return None


def _walk(root: Path) -> Iterator[_Found]:
    """Every file to share: below a folder OWNER--REPO, as downloads make them, and by no link. Bounded."""
    pending: list[tuple[str, ...]] = [()]
    visited = yielded = 0
    while pending and visited < MAX_VISITED:
        parts = pending.pop(0)
        try:
            entries = sorted(os.scandir(root.joinpath(*parts)), key=lambda entry: entry.name)
        except OSError:  # absent, or not ours to read
            continue
        for entry in entries[: MAX_VISITED - visited]:
            visited += 1
            here = (*parts, entry.name)
            if entry.is_dir(follow_symlinks=False):
                if _is_folder_to_share(here):
                    pending.append(here)
            elif parts and yielded < MAX_FILES and (found := _to_share(here, entry)) is not None:
                yielded += 1
                yield found


def _is_folder_to_share(parts: Sequence[str]) -> bool:
    owner, separator, repo = parts[0].partition("--")
    named = bool(separator and owner and repo) and not parts[-1].startswith(".")
    return named and len(parts) <= MAX_HUB_FOLDERS


def _to_share(parts: tuple[str, ...], entry: os.DirEntry[str]) -> _Found | None:
    if not entry.name.endswith(SHARED_SUFFIXES) or not entry.is_file(follow_symlinks=False):
        return None
    try:
        check_hub_file("/".join(parts[1:]))
        status = entry.stat(follow_symlinks=False)
    except (OSError, SetupError):
        return None
    found = _Found(parts, status.st_size, status.st_mtime_ns)
    return found if 0 < found.size_bytes <= MAX_FILE_BYTES and len(found.name) <= MAX_NAME_CHARS else None


def _open_unchanged(root: Path, found: _Found) -> BinaryIO:
    """The file, if it is the plain file that was found. Raises OSError."""
    file = os.fdopen(_open_inside(root, found.parts), "rb")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != (found.size_bytes, found.mtime_ns):
        file.close()
        raise FileNotFoundError(found.name)
    return file


def _open_inside(root: Path, parts: Sequence[str]) -> int:
    """A descriptor of what `parts` lead to below `root`, whatever links are put in the way. Raises OSError."""
    if os.open not in os.supports_dir_fd or not _NO_FOLLOW:  # Windows
        path = root.joinpath(*parts)
        if path.resolve() != root.resolve().joinpath(*parts):
            raise FileNotFoundError(str(path))
        return os.open(path, _PLAIN)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _PLAIN, dir_fd=folder)
    finally:
        os.close(folder)
