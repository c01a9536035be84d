"""The hashes of a model file, computed once and kept beside it, for as long as its size and time stay the same.

    models/OWNER--REPO/FILE
    models/OWNER--REPO/.FILE.hashes

Hashing reads the whole file, minutes for large ones: run it in a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.file_exchange import (
    MAX_PIECES,
    MAX_PIECES_BYTES,
    PIECE_BYTES,
    PieceHashes,
    Sha256,
    SizeBytes,
    piece_count,
)
from federation.small_files import write_atomically

HASH_CHUNK_BYTES = 1 << 20

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileHashes:
    """What a file's bytes come to: as a whole, and each piece."""

    size_bytes: int
    sha256: str
    pieces: tuple[str, ...]

    @property
    def shared(self) -> PieceHashes:
        """As peers are told. Only for files that may be shared: not empty, not too large."""
        return PieceHashes(size_bytes=self.size_bytes, pieces=self.pieces)


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Literal[1] = 1
    size_bytes: SizeBytes
    mtime_ns: int
    sha256: Sha256
    pieces: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=MAX_PIECES)]


class WorkStopped(Exception):
    """Work on a file was told to stop."""


async def stoppable(work: Callable[[threading.Event], T]) -> T:
    """What `work` returns, done in a thread. Being cancelled sets the event, which makes it raise WorkStopped.

    A loop that closes waits for its threads.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()


def hash_bytes(file: BinaryIO, stop: threading.Event | None = None, *, gently: bool = False) -> FileHashes:
    """The hashes of an open file, from where it stands. Blocks. Raises WorkStopped soon after `stop` is set.

    `gently` is for work that nobody waits for: it takes half of one core.
    """
    whole, size_bytes = hashlib.sha256(), 0
    pieces: list[str] = []
    piece = hashlib.sha256()
    began_at = time.monotonic()
    while chunk := file.read(HASH_CHUNK_BYTES):  # chunks divide pieces evenly
        if stop is not None and stop.wait(time.monotonic() - began_at if gently else 0):
            raise WorkStopped
        began_at = time.monotonic()
        whole.update(chunk)
        piece.update(chunk)
        size_bytes += len(chunk)
        if size_bytes % PIECE_BYTES == 0:
            pieces.append(piece.hexdigest())
            piece = hashlib.sha256()
    if size_bytes % PIECE_BYTES:
        pieces.append(piece.hexdigest())
    return FileHashes(size_bytes, whole.hexdigest(), tuple(pieces))


def hash_file(path: Path, stop: threading.Event | None = None) -> FileHashes:
    """The hashes of the file at `path`. Blocks. Raises OSError, and WorkStopped soon after `stop` is set."""
    with path.open("rb") as file:
        return hash_bytes(file, stop)


def hashes_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.hashes")


def kept_hashes(path: Path, found: os.stat_result) -> FileHashes | None:
    """What was kept of the file at `path`; None where nothing was, or it is of another size or time now."""
    try:
        with hashes_path(path).open("rb") as file:
            kept = _Kept.model_validate_json(file.read(MAX_PIECES_BYTES))
    except (OSError, ValidationError):
        return None
    is_same = (kept.size_bytes, kept.mtime_ns) == (found.st_size, found.st_mtime_ns)
    is_whole = len(kept.pieces) == piece_count(kept.size_bytes)
    return FileHashes(kept.size_bytes, kept.sha256, kept.pieces) if is_same and is_whole else None


def keep_hashes(path: Path, hashes: FileHashes, mtime_ns: int) -> None:
    """Keep `hashes` beside the file at `path`. Never raises: where it cannot, they are computed again some time."""
    if not 0 < len(hashes.pieces) <= MAX_PIECES:
        return
    try:
        kept = _Kept(
            size_bytes=hashes.size_bytes, mtime_ns=mtime_ns, sha256=hashes.sha256, pieces=hashes.pieces
        ).model_dump_json()
        write_atomically(hashes_path(path), kept.encode())
    except OSError as error:
        log.info("cannot keep the hashes of %s (%s)", path, error.strerror)
