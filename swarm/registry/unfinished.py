"""What downloads have left in the models folder that broke off: what it is, how much, and how it goes away.

It is kept so that the same download goes on with it. Everything here blocks.
"""

from __future__ import annotations

import importlib
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarm.errors import SetupError
from swarm.registry.download import HASH_DIGITS_IN_NAME, PARTIAL_FOLDER, folder_name
from swarm.registry.piece_file import taken_bytes

_STAGING_NAME = re.compile(rf"(.+)\.[0-9a-f]{{{HASH_DIGITS_IN_NAME}}}")
_PARTIAL_NAME = re.compile(rf"(.+)\.[0-9a-f]{{0,{HASH_DIGITS_IN_NAME}}}(?:\.pieces|\.span|\.whl)?")


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What has arrived of a download that is not done: `place` is OWNER/REPO, `taken_bytes` what it takes of the disk.

    `files` are the names of those that are on their way; of an MLX repository others are here, and wait for these.
    `is_going`: somebody is at it.
    """

    place: str
    files: tuple[str, ...]
    taken_bytes: int
    is_going: bool


def unfinished(models_dir: Path) -> tuple[Unfinished, ...]:
    """The downloads that broke off, or go on, by their names; none where the folder cannot be read. Blocks."""
    found: list[Unfinished] = []
    for name, paths in sorted(_on_their_way(models_dir).items()):
        files = {_file_on_its_way(models_dir, path) for path in paths} - {None}
        if (lock := _holder(models_dir, name)) is not None:
            lock.release()
        taken = sum(taken_bytes(path) for path in paths)
        listed = tuple(sorted(str(file) for file in files))
        found.append(Unfinished(name.replace("--", "/", 1), listed, taken, lock is None))
    return tuple(found)


def arrived_bytes(models_dir: Path, place: str, file: str | None = None) -> int:
    """What `drop_unfinished` would free."""
    return sum(taken_bytes(path) for path in _paths(models_dir, place, file))


def drop_unfinished(models_dir: Path, place: str, file: str | None = None) -> int:
    """Remove what has arrived of `file`, or of all of `place` (OWNER/REPO), and is not a model yet; the bytes freed.

    Raises SetupError while another process is downloading it, and where the disk refuses.
    """
    paths = _paths(models_dir, place, file)
    if not paths:
        return 0
    lock = _holder(models_dir, folder_name(place))
    if lock is None:
        raise SetupError(f"{place} is being downloaded just now: stop that first")
    try:
        freed_bytes = sum(taken_bytes(path) for path in paths)
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in sorted({folder for path in paths for folder in path.parents}, reverse=True):
            if models_dir / PARTIAL_FOLDER in folder.parents:
                with suppress(OSError):  # not empty
                    folder.rmdir()
    except OSError as error:
        raise SetupError(f"cannot remove what arrived of {place}: {error.strerror or error}") from error
    finally:
        lock.release()
    return freed_bytes


def _paths(models_dir: Path, place: str, file: str | None) -> list[Path]:
    found = _on_their_way(models_dir).get(folder_name(place), [])
    return [path for path in found if file is None or _file_on_its_way(models_dir, path) == file]


def _on_their_way(models_dir: Path) -> dict[str, list[Path]]:
    """The files below the partial folder, by the name of the folder that they are to have."""
    found: dict[str, list[Path]] = {}
    try:
        for folder in (models_dir / PARTIAL_FOLDER).iterdir():
            if folder.is_dir():
                found.setdefault(_name_of(folder.name), []).extend(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        log.info("what is on its way in %s cannot be read: %s", models_dir, error.strerror)
    return {name: paths for name, paths in found.items() if paths}


def _name_of(folder: str) -> str:
    """`OWNER--REPO` of a folder of that name, or of one where an MLX repository gathers: `OWNER--REPO.COMMIT`."""
    match = _STAGING_NAME.fullmatch(folder)
    return match[1] if match else folder


def _file_on_its_way(models_dir: Path, path: Path) -> str | None:
    """The name that a file is to have in its repository; None where all of the repository is what is wanted."""
    folder, *inside = path.relative_to(models_dir / PARTIAL_FOLDER).parts
    match = _PARTIAL_NAME.fullmatch("/".join(inside))
    return match[1] if match and _name_of(folder) == folder else None


def _holder(models_dir: Path, name: str) -> Any:
    """The lock of a download, taken; None while somebody else has it."""
    filelock: Any = importlib.import_module("filelock")
    lock = filelock.FileLock(models_dir / PARTIAL_FOLDER / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        return None
    return lock
