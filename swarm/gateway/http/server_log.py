"""What the HTTP server logs of strangers' mistakes: a line for whoever debugs, and no traceback for everybody."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger


class QuietAboutBadRequests(logging.Filter):
    """Anybody can send what is no HTTP, and leave in mid-request: as errors these would fill the log and its disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionResetError):
            return True
        if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            return False
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return True


_QUIET = QuietAboutBadRequests()


def quiet_about_bad_requests() -> None:
    """For every HTTP server of this process; once is enough, and more does no harm."""
    server_logger.addFilter(_QUIET)
