"""Connections as attackers keep them: silent, dripping, stalled; each says when it was answered and when closed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from federation.tasks import cancel_and_wait

DRIP_S = 1.0  # between two bytes: slow enough to hold a connection for hours, quick enough to never look idle


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one connection: the beginning of what it was told, after how long, and when it was closed."""

    told: bytes
    told_s: float | None
    closed_s: float


async def hold(port: int, begin: bytes, drip: bytes = b"", most_s: float = 60.0, host: str = "127.0.0.1") -> Fate:
    """Connect, send `begin`, then a byte of `drip` (over and over) each DRIP_S, until the other end closes."""
    reader, writer = await asyncio.open_connection(host, port)
    began = time.monotonic()
    told, told_s = b"", None
    dripping = asyncio.create_task(_drip(writer, drip)) if drip else None
    try:
        with suppress(ConnectionError):
            writer.write(begin)
            async with asyncio.timeout(most_s):
                while chunk := await reader.read(4096):
                    told_s = time.monotonic() - began if told_s is None else told_s
                    told = (told + chunk)[:500]
        return Fate(told, told_s, time.monotonic() - began)
    finally:
        await cancel_and_wait(dripping)
        writer.transport.abort()


async def _drip(writer: asyncio.StreamWriter, drip: bytes) -> None:
    while True:
        for byte in drip:
            await asyncio.sleep(DRIP_S)
            writer.write(bytes([byte]))


async def idle_connections(port: int, count: int, begin: bytes, hosts: Sequence[str]) -> list[socket.socket]:
    """So many connections that have sent `begin` and nothing more, from several addresses of this machine in turn."""
    loop = asyncio.get_running_loop()
    opened: list[socket.socket] = []
    for number in range(count):
        connection = socket.socket()
        opened.append(connection)
        connection.setblocking(False)
        connection.bind((hosts[number % len(hosts)], 0))
        await loop.sock_connect(connection, ("127.0.0.1", port))
        if begin:
            connection.send(begin)
    return opened
