"""One download of a repository at a time on this machine: two would write to one partial file. The second one waits."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm.errors import SetupError
from swarm.registry.hub import Progress
from swarm.registry.piece_file import taken_bytes

PARTIAL_FOLDER = ".partial"
SPARE_DISK_BYTES = 256 << 20  # kept free: a full disk stops more than us
LOCK_WAIT_S = 1.0  # between two looks at how far the other one is
MAX_STILL = 120  # looks without a byte more; the other one is then asleep, or stopped by somebody


def folder_name(repo: str) -> str:
    """`OWNER--REPO`: neither may hold a double hyphen, so no two repositories share a folder."""
    return repo.replace("/", "--")


@contextmanager
def locked(models_dir: Path, repo: str, progress: Progress) -> Generator[None]:
    """Alone with the partial files of `repo`; shows the progress of another download while that goes on.

    Raises SetupError where the other one does not get on. Who dies, dies with the lock.
    """
    filelock: Any = importlib.import_module("filelock")  # comes with huggingface_hub
    path = models_dir / PARTIAL_FOLDER / f"{folder_name(repo)}.lock"
    with disk_errors(repo):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    last_bytes, still = -1, 0
    while True:
        try:
            lock.acquire(timeout=LOCK_WAIT_S)
            break
        except filelock.Timeout as error:
            here_bytes = _on_its_way_bytes(models_dir, repo)
            last_bytes, still = here_bytes, still + 1 if here_bytes == last_bytes else 0
            if still >= MAX_STILL:
                raise SetupError(
                    f"{repo} is being downloaded by another process, which does not get on: stop that one, "
                    "then run this again: it goes on where that stopped"
                ) from error
            progress(here_bytes, None)
    try:
        yield
    finally:
        lock.release()


def _on_its_way_bytes(models_dir: Path, repo: str) -> int:
    """What has arrived of a repository that somebody else downloads."""
    name = folder_name(repo)
    with disk_errors(repo):
        places = [models_dir / name, *(models_dir / PARTIAL_FOLDER).glob(f"{name}*")]
        return sum(taken_bytes(path) for place in places for path in place.rglob("*") if path.is_file())


@contextmanager
def disk_errors(what: str) -> Generator[None]:
    """The disk's refusals as SetupError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(
                f"cannot store {what}: the disk is full; free some space and run it again (it goes on where it "
                "stopped), or give another --data-dir"
            ) from error
        raise SetupError(f"cannot store {what}: {error.strerror or error}; check --data-dir") from error
