"""GGUF files, and folders of MLX models, as a walk through a program's folders finds them: nothing is read of them.

No folder is walked twice, by whatever links it is reached; every walk is bounded, and can be stopped.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from swarm.registry.file_hashes import WorkStopped
from swarm.registry.gguf_header import is_later_part, stem_of
from swarm.registry.model_ids import repo_of

ModelOrigin = Literal["embedded", "own", "hugging face", "lm studio", "llama.cpp", "ollama", "folder", "package"]
SOURCES: Final[tuple[ModelOrigin, ...]] = get_args(ModelOrigin)  # of one content in several places the first is used

MAX_DEPTH = 6  # the hub's cache has models--OWNER--REPO/snapshots/COMMIT/FOLDER/FILE
MAX_VISITED = 20_000  # folder entries looked at in one place: a home folder given by mistake must not take minutes
MAX_SMALL_FILE_BYTES = 1 << 20  # manifests and settings; real ones have a few KB
NOT_WALKED = frozenset({"blobs", "refs"})  # of models--OWNER--REPO: what is whole is linked from its snapshots

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A GGUF file (the first of its parts) or an MLX model's folder, that may be a model.

    `name` is what it would be called, without `.gguf`; `also` are other names it has where it was found. `sha256` is of
    the file, as the program that put it there has checked it. `file_id` is the same for all links to one file.
    `projector` and `template` are named by its program. `is_named`: somebody gave its path, to be served as `name`.
    """

    path: Path
    source: ModelOrigin
    name: str
    size_bytes: int
    mtime_ns: int
    file_id: tuple[int, int]
    also: tuple[str, ...] = ()
    repo: str | None = None
    sha256: str | None = None
    projector: Path | None = None
    template: Path | None = None
    is_folder: bool = False
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """One folder of one program."""

    source: ModelOrigin
    folder: Path


def file_at(path: Path) -> FoundFile:
    """A file, or a folder, that somebody named by its path, wherever it lies. Raises OSError."""
    status = path.stat()
    if is_model_folder(path):
        return replace(_mlx_folder(path.resolve(), "folder"), path=path, is_named=True)
    repo = repo_of(path.parent)
    return FoundFile(
        path=path,
        source="folder",
        name=stem_of(path),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        file_id=(status.st_dev, status.st_ino),
        also=(path.name, f"hf:{repo}/{path.name}") if repo else (path.name,),
        repo=repo,
        is_named=True,
    )


class Walked:
    """Folders that were walked already, by whatever link, in whatever place."""

    def __init__(self, stop: threading.Event | None) -> None:
        self._stop = stop
        self._folders: set[tuple[int, int]] = set()

    def is_new(self, folder: str) -> bool:
        """Raises OSError, and WorkStopped."""
        if self._stop is not None and self._stop.is_set():
            raise WorkStopped
        status = os.stat(folder)  # noqa: PTH116 - a walk over thousands: paths as objects take longer than the disk
        known = (status.st_dev, status.st_ino)
        if known in self._folders:
            return False
        self._folders.add(known)
        return True


def walk(place: ModelPlace, walked: Walked, most_visited: int) -> Iterator[FoundFile | str]:
    """GGUF files (first parts only) and folders that look like an MLX model, in a stable order."""
    visited, is_cut = 0, False
    pending = [(os.fspath(place.folder), 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            if not walked.is_new(folder):
                continue
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if (problem := unreadable(folder, error, is_place=depth == 0)) is not None:
                yield problem
            continue
        visited += len(entries)
        names = {entry.name for entry in entries}
        is_repo = os.path.basename(folder).startswith("models--")  # noqa: PTH119 - as above
        if "config.json" in names and any(name.endswith(".safetensors") for name in names):
            try:
                yield _mlx_folder(Path(folder), place.source)
            except OSError as error:
                yield _broken_link(folder, error)
        inner: list[tuple[str, int]] = []
        for entry in entries:
            if entry.name.startswith(".") or (is_repo and entry.name in NOT_WALKED):
                continue
            try:
                if entry.is_dir():
                    inner.append((entry.path, depth + 1))
                elif entry.name.lower().endswith(".gguf") and not is_later_part(Path(entry.name)):
                    yield _found_file(entry, place.source)
            except OSError as error:
                yield _broken_link(entry.path, error)
        if inner and visited >= most_visited:
            if not is_cut:
                is_cut = True
                more = f"has more below it than is looked at ({most_visited} entries)"
                yield f"{place.folder} {more}: give the models' own folder"
        elif depth < MAX_DEPTH:
            pending.extend(reversed(inner))


def _found_file(entry: os.DirEntry[str], source: ModelOrigin) -> FoundFile:
    """Raises OSError."""
    status = entry.stat()
    sha256: str | None = None
    if entry.is_symlink():
        target = os.path.basename(os.readlink(entry.path))  # noqa: PTH115,PTH119 - as above
        sha256 = target if _SHA256.fullmatch(target) else None
    return FoundFile(
        path=Path(entry.path),
        source=source,
        name=stem_of(Path(entry.name)),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        file_id=(status.st_dev, status.st_ino),
        sha256=sha256,
    )


def is_model_folder(path: Path) -> bool:
    """Whether this looks like the folder of an MLX model. Blocks; never raises."""
    try:
        return (path / "config.json").is_file() and any(each.suffix == ".safetensors" for each in path.iterdir())
    except OSError:
        return False


def _mlx_folder(folder: Path, source: ModelOrigin) -> FoundFile:
    status = folder.stat()
    sizes = [(entry.stat().st_size, entry.stat().st_mtime_ns) for entry in folder.iterdir() if entry.is_file()]
    return FoundFile(
        path=folder,
        source=source,
        name=(repo_of(folder) or folder.name).replace("/", "--"),
        size_bytes=sum(size for size, _ in sizes),
        mtime_ns=max((mtime for _, mtime in sizes), default=0),
        file_id=(status.st_dev, status.st_ino),
        is_folder=True,
    )


def unreadable(folder: str, error: OSError, *, is_place: bool) -> str | None:
    """What to say of a folder that cannot be read; None of a program's own that is not there."""
    if isinstance(error, FileNotFoundError | NotADirectoryError) and is_place:  # that program keeps nothing here
        return None
    return (
        f"cannot read the folder {folder}: {error.strerror or error}; let this user read it, or, if nothing in it is "
        "to be served, leave it as it is"
    )


def _broken_link(path: str, error: OSError) -> str:
    target = ""
    with suppress(OSError):
        target = f" to {os.readlink(path)}"  # noqa: PTH115 - as above
    if isinstance(error, FileNotFoundError):
        return f"{path} is a link{target}, which does not exist: bring the file back, or remove the link"
    return f"cannot follow the link {path}{target}: {error.strerror or error}; remove it, or let it lead to a file"


def small_text(path: Path) -> str:
    """The beginning of a text file that ought to be small. Raises OSError, UnicodeDecodeError."""
    with path.open("rb") as file:
        return file.read(MAX_SMALL_FILE_BYTES).decode("utf-8-sig")


def json_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; empty where there is none, or something else."""
    try:
        found = json.loads(small_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
