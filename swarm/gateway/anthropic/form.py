"""The form of answers for Anthropic's clients: see `AnswerForm`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.gateway.answers.streams import SSE, Dialect, OpenStream
from swarm.gateway.anthropic.errors import REQUEST_ID_HEADER, error_object
from swarm.gateway.anthropic.events import EventWriter, sse_event
from swarm.gateway.anthropic.shapes import Shape
from swarm.gateway.http.errors import http_error
from swarm.generation import Candidate, JsonObject
from swarm.tracing import current_request_id

COUNT_PATIENCE_S = 0.1  # counting takes milliseconds and began with the answer: it is hardly ever waited for


def failure(error: SwarmError) -> bytes:
    """A failure after the status is out, as the stream's last event."""
    mapped = http_error(error)
    return sse_event("error", error_object(mapped.status, mapped.message, mapped.extra)).encode()


@dataclass(frozen=True, slots=True)
class MessageForm:
    """One Message, whole or streamed.

    `counting` gives the prompt's tokens, which a stream tells in its first event: the engine itself counts them for the
    last one. Where it fails or takes too long the first event says 0, and the last one tells the truth.
    """

    shape: Shape
    counting: asyncio.Task[int] | None = None

    @property
    def dialect(self) -> Dialect:
        headers = {**SSE.headers, REQUEST_ID_HEADER: current_request_id.get()}
        return Dialect(headers, sse_event("ping", {"type": "ping"}).encode(), failure)

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        return self.shape.whole(candidates[0], extension)

    def writer(self, out: OpenStream, choices: int) -> EventWriter:
        return EventWriter(out, self.shape, self._prompt_tokens)

    async def _prompt_tokens(self) -> int:
        if self.counting is None:
            return 0
        done, _ = await asyncio.wait({self.counting}, timeout=COUNT_PATIENCE_S)
        failed = not done or self.counting.cancelled() or self.counting.exception() is not None
        return 0 if failed else self.counting.result()
