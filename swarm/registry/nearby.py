"""Files that other nodes of the swarm have, as a download sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from swarm.registry.file_hashes import FileHashes
from swarm.registry.hub import Progress


class Nearby(Protocol):
    """Asks peers. Every method blocks, and none raises for what a peer does."""

    def sizes(self) -> dict[str, int]:
        """The files to be had, by sha256, and how large they are said to be."""
        ...

    def sha256_of(self, name: str) -> str | None:
        """What peers that may be believed say of OWNER/REPO/FILE, where all that have it agree; else None."""
        ...

    def fetch(self, sha256: str, partial: Path, progress: Progress) -> FileHashes | None:
        """Copy a file to `partial`; its hashes once all of it is there, on disk, and its sha256 is the wanted one.

        For None `partial` holds a proved beginning of the file, or does not exist: the internet can go on from
        it, and so can the next call. Raises OSError where the disk cannot take it.
        """
        ...
