"""Downloads: one file or one repository into the models folder, resumed after a cut, checked, then moved into place.

    models/OWNER--REPO/FILE             complete and checked; nothing else ever has this name
    models/.partial/OWNER--REPO/...     what is still on its way, named by its hash so that versions do not mix

Everything here blocks, for hours perhaps: run it in a thread.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swarm.errors import SetupError
from swarm.registry.catalogue import Choice
from swarm.registry.gguf_header import part_paths
from swarm.registry.hub import HubFile, Progress, describe, fetch, list_mlx_model
from swarm.registry.memory import size_text
from swarm.registry.names import HubRef, check_hub_file

PARTIAL_FOLDER = ".partial"
SPARE_DISK_BYTES = 256 << 20  # a full disk stops more than us
HASH_CHUNK_BYTES = 1 << 20
HASH_DIGITS_IN_NAME = 16
LOCK_WAIT_S = 1.0


def no_progress(done_bytes: int, total_bytes: int | None) -> None:
    """For callers that do not show any."""


def download_choice(choice: Choice, models_dir: Path, progress: Progress = no_progress) -> Path:
    """Bring `choice` into `models_dir`; returns the GGUF file (its first part) or the MLX folder.

    Raises SetupError; what has arrived by then is kept and used by the next attempt.
    """
    variant = choice.variant
    return download(HubRef(variant.repo, variant.file), models_dir, progress, sha256=variant.sha256)


def download(ref: HubRef, models_dir: Path, progress: Progress = no_progress, *, sha256: str | None = None) -> Path:
    """Bring a hub file, all its parts, or a whole MLX repository into `models_dir`. `sha256` is of `ref.file`.

    Where it is None, the hub's own hash is checked. Returns at once where everything is already there.
    """
    folder = models_dir / folder_name(ref.repo)
    if ref.file is None:
        return _download_folder(ref.repo, folder, models_dir, progress)
    check_hub_file(ref.file)
    targets = [folder / part for part in part_paths(Path(ref.file))]
    missing = [target for target in targets if not target.is_file()]
    if missing:
        hashes = {targets[0]: sha256}
        with _locked(models_dir, ref.repo):
            sources = [describe(ref.repo, target.relative_to(folder).as_posix()) for target in missing]
            _fetch_all(sources, missing, [hashes.get(target) for target in missing], models_dir, progress)
    return targets[0]


def folder_name(repo: str) -> str:
    """`OWNER--REPO`: neither may hold a double hyphen, so no two repositories share a folder."""
    return repo.replace("/", "--")


def _download_folder(repo: str, folder: Path, models_dir: Path, progress: Progress) -> Path:
    """An MLX model is complete or absent: its files gather in the partial folder, which is then renamed."""
    if (folder / "config.json").is_file():
        return folder
    with _locked(models_dir, repo):
        commit, files = list_mlx_model(repo)
        staging = models_dir / PARTIAL_FOLDER / f"{folder.name}.{commit[:HASH_DIGITS_IN_NAME]}"
        missing = [file for file in files if not (staging / file).is_file()]
        sources = [describe(repo, file, commit) for file in missing]
        _fetch_all(sources, [staging / file for file in missing], [None] * len(missing), models_dir, progress)
        with _disk_errors(repo):
            staging.replace(folder)
    return folder


def _fetch_all(
    sources: Sequence[HubFile],
    targets: Sequence[Path],
    hashes: Sequence[str | None],
    models_dir: Path,
    progress: Progress,
) -> None:
    """Fetch every source to its target, with one progress over all of them."""
    for source, sha256 in zip(sources, hashes, strict=True):
        _check_announced(source, sha256)
    partials = [_partial_path(source, models_dir) for source in sources]
    sizes = [source.size_bytes for source in sources]
    total_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    _check_disk(models_dir, sources, partials)
    before_bytes = 0
    for source, partial, target, sha256 in zip(sources, partials, targets, hashes, strict=True):

        def report(done_bytes: int, of_bytes: int | None, before_bytes: int = before_bytes) -> None:
            progress(before_bytes + done_bytes, of_bytes if len(sources) == 1 else total_bytes)

        _fetch_one(source, partial, target, sha256, report)
        before_bytes += target.stat().st_size


def _fetch_one(source: HubFile, partial: Path, target: Path, sha256: str | None, progress: Progress) -> None:
    what = f"{source.repo}/{source.file}"
    with _disk_errors(what):
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as file:
            have_bytes = file.tell()
            if source.size_bytes is None or have_bytes > source.size_bytes:
                file.truncate(0)
                have_bytes = 0
            fetch(source, file, have_bytes, progress)
            file.flush()
            os.fsync(file.fileno())
        defect = _defect(partial, source, sha256)
        if defect:
            partial.unlink()
            raise SetupError(f"{what} arrived damaged and was removed: {defect}; run it again")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
        for stale in partial.parent.glob(f"{partial.stem}.*"):  # of a version that the hub has since replaced
            stale.unlink(missing_ok=True)


def _defect(path: Path, source: HubFile, sha256: str | None) -> str:
    """Why the file is not the one that was announced; empty if it is."""
    size_bytes = path.stat().st_size
    if source.size_bytes is not None and size_bytes != source.size_bytes:
        return f"{size_bytes} bytes instead of {source.size_bytes}"
    expected = sha256 or source.sha256
    if expected is not None:
        found = file_sha256(path)
        return "" if found == expected else f"its sha256 is {found} instead of {expected}"
    if source.git_sha1 is not None:
        found = _git_sha1(path, size_bytes)
        return "" if found == source.git_sha1 else f"its git hash is {found} instead of {source.git_sha1}"
    return ""


def file_sha256(path: Path) -> str:
    """The hash of a file, in hex. Reads all of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_sha1(path: Path, size_bytes: int) -> str:
    """The id git gives a blob, which the hub announces for small files; guards against damage, not against malice."""
    digest = hashlib.sha1(f"blob {size_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_announced(source: HubFile, sha256: str | None) -> None:
    if sha256 is not None and source.sha256 is not None and sha256 != source.sha256:
        raise SetupError(
            f"{source.repo}/{source.file} is no longer the file that the catalogue knows (sha256 {source.sha256}, not "
            f"{sha256}); to take the new one anyway: swarm models pull hf:{source.repo}/{source.file}"
        )


def _check_disk(models_dir: Path, sources: Sequence[HubFile], partials: Sequence[Path]) -> None:
    """Say so before the first byte, not after an hour, where the disk has not enough room."""
    with _disk_errors(str(models_dir)):
        models_dir.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(models_dir).free
        have_bytes = sum(partial.stat().st_size for partial in partials if partial.is_file())
    needed_bytes = sum(source.size_bytes or 0 for source in sources) - have_bytes
    if needed_bytes + SPARE_DISK_BYTES > free_bytes:
        raise SetupError(
            f"{sources[0].repo} needs {size_text(needed_bytes)} on the disk of {models_dir}, which has "
            f"{size_text(free_bytes)}: free some space, or give another --data-dir"
        )


def _partial_path(source: HubFile, models_dir: Path) -> Path:
    version = (source.sha256 or source.git_sha1 or source.commit)[:HASH_DIGITS_IN_NAME]
    return models_dir / PARTIAL_FOLDER / folder_name(source.repo) / f"{source.file}.{version}"


@contextmanager
def _locked(models_dir: Path, repo: str) -> Generator[None]:
    """One download of a repository at a time on this machine: two would write to one partial file."""
    filelock: Any = importlib.import_module("filelock")  # comes with huggingface_hub
    path = models_dir / PARTIAL_FOLDER / f"{folder_name(repo)}.lock"
    with _disk_errors(repo):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except filelock.Timeout as error:
        raise SetupError(f"{repo} is being downloaded by another process: wait for it, then run this again") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(f"cannot store {what}: {error.strerror or error}; check --data-dir") from error
