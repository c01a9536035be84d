"""The addresses given with --peer, kept in the data directory so that they need to be given only once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.advertisement import Host
from federation.atomic_file import write_atomically
from federation.hostport import MAX_PORT, Address
from federation.timing import MAX_STATIC

PEERS_FILE = "peers.json"
_MAX_FILE_BYTES = 64 * 1024  # MAX_STATIC entries of the longest legal host name are under 20 KiB

_log = logging.getLogger(__name__)


class _StoredPeer(BaseModel):
    model_config = ConfigDict(extra="ignore")
    host: Host
    port: Annotated[int, Field(ge=1, le=MAX_PORT)]


class _StoredPeers(BaseModel):
    model_config = ConfigDict(extra="ignore")
    peers: Annotated[tuple[_StoredPeer, ...], Field(max_length=MAX_STATIC)] = ()


def load_peers(data_dir: Path) -> tuple[Address, ...]:
    """The kept addresses; none, with a warning, when the file cannot be used. Blocks, never raises."""
    path = data_dir / PEERS_FILE
    try:
        with path.open("rb") as file:
            stored = _StoredPeers.model_validate_json(file.read(_MAX_FILE_BYTES))
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        _log.warning(
            "ignoring %s, it cannot be used (%s): give the peers again with --peer", path, type(error).__name__
        )
        return ()
    return tuple(dict.fromkeys(Address(peer.host, peer.port) for peer in stored.peers))


def save_peers(data_dir: Path, addresses: Iterable[Address]) -> None:
    """Keep the first MAX_STATIC addresses. Blocks, never raises: a full disk is a warning."""
    kept = list(addresses)[:MAX_STATIC]
    stored = _StoredPeers(peers=tuple(_StoredPeer(host=address.host, port=address.port) for address in kept))
    path = data_dir / PEERS_FILE
    try:
        write_atomically(path, stored.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        _log.warning("cannot write %s (%s): the peers will have to be given again with --peer", path, error.strerror)
