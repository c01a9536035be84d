"""Log lines: one line an entry, each with the id of the request being worked on, so that every node's can be found.

The id comes with the request (`X-Request-Id`) or is made for it, and travels with what is asked of other nodes.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Final

from federation.printable_text import clean_text, one_line

MAX_REQUEST_ID_CHARS = 64  # ids come from clients and peers and go into logs and headers
LINE_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
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


def set_up_logging(level: str, write: Callable[[str], None]) -> None:
    """Log lines go to `write`, each with the id of its request."""
    handler = LineHandler(write)
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(LogFormatter(LINE_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
