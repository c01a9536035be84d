"""A server-sent event stream: the status goes out with the first event, comments keep quiet connections alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

CLIENT_HEARTBEAT_S = 10.0  # proxies and SDKs give up on connections that are silent for 15-60 s
PEER_HEARTBEAT_S = 1.0  # a peer takes 5 s of silence for a frozen node
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventStreamResponse:
    """Writes events to one client. Until the first write (or heartbeat) a failure can still be a proper status."""

    def __init__(self, request: web.Request, headers: Mapping[str, str], heartbeat: bytes) -> None:
        self._request = request
        self._heartbeat = heartbeat
        self.response = web.StreamResponse(headers={**HEADERS, **headers})
        self._starting = asyncio.Lock()
        self._quiet = True

    @property
    def begun(self) -> bool:
        """Whether the status has been sent."""
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the client reads slowly. Raises ConnectionResetError when it is gone."""
        self._quiet = False
        if not self.response.prepared:
            await self._begin()
        await self.response.write(data)

    async def _begin(self) -> None:
        async with self._starting:
            if not self.response.prepared:
                await self.response.prepare(self._request)

    async def beat(self, interval_s: float) -> None:
        """Write a heartbeat whenever `interval_s` went by without anything else, until cancelled."""
        while True:
            self._quiet = True
            await asyncio.sleep(interval_s)
            if self._quiet:
                await self._begin()
                await self.response.write(self._heartbeat)


@asynccontextmanager
async def event_stream(
    request: web.Request,
    headers: Mapping[str, str],
    interval_s: float = CLIENT_HEARTBEAT_S,
    heartbeat: bytes = b": still working\n\n",
) -> AsyncGenerator[EventStreamResponse]:
    """An event stream with its heartbeat, which ends with the block."""
    stream = EventStreamResponse(request, headers, heartbeat)
    pulse = asyncio.create_task(stream.beat(interval_s), name="sse heartbeat")
    try:
        yield stream
    finally:
        pulse.cancel()
        await asyncio.gather(pulse, return_exceptions=True)
    if stream.begun:
        await stream.response.write_eof()
