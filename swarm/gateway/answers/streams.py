"""A stream to one client: the status goes out with the first piece, and heartbeats keep it alive.

Until the first byte a failure is still a proper status. After it, a failure is one last piece in the stream's own form,
and nothing follows it. A client that stops reading is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from federation.tasks import cancel_and_wait
from swarm.errors import EngineFailed, SwarmError
from swarm.gateway.http.errors import INTERNAL_ERROR, error_line
from swarm.gateway.http.in_progress import BROKEN_OFF, CLIENT_LEFT, ENDING, work_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pacing:
    """Seconds between heartbeats to clients and to peers, and how long one piece may wait for a slow reader."""

    client_beat_s: float = 10.0  # proxies and SDKs give up on connections that are silent for 15-60 s
    peer_beat_s: float = 1.0  # a peer takes 5 s of silence for a frozen node
    stalled_s: float = 30.0  # a reader this slow holds workers that others wait for


PACING = web.AppKey("pacing", Pacing)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of stream says what: its headers, a heartbeat, and a failure."""

    headers: Mapping[str, str]
    heartbeat: bytes
    failure: Callable[[SwarmError], bytes]


SSE = Dialect(
    {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    b": still working\n\n",
    lambda error: b"data: " + error_line(error) + b"\n\n",
)
NDJSON = Dialect({"Content-Type": "application/x-ndjson"}, b"\n", lambda error: error_line(error) + b"\n")


class OpenStream:
    """Writes to one client."""

    def __init__(self, request: web.Request, dialect: Dialect, headers: Mapping[str, str]) -> None:
        self._request = request
        self._dialect = dialect
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

    async def _begin(self) -> None:
        async with self._starting:
            if not self._ready:
                await self.response.prepare(self._request)
                self._ready = True

    async def beat(self) -> None:
        """Say that the work goes on."""
        await self.write(self._dialect.heartbeat)

    async def watch(self, beat_s: float, stalled_s: float) -> None:
        """Write a heartbeat whenever `beat_s` went by without a write; cut the connection of a reader that stalls."""
        stalled_for_s = 0.0
        while True:
            before = self._written
            await asyncio.sleep(beat_s)
            if self._written != before:
                stalled_for_s = 0.0
            elif self._waiting:
                stalled_for_s += beat_s
                if stalled_for_s >= stalled_s:
                    self._cut()
            else:
                try:
                    async with asyncio.timeout(stalled_s):
                        await self.beat()
                except TimeoutError:
                    self._cut()

    def _cut(self) -> None:
        log.info("cutting off a client that does not read")
        if self._request.transport is not None:
            self._request.transport.abort()


@asynccontextmanager
async def open_stream(
    request: web.Request, dialect: Dialect, headers: Mapping[str, str], beat_s: float, stalled_s: float
) -> AsyncGenerator[OpenStream]:
    """A stream that ends with the block, however that ends; failures before its first byte are raised."""
    stream = OpenStream(request, dialect, headers)
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
        await stream.end(dialect.failure(reported))
    except ConnectionResetError:
        request[ENDING] = CLIENT_LEFT
    else:
        request[ENDING] = BROKEN_OFF
