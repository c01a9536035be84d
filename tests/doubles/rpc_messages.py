"""llama.cpp's RPC protocol, as far as tests speak it: what a host could send that is no llama.cpp."""

from __future__ import annotations

import asyncio
import socket
import struct

HELLO, ALLOC_BUFFER, BUFFER_CLEAR = 14, 0, 5  # of `enum rpc_cmd` in ggml-rpc.cpp


class RpcTalk:
    """A connection on which nothing was said yet; every answer is waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)

    async def __aenter__(self) -> RpcTalk:
        self._reader, self._writer = await asyncio.open_connection(sock=self._connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)

    async def ask(self, command: int, payload: bytes) -> bytes:
        """The answer's payload. Raises IncompleteReadError where the server closes instead."""
        self._writer.write(struct.pack("<BQ", command, len(payload)) + payload)
        (size,) = struct.unpack("<Q", await self._reader.readexactly(8))
        return await self._reader.readexactly(size)

    async def hello(self) -> tuple[int, ...]:
        return tuple((await self.ask(HELLO, bytes(24)))[:3])

    async def alloc(self, size_bytes: int) -> int:
        """A buffer; 0 where there is no memory for it."""
        pointer, _ = struct.unpack("<QQ", await self.ask(ALLOC_BUFFER, struct.pack("<IQ", 0, size_bytes)))
        return int(pointer)

    async def touch(self, pointer: int) -> None:
        """Write to all of a buffer, so that its memory is in use. That has no answer."""
        payload = struct.pack("<QB", pointer, 7)
        self._writer.write(struct.pack("<BQ", BUFFER_CLEAR, len(payload)) + payload)
        await self._writer.drain()
