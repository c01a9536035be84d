"""Sessions on disk: a file of JSON lines each, so that one can be resumed after the agent, or the machine, has ended.

The first line says what the session is; each further one is a message as it joined the conversation. API keys are in
none of them: they never are part of a message. What tools have printed is, so that only the owner can read the files.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from federation.printable_text import clean_line
from swarm.errors import SetupError
from swarm.generation import JsonObject

OWN_FILE: Final = 0o600
OWN_FOLDER: Final = 0o700
MAX_LINE_BYTES: Final = 16 << 20  # a message: results are bounded, what a model says is, too
MAX_FILE_BYTES: Final = 256 << 20  # far above any conversation that a context holds
SHOWN_CHARS: Final = 60  # of what was asked first, in a list
ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class SessionHead:
    """What a session is. `asked` is what was asked first, `root` the folder of its tools, None without such."""

    id: str
    began: str  # ISO 8601, UTC
    model: str
    asked: str
    root: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session that was read: its messages as JSON, and whether the last line was cut off (it is left out then)."""

    head: SessionHead
    messages: tuple[JsonObject, ...]
    path: Path
    torn: bool = False


class SessionFiles:
    """The sessions in `folder`, which is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, model: str, asked: str, root: Path | None, now: datetime | None = None) -> SessionFile:
        """A new session's file. Raises SetupError where it cannot be written."""
        now = now or datetime.now(UTC)
        name = f"{now:%Y%m%d}-{secrets.token_hex(ID_BYTES)}"
        head = SessionHead(name, now.isoformat(timespec="seconds"), model, asked, None if root is None else str(root))
        try:
            self._folder.mkdir(mode=OWN_FOLDER, parents=True, exist_ok=True)
            kept = SessionFile(self._folder / f"{name}.jsonl", head)
            kept.add({"type": "session", **asdict(head)})
        except OSError as error:
            raise SetupError(f"the session cannot be kept in {self._folder}: {error.strerror or error}") from error
        return kept

    def resume(self, word: str) -> tuple[SessionFile, StoredSession]:
        """The session whose id begins with `word`, to go on with. Raises SetupError where there is none, or several."""
        found = [path for path in self._paths() if path.stem.startswith(word) or _tail(path.stem).startswith(word)]
        if len(found) != 1 or not word:
            there = ", ".join(path.stem for path in (found or self._paths())[:10])
            why = f"several sessions begin with {word!r}" if found and word else f"there is no session {word!r}"
            raise SetupError(f"{why}; there are: {there or 'none'} (`swarm agent --list`)")
        stored = read_session(found[0])
        kept = SessionFile(found[0], stored.head)
        if stored.torn:
            kept.mend()
        return kept, stored

    def heads(self) -> Iterator[SessionHead]:
        """All sessions that can be read, the newest first."""
        for path in self._paths():
            try:
                yield read_session(path, head_only=True).head
            except SetupError:
                continue

    def _paths(self) -> list[Path]:
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix == ".jsonl" and path.is_file()]
            return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        except OSError:
            return []


class SessionFile:
    """The file of one session. Each message is written before the session goes on."""

    def __init__(self, path: Path, head: SessionHead) -> None:
        self.path, self.head = path, head

    def add(self, line: JsonObject) -> None:
        """Append one line. Raises OSError."""
        whole = json.dumps(line, separators=(",", ":"))  # ASCII: half a character, as models make them, can be kept
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self.path, flags, OWN_FILE), "ab") as file:
            file.write(whole.encode() + b"\n")

    def keep(self, message: JsonObject) -> None:
        """Append a message. Raises OSError."""
        self.add({"type": "message", "message": message})

    def mend(self) -> None:
        """End a last line that was cut off, so that what follows is a line of its own. Raises OSError."""
        with self.path.open("ab") as file:
            file.write(b"\n")


def read_session(path: Path, *, head_only: bool = False) -> StoredSession:
    """The session in `path`. Raises SetupError where it is none.

    A line in the middle that is no JSON was cut off by an end of the machine, and is left out.
    """
    head: SessionHead | None = None
    messages: list[JsonObject] = []
    torn = False
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SetupError(f"the session {path} is over {MAX_FILE_BYTES >> 20} MB: begin a new one")
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                torn = not line.endswith(b"\n")
                found = _object(line)
                if found is None:
                    continue
                if found.get("type") == "session" and head is None:
                    head = _head(found)
                elif found.get("type") == "message" and isinstance(message := found.get("message"), dict):
                    messages.append(message)
                if head_only and head is not None:
                    break
    except OSError as error:
        raise SetupError(f"the session {path} cannot be read: {error.strerror or error}") from error
    if head is None:
        raise SetupError(f"{path} holds no session of the agent")
    return StoredSession(head, tuple(messages), path, torn)


def list_lines(heads: Sequence[SessionHead]) -> list[str]:
    """A line each for a person."""
    return [clean_line(f"{head.id}  {head.began}  {head.model}  {head.asked[:SHOWN_CHARS]}") for head in heads]


def _tail(name: str) -> str:
    """An id without its day."""
    return name.partition("-")[2]


def _object(line: bytes) -> JsonObject | None:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("JsonObject", found) if isinstance(found, dict) else None


def _head(found: JsonObject) -> SessionHead | None:
    texts = [found.get(name) for name in ("id", "began", "model", "asked")]
    root = found.get("root")
    if not all(isinstance(text, str) for text in texts):
        return None
    return SessionHead(*(str(text) for text in texts), root=root if isinstance(root, str) else None)
