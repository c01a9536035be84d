"""Peers that a person named: --peer, kept in the data directory so that it is needed only once, and --peer-file.

The file lists one HOST:PORT a line, and is read again whenever it changes. Host names are looked up by `dns_source.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.advertisement import Host
from federation.errors import AddressError
from federation.hostport import MAX_PORT, Address, parse_address
from federation.small_files import TextFileError, read_text_file, write_atomically
from federation.timing import MAX_STATIC

PEERS_FILE = "peers.json"

LOOK_EVERY_S: Final = 5.0  # one stat; whoever edits the list does not wait for a restart
MAX_FILE_BYTES: Final = 64 * 1024  # of --peer-file: MAX_STATIC of the longest legal names, and comments
_MAX_STORED_BYTES = 64 * 1024  # of PEERS_FILE: MAX_STATIC entries of the longest legal host name are under 20 KiB

_log = logging.getLogger(__name__)


def parse_list(text: str) -> tuple[Address, ...]:
    """The addresses, `#` begins a comment. Raises AddressError naming the line."""
    found: list[Address] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", maxsplit=1)[0].strip()
        try:
            found += [parse_address(words)] if words else []
        except AddressError as error:
            raise AddressError(f"line {number}: {error}") from error
    if len(found) > MAX_STATIC:
        raise AddressError(f"{len(found)} peers, more than {MAX_STATIC}: one of a swarm is enough, it knows the rest")
    return tuple(dict.fromkeys(found))


def read_list(path: Path) -> tuple[Address, ...]:
    """The addresses in the file. Blocks. Raises AddressError with the remedy."""
    try:
        return parse_list(read_text_file(path, "--peer-file", MAX_FILE_BYTES))
    except TextFileError as error:
        raise AddressError(str(error)) from error
    except AddressError as error:
        raise AddressError(f"--peer-file {path}, {error}") from error


class StaticList:
    """Tells `listed` of the file's addresses, and again after each change, as long as `run` runs.

    While the file cannot be used, what it listed before stands.
    """

    def __init__(
        self, path: Path, listed: Callable[[tuple[Address, ...]], None], every_s: float = LOOK_EVERY_S
    ) -> None:
        self._path = path
        self._listed = listed
        self._every_s = every_s
        self._last: tuple[Address, ...] | None = None
        self._complaint: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Read the file now. A few lines: cheaper than to trust that every system dates a change."""
        try:
            addresses = await asyncio.to_thread(read_list, self._path)
        except AddressError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("%s; the peers that it listed before stay", error)
            return
        self._complaint = None
        if addresses != self._last:
            self._last = addresses
            self._listed(addresses)


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
            stored = _StoredPeers.model_validate_json(file.read(_MAX_STORED_BYTES))
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
