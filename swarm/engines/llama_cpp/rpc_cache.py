"""The large tensors that one guest's RPC servers have kept (`ggml-rpc-server -c`), so that they are not sent again.

The server names a file by a hash of what is in it, FNV-1a with 64 bits, for which anybody can make another content. So
each guest has a folder of its own: it could deceive nobody but itself. And the server believes a file that is there,
whole or not: what was being written when a server was killed is removed, and where a node was killed with it, whatever
that server wrote. All of it blocks.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from federation.lending import MEMORY_ENDED, SERVER_ENDED
from swarm.engines.llama_cpp.rpc_confinement import RpcEnd
from swarm.registry.model_memory import GIB, size_text

IN_USE: Final = ".in-use"  # beside the folder NAME, as NAME.in-use: a server writes there, or wrote when all was killed
LEAST_FREE_BYTES: Final = 2 * GIB  # of the disk, below which nothing is kept
_HASH: Final = re.compile(r"[0-9a-f]{16}")


class RpcCache:
    """The folder of one guest, which is made when it is first `opened`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = folder.with_name(folder.name + IN_USE)

    def opened(self) -> None:
        """Before a server is given it. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(OSError):
            since = self._mark.stat().st_mtime
            for path in self._files():
                if path.stat().st_mtime >= since - 1.0:  # clocks of file systems are coarse
                    path.unlink()
        self._mark.touch(mode=0o600)
        os.utime(self._mark)

    def closed(self, half_written: tuple[str, ...]) -> None:
        """After its server has ended, which was writing these."""
        for name in half_written:
            if _HASH.fullmatch(name):
                (self._folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # the owner may have deleted all of it meanwhile
            for path in self._folder.iterdir():
                if not _HASH.fullmatch(path.name) or path.is_symlink() or not path.is_file():
                    _removed(path)  # no server of llama.cpp makes such a thing
        self._mark.unlink(missing_ok=True)

    def overfull(self, most_bytes: int) -> RpcEnd | None:
        """Why a server has to end that wrote more than it can have been sent, or fills the disk; None where it may go
        on."""
        with suppress(OSError):
            since = self._mark.stat().st_mtime - 1.0
            sizes = [status.st_size for path in self._files() if (status := path.stat()).st_mtime >= since]
            if sum(sizes) > most_bytes:
                return RpcEnd(
                    MEMORY_ENDED, f"it kept {size_text(sum(sizes))} on the disk where {size_text(most_bytes)} were lent"
                )
            if sizes and shutil.disk_usage(self._folder).free < LEAST_FREE_BYTES // 2:
                return RpcEnd(SERVER_ENDED, "the lender's disk is nearly full")  # which is not its guest's doing
        return None

    def _files(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if _HASH.fullmatch(path.name) and path.is_file()]


def cache_for(root: Path, guest: str, bytes_: int) -> Path | None:
    """The folder in `root` of the guest with this node id; None where the disk has no room for so many bytes more."""
    with suppress(OSError):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(root).free >= bytes_ + LEAST_FREE_BYTES:
            return root / guest
    return None


def pruned(root: Path, most_bytes: int) -> int:
    """Remove what was used longest ago until all guests together keep `most_bytes` at most; how many bytes stay.

    Not while a server runs.
    """
    found: list[tuple[float, int, Path]] = []
    with suppress(OSError):
        for path in root.glob("*/*"):
            with suppress(OSError):
                status = path.stat()
                found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    kept_bytes = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if kept_bytes <= most_bytes:
            break
        with suppress(OSError):
            path.unlink()
            kept_bytes -= size
    return kept_bytes


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
