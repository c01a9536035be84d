"""The id of the request being worked on, so that every log line of it, on every node, can be found again."""

from __future__ import annotations

import logging
import secrets
from contextvars import ContextVar

MAX_REQUEST_ID_CHARS = 64  # ids come from clients and peers and go into logs and headers

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
