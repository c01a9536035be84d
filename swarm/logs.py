"""Log lines: one line an entry, each with the id of the request being worked on, so that every node's can be found.

The id comes with the request (`X-Request-Id`) or is made for it, and travels with what is asked of other nodes.

The last entries are kept in memory, for those who manage the node (`LogRing`): from `info` on, whatever is written.
What an entry says to the console alone, since it may be a client's words, is not in them: `kept_as` says what is.
"""

from __future__ import annotations

import json
import logging
import secrets
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Final, Literal

from federation.printable_text import clean_text, one_line

MAX_REQUEST_ID_CHARS = 64  # ids come from clients and peers and go into logs and headers
LINE_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
LOG_FORMATS: Final = ("text", "json")
OWN_LOGGERS: Final = ("swarm", "federation", "hardware")
MAX_KEPT_LINES: Final = 1000
MAX_KEPT_CHARS: Final = 2000  # of one line
INDENT: Final = "    "  # of what belongs to a log line, so that no line of it looks like another entry

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")


def request_id_from(header: str | None) -> str:
    """The caller's id if it is a plain short word, else a new one."""
    plain = (header or "").replace("-", "").replace("_", "")
    if header and len(header) <= MAX_REQUEST_ID_CHARS and plain.isascii() and plain.isalnum():
        return header
    return f"req-{secrets.token_hex(8)}"


class RequestIdFilter(logging.Filter):
    """Gives every record a `request_id` for the format string."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current_request_id.get()
        return True


class LogFormatter(logging.Formatter):
    """A record is one line, and what belongs to it (a traceback) is indented: no text of others looks like an entry."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = clean_text(super().format(record)).split("\n")
        return "\n".join([first, *(INDENT + line for line in rest)])


class JsonLogFormatter(logging.Formatter):
    """A record is one line with one JSON object, for programs that gather logs; what is in its texts is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": request_id_of(record),
            "message": clean_text(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = clean_text(self.formatException(record.exc_info))
        return json.dumps(entry)


def time_of(record: logging.LogRecord) -> str:
    """When it was made: UTC, as 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def request_id_of(record: logging.LogRecord) -> str | None:
    """That of the request which it is about; None where it is about none."""
    request_id: str = getattr(record, "request_id", None) or current_request_id.get()
    return None if request_id == "-" else request_id


def kept_as(text: str) -> dict[str, str]:
    """For the `extra` of a log call whose message may be a client's words: what is kept of it in memory."""
    return {"kept_as": text}


LevelName = Literal["debug", "info", "warning", "error", "critical"]
LEVELS: Final[tuple[LevelName, ...]] = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One entry that is kept. `number` counts from 1 since the start; `at` is UTC."""

    number: int
    at: str
    level: LevelName
    logger: str
    request_id: str | None
    text: str


class LogRing(logging.Handler):
    """Keeps the last entries from `info` on, cleaned as for the console and bounded. For every thread.

    Of an exception only its kind is kept, and its place where that is known: what it says may be a client's words.
    """

    def __init__(self, most: int = MAX_KEPT_LINES) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogLine] = deque(maxlen=most)
        self._number = 0

    @property
    def number(self) -> int:
        """That of the last entry; 0 for none."""
        return self._number

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # nothing that is logged may fail for it
            self._number += 1  # under the handler's lock
            self._lines.append(
                LogLine(
                    number=self._number,
                    at=time_of(record),
                    level=level_of(record.levelno),
                    logger=record.name,
                    request_id=request_id_of(record),
                    text=kept_text(record),
                )
            )

    def lines(self, after: int = 0) -> list[LogLine]:
        """Those that came after number `after`, the oldest first."""
        self.acquire()
        try:
            newer = min(len(self._lines), self._number - after)
            return list(islice(self._lines, len(self._lines) - newer, None)) if newer > 0 else []
        finally:
            self.release()


def level_of(number: int) -> LevelName:
    """The name of a record's level, or of the next one below."""
    return LEVELS[min(max(number // 10 - 1, 0), len(LEVELS) - 1)]


def kept_text(record: logging.LogRecord) -> str:
    """What is kept of an entry."""
    text = one_line(str(getattr(record, "kept_as", None) or kept_message(record)))
    if record.exc_info and record.exc_info[0] is not None:
        text += f" ({record.exc_info[0].__name__} {place_of(record.exc_info[2])})"
    return text if len(text) <= MAX_KEPT_CHARS else text[: MAX_KEPT_CHARS - 1] + "\u2026"


def kept_message(record: logging.LogRecord) -> str:
    """The message, with the kinds of failures in place of what they say: engines, peers and upstreams may repeat words.

    But for the system's own: those have a file's name and no more.
    """
    if not isinstance(record.args, tuple) or not any(isinstance(arg, Exception) for arg in record.args):
        return record.getMessage()
    args = (type(a).__name__ if isinstance(a, Exception) and not isinstance(a, OSError) else a for a in record.args)
    return str(record.msg) % tuple(args)


def place_of(trace: TracebackType | None) -> str:
    """Where an exception was raised, in a few words."""
    frames = traceback.extract_tb(trace)
    return f"in {frames[-1].name}, {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "here"


def kept_lines() -> LogRing | None:
    """The ring of this process; None where its logging was not set up."""
    return next((handler for handler in logging.root.handlers if isinstance(handler, LogRing)), None)


class LineHandler(logging.Handler):
    """Hands each entry to `write` as text. A failure there is nobody's but the log's."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:  # noqa: BLE001 - the base class's way would write the record's words to the terminal as they are
            with suppress(Exception):
                self._write(f"an entry of {record.name} cannot be written: {record.msg!r:.200}")


def set_up_logging(level: str, write: Callable[[str], None], form: str = "text") -> None:
    """Log lines from `level` on go to `write`, each with the id of its request; `form` is one of `LOG_FORMATS`.

    Those of this program from `info` on are kept in memory, too: other libraries' only where they are written.
    """
    handler = LineHandler(write)
    handler.setLevel(level.upper())
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(JsonLogFormatter() if form == "json" else LogFormatter(LINE_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler, LogRing()], force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(min(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
