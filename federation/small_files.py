"""Small files on disk: reading one that a person wrote, within a bound, and writing one so that no crash can spoil it.

A crash while writing leaves the old content or the new, never a mixture. A process that is killed in between leaves a
temporary file behind; `remove_temporaries` removes it at the next start.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from federation.errors import FederationError

TEMPORARY_SUFFIX: Final = ".swarm-tmp"  # of nobody else's files
MAX_REMOVED: Final = 10_000  # in one folder at one start: more are left for the next
_TEMPORARY: Final = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(TEMPORARY_SUFFIX)}")
_FORMER_TEMPORARY: Final = re.compile(  # of earlier versions, in the data directory
    r"\.(?:node\.pem|roster\.json|peers\.json|control\.json|weights\.json)\.[a-z0-9_]{8}"
)
_FOLDER_MODE: Final = 0o700  # what is written here is for its owner
_NO_FOLDER_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EISDIR})
_log = logging.getLogger(__name__)


class TextFileError(FederationError):
    """A file that cannot be read, or is too large to be what it should be."""


def read_text_file(path: Path, option: str, max_bytes: int) -> str:
    """The text, what is no UTF-8 replaced. Blocks. Raises TextFileError naming the `option` and the file."""
    try:
        with path.expanduser().open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise TextFileError(f"cannot read {option} {path}: {error.strerror}") from error
    if len(raw) > max_bytes:
        raise TextFileError(f"{option} {path} is larger than {max_bytes} bytes")
    return raw.decode("utf-8-sig", errors="replace")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` (its folder is made), mode 0600, on disk when it returns. Blocks. Raises OSError; no litter stays.

    Where only the last step fails, the folder's own writing to disk, the new content stands and OSError is raised.
    """
    path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX)
    try:
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)  # noqa: PTH105 - one call to the system, as everything here
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    sync_folder(path.parent)


def remove_durably(path: Path) -> None:
    """Remove `path` if it is there; gone from the disk when it returns. Blocks. Raises OSError."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk know which files the folder has. Blocks. Raises OSError; some systems cannot, and need not."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # may be written and not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, older_than_s: float = 0.0) -> int:
    """Remove what a killed process left in the folder itself; how many. Blocks, never raises.

    Only where nobody else writes now: whoever calls has the folder to itself, or spares what is young.
    """
    removed = 0
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _is_temporary(entry.name)][:MAX_REMOVED]
    except OSError:
        return 0
    for name in names:
        path = folder / name
        with suppress(OSError):
            found = path.lstat()
            is_ours = stat.S_ISREG(found.st_mode) and (os.name != "posix" or found.st_uid == os.geteuid())
            if is_ours and time.time() - found.st_mtime >= older_than_s:
                path.unlink()
                removed += 1
    if removed:
        _log.info("removed %d temporary files that a killed process left in %s", removed, folder)
    return removed


def _is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None or _FORMER_TEMPORARY.fullmatch(name) is not None


def _write_all(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]
