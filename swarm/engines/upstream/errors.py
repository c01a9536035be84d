"""An upstream's refusals as our errors: their status and words passed on, whatever shape they came in. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, cast

from federation.printable_text import clean_line
from swarm.engines.upstream.address import KEY_VARIABLE
from swarm.errors import Refusal, UpstreamRefused

MAX_MESSAGE_CHARS = 1000  # of an error's text; honest ones are a sentence or two
MAX_WORD_CHARS = 100  # of its type, code and param
MAX_RETRY_AFTER_S = 86_400  # a day: daily quotas are the longest honest wait
SIZES = ("n_prompt_tokens", "n_ctx")  # of llama-server, where a prompt is too long


def refused(host: str, status: int, body: bytes, retry_after: str | None, key: str | None) -> UpstreamRefused:
    """The error to raise for an answer of `status` with `body`. `key` is blotted out wherever it is quoted."""
    if status == HTTPStatus.UNAUTHORIZED:
        # Passed on as it is, the client would look for the fault in its own key. Such messages quote ours, too.
        message = f"it refused this node's key (401): set {KEY_VARIABLE} where the node is started"
        return UpstreamRefused(host, Refusal(502, message, "server_error", "upstream_unauthorized"))
    detail = error_object(body)
    said = detail.get("message")
    message = said if isinstance(said, str) and said.strip() else f"it answered {status} {_phrase(status)}"
    return UpstreamRefused(
        host,
        Refusal(
            status=status if 400 <= status <= 599 else 502,
            message=_shown(message, key, MAX_MESSAGE_CHARS),
            type=_word(detail.get("type"), key) or "upstream_error",
            code=_word(detail.get("code"), key) or "upstream_error",
            param=_word(detail.get("param"), key),
            retry_after_s=None if retry_after is None else seconds_of(retry_after, datetime.now(UTC)),
            sizes={name: detail[name] for name in SIZES if isinstance(detail.get(name), int)},
        ),
    )


def error_object(body: bytes) -> Mapping[str, Any]:
    """What a body says: `{"error": {...}}`, `{"error": "..."}`, `{"message" or "detail": "..."}`, or a list."""
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(parsed, list) and parsed:
        parsed = cast("list[object]", parsed)[0]
    if not isinstance(parsed, dict):
        return {}
    outer = cast("Mapping[str, Any]", parsed)
    error = outer.get("error")
    if isinstance(error, dict):
        return cast("Mapping[str, Any]", error)
    if isinstance(error, str):
        return {**outer, "message": error}
    return outer if "message" in outer else {"message": outer.get("detail")}


def seconds_of(retry_after: str, now: datetime) -> int | None:
    """A Retry-After header (seconds, or a date) in whole seconds; None where it says neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    if not math.isfinite(seconds):
        return None
    return min(max(math.ceil(seconds), 0), MAX_RETRY_AFTER_S)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(no known status)"


def _word(value: object, key: str | None) -> str | None:
    """A short field of an error: a string, or a number as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return _shown(str(value), key, MAX_WORD_CHARS) or None


def _shown(text: str, key: str | None, most: int) -> str:
    """`text` fit for a log and a header: bounded, printable, without the key."""
    plain = text.replace(key, "***") if key else text
    return clean_line(plain[:most])
