"""llama.cpp's RPC protocol, as far as tests speak it: what a host could send that is no llama.cpp."""

from __future__ import annotations

import asyncio
import socket
import struct

# Of `enum rpc_cmd` in ggml-rpc.cpp.
HELLO, ALLOC_BUFFER, BUFFER_GET_BASE, BUFFER_CLEAR = 14, 0, 3, 5
SET_TENSOR, SET_TENSOR_HASH, GET_TENSOR, GRAPH_COMPUTE = 6, 7, 8, 10
_TENSOR = struct.Struct("<QIQ4I4II16ii10QQQQ64si")  # `struct rpc_tensor`, packed


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

    def stop_reading(self) -> None:
        """Take nothing more of what comes."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def send(self, command: int, payload: bytes) -> None:
        """Without waiting for an answer."""
        self._writer.write(struct.pack("<BQ", command, len(payload)) + payload)

    async def part_of(self, pointer: int, size_bytes: int) -> bytes:
        """The payload of GET_TENSOR for the beginning of a buffer, as a tensor of bytes."""
        (base,) = struct.unpack("<Q", await self.ask(BUFFER_GET_BASE, struct.pack("<Q", pointer)))
        int8, shape, strides = 24, (size_bytes, 1, 1, 1), (1, size_bytes, size_bytes, size_bytes)
        tensor = _TENSOR.pack(1, int8, pointer, *shape, *strides, 0, *[0] * 16, 0, *[0] * 10, 0, 0, base, b"", 0)
        return tensor + struct.pack("<QQ", 0, size_bytes)
