"""A host's side of lent memory: a lease taken of a member, what is heard of it, and byte streams to it.

Functions raise PeerError and nothing else.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from federation import wire
from federation.client import PeerClient
from federation.errors import PeerBrokeOff, PeerProtocolError, PeerStatusError
from federation.lending import (
    UPGRADE,
    LendGrant,
    LendNews,
    LendRequest,
    MeasureRequest,
    parse_grant,
    parse_news,
)
from federation.peer_response import LineSplitter, LineTooLong, PeerResponse
from federation.splice import SplicedEnd

SILENT_S: Final = 4.0  # heartbeats come each second: a lender that misses four is gone, and an answer ends within 6 s
MAX_LINE_BYTES: Final = 8192
_FOR_EVER_S: Final = 1e9  # a lease has no deadline: it lasts as long as its connection
_MEASURED_S: Final = 30.0


class HeldLease:
    """Memory of a member, for as long as the block of `lease_of` runs. `grant` is what was granted."""

    def __init__(self, url: str, grant: LendGrant, answer: PeerResponse, splitter: LineSplitter) -> None:
        self.url = url
        self.grant = grant
        self._answer = answer
        self._splitter = splitter
        self.waiting: deque[bytes] = deque()  # lines that came with the first

    async def news(self) -> AsyncIterator[LendNews]:
        """What the lender says of it, as it comes. Ends after news that it is over.

        Raises PeerError where the lender is gone, says nothing for `SILENT_S`, or says what is none of this.
        """
        while True:
            while self.waiting:
                news = parse_news(self.waiting.popleft())
                yield news
                if news.ended is not None:
                    return
            piece = await self._answer.read()
            if not piece:
                raise PeerBrokeOff(f"{self.url} ended the lease without a word")
            self.waiting += _lines(self.url, self._splitter, piece)


@asynccontextmanager
async def lease_of(client: PeerClient, url: str, request: LendRequest) -> AsyncGenerator[HeldLease]:
    """Memory of the member at base URL `url` while the block runs; leaving it gives the memory back.

    Raises PeerStatusError with the lender's `code` where it lends none.
    """
    splitter = LineSplitter(MAX_LINE_BYTES)
    asked = client.open_generation(
        url,
        wire.LEND_PATH,
        request.model_dump_json(exclude_none=True).encode(),
        request_id=f"lend-{secrets.token_hex(8)}",
        hops=1,
        deadline_s=_FOR_EVER_S,
        idle_s=SILENT_S,
    )
    async with asked as answer:
        if answer.status != 200:
            raise await answer.refusal()
        lines: list[bytes] = []
        while not lines:
            if not (piece := await answer.read()):
                raise PeerBrokeOff(f"{url} broke off before it granted anything")
            lines = _lines(url, splitter, piece)
        held = HeldLease(url, _granted(url, lines[0]), answer, splitter)
        held.waiting.extend(lines[1:])
        yield held


def _granted(url: str, line: bytes) -> LendGrant:
    try:
        return parse_grant(line)
    except PeerProtocolError as error:
        try:
            news = parse_news(line)  # it would have lent, and then could not
        except PeerProtocolError:
            raise PeerProtocolError(f"{url}: {error}") from error
        raise PeerStatusError(f"{url} lends nothing: {news.ended or news.draining}", 503, news.code) from error


def _lines(url: str, splitter: LineSplitter, piece: bytes) -> list[bytes]:
    try:
        return splitter.feed(piece)
    except LineTooLong as error:
        raise PeerProtocolError(f"{url} sent rubbish: {error}") from error


async def open_byte_stream(client: PeerClient, url: str, lease: str, end: SplicedEnd) -> None:
    """Give `end` a connection to the RPC server of the lease; its other end is a connection of llama.cpp's."""
    await client.open_upgraded(url, wire.LEND_PATH, {wire.LEASE_HEADER: lease}, UPGRADE, end)


async def measured_bytes_per_s(client: PeerClient, url: str, size_bytes: int) -> float:
    """How fast `size_bytes` come from the member, the first round trip excluded."""
    body = json.dumps({"measure": MeasureRequest(measure=size_bytes).measure}).encode()
    asked = client.open_generation(
        url, wire.LEND_PATH, body, request_id=f"lend-{secrets.token_hex(8)}", hops=1, deadline_s=_MEASURED_S
    )
    async with asked as answer:
        if answer.status != 200:
            raise await answer.refusal()
        began, came = time.perf_counter(), 0
        while piece := await answer.read():
            came += len(piece)
        took_s = time.perf_counter() - began
    if came != size_bytes:
        raise PeerProtocolError(f"{url} sent {came} bytes where {size_bytes} were asked for")
    return size_bytes / max(took_s, 1e-6)
