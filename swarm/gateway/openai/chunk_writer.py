"""OpenAI's two forms of an answer, and its events as OpenAI's chunks, written to one stream."""

from __future__ import annotations

from dataclasses import dataclass, replace

from swarm.gateway.answers.call_opening import CallOpening, honest_reason
from swarm.gateway.answers.streams import SSE, Dialect, OpenStream
from swarm.gateway.openai.shapes import DONE, Shape, add_usage
from swarm.gateway.openai.text_logprobs import text_logprobs
from swarm.generation import Candidate, Delta, Finish, JsonObject, Usage


@dataclass(frozen=True, slots=True)
class OpenAIForm:
    """Chat completions and plain completions: see `AnswerForm`."""

    shape: Shape

    @property
    def dialect(self) -> Dialect:
        return SSE

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        return self.shape.whole(candidates, extension)

    def writer(self, out: OpenStream, choices: int) -> ChunkWriter:
        return ChunkWriter(out, self.shape, choices)


class ChunkWriter:
    """Each choice opens once, with its role, and ends once. One event is one small write."""

    def __init__(self, out: OpenStream, shape: Shape, choices: int) -> None:
        self._out = out
        self._shape = shape
        self._head = shape.head()
        self._tail = shape.tail()
        self._unopened = set(range(choices))
        self._calls = [CallOpening() for _ in range(choices)]
        self._written_chars = [len(shape.echo)] * choices

    async def begin(self) -> None:
        """Every choice's first chunk."""
        openings = [text for choice in sorted(self._unopened) if (text := self._opening(choice))]
        if openings:
            await self._out.write("".join(openings).encode())

    async def delta(self, event: Delta) -> None:
        if event.tool_calls:
            calls = tuple(map(self._calls[event.choice].opened, event.tool_calls))
            event = replace(event, tool_calls=calls)
        if self._shape.kind == "text":
            if event.logprobs is not None:
                event = replace(event, logprobs=text_logprobs(event.logprobs, self._written_chars[event.choice]))
            self._written_chars[event.choice] += len(event.text)
        await self._chunk(event.choice, self._shape.delta(event), self._tail)

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """The choice's last chunk; with `extension` it carries the `swarm` object."""
        reason = honest_reason(event.reason, self._calls[event.choice].any)
        await self._chunk(event.choice, self._shape.finish(event.choice, reason), self._shape.tail(extension))

    async def ballot(self, standing: JsonObject) -> None:
        """A chunk without choices that tells how the vote stands."""
        await self._out.write(f"{self._head}{self._shape.tail({'ballot': standing})}".encode())

    async def end(self, usages: list[Usage]) -> None:
        """What comes after the last choice: the usage where the client asked for it, and the end mark."""
        usage = self._shape.usage_chunk(add_usage(usages)).encode() if self._shape.include_usage else b""
        await self._out.end(usage + DONE)

    async def _chunk(self, choice: int, body: str, tail: str) -> None:
        opening = self._opening(choice) if choice in self._unopened else ""
        await self._out.write(f"{opening}{self._head}{body}{tail}".encode())

    def _opening(self, choice: int) -> str:
        """The chunk with which a choice opens; "" where it needs none."""
        self._unopened.discard(choice)
        opening = self._shape.opening(choice)
        return "" if opening is None else f"{self._head}{opening}{self._tail}"
