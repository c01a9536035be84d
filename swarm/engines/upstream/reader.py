"""Other servers' answers as our events, whichever dialect of OpenAI's shapes they speak.

Seen in the wild and read here: no usage at all, or one in every chunk; tool calls without index or id, all at index 0,
or with their name and id repeated in every piece; arguments as an object; `reasoning` for `reasoning_content`; content
as a list of parts; finish reasons "", "eos", "tool_call", "max_tokens"; a whole answer where a stream was asked for.

An upstream's refusals as our errors: their status and words passed on, whatever shape they came in. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, cast

from pydantic import JsonValue

from federation.printable_text import clean_line
from swarm.engines.openai_dialect import ParsedJson, as_object, stop_sequence_of, timings_of, token_logprobs
from swarm.engines.upstream.address import KEY_VARIABLE
from swarm.errors import UpstreamRefusal, UpstreamRefused
from swarm.generation import Delta, Finish, FinishReason, Timings, ToolCallDelta, Usage

MAX_TOKENS = 2**31  # counts beyond it are no counts
MAX_CALLS = 256  # of one answer
FINISH_REASONS: Mapping[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}  # every other word is some way of saying "stop"


@dataclass(slots=True)
class UpstreamReader:
    """Reads one answer, chunk by chunk. `ended` once the upstream has said that, or how, it ends."""

    chat: bool
    ended: bool = False
    reason: FinishReason | None = None
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings | None = None  # where it says so itself, as llama-server does: the way there is not measured
    _calls: list[str] = field(default_factory=list[str])  # the id of each call so far, "" where it has none
    _at_index: dict[int, int] = field(default_factory=dict[int, int])  # the upstream's index -> the latest call there

    def delta(self, chunk: ParsedJson) -> Delta | None:
        """What `chunk` adds; its finish reason and usage are kept for `finish`."""
        self._count(chunk)
        self.timings = timings_of(chunk) or self.timings
        choice = _first_choice(chunk)
        word = choice.get("finish_reason")
        if isinstance(word, str) and word:
            self.reason = FINISH_REASONS.get(word.lower(), "stop")
            self.ended = True
        self.stop_sequence = stop_sequence_of(choice, chunk) or self.stop_sequence
        given = choice.get("logprobs")
        logprobs = token_logprobs(cast("JsonValue", given)) if isinstance(given, dict) and given else None
        if not self.chat:
            text = _text(choice.get("text"))
            return Delta(0, text, logprobs=logprobs) if text or logprobs else None
        message = as_object(choice.get("delta")) or as_object(choice.get("message"))
        text = _text(message.get("content")) or _text(message.get("refusal"))
        reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
        calls = self._tool_calls(message.get("tool_calls"))
        return Delta(0, text, reasoning, calls, logprobs) if text or reasoning or calls or logprobs else None

    def finish(self) -> Finish:
        """The end of the answer, as far as the upstream told of it: tokens that it did not count are 0."""
        reason = self.reason or ("tool_calls" if self._calls else "stop")
        return Finish(0, reason, self.usage, self.stop_sequence, timings=self.timings)

    def _count(self, chunk: ParsedJson) -> None:
        usage = as_object(chunk.get("usage"))
        if not usage:
            return
        details = as_object(usage.get("prompt_tokens_details"))
        cached = details.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))
        self.usage = Usage(
            prompt_tokens=_tokens(usage.get("prompt_tokens")),
            completion_tokens=_tokens(usage.get("completion_tokens")),
            cached_tokens=_tokens(cached),
        )

    def _tool_calls(self, given: object) -> tuple[ToolCallDelta, ...]:
        pieces = cast("list[object]", given) if isinstance(given, list) else []
        return tuple(piece for piece in map(self._tool_call, map(as_object, pieces)) if piece is not None)

    def _tool_call(self, call: ParsedJson) -> ToolCallDelta | None:
        function = as_object(call.get("function"))
        name, call_id = _text(function.get("name")), _text(call.get("id"))
        given = call.get("index")
        place = given if isinstance(given, int) else None
        arguments = _arguments(function.get("arguments"))
        index = self._continued(place, call_id, name)
        if index is not None:
            return ToolCallDelta(index, None, None, arguments) if arguments else None
        if len(self._calls) == MAX_CALLS:
            return None
        index = len(self._calls)
        self._calls.append(call_id)
        if place is not None:
            self._at_index[place] = index
        return ToolCallDelta(index, call_id or None, name, arguments)

    def _continued(self, place: int | None, call_id: str, name: str) -> int | None:
        """Which call a piece belongs to; None if it opens another."""
        if call_id and call_id in self._calls:
            return self._calls.index(call_id)
        if name and (call_id or place is None):
            return None  # another id, or no index at all, and a name: several calls put at one index, or at none
        if place is not None:
            return self._at_index.get(place)
        return len(self._calls) - 1 if self._calls else None


def read_embeddings(answer: object) -> tuple[tuple[tuple[float, ...], ...], int]:
    """The vectors of an answer in the order of its texts, and its prompt tokens. Raises what reading rubbish raises."""
    body = as_object(answer)
    rows = sorted(cast("list[ParsedJson]", body["data"]), key=lambda row: row["index"])
    vectors = tuple(tuple(float(number) for number in row["embedding"]) for row in rows)
    return vectors, _tokens(as_object(body.get("usage")).get("prompt_tokens"))


def _first_choice(chunk: ParsedJson) -> ParsedJson:
    choices = chunk.get("choices")
    found = cast("list[object]", choices) if isinstance(choices, list) else []
    return as_object(found[0]) if found else {}


def _arguments(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else _text(value)


def _text(value: object) -> str:
    """A string as it is; the texts of a list of parts; nothing else is text."""
    if isinstance(value, list):
        parts = [as_object(part) for part in cast("list[object]", value)]
        return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return value if isinstance(value, str) else ""


def _tokens(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value <= MAX_TOKENS else 0


MAX_MESSAGE_CHARS = 1000  # of an error's text; honest ones are a sentence or two
MAX_WORD_CHARS = 100  # of its type, code and param
MAX_RETRY_AFTER_S = 86_400  # a day: daily quotas are the longest honest wait
SIZES = ("n_prompt_tokens", "n_ctx")  # of llama-server, where a prompt is too long


def refused(
    host: str, status: int, body: bytes, retry_after: str | None, key: str | None, key_variable: str = KEY_VARIABLE
) -> UpstreamRefused:
    """The error to raise for an answer of `status` with `body`. `key` is blotted out wherever it is quoted."""
    if status == HTTPStatus.UNAUTHORIZED:
        # Passed on as it is, the client would look for the fault in its own key. Such messages quote ours, too.
        message = f"it refused this node's key (401): set {key_variable} where the node is started"
        return UpstreamRefused(host, UpstreamRefusal(502, message, "server_error", "upstream_unauthorized"))
    detail = error_object(body)
    said = detail.get("message")
    message = said if isinstance(said, str) and said.strip() else f"it answered {status} {_phrase(status)}"
    return UpstreamRefused(
        host,
        UpstreamRefusal(
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
