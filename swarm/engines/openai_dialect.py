"""OpenAI's JSON as other programs speak it: a request as they are sent it, their event streams as typed events.

Peers, upstreams and, after a few changes, llama.cpp take `request_body`. Of server-sent events is read what compatible
servers use: `data:` lines, comments, a blank line between. JSON on its way to a typed object is a `ParsedJson`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, TypeGuard, cast

from pydantic import JsonValue

from swarm.errors import BadRequest, ContextExceeded, EngineFailed, SwarmError
from swarm.generation import (
    MOST_MS,
    Delta,
    Finish,
    FinishReason,
    GenerationRequest,
    JsonObject,
    Timings,
    ToolCallDelta,
    Usage,
)

MAX_EVENT_BYTES = 4 * 2**20  # the largest honest event is a final chunk with logprobs: a few hundred KiB

FORMED = {
    "logprobs",
    "top_logprobs",
    "tool_choice",
    "tools",
    "thinking",
    "llama_options",
}  # what has another form in OpenAI's JSON
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process\D+(\d+)")
_IN_A_TEMPLATE = "While executing "  # how llama.cpp's errors in templates begin, whatever their status
NO_TOKENS = (
    "these numbers are not tokens of this model: send text, or what its own /tokenize gives "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)
SCHEMA_COMPLAINT = "Unable to generate parser for this template. Automatic parser generation failed: "

STOPPING_WORD = "stopping_word"  # llama.cpp's, where it is asked to be verbose

ParsedJson = Mapping[str, Any]  # and not yet looked at: it travels no further than the reader that it arrives at


class EventTooLargeError(ValueError):
    """One event grew past MAX_EVENT_BYTES."""


async def sse_data(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The payload of each `data:` line in a byte stream cut anywhere; comments and other fields are dropped."""
    pending = b""
    async for chunk in chunks:
        pending += chunk
        if b"\n" not in chunk:
            if len(pending) > MAX_EVENT_BYTES:
                raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
            continue
        *lines, pending = pending.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if pending.startswith(b"data:"):
        yield pending[5:].strip()


def as_object(value: object) -> ParsedJson:
    """`value` if it is a JSON object, else an empty one."""
    return cast("ParsedJson", value) if isinstance(value, dict) else {}


class ChunkReader:
    """Turns one response's chunks into events. A choice's usage comes right after its last chunk.

    `cached` is how much of the prompt was in the cache, where the response itself no longer tells.
    """

    def __init__(self, chat: bool, cached: int | None = None) -> None:
        self._chat = chat
        self._cached = cached
        self._finished: tuple[int, FinishReason] | None = None
        self._stops: dict[int, str] = {}  # the stop sequence that ended each choice
        self._timings: Timings | None = None  # of the choice that was finished last

    def events(self, chunk: ParsedJson) -> list[Delta | Finish]:
        """The events in one chunk, in order. Raises the chunk's error if it is one."""
        if "error" in chunk:
            raise translate_error(int(chunk["error"].get("code", 500)), chunk, "messages" if self._chat else "prompt")
        events: list[Delta | Finish] = []
        for choice in chunk["choices"]:
            delta = self._delta(choice)
            if delta is not None:
                events.append(delta)
            if stop := stop_sequence_of(choice, chunk):
                self._stops[choice["index"]] = stop
            reason = choice.get("finish_reason")
            if reason:
                self._finished = (choice["index"], FINISH_REASONS.get(reason, "stop"))
                self._timings = None
        self._timings = timings_of(chunk) or self._timings
        usage = chunk.get("usage")
        if usage is not None and self._finished is not None:
            index, reason = self._finished
            self._finished = None
            cached = as_object(usage.get("prompt_tokens_details")).get("cached_tokens", 0)
            cached = cached if self._cached is None else self._cached
            counts = Usage(
                prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"], cached_tokens=cached
            )
            events.append(Finish(index, reason, counts, self._stops.get(index), timings=self._timings))
        return events

    def _delta(self, choice: ParsedJson) -> Delta | None:
        logprobs = token_logprobs(choice.get("logprobs"))
        if not self._chat:
            text = choice.get("text") or ""
            return Delta(choice["index"], text, logprobs=logprobs) if text or logprobs else None
        delta = choice["delta"] if "delta" in choice else choice["message"]  # of an answer that was not streamed
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        calls = tuple(_tool_call(place, call) for place, call in enumerate(delta.get("tool_calls") or ()))
        if not (content or reasoning or calls or logprobs):
            return None
        return Delta(choice["index"], content or "", reasoning or "", calls, logprobs)


def token_logprobs(logprobs: JsonValue) -> JsonValue:
    """Log-probabilities in the one form that they have inside: chat's, an object for each token in `content`.

    Servers tell those of plain completions in parallel lists, whose offsets are their own; anything else stays.
    """
    given = logprobs if isinstance(logprobs, dict) else {}
    tokens, values, tops = (given.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(tokens, list) and isinstance(values, list) and len(tokens) == len(values)):
        return logprobs
    above = tops if isinstance(tops, list) and len(tops) == len(tokens) else [None] * len(tokens)
    content: list[JsonValue] = [
        {**_one_logprob(token, value), "top_logprobs": [_one_logprob(*each) for each in top.items()]}
        if isinstance(top, dict)
        else {**_one_logprob(token, value), "top_logprobs": []}
        for token, value, top in zip(tokens, values, above, strict=True)
    ]
    return {"content": content}


def _one_logprob(token: JsonValue, value: JsonValue) -> JsonObject:
    text = str(token)
    return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "surrogatepass"))}


def timings_of(chunk: ParsedJson) -> Timings | None:
    """How long an answer took, as llama.cpp and nodes say it; None where that is not said, or is no time."""
    said = as_object(chunk.get("timings"))
    prompt_ms, predicted_ms = said.get("prompt_ms"), said.get("predicted_ms")
    if not (_is_time(prompt_ms) and _is_time(predicted_ms)):
        return None
    return Timings(prompt_ms=float(prompt_ms), predicted_ms=float(predicted_ms))


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_MS


def stop_sequence_of(choice: ParsedJson, chunk: ParsedJson) -> str:
    """The stop sequence that ended `choice`, as vLLM (and a node), SGLang and llama.cpp tell it; "" where none did."""
    word = (
        choice.get("stop_reason") or choice.get("matched_stop") or as_object(chunk.get("__verbose")).get(STOPPING_WORD)
    )
    return word if isinstance(word, str) else ""  # others have the token there that ended the answer


def _tool_call(place: int, call: ParsedJson) -> ToolCallDelta:
    function = as_object(call.get("function"))
    return ToolCallDelta(
        call.get("index", place), call.get("id"), function.get("name"), function.get("arguments") or ""
    )


def request_body(request: GenerationRequest, n: int) -> dict[str, Any]:
    """OpenAI's JSON for `n` streamed answers to `request`: what peers take."""
    body = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=FORMED)
    if request.tools:
        body["tools"] = [tool.model_dump(mode="json", exclude_none=True) for tool in request.tools]
        choice = request.tool_choice
        body["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump(mode="json")
    else:
        body.pop("parallel_tool_calls", None)
    if not request.input_extra:
        body.pop("input_extra")
    if request.logprobs:
        if request.messages is None:
            body["logprobs"] = max(request.top_logprobs, 1)
        else:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
    if request.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": request.thinking}  # vLLM's and llama.cpp's name
    body |= request.llama_options
    body["n"] = n
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    return body


class TemplateRefused(BadRequest):
    """The model's chat template refused a conversation, or cannot show one of its tools."""


def translate_error(status: int, body: ParsedJson, field: str | None = None) -> SwarmError:
    """llama.cpp's error object as one of ours; `field` had the prompt."""
    detail = as_object(body.get("error"))
    message = str(detail.get("message") or f"the engine answered {status}")
    if detail.get("type") == "exceed_context_size_error":
        return ContextExceeded(int(detail.get("n_prompt_tokens", 0)), int(detail.get("n_ctx", 0)), param=field)
    if too_large := _TOO_LARGE.match(message):  # a text that must be pooled at once; llama.cpp calls it a server error
        had, most = too_large.groups()
        return BadRequest(f"a text has {had} tokens, and this model takes {most} at once here: split it", param="input")
    if "invalid tokens" in message or "_M_range_check" in message:
        return BadRequest(NO_TOKENS, param="tokens")
    if _IN_A_TEMPLATE in message:
        why = message.rpartition("Error: ")[2].removeprefix("Jinja Exception: ").strip()
        return TemplateRefused(f"this model's chat template does not take this conversation: {why}", param=field)
    if status in (400, 404, 422, 501):
        return BadRequest(message.removeprefix(SCHEMA_COMPLAINT))
    return EngineFailed(f"the engine failed: {message}")
