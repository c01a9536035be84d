"""Prompts that llama.cpp has read, as files: what a slot held, brought back in a fraction of what reading it took.

A saved prompt is two files, called KEY-ID: its state (`.kv`), which llama.cpp writes and reads, and words on it
(`.json`), written last: the prompt's tokens, and the state's size and sha256. One without the other is none. KEY stands
for all that must be the same for a state to mean anything: the model's file, the engine and its version, the context
and the type of the cache. Who can read these files can read what was said: they are their owner's alone, and so is
their folder.

The folder has at most so many bytes, of all models together; what was not used for the longest time goes first. Files
are removed by anybody at any time (`forget`), and what was read before that is not written any more.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import shutil
import sys
import time
from array import array
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.small_files import TEMPORARY_SUFFIX, remove_temporaries, write_atomically
from swarm.engines.llama_cpp.prompt_slots import FEW_TOKENS, common_prefix
from swarm.errors import SwarmError
from swarm.registry.model_memory import size_text

STATE_SUFFIX, WORDS_SUFFIX = ".kv", ".json"
FORGOTTEN_FILE = "forgotten"  # its time is when: nothing that was read before it is written any more
LEAST_FREE_BYTES = 2**30  # that the disk keeps for everybody else
MAX_WORDS_BYTES = 2**26  # of the smaller file: 10 million tokens
ORPHAN_LIFE_S = 3600.0  # of a file without the other one: it may be about to be written
HASH_BYTES = 2**20
KEY_DIGITS = 16

log = logging.getLogger(__name__)


class NoDiskRoom(SwarmError):
    """A prompt that cannot be saved; the message says why, and what to do."""


class _Words(BaseModel):
    """The smaller file. `tokens`: 32-bit numbers, low byte first, as base64; `answered` more are in the state."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)
    tokens: str
    answered: int = Field(ge=0)


@dataclass(frozen=True, slots=True)
class SavedPrompt:
    """One on the disk. `name` is the state's file; `answered` so many tokens of an answer follow `tokens` in it."""

    name: str
    tokens: array[int]
    answered: int
    size_bytes: int
    sha256: str


def key_of(model: Path, fingerprint: str, *parts: object) -> str:
    """Stands for a model's file and all `parts` on which the content of a cache depends. Blocks.

    A fingerprint is of a file's header; its size and time tell it from another that begins alike.
    """
    found = model.stat()
    content = [fingerprint, found.st_size, found.st_mtime_ns, *map(str, parts)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:KEY_DIGITS]


class SavedPrompts:
    """Those of one model, in a folder with those of others. Everything blocks but `entries`; for one thread at a time.

    `token_bytes` is what a token of a cache is expected to take, 0 where that is not known.
    """

    def __init__(self, folder: Path, most_bytes: int, key: str, token_bytes: int = 0) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.key = key
        self.token_bytes = token_bytes
        self.least_free_bytes = LEAST_FREE_BYTES
        self.entries: tuple[SavedPrompt, ...] = ()

    @classmethod
    def open(cls, folder: Path, most_bytes: int, key: str, token_bytes: int = 0) -> Self:
        """Raises OSError where the folder cannot be made or written."""
        make_folder(folder)
        remove_temporaries(folder, ORPHAN_LIFE_S)
        _remove_orphans(folder)
        saved = cls(folder, most_bytes, key, token_bytes)
        found = (_read(folder / name) for name in _names(folder) if name.startswith(f"{key}-"))
        saved.entries = tuple(entry for entry in found if entry is not None)
        saved._make_room(0)
        return saved

    def begin(self, tokens: int) -> str:
        """The name of a file that llama.cpp is to write `tokens` to. Raises NoDiskRoom and OSError."""
        self._make_room(tokens * self.token_bytes)
        return self._begun()

    def scratch(self, size: int) -> str:
        """The name of a file of about `size` bytes that is removed as soon as it was read: nothing gives way to it.

        Raises NoDiskRoom and OSError.
        """
        free = shutil.disk_usage(self.folder).free
        if free - size < self.least_free_bytes:
            raise NoDiskRoom(f"the disk of {self.folder} has {size_text(max(free, 0))} free")
        return self._begun()

    def _begun(self) -> str:
        name = f"{self.key}-{secrets.token_hex(8)}{STATE_SUFFIX}"
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.close(handle)
        return name

    def commit(self, name: str, tokens: array[int], answered: int, read_at: float) -> SavedPrompt | None:
        """What was written is whole: from now on it is there, in place of what it continues.

        None where it was to be forgotten meanwhile. Raises NoDiskRoom and OSError; the file is removed then.
        """
        path = self.folder / name
        try:
            path.chmod(0o600)
            size = path.stat().st_size
            self.token_bytes = -(-size // max(len(tokens) + answered, 1))
            if size > self.most_bytes:  # else all others would give way to it, and then it itself
                raise NoDiskRoom(
                    f"a prompt of {size_text(size)} is more than --kv-disk {size_text(self.most_bytes)} holds: give it "
                    "more"
                )
            self._make_room(0)  # its own size is among what is there
            entry = SavedPrompt(name, tokens, answered, size, _sha256(path))
            words = _Words(sha256=entry.sha256, size_bytes=size, tokens=_packed(tokens), answered=answered)
            write_atomically(path.with_suffix(WORDS_SUFFIX), words.model_dump_json().encode())
            if self.is_forgotten(read_at):
                _remove(path)
                return None
        except BaseException as error:
            _remove(path)
            if isinstance(error, FileNotFoundError) and self.is_forgotten(read_at):
                return None
            raise
        for older in self.entries:
            same = common_prefix(older.tokens, tokens)
            # The end of a prompt, where an answer begins, is often written otherwise afterwards.
            if len(older.tokens) <= len(tokens) and same + FEW_TOKENS > len(older.tokens):
                self.remove(older.name)
        self.entries = (*self.entries, entry)
        return entry

    def is_whole(self, entry: SavedPrompt) -> bool:
        """Whether a state is what was written. It is used now, and goes later than others. One that is not is removed.

        Reads all of the file, which is in the system's memory from then on.
        """
        path = self.folder / entry.name
        try:
            whole = path.stat().st_size == entry.size_bytes and _sha256(path) == entry.sha256
            if whole:
                os.utime(path.with_suffix(WORDS_SUFFIX))
                return True
        except OSError as error:
            log.debug("%s cannot be read: %s", path, error)
        self.remove(entry.name)
        return False

    def remove(self, name: str) -> None:
        self.entries = tuple(entry for entry in self.entries if entry.name != name)
        _remove(self.folder / name)

    def is_forgotten(self, read_at: float) -> bool:
        """Whether what was read at `read_at`, in wall time, was to be forgotten since."""
        try:
            return (self.folder / FORGOTTEN_FILE).stat().st_mtime >= read_at
        except OSError:
            return False

    def _make_room(self, size: int) -> None:
        if size > self.most_bytes:
            raise NoDiskRoom(
                f"a prompt of about {size_text(size)} is more than --kv-disk {size_text(self.most_bytes)} holds: "
                "give it more"
            )
        free = shutil.disk_usage(self.folder).free
        there = _by_age(self.folder)
        total = sum(bytes_there for _, bytes_there in there)
        for name, bytes_there in there:
            if total + size <= self.most_bytes and free - size >= self.least_free_bytes:
                return
            self.remove(name)
            total, free = total - bytes_there, free + bytes_there
        if free - size < self.least_free_bytes:
            raise NoDiskRoom(
                f"the disk of {self.folder} has {size_text(max(free, 0))} free, of which "
                f"{size_text(self.least_free_bytes)} stays free"
            )


def make_folder(folder: Path) -> None:
    """The owner's alone. Raises OSError, also where nothing can be written there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    probe = folder / f".probe.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    probe.touch(mode=0o600)
    probe.unlink()


def forget(folder: Path) -> tuple[int, int]:
    """Remove all saved prompts; how many, and their bytes. A node that runs saves nothing that it read before. Blocks.

    Raises OSError for a folder that cannot be written.
    """
    if not folder.is_dir():
        return 0, 0
    mark = folder / FORGOTTEN_FILE
    mark.touch(mode=0o600)
    os.utime(mark)
    count = size = 0
    for name in _names(folder, (STATE_SUFFIX, WORDS_SUFFIX)):
        path = folder / name
        with suppress(FileNotFoundError):  # a node that runs removes some, too
            found = path.stat().st_size
            path.unlink()
            size, count = size + found, count + name.endswith(STATE_SUFFIX)
    remove_temporaries(folder)  # they have tokens in them
    return count, size


def stored_bytes(folder: Path) -> int:
    """What all saved prompts take. Blocks, never raises."""
    with suppress(OSError):
        return sum(size for _, size in _by_age(folder))
    return 0


def _names(folder: Path, suffixes: tuple[str, ...] = (STATE_SUFFIX,)) -> list[str]:
    """Of regular files of ours: no link is followed to what is somebody else's."""
    with os.scandir(folder) as found:
        return [one.name for one in found if one.name.endswith(suffixes) and one.is_file(follow_symlinks=False)]


def _by_age(folder: Path) -> list[tuple[str, int]]:
    """Names of states and their bytes, the one that was not used for the longest time first."""
    aged: list[tuple[float, str, int]] = []
    for name in _names(folder):
        path = folder / name
        with suppress(OSError):
            found = path.stat()
            used = found.st_mtime
            with suppress(OSError):
                used = path.with_suffix(WORDS_SUFFIX).stat().st_mtime
            aged.append((used, name, found.st_size))
    return [(name, size) for _, name, size in sorted(aged)]


def _read(path: Path) -> SavedPrompt | None:
    """None for one that is not whole, which is removed; the state's content is looked at when it is needed."""
    try:
        with path.with_suffix(WORDS_SUFFIX).open("rb") as file:
            words = _Words.model_validate_json(file.read(MAX_WORDS_BYTES))
        tokens = _unpacked(words.tokens)
        if path.stat().st_size != words.size_bytes or not tokens:
            raise ValueError("the state has another size")
    except FileNotFoundError:  # not finished: an orphan, by and by
        return None
    except (OSError, ValidationError, ValueError) as error:
        log.warning("a saved prompt is not used and is removed: %s (%s)", path, error)
        _remove(path)
        return None
    return SavedPrompt(path.name, tokens, words.answered, words.size_bytes, words.sha256)


def _remove_orphans(folder: Path) -> None:
    young = time.time() - ORPHAN_LIFE_S
    names = set(_names(folder, (STATE_SUFFIX, WORDS_SUFFIX)))
    for name in names:
        path = folder / name
        other = path.with_suffix(WORDS_SUFFIX if name.endswith(STATE_SUFFIX) else STATE_SUFFIX)
        with suppress(OSError):
            if other.name not in names and path.stat().st_mtime < young:
                path.unlink()


def _remove(path: Path) -> None:
    for suffix in (WORDS_SUFFIX, STATE_SUFFIX):  # the one that says that the other is there goes first
        with suppress(OSError):
            path.with_suffix(suffix).unlink()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _swapped(tokens: Iterable[int]) -> array[int]:
    numbers = array("i", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _packed(tokens: array[int]) -> str:
    return base64.b64encode(_swapped(tokens).tobytes()).decode()


def _unpacked(text: str) -> array[int]:
    numbers = array("i")
    numbers.frombytes(base64.b64decode(text, validate=True))
    return _swapped(numbers)
