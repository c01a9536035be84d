"""Answers for Anthropic's clients: the Message, whole, or as events between a start and a stop.

`MessageForm` is their `AnswerForm`. A stream's blocks open, grow and end one after the other.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from swarm.errors import SwarmError
from swarm.gateway.answers.answer_form import SSE, CallOpening, Dialect, OpenStream, honest_reason, sse_comment
from swarm.gateway.http.bodies import compact
from swarm.gateway.http.errors import ANTHROPIC_REQUEST_ID_HEADER, anthropic_error_object, http_error
from swarm.gateway.openai.bodies import as_object
from swarm.generation import Candidate, Delta, Finish, FinishReason, JsonObject, ToolCallDelta, Usage
from swarm.logs import current_request_id

STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
DELTA_FIELDS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
COUNT_PATIENCE_S = 0.1  # counting takes milliseconds and began with the answer: it is hardly ever waited for


@dataclass(frozen=True, slots=True)
class MessageShape:
    """One response's constant parts. `model` is who answers, `stop_sequences` are the request's."""

    model: str
    stop_sequences: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    def whole(self, candidate: Candidate, extension: JsonObject | None) -> JsonObject:
        """The response of a request that does not stream."""
        ended = self.ending(candidate.finish_reason or "stop", bool(candidate.tool_calls), candidate.stop_sequence)
        message = self._message(content_blocks(candidate), ended, candidate.usage)
        return message if extension is None else {**message, "swarm": extension}

    def opening(self, prompt_tokens: int) -> JsonObject:
        """The message as a stream begins it: it is empty yet."""
        return self._message([], ending(None), Usage(prompt_tokens=prompt_tokens))

    def ending(self, reason: FinishReason, called: bool, stop_sequence: str | None) -> JsonObject:
        """How an answer ended: by a stop sequence only if it is the request's (templates have their own, peers lie)."""
        if (
            stop_sequence is not None
            and stop_sequence in self.stop_sequences
            and not (called and reason in ("stop", "tool_calls"))
        ):
            return ending("stop_sequence", stop_sequence)
        return ending(stop_reason(reason, called))

    def _message(self, content: list[JsonValue], ended: JsonObject, usage: Usage) -> JsonObject:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **ended,
            "usage": {**usage_object(usage), "cache_creation": None, "inference_geo": None, "service_tier": None},
        }


def stop_reason(reason: FinishReason, called: bool) -> str:
    """`tool_use` if, and only if, there is a call (an answer cut short stays cut short)."""
    return STOP_REASONS[honest_reason(reason, called)]


def ending(reason: str | None, stop_sequence: str | None = None) -> JsonObject:
    """How a message ended, in a message and in a stream's last event but one."""
    return {"stop_reason": reason, "stop_sequence": stop_sequence, "stop_details": None, "container": None}


def usage_object(usage: Usage) -> JsonObject:
    """Anthropic's counts: `input_tokens` are those that were not read from a cache. What is unknown here is null."""
    return {
        "input_tokens": max(usage.prompt_tokens - usage.cached_tokens, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": None,
        "server_tool_use": None,
    }


def content_blocks(candidate: Candidate) -> list[JsonValue]:
    """The answer's blocks: never none, since clients look at the first without asking; but where none was wanted."""
    blocks: list[JsonValue] = []
    if candidate.reasoning:
        blocks.append(thinking_block(candidate.reasoning))
    wanted = candidate.finish_reason != "length" or candidate.usage.completion_tokens > 0
    if candidate.text or (wanted and not (candidate.reasoning or candidate.tool_calls)):
        blocks.append(text_block(candidate.text))
    blocks.extend(tool_use_block(call.name, json.loads(as_object(call.arguments))) for call in candidate.tool_calls)
    return blocks


def text_block(text: str = "") -> JsonObject:
    """{"type": "text", "text": ..., "citations": []}: Anthropic's schema wants the key, and the AI SDK no null."""
    return {"type": "text", "text": text, "citations": []}


def thinking_block(thinking: str = "") -> JsonObject:
    """Clients require a signature; only Anthropic's own models need a true one."""
    return {"type": "thinking", "thinking": thinking, "signature": ""}


def tool_use_block(name: str, arguments: JsonObject) -> JsonObject:
    """A call under an id of its own: the engine's may be blank, repeated, or not in Anthropic's alphabet."""
    identity: JsonObject = {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name}
    return {**identity, "input": arguments, "caller": {"type": "direct"}}


def sse_event(name: str, data: object) -> str:
    """One event of a stream: `data` as compact JSON."""
    return f"event: {name}\ndata: {compact(data)}\n\n"


@dataclass(slots=True)
class _Block:
    """A block that has been opened. `json` are the pieces of a call's arguments."""

    index: int
    kind: Literal["text", "thinking", "tool_use"]
    json: list[str] = field(default_factory=list[str])

    def delta(self, kind: str, name: str, text: str) -> str:
        """The event that adds `text`, made by hand: there is one for each token."""
        return (
            f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{self.index},'
            f'"delta":{{"type":"{kind}","{name}":{compact(text)}}}}}\n\n'
        )

    @property
    def whole(self) -> bool:
        """Whether nothing can be missing: an engine may go on with a call's arguments after it began the next."""
        if self.kind != "tool_use":
            return True
        try:
            json.loads("".join(self.json))
        except (ValueError, RecursionError):
            return False
        return True


class MessageWriter:
    """Writes one answer; what one step brings is one small write.

    In a long silence an empty delta is one, too: clients take pings alone for a server that hangs. Such a delta may
    begin the message, with an empty text block, beside a step that comes just then: so one thing is written at a time.
    """

    def __init__(self, out: OpenStream, shape: MessageShape, prompt_tokens: Callable[[], Awaitable[int]]) -> None:
        self._out = out
        self._shape = shape
        self._prompt_tokens = prompt_tokens
        self._begun = self._ended = False
        self._turn = asyncio.Lock()
        self._blocks = 0
        self._open: list[_Block] = []  # the last one grows; before it calls that may not be whole
        self._calls = CallOpening()
        self._call_blocks: dict[int, _Block] = {}
        out.on_silence = self._stay

    async def begin(self) -> None:
        async with self._turn:
            await self._write("")

    async def delta(self, event: Delta) -> None:
        async with self._turn:
            parts: list[str] = []
            if event.reasoning:
                parts.append(self._piece("thinking", event.reasoning))
            if event.text:
                parts.append(self._piece("text", event.text))
            parts.extend(self._call(self._calls.opened(call)) for call in event.tool_calls)
            await self._write("".join(parts))

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """Every block ends; then why the answer did, what it cost and, in `swarm`, how it came about."""
        async with self._turn:
            opened = "" if self._blocks else self._start("text", text_block())
            ended = "".join(map(_stop, self._open))
            self._open.clear()
            self._ended = True
            delta = self._shape.ending(event.reason, self._calls.any, event.stop_sequence)
            last: JsonObject = {"type": "message_delta", "delta": delta, "usage": usage_object(event.usage)}
            if extension is not None:
                last["swarm"] = extension
            await self._write(opened + ended + sse_event("message_delta", last))

    async def end(self, usages: list[Usage]) -> None:
        """The stream is complete; what it cost is sent already."""
        async with self._turn:
            await self._write(sse_event("message_stop", {"type": "message_stop"}))

    async def _stay(self) -> None:
        """An event that adds nothing to the block that is open; a block of text is opened where none is."""
        async with self._turn:
            if self._ended:
                await self._out.beat()
                return
            opened = "" if self._open else self._start("text", text_block())
            block = self._open[-1]
            await self._write(opened + block.delta(*DELTA_FIELDS[block.kind], ""))

    def _piece(self, kind: Literal["text", "thinking"], text: str) -> str:
        """More of the block of that kind that is being written, or the beginning of one."""
        opened = ""
        if not self._open or self._open[-1].kind != kind:
            opened = self._start(kind, text_block() if kind == "text" else thinking_block())
        return opened + self._open[-1].delta(*DELTA_FIELDS[kind], text)

    def _call(self, delta: ToolCallDelta) -> str:
        """What a call's piece amounts to. Its id is one of ours from here on; see `tool_use_block`."""
        opened = ""
        if delta.id is not None:
            opened = self._start("tool_use", tool_use_block(delta.name or "", {}))
            self._call_blocks[delta.index] = self._open[-1]
        block = self._call_blocks[delta.index]
        block.json.append(delta.arguments)
        return opened + block.delta(*DELTA_FIELDS["tool_use"], delta.arguments) if delta.arguments else opened

    def _start(self, kind: Literal["text", "thinking", "tool_use"], block: JsonObject) -> str:
        """End what is whole and begin the next block."""
        ended = "".join(_stop(block) for block in self._open if block.whole)
        index, self._blocks = self._blocks, self._blocks + 1
        self._open = [*(block for block in self._open if not block.whole), _Block(index, kind)]
        start = {"type": "content_block_start", "index": index, "content_block": block}
        return ended + sse_event("content_block_start", start)

    async def _write(self, events: str) -> None:
        if not self._begun:
            self._begun = True
            message = self._shape.opening(await self._prompt_tokens())
            events = sse_event("message_start", {"type": "message_start", "message": message}) + events
        if events:
            await self._out.write(events.encode())


def _stop(block: _Block) -> str:
    return sse_event("content_block_stop", {"type": "content_block_stop", "index": block.index})


def failure(error: SwarmError) -> bytes:
    """A failure after the status is out, as the stream's last event."""
    mapped = http_error(error)
    return sse_event("error", anthropic_error_object(mapped.status, mapped.message, mapped.extra)).encode()


@dataclass(frozen=True, slots=True)
class MessageForm:
    """One Message, whole or streamed.

    `counting` gives the prompt's tokens, which a stream has in its first event: the engine itself counts them for the
    last one. Where it fails or takes too long the first event says 0, and the last one has the number.
    """

    shape: MessageShape
    counting: asyncio.Task[int] | None = None

    @property
    def dialect(self) -> Dialect:
        """Anthropic's ping as heartbeat, its error event as failure."""
        headers = {**SSE.headers, ANTHROPIC_REQUEST_ID_HEADER: current_request_id.get()}
        return Dialect(headers, sse_event("ping", {"type": "ping"}).encode(), failure, sse_comment)

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        return self.shape.whole(candidates[0], extension)

    def writer(self, out: OpenStream, choices: int) -> MessageWriter:
        return MessageWriter(out, self.shape, self._prompt_tokens)

    async def _prompt_tokens(self) -> int:
        if self.counting is None:
            return 0
        done, _ = await asyncio.wait({self.counting}, timeout=COUNT_PATIENCE_S)
        failed = not done or self.counting.cancelled() or self.counting.exception() is not None
        return 0 if failed else self.counting.result()
