"""A socket that answers every HTTP request with the bytes that a test gives it, whatever they are."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from federation.hostport import Address
from federation.tasks import cancel_and_wait

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class LyingServer:
    """Serves from `async with` on. `reply` is written after each request, and the connection closed."""

    def __init__(self) -> None:
        self.reply = b""
        self.asked = 0
        self.address = Address("127.0.0.1", 0)
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> LyingServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", int(self._server.sockets[0].getsockname()[1]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await cancel_and_wait(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        await reader.readexactly(int(length[1]) if length else 0)
        self.asked += 1
        writer.write(self.reply)
        await writer.drain()
