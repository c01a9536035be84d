"""Asking one peer for model files. Every function raises PeerError and nothing else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from federation import wire
from federation.client import PeerClient
from federation.errors import PeerProtocolError
from federation.files import (
    MAX_LIST_BYTES,
    MAX_PIECES_BYTES,
    PieceHashes,
    SharedFile,
    parse_file_list,
    parse_pieces,
)
from federation.hostport import Address

LIST_TIMEOUT_S: Final = 5.0  # a disk that sleeps wakes up in this time
PIECE_TIMEOUT_S: Final = 60.0  # 140 KB/s: whoever is slower costs more than another source, or the internet


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
