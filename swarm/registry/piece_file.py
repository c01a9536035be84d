"""A file that arrives in pieces, in any order: only proved pieces are ever written, and what is on disk proves itself.

    FILE.HASH.pieces    pieces with holes between them
    FILE.HASH           a beginning without holes, as downloads from the hub continue

After a cut the pieces are hashed again: no list of them is kept that a crash could make a lie.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection
from pathlib import Path

from federation.file_exchange import PieceHashes
from swarm.registry.file_hashes import FileHashes, WorkStopped, hash_file

PIECES_SUFFIX = ".pieces"


def pieces_path(partial: Path) -> Path:
    return partial.with_name(partial.name + PIECES_SUFFIX)


def taken_bytes(path: Path) -> int:
    """What a file takes of the disk: holes take nothing. 0 where it is gone, and as long as it looks on Windows."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, found.st_blocks * 512) if hasattr(found, "st_blocks") else found.st_size


class PieceFile:
    """The pieces of one file on disk. Every method blocks and may be called from several threads at once.

    What reads all of the file raises WorkStopped soon after `stop` is set.
    """

    def __init__(self, partial: Path, hashes: PieceHashes) -> None:
        self._partial = partial
        self._path = pieces_path(partial)
        self._hashes = hashes
        self._lock = threading.Lock()

    def found(self, stop: threading.Event | None = None) -> frozenset[int]:
        """The pieces that are here and right; what a download from the hub has left counts. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._partial.is_file() and not self._path.exists():
            self._partial.replace(self._path)
        self._path.touch()
        size_bytes = self._path.stat().st_size
        if size_bytes > self._hashes.size_bytes:
            os.truncate(self._path, self._hashes.size_bytes)
        with self._path.open("rb") as file:
            right: set[int] = set()
            for piece in range(len(self._hashes.pieces)):
                start, length = self._hashes.span(piece)
                if start >= size_bytes:
                    break
                if stop is not None and stop.is_set():
                    raise WorkStopped
                file.seek(start)
                if self._is_right(piece, file.read(length)):
                    right.add(piece)
        return frozenset(right)

    def store(self, piece: int, data: bytes) -> bool:
        """Write a piece if it is right; whether it was. Raises OSError."""
        if not self._is_right(piece, data):
            return False
        with self._lock, self._path.open("r+b") as file:
            file.seek(self._hashes.span(piece)[0])
            file.write(data)
        return True

    def finish(self, sha256: str, stop: threading.Event | None = None) -> FileHashes | None:
        """The hashes of the whole, on disk under the partial name, if it is the file wanted. Raises OSError."""
        found = hash_file(self._path, stop)
        if found.sha256 != sha256:
            return None
        with self._path.open("r+b") as file:
            os.fsync(file.fileno())
        self._path.replace(self._partial)
        return found

    def hand_over(self, right: Collection[int]) -> None:
        """Leave the beginning up to the first hole under the partial name. Raises OSError."""
        first_hole = next((n for n in range(len(self._hashes.pieces)) if n not in right), len(self._hashes.pieces))
        kept_bytes = min(self._hashes.span(first_hole)[0], self._hashes.size_bytes)
        if not self._path.exists():
            return
        if not kept_bytes:
            self._path.unlink()
            return
        os.truncate(self._path, kept_bytes)
        self._path.replace(self._partial)

    def _is_right(self, piece: int, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self._hashes.pieces[piece]
