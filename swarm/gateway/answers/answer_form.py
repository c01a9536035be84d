"""How an answer reaches a client: the form that its API gives it, and the stream that carries it.

`AnswerForm` is the seam between what a swarm answers and each API's own shapes; a form is made for one response.
`OpenAIForm` has OpenAI's chat and plain completions; each other API brings its own. What all of them need is here, too:
tool calls with dense indices, unique ids and one opening each, whatever an engine or peer sent; and how a vote stands,
for streams that have room for it.

`open_stream` sends the status with the first piece, and heartbeats keep the connection alive. Until the first byte a
failure is still a proper status; after it, a failure is one last piece in the stream's own form, and nothing follows.
A client that stops reading is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from aiohttp import HttpVersion11, web

from federation.printable_text import printable
from federation.tasks import cancel_and_wait
from swarm.errors import EngineFailed, SwarmError
from swarm.gateway.http.errors import INTERNAL_ERROR, error_line
from swarm.gateway.http.in_progress import BROKEN_OFF, CLIENT_LEFT, ENDING, work_of
from swarm.generation import (
    Candidate,
    Delta,
    Finish,
    FinishReason,
    JsonObject,
    ToolCall,
    ToolCallDelta,
    Usage,
    new_call_id,
)

TOLD_AFTER_S = 0.3  # a request that waits for a load is told so: what has no room is refused by then
RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # `struct linger`: nothing is waited for
_DRAWN = re.compile("[A-Za-z0-9]{32}")  # an id that llama.cpp has drawn for a call
log = logging.getLogger(__name__)


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


@runtime_checkable
class TimedForm(Protocol):
    """A form that tells when its answer began."""

    def first(self) -> None:
        """The answer's first piece came."""
        ...


def shown_id(given: str | None, taken: Collection[str]) -> str:
    """The id under which a client sees a call: `call_` and something, as OpenAI has it.

    A blank or repeated one is replaced, and what llama.cpp draws gets its beginning. Ids of other makes stay: a model
    wrote them itself, or an upstream will know them again.
    """
    if not given:
        return new_call_id()
    shown = f"call_{given}" if _DRAWN.fullmatch(given) else given
    return new_call_id() if shown in taken else shown


def with_unique_ids(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls of one answer under the ids that a client sees."""
    seen: set[str] = set()
    made: list[ToolCall] = []
    for call in calls:
        given = shown_id(call.id, seen)
        seen.add(given)
        made.append(call if given == call.id else call.model_copy(update={"id": given}))
    return made


def honest_reason(reason: FinishReason, called: bool) -> FinishReason:
    """`tool_calls` if, and only if, there is one (an answer cut short stays cut short)."""
    if called and reason == "stop":
        return "tool_calls"
    return "stop" if reason == "tool_calls" and not called else reason


@dataclass(slots=True)
class CallOpening:
    """One choice's calls while they stream: the first delta of each has its id and name, later ones only arguments."""

    _index: dict[int, int] = field(default_factory=dict[int, int])
    _ids: set[str] = field(default_factory=set[str])

    @property
    def any(self) -> bool:
        """Whether a call was opened."""
        return bool(self._index)

    def opened(self, delta: ToolCallDelta) -> ToolCallDelta:
        """`delta` with the index, and for the first of its call the id and name, that the client is to see."""
        index = self._index.get(delta.index)
        if index is not None:
            return ToolCallDelta(index, None, None, delta.arguments)
        index = self._index[delta.index] = len(self._index)
        given = shown_id(delta.id, self._ids)
        self._ids.add(given)
        return ToolCallDelta(index, given, delta.name or "", delta.arguments)


@runtime_checkable
class BallotWriter(Protocol):
    """A writer of a stream in which a ballot can be shown beside the answer."""

    async def ballot(self, standing: JsonObject) -> None:
        """How the vote stands."""
        ...


async def show_standing(writer: AnswerWriter, standing: JsonObject) -> None:
    """Tell the client how the vote stands, if its stream has room for that: events of other APIs are not extended."""
    if isinstance(writer, BallotWriter):
        await writer.ballot(standing)


def message_object(candidate: Candidate) -> JsonObject:
    """The assistant's turn. `content` is null where there are only tool calls, as OpenAI has it."""
    message: JsonObject = {
        "role": "assistant",
        "content": candidate.text or None if candidate.tool_calls else candidate.text,
        "refusal": None,  # OpenAI's schema requires it
        "annotations": [],
    }
    if candidate.reasoning:
        message["reasoning_content"] = candidate.reasoning
    if candidate.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in with_unique_ids(candidate.tool_calls)
        ]
    return message


@dataclass(frozen=True, slots=True)
class Pacing:
    """Seconds between heartbeats to clients and to peers, and how long one piece may wait for a slow reader.

    `patience_s`: for how long a client takes heartbeats alone for a sign of life; then events come, where an API can.
    `whole_patience_s`: for how long an answer in one piece may be silent. Then white space comes before it, and its
    status is told: should it fail after all, it is cut off.
    """

    client_beat_s: float = 10.0  # proxies and SDKs give up on connections that are silent for 15-60 s
    patience_s: float = 60.0  # Claude Code and Codex give up on streams without an event for 300 s
    whole_patience_s: float = 240.0  # Node's fetch gives up on a response without a status after 300 s
    peer_beat_s: float = 1.0  # a peer takes 5 s of silence for a frozen node
    stalled_s: float = 30.0  # a reader this slow holds workers that others wait for
    told_s: float = 1.0  # between two comments on how far a load is


PACING = web.AppKey("pacing", Pacing)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of stream says what: its headers, a heartbeat, a failure, and a comment, where it can have one.

    `cuts`: no reader could tell a failure from an answer, so that it is sent without the end of a response.
    """

    headers: Mapping[str, str]
    heartbeat: bytes
    failure: Callable[[SwarmError], bytes]
    comment: Callable[[str], bytes] | None = None
    cuts: bool = False


def sse_comment(words: str) -> bytes:
    """A line that every reader of event streams passes over."""
    return f": {printable(words)}\n\n".encode()


SSE = Dialect(
    {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    b": still working\n\n",
    lambda error: b"data: " + error_line(error) + b"\n\n",
    sse_comment,
)
# An answer in one piece that is long in coming: JSON may begin with white space.
WHOLE = Dialect(
    {"Content-Type": "application/json; charset=utf-8"}, b" ", lambda error: error_line(error) + b"\n", cuts=True
)
NDJSON = Dialect({"Content-Type": "application/x-ndjson"}, b"\n", lambda error: error_line(error) + b"\n")


class OpenStream:
    """Writes to one client. `on_silence` may be set to what writes in a heartbeat's place after a longer silence.

    No heartbeat opens the response before a silence of `opens_after_s`.
    """

    on_silence: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self,
        request: web.Request,
        dialect: Dialect,
        headers: Mapping[str, str],
        patience_s: float = math.inf,
        opens_after_s: float = 0.0,
    ) -> None:
        self._request = request
        self._dialect = dialect
        self._patience_s = patience_s
        self._opens_after_s = opens_after_s
        self.response = web.StreamResponse(headers={**dialect.headers, **headers})
        self._starting = asyncio.Lock()
        self._ready = False
        self._written = 0
        self._waiting = False

    @property
    def begun(self) -> bool:
        """Whether the status has been sent."""
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the client reads slowly. Raises ConnectionResetError when it is gone."""
        if not self._ready:
            await self._begin()
        self._written += 1
        await self._send(data)

    async def _send(self, data: bytes) -> None:
        self._waiting = True
        await self.response.write(data)
        self._waiting = False

    async def end(self, data: bytes = b"") -> None:
        """Send `data` and the end of the answer as one packet: who dies has sent both or neither."""
        if not self._ready:
            await self._begin()
        self._written += 1
        self._waiting = True
        await self.response.write_eof(data)
        self._waiting = False
        self._request[ENDING] = str(self.response.status)  # a client that closes now has all of it

    async def cut_short(self, data: bytes) -> None:
        """Send `data`, and close the connection without the end of the answer; in HTTP/1.0, where that is it, reset it.

        Many proxies ask in HTTP/1.0, and would pass on as whole what ends by a close.
        """
        await self.write(data)
        transport = self._request.transport
        if transport is None:
            return
        if self._request.version >= HttpVersion11:
            transport.close()
            return
        if (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()

    async def has_begun(self) -> bool:
        """As `begun`, also where the status is just being sent."""
        async with self._starting:
            return self.begun

    async def _begin(self) -> None:
        async with self._starting:
            if not self._ready:
                await self.response.prepare(self._request)
                self._ready = True

    async def beat(self, silent_s: float = 0.0) -> None:
        """Say that the work goes on, when nothing but heartbeats has been written for `silent_s`."""
        if not self.begun and silent_s < self._opens_after_s:
            return
        if self.on_silence is None or silent_s < self._patience_s:
            await self.write(self._dialect.heartbeat)
        else:
            await self.on_silence()

    async def tell(self, progress: Callable[[], str | None], every_s: float) -> None:
        """Write what `progress` says as comments, until it says nothing more; not where the stream has none.

        The first is written a moment later: what is refused by then still gets its status. They break no silence: some
        clients take comments alone for a server that hangs.
        """
        comment = self._dialect.comment
        while comment is not None:
            await asyncio.sleep(every_s if self.begun else min(every_s, TOLD_AFTER_S))
            words = progress()
            if words is None:
                return
            await self._begin()
            await self._send(comment(words))

    async def watch(self, beat_s: float, stalled_s: float) -> None:
        """Write a heartbeat whenever `beat_s` went by without a write; cut the connection of a reader that stalls."""
        stalled_for_s = silent_s = 0.0
        while True:
            before = self._written
            await asyncio.sleep(beat_s)
            if self._written != before:
                stalled_for_s = silent_s = 0.0
            elif self._waiting:
                stalled_for_s += beat_s
                if stalled_for_s >= stalled_s:
                    self._cut()
            else:
                silent_s += beat_s
                try:
                    async with asyncio.timeout(stalled_s):
                        await self.beat(silent_s)
                except TimeoutError:
                    self._cut()

    def _cut(self) -> None:
        log.info("cutting off a client that does not read")
        if self._request.transport is not None:
            self._request.transport.abort()


@asynccontextmanager
async def open_stream(
    request: web.Request,
    dialect: Dialect,
    headers: Mapping[str, str],
    beat_s: float,
    stalled_s: float,
    patience_s: float = math.inf,
    opens_after_s: float = 0.0,
) -> AsyncGenerator[OpenStream]:
    """A stream that ends with the block, however that ends; failures before its first byte are raised."""
    stream = OpenStream(request, dialect, headers, patience_s, opens_after_s)
    watch = asyncio.create_task(stream.watch(beat_s, stalled_s), name="stream watch")
    try:
        async with work_of(request).within():
            yield stream
    except ConnectionResetError:
        request[ENDING] = CLIENT_LEFT
    except Exception as error:
        if not stream.begun:
            raise
        await _break_off(request, stream, dialect, error)
    finally:
        await cancel_and_wait(watch)
    if stream.begun and ENDING not in request:
        try:
            await stream.end()
        except ConnectionResetError:
            request[ENDING] = CLIENT_LEFT


async def _break_off(request: web.Request, stream: OpenStream, dialect: Dialect, error: Exception) -> None:
    """Say in the stream what went wrong, and end it."""
    if isinstance(error, SwarmError):
        log.warning("stream broken off: %s", error)
        reported = error
    else:
        log.error("stream broken off", exc_info=error)
        reported = EngineFailed(INTERNAL_ERROR)
    try:
        failure = dialect.failure(reported)
        await (stream.cut_short(failure) if dialect.cuts else stream.end(failure))
    except ConnectionResetError:
        request[ENDING] = CLIENT_LEFT
    else:
        request[ENDING] = BROKEN_OFF


async def in_one_piece(
    request: web.Request, headers: Mapping[str, str], pacing: Pacing, answer: Awaitable[web.Response]
) -> web.StreamResponse:
    """The response that `answer` gives; where it is long in coming, with white space before its body.

    Then `headers` are what it has, its status is 200, and a failure cuts it off.
    """
    waiting = open_stream(
        request, WHOLE, headers, pacing.client_beat_s, pacing.stalled_s, opens_after_s=pacing.whole_patience_s
    )
    async with waiting as out:
        response = await answer
        if not await out.has_begun():
            return response
        await out.end((response.text or "").encode())
    return out.response
