"""One data directory, one running node: a lock that the system frees however the process ends.

Two at once would share an identity, overwrite each other's control file, and be taken for a copy by everybody else.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from federation.identity import display_name
from federation.small_files import remove_temporaries
from swarm.errors import SetupError

LOCK_FILE: Final = "node.lock"  # never removed: whoever waits at a removed file and whoever makes a new one both lock
_MAX_HOLDER_BYTES: Final = 256  # a process id and a name of at most 192 bytes
_HELD = frozenset({errno.EWOULDBLOCK, errno.EACCES})

log = logging.getLogger(__name__)


def hold_folder(data_dir: Path, name: str | None) -> BinaryIO:
    """Make `data_dir` this node's alone until the file is closed, or the process gone. Blocks.

    Raises SetupError with the remedy where another node has it, or where it cannot be written.
    """
    path = data_dir / LOCK_FILE
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # for a key; a folder that is there stays so
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)  # no child inherits it
    except OSError as error:
        raise SetupError(
            f"cannot write {path} ({error.strerror}): make its folder writable, or use --data-dir"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            with file:
                raise SetupError(_taken_words(data_dir, file.read(_MAX_HOLDER_BYTES))) from error
        log.warning("%s cannot be locked (%s): start no second node with this folder", path, error.strerror)
        return file
    with suppress(OSError):  # a full disk takes the words, not the lock
        file.truncate()
        file.write(f"{os.getpid()} {display_name(name)}".encode())
    remove_temporaries(data_dir)
    return file


@contextmanager
def folder_at_rest(data_dir: Path) -> Generator[None]:
    """For a command that changes what a node keeps while none runs: no node starts on it meanwhile. Blocks.

    A node that starts or hangs holds the folder, and would write over what was changed without it. Raises SetupError.
    """
    if not data_dir.is_dir():  # there is nothing to hold yet, and a command that only fails makes no folder
        yield
        return
    try:
        file = hold_folder(data_dir, None)
    except SetupError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _HELD:
            raise
        raise SetupError(
            f"a node holds {data_dir} and does not answer: it starts, stops or hangs; try again in a moment"
        ) from error
    with file:
        yield


def _taken_words(data_dir: Path, holder: bytes) -> str:
    pid, _, name = holder.decode(errors="replace").partition(" ")
    who = f" ({name}, process {pid})" if pid.isdecimal() and name else ""
    return (
        f"another node{who} runs with the data directory {data_dir} already: one folder is one node. "
        "For a second one on this machine give it --data-dir OTHER and --port N"
    )
