"""Model files between nodes: what a node says it shares, what it says of each piece of a file, and asking it for them.

Nothing that a peer says is believed: a file counts once its sha256 is the one that was wanted. The hashes of its pieces
only show early, and whose fault it is, that it will not be. Functions that ask raise PeerError and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, Field, ValidationError

from federation import wire
from federation.client import PeerClient
from federation.errors import PeerProtocolError
from federation.hostport import Address
from federation.printable_text import printable
from federation.wire import WireModel, first_problem

SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
PIECE_BYTES: Final = 8 << 20  # held in memory until it is proved, once for each stream; a second or two of Wi-Fi
MAX_FILE_BYTES: Final = 64 << 30  # hubs take files up to 50 GB; larger models come in parts
MAX_PIECES: Final = MAX_FILE_BYTES // PIECE_BYTES
MAX_FILES: Final = 512  # of one node: at 2 GB a file a terabyte
MAX_NAME_CHARS: Final = 512  # OWNER/REPO/ and a path of four folders at most
MAX_LIST_BYTES: Final = 512 * 1024  # MAX_FILES of usual names are under 128 KiB
MAX_PIECES_BYTES: Final = 1 << 20  # MAX_PIECES hashes in JSON are 550 KB
LIST_TIMEOUT_S: Final = 5.0  # a disk that sleeps wakes up in this time
PIECE_TIMEOUT_S: Final = 60.0  # 140 KB/s: whoever is slower costs more than another source, or the internet
_SHA256 = re.compile(SHA256_PATTERN.strip("^$"))

Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]
SizeBytes = Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]


class SharedFile(WireModel):
    """A file that can be asked for by `sha256`; `name` is OWNER/REPO/FILE as on the hub, for information only."""

    sha256: Sha256
    size_bytes: SizeBytes
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(printable)]


class FileList(WireModel):
    """The body of GET models."""

    files: Annotated[tuple[SharedFile, ...], Field(max_length=MAX_FILES)] = ()


class PieceHashes(WireModel):
    """The body of GET models/SHA256/pieces: the sha256 of each run of PIECE_BYTES; the last one may be shorter."""

    size_bytes: SizeBytes
    piece_bytes: Annotated[int, Field(ge=PIECE_BYTES, le=PIECE_BYTES)] = PIECE_BYTES
    pieces: Annotated[tuple[Sha256, ...], Field(min_length=1, max_length=MAX_PIECES)]

    def span(self, piece: int) -> tuple[int, int]:
        """Where `piece` begins, and its size."""
        start = piece * PIECE_BYTES
        return start, min(PIECE_BYTES, self.size_bytes - start)


def is_sha256(text: str) -> bool:
    """Whether `text` is a sha256 in lower-case hex, the only thing that ever addresses a file."""
    return _SHA256.fullmatch(text) is not None


def piece_count(size_bytes: int) -> int:
    return -(-size_bytes // PIECE_BYTES)


def parse_file_list(raw: bytes) -> tuple[SharedFile, ...]:
    """The answer of GET models. Raises PeerProtocolError."""
    try:
        return FileList.model_validate_json(raw).files
    except ValidationError as error:
        raise PeerProtocolError(f"does not list files: {first_problem(error)}") from error


def parse_pieces(raw: bytes) -> PieceHashes:
    """The answer of GET models/SHA256/pieces. Raises PeerProtocolError, too, where count and size do not agree."""
    try:
        found = PieceHashes.model_validate_json(raw)
    except ValidationError as error:
        raise PeerProtocolError(f"does not list pieces: {first_problem(error)}") from error
    if len(found.pieces) != piece_count(found.size_bytes):
        raise PeerProtocolError(f"lists {len(found.pieces)} pieces of a file of {found.size_bytes} bytes")
    return found


@dataclass(frozen=True, slots=True)
class FilePeer:
    """A node that may have files."""

    id: str
    label: str
    address: Address


async def list_files(client: PeerClient, peer: FilePeer) -> tuple[SharedFile, ...]:
    """What `peer` shares."""
    raw = await client.get_json(peer.address, wire.MODELS_PATH, LIST_TIMEOUT_S, limit_bytes=MAX_LIST_BYTES)
    with _said_by(peer):
        return parse_file_list(raw)


async def piece_hashes(client: PeerClient, peer: FilePeer, sha256: str) -> PieceHashes:
    """What `peer` says of the pieces of a file."""
    path = f"{wire.MODELS_PATH}/{sha256}{wire.PIECES_SUFFIX}"
    raw = await client.get_json(peer.address, path, LIST_TIMEOUT_S, limit_bytes=MAX_PIECES_BYTES)
    with _said_by(peer):
        return parse_pieces(raw)


async def read_piece(client: PeerClient, peer: FilePeer, sha256: str, span: tuple[int, int]) -> bytes:
    """The bytes of one piece, as many as asked for, unproved."""
    start, size_bytes = span
    return await client.get_range(peer.address, f"{wire.MODELS_PATH}/{sha256}", start, size_bytes, PIECE_TIMEOUT_S)


@contextmanager
def _said_by(peer: FilePeer) -> Generator[None]:
    try:
        yield
    except PeerProtocolError as error:
        raise PeerProtocolError(f"{peer.label} {error}") from error
