"""One file drawn from several peers at once, piece by piece, until it is whole or nobody is left who has it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from federation.client import PeerClient
from federation.errors import PeerError
from federation.file_exchange import FilePeer, PieceHashes, read_piece
from swarm.registry.file_hashes import stoppable
from swarm.registry.piece_file import PieceFile

MAX_SOURCES = 8  # peers drawn from at once; any cable is full by then
MAX_STREAMS = 8  # pieces in memory at once: 64 MiB
MAX_FAILURES = 3  # in a row; then the peer is gone, or as good as
MAX_BUSY = 60  # refusals for want of a place, in a row: a minute's wait; then the internet is quicker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPace:
    """How peers are asked for pieces; times in seconds."""

    streams_per_peer: int = 2  # so that the next piece is on its way while one is proved and written: the most it gives
    failure_pause_s: float = 0.5  # times the failures in a row
    busy_pause_s: float = 1.0
    slow_s: float = 3.0  # a piece that takes longer while others have nothing to do is asked of one of them, too


class PieceCopy:
    """Draws the pieces of `hashes` from `peers` into `file`. For one event loop, and for one use.

    `charge` is told of a peer that sent wrong bytes, `failed` of one that did not answer.
    """

    def __init__(
        self,
        client: PeerClient,
        sha256: str,
        hashes: PieceHashes,
        peers: Sequence[FilePeer],
        file: PieceFile,
        *,
        progress: Callable[[int, int | None], None],
        charge: Callable[[FilePeer, str], None],
        failed: Callable[[FilePeer], None],
        pace: CopyPace | None = None,
    ) -> None:
        self._client = client
        self._sha256 = sha256
        self._hashes = hashes
        self._peers = tuple(peers)[:MAX_SOURCES]
        self._file = file
        self._progress = progress
        self._charge = charge
        self._failed = failed
        self._pace = pace or CopyPace()
        self._charged: set[str] = set()
        self._wanted: deque[int] = deque()
        self._brought_by: dict[int, list[str]] = {}  # peer ids, by the piece on its way; the oldest first
        self._changed = asyncio.Event()
        self._whole = asyncio.Event()
        self.right: set[int] = set()

    @property
    def is_whole(self) -> bool:
        return len(self.right) == len(self._hashes.pieces)

    async def run(self) -> None:
        """Returns when every piece is here, or nobody is left to ask. Raises OSError where the disk cannot take one."""
        self.right = set(await stoppable(self._file.found))
        self._wanted.extend(piece for piece in range(len(self._hashes.pieces)) if piece not in self.right)
        self._report()
        if self.is_whole:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                streams = [tasks.create_task(self._draw(peer)) for peer in _streams(self._peers, self._pace)]
                whole = tasks.create_task(self._cancel_when_whole(streams))
                await asyncio.wait(streams)
                whole.cancel()
        except* OSError as errors:
            raise _first(errors) from errors

    async def _cancel_when_whole(self, streams: Sequence[asyncio.Task[None]]) -> None:
        """What is still on its way then is a second copy of something."""
        await self._whole.wait()
        for stream in streams:
            stream.cancel()

    async def _draw(self, peer: FilePeer) -> None:
        """One stream of pieces from `peer`, until none is wanted or the peer is not worth asking."""
        failures = busy = 0
        while failures < MAX_FAILURES and busy < MAX_BUSY:
            piece = await self._next_piece(peer)
            if piece is None:
                return
            with self._bringing(piece, peer):
                try:
                    data = await read_piece(self._client, peer, self._sha256, self._hashes.span(piece))
                except PeerError as error:
                    log.info("piece %d of %s: %s", piece, self._sha256[:12], error)
                    trouble = error
                else:
                    if not await asyncio.to_thread(self._file.store, piece, data):
                        self._blame(peer, piece)
                        return
                    self._take(piece)
                    failures = busy = 0
                    continue
            if trouble.status == 404:
                return
            if trouble.status == 503:
                busy += 1
                await asyncio.sleep(self._pace.busy_pause_s)
            else:
                failures += 1
                self._failed(peer)
                await asyncio.sleep(self._pace.failure_pause_s * failures)

    async def _next_piece(self, peer: FilePeer) -> int | None:
        """A piece that nobody is bringing, or that another peer is slow with; None once `peer` is of no more use."""
        while not self.is_whole and peer.id not in self._charged:
            if self._wanted:
                return self._wanted.popleft()
            self._changed.clear()
            try:
                async with asyncio.timeout(self._pace.slow_s):
                    await self._changed.wait()
            except TimeoutError:
                slow = [
                    piece
                    for piece, by in self._brought_by.items()
                    if piece not in self.right and len(by) == 1 and by[0] != peer.id
                ]
                if slow:
                    return slow[0]
        return None

    @contextmanager
    def _bringing(self, piece: int, peer: FilePeer) -> Generator[None]:
        """While `peer` brings `piece`; one that did not come is wanted again, unless somebody else brings it."""
        self._brought_by.setdefault(piece, []).append(peer.id)
        try:
            yield
        finally:
            self._brought_by[piece].remove(peer.id)
            if not self._brought_by[piece]:
                del self._brought_by[piece]
                if piece not in self.right:
                    self._wanted.appendleft(piece)
            self._changed.set()

    def _take(self, piece: int) -> None:
        self.right.add(piece)
        self._report()
        if self.is_whole:
            self._whole.set()

    def _blame(self, peer: FilePeer, piece: int) -> None:
        if peer.id not in self._charged:
            self._charged.add(peer.id)
            self._charge(peer, f"its piece {piece} of file {self._sha256[:12]} is not what its hash says")

    def _report(self) -> None:
        done_bytes = sum(self._hashes.span(piece)[1] for piece in self.right)
        self._progress(done_bytes, self._hashes.size_bytes)


def _streams(peers: tuple[FilePeer, ...], pace: CopyPace) -> tuple[FilePeer, ...]:
    """Who is asked by each stream: every peer once, then again, within MAX_STREAMS."""
    return (peers * pace.streams_per_peer)[:MAX_STREAMS]


def _first(errors: BaseExceptionGroup[OSError]) -> OSError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OSError)
    return error
