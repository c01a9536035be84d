"""How an answer is put for one family of clients: the seam between what a swarm answers and each API's own shapes.

A form is made for one response. OpenAI's chat and plain completions are `shapes.Shape`; other APIs bring their own.
"""

from __future__ import annotations

from typing import Protocol

from swarm.gateway.answers.streams import Dialect, OpenStream
from swarm.generation import Candidate, Delta, Finish, JsonObject, Usage


class AnswerWriter(Protocol):
    """Writes one answer's events to a stream. Every choice opens once and ends once."""

    async def begin(self) -> None:
        """The answer is on its way, and nothing of it can be shown yet."""
        ...

    async def delta(self, event: Delta) -> None:
        """What one step added."""
        ...

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """A choice is complete; `extension` is the `swarm` object, given with the last choice alone."""
        ...

    async def end(self, usages: list[Usage]) -> None:
        """Everything is complete; one usage per choice."""
        ...


class AnswerForm(Protocol):
    """The shapes of one response, whole or streamed."""

    @property
    def dialect(self) -> Dialect:
        """Headers, heartbeat and failure of a stream."""
        ...

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        """The body of a response that does not stream; `extension` is the `swarm` object."""
        ...

    def writer(self, out: OpenStream, choices: int) -> AnswerWriter:
        """A writer of the streamed response on `out`."""
        ...
