"""An answer as Anthropic's events: blocks that open, grow and end one after the other, between a start and a stop."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from swarm.gateway.answers.call_opening import CallOpening
from swarm.gateway.answers.streams import OpenStream
from swarm.gateway.anthropic.shapes import (
    Shape,
    ending,
    stop_reason,
    text_block,
    thinking_block,
    tool_use_block,
    usage_object,
)
from swarm.gateway.http.compact_json import compact
from swarm.generation import Delta, Finish, JsonObject, ToolCallDelta, Usage

DELTA_FIELDS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}


def sse_event(name: str, data: object) -> str:
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


class EventWriter:
    """Writes one answer; what one step brings is one small write."""

    def __init__(self, out: OpenStream, shape: Shape, prompt_tokens: Callable[[], Awaitable[int]]) -> None:
        self._out = out
        self._shape = shape
        self._prompt_tokens = prompt_tokens
        self._begun = False
        self._blocks = 0
        self._open: list[_Block] = []  # the last one grows; before it calls that may not be whole
        self._calls = CallOpening()
        self._call_blocks: dict[int, _Block] = {}

    async def begin(self) -> None:
        await self._write("")

    async def delta(self, event: Delta) -> None:
        parts: list[str] = []
        if event.reasoning:
            parts.append(self._piece("thinking", event.reasoning))
        if event.text:
            parts.append(self._piece("text", event.text))
        parts.extend(self._call(self._calls.opened(call)) for call in event.tool_calls)
        await self._write("".join(parts))

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """Every block ends; then why the answer did, what it cost and, in `swarm`, how it came about."""
        opened = "" if self._blocks else self._start("text", text_block())
        ended = "".join(map(_stop, self._open))
        self._open.clear()
        delta = ending(stop_reason(event.reason, self._calls.any))
        last: JsonObject = {"type": "message_delta", "delta": delta, "usage": usage_object(event.usage)}
        if extension is not None:
            last["swarm"] = extension
        await self._write(opened + ended + sse_event("message_delta", last))

    async def end(self, usages: list[Usage]) -> None:
        """The stream is complete; what it cost is told already."""
        await self._write(sse_event("message_stop", {"type": "message_stop"}))

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
        return opened + block.delta("input_json_delta", "partial_json", delta.arguments) if delta.arguments else opened

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
