"""What was read of each model file, kept in a JSON file for as long as the files stay the same: path, size and time.

{"version": 2, "files": {"/models/a.gguf": {"state": [[1234, 1700000000000000000]], "facts": {...}, ...}}}

Reading a header takes milliseconds, of a slow disk more: 500 files are read once, not at every start. A file that is
damaged, or of another version, counts as none and is written anew: the version changes with what is read of a model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from federation.small_files import write_atomically
from swarm.errors import SetupError
from swarm.registry.embedded import CHECKSUMS_FILE, checksums
from swarm.registry.file_hashes import kept_hashes
from swarm.registry.found_files import FoundFile
from swarm.registry.gguf_header import GgufFacts, part_paths, read_identity, read_model
from swarm.registry.mlx_folder import read_mlx, weight_files

MAX_INDEX_BYTES = 64 << 20  # of MAX_KEPT files, most of them with under 2 KB
MAX_KEPT = 5_000  # files; of more those are forgotten that were not found this time
SAMPLES, SAMPLE_BYTES = 32, 4096  # of a file that has the header of another one

FileState = tuple[tuple[int, int] | None, ...]  # size and time of each part; None: it is not there

log = logging.getLogger(__name__)


class IndexEntry(BaseModel):
    """One model file. `defect` says in words why it cannot be read, and then nothing else is known.

    `fingerprint`: 64 hex, of the header. `sample`: of some of its content, read where another file has its header.
    `sha256` is known of what was hashed here.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    state: FileState
    facts: GgufFacts | None = None
    fingerprint: str = ""
    sha256: str | None = None
    sample: str | None = None
    defect: str | None = None


class _IndexFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Literal[2]
    files: dict[str, IndexEntry]


class ModelIndex:
    """The entries of this process, read from `path` at first and written there; nowhere where it is None. Blocks."""

    def __init__(self, path: Path | None, most_kept: int = MAX_KEPT) -> None:
        self._path = path
        self._most = most_kept
        self._entries: dict[str, IndexEntry] | None = None
        self._found: set[str] = set()
        self._changed = False

    def known(self, found: FoundFile) -> IndexEntry | None:
        """What is known of the file as it is now; None where it has to be read."""
        key, state = str(found.path), state_of(found)
        self._found.add(key)
        entry = self._loaded().get(key)
        if entry is None or entry.state != state:
            return None
        if entry.sha256 is None and found.source == "own" and entry.defect is None and len(state) == 1:
            entry = self._with_kept_hash(key, entry, found.path)
        return entry

    def entry(self, found: FoundFile) -> IndexEntry:
        """What is known of the file; it is read where it changed, or is new. Several threads may read at once."""
        entry = self.known(found)
        if entry is None:
            self._put(str(found.path), _read(found, state_of(found)))
            entry = self.known(found) or self._loaded()[str(found.path)]  # it changes while it is read
        return entry

    def sampled(self, found: FoundFile) -> str:
        """A hash of some of the content of a file, enough to tell it from another one with the same header."""
        entry = self.entry(found)
        if entry.sample is None:
            entry = entry.model_copy(update={"sample": _sample(found)})
            self._put(str(found.path), entry)
        return entry.sample or ""

    def save(self) -> None:
        """Write what changed. Never raises: what cannot be kept is read again."""
        if self._path is None or not self._changed or self._entries is None:
            return
        if len(self._entries) > self._most:
            for key in [key for key in self._entries if key not in self._found][: len(self._entries) - self._most]:
                del self._entries[key]
        try:
            kept = {key: entry for key, entry in dict(self._entries).items() if _is_text(key)}
            write_atomically(self._path, _IndexFile(version=2, files=kept).model_dump_json().encode())
        except OSError as error:
            log.info("cannot keep what was read of the models in %s: %s", self._path, error.strerror)
        self._changed = False

    def _put(self, key: str, entry: IndexEntry) -> None:
        self._loaded()[key] = entry
        self._changed = True

    def _with_kept_hash(self, key: str, entry: IndexEntry, path: Path) -> IndexEntry:
        """Downloads, and files given to peers, have been hashed, and the hash lies beside them."""
        with suppress(OSError):
            if (hashes := kept_hashes(path, path.stat())) is not None:
                entry = entry.model_copy(update={"sha256": hashes.sha256})
                self._put(key, entry)
        return entry

    def _loaded(self) -> dict[str, IndexEntry]:
        if self._entries is None:
            self._entries = dict(_load(self._path)) if self._path is not None else {}
        return self._entries


def _load(path: Path) -> Mapping[str, IndexEntry]:
    try:
        with path.open("rb") as file:
            return _IndexFile.model_validate_json(file.read(MAX_INDEX_BYTES)).files
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        log.info("the index of models in %s is written anew: %s", path, type(error).__name__)
        return {}


def _is_text(path: str) -> bool:
    """Whether JSON can have it: names of files may be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def state_of(found: FoundFile) -> FileState:
    """What changes with the file's content, of each of its parts. Blocks."""
    own = (found.size_bytes, found.mtime_ns)
    if found.is_folder:
        return (own,)
    try:
        parts = part_paths(found.path)
    except SetupError:
        return (own,)
    return (own, *(_part_state(part) for part in parts[1:]))


def _part_state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read(found: FoundFile, state: FileState) -> IndexEntry:
    try:
        if found.is_folder:
            read = read_mlx(found.path)
            return IndexEntry(state=state, facts=read.facts, fingerprint=read.fingerprint)
        if found.source == "embedded":
            return _read_embedded(found, state)
        identity = read_model(found.path) if found.is_named else read_identity(found.path)
    except SetupError as error:
        return IndexEntry(state=state, defect=str(error))
    return IndexEntry(state=state, facts=identity.facts, fingerprint=identity.fingerprint)


def _read_embedded(found: FoundFile, state: FileState) -> IndexEntry:
    """The files of this program are small: they are hashed at once, and known by that."""
    identity = read_identity(found.path)
    expected = checksums(found.path.parent).get(found.path.name)
    try:
        sha256 = hashlib.sha256(found.path.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError(f"cannot read {found.path}: {error.strerror or error}") from error
    if sha256 != expected:
        said = found.path.parent / CHECKSUMS_FILE
        raise SetupError(f"{found.path} is not the file that was shipped ({said}): install this program again")
    return IndexEntry(state=state, facts=identity.facts, fingerprint=identity.fingerprint, sha256=sha256)


def _sample(found: FoundFile) -> str:
    """Size, and blocks that lie evenly over each part: two sets of weights differ nearly everywhere. Blocks."""
    digest = hashlib.sha256()
    paths: list[Path] = [found.path]
    with suppress(SetupError):
        paths = weight_files(found.path) if found.is_folder else list(part_paths(found.path))
    try:
        for path in paths:
            size_bytes = path.stat().st_size
            digest.update(size_bytes.to_bytes(8, "little"))
            with path.open("rb") as file:
                for number in range(SAMPLES):
                    file.seek(max(0, (size_bytes - SAMPLE_BYTES) * number // (SAMPLES - 1)))
                    digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:  # it is gone, or cannot be read: like no other
        digest.update(f"{found.path}{error}".encode())
    return digest.hexdigest()


INDEX_FILE: Final = "models.json"  # in the data directory
