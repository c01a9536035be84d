"""Model files for peers: what is shared, the hashes of a file's pieces, and a file's bytes, by range.

A file is addressed by its sha256 and by nothing else: no name and no path that a peer sends reaches the file system.
`Transfers` bounds what copying may take of this node: so many at once, so fast, and slower while models answer.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from aiohttp import web

from federation import wire
from federation.file_exchange import FileList, is_sha256
from swarm.errors import BadRequest, Unavailable, UnknownFile
from swarm.registry.shared_files import SharedFiles

MAX_TRANSFERS: Final = 4  # each holds an open file and a chunk; more would not be faster over one cable
MAX_TRANSFERS_PER_HOST: Final = 2  # one machine's: others get their turn
IDLE_BYTES_PER_S: Final = 250e6  # twice a gigabit cable; bounds what it costs of a small CPU
BUSY_BYTES_PER_S: Final = 8e6  # while a model answers: 2 % of one core, measured (25e6: 5 %, 250e6: 35 %)
MAX_HEAD_START_S: Final = 0.1  # of work that was not asked for meanwhile; more would come in bursts
RETRY_AFTER_S: Final = 1  # sent to who finds no place: about one piece
CHUNK_BYTES: Final = 256 * 1024  # read in a thread, sent, paced: 400 a second at a gigabit
GRACE_S: Final = 30.0  # for a disk that sleeps and a reader that stalls
MIN_BYTES_PER_S: Final = 64 * 1024  # a reader slower than this keeps a place that others wait for
_MAX_SHOWN_CHARS: Final = 80
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})?", re.ASCII)


def paced(now: float, free_at: float, size_bytes: int, bytes_per_s: float) -> float:
    """When the next bytes may go, after `size_bytes` that go at `free_at`, or now where that has passed."""
    return max(free_at, now - MAX_HEAD_START_S) + size_bytes / bytes_per_s


class Transfers:
    """The places for transfers, and the pace that all share. `is_busy`: whether a model of this node answers."""

    def __init__(
        self,
        is_busy: Callable[[], bool],
        idle_bytes_per_s: float = IDLE_BYTES_PER_S,
        busy_bytes_per_s: float = BUSY_BYTES_PER_S,
    ) -> None:
        self._is_busy = is_busy
        self._idle_bytes_per_s = idle_bytes_per_s
        self._busy_bytes_per_s = busy_bytes_per_s
        self._by_host: Counter[str] = Counter()
        self._free_at = 0.0

    @property
    def running(self) -> int:
        """Transfers under way, to all hosts together."""
        return self._by_host.total()

    @contextmanager
    def place(self, host: str) -> Generator[None]:
        """A place for one transfer to `host`. Raises Unavailable where there is none."""
        if self.running >= MAX_TRANSFERS or self._by_host[host] >= MAX_TRANSFERS_PER_HOST:
            raise Unavailable("this node gives as many files as it may at once: try again", RETRY_AFTER_S)
        self._by_host[host] += 1
        try:
            yield
        finally:
            self._by_host[host] -= 1
            self._by_host += Counter()  # drops the zeros: one for each host that ever asked would stay

    async def take_turn(self, size_bytes: int) -> None:
        """Return when `size_bytes` may go."""
        now = time.monotonic()
        rate = self._busy_bytes_per_s if self._is_busy() else self._idle_bytes_per_s
        begins_at, self._free_at = self._free_at, paced(now, self._free_at, size_bytes, rate)
        if begins_at > now:
            await asyncio.sleep(begins_at - now)


@dataclass(frozen=True, slots=True)
class FileService:
    """What a node in a federation gives to its peers, and how fast.

    A reader has `grace_s` and the time that the file takes at `min_bytes_per_s`.
    """

    files: SharedFiles
    transfers: Transfers
    grace_s: float = GRACE_S
    min_bytes_per_s: float = MIN_BYTES_PER_S


FILES: web.AppKey[FileService | None] = web.AppKey("files")


def parse_range(text: str | None, size_bytes: int) -> tuple[int, int]:
    """The first byte asked for and the one behind the last. Raises BadRequest, and 416 for what lies behind the file.

    One range from the front is all that nodes ask for. Without a Range header it is the whole file.
    """
    if text is None:
        return 0, size_bytes
    match = _RANGE.fullmatch(text)
    first = int(match[1]) if match else 0
    last = int(match[2]) if match and match[2] else size_bytes - 1
    if match is None or (match[2] and last < first):
        raise BadRequest(f"Range is {text[:_MAX_SHOWN_CHARS]!r}: ask for one range, such as bytes=0-1023", "Range")
    if first >= size_bytes:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size_bytes}"})
    return first, min(last + 1, size_bytes)


async def listing(request: web.Request) -> web.Response:
    """Which files this node shares."""
    service = request.app[FILES]
    files = () if service is None else await asyncio.to_thread(service.files.listed)
    return web.Response(text=FileList(files=files).model_dump_json(), content_type="application/json")


async def pieces(request: web.Request) -> web.Response:
    """The hash of each piece of a file."""
    service, sha256 = _asked(request)
    found = await asyncio.to_thread(service.files.pieces, sha256)
    return web.Response(text=found.model_dump_json(), content_type="application/json")


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes of a file, at the pace that is left for it. Raises UnknownFile, or Unavailable without a place."""
    service, sha256 = _asked(request)
    with service.transfers.place(request.remote or ""):
        opening = asyncio.ensure_future(asyncio.to_thread(service.files.open, sha256))
        try:
            file, size_bytes = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)  # a thread cannot be stopped: it opens the file for nobody
            raise
        try:
            return await _send(request, file, size_bytes, service)
        finally:
            # In a thread, where it waits for a read that is under way; not awaited, so that nobody can cancel it.
            asyncio.get_running_loop().run_in_executor(None, file.close)


async def _send(request: web.Request, file: BinaryIO, size_bytes: int, service: FileService) -> web.StreamResponse:
    first, end = parse_range(request.headers.get("Range"), size_bytes)
    response = web.StreamResponse(status=200 if "Range" not in request.headers else 206)
    response.content_type = "application/octet-stream"
    response.content_length = end - first
    response.headers["Accept-Ranges"] = "bytes"
    if response.status == 206:
        response.headers["Content-Range"] = f"bytes {first}-{end - 1}/{size_bytes}"
    try:
        async with asyncio.timeout(service.grace_s + (end - first) / service.min_bytes_per_s):
            await response.prepare(request)
            await asyncio.to_thread(file.seek, first)
            while first < end and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, end - first))):
                await service.transfers.take_turn(len(chunk))
                await response.write(chunk)
                first += len(chunk)
        if first < end:  # it was cut short under our hands: what was announced cannot be sent
            _cut(request)
        await response.write_eof()
    except (TimeoutError, ConnectionResetError):
        _cut(request)
    return response


def _asked(request: web.Request) -> tuple[FileService, str]:
    """Raises BadRequest for what is no hash, before anything looks it up."""
    sha256 = request.match_info["sha256"]
    if not is_sha256(sha256):
        raise BadRequest(f"{sha256[:_MAX_SHOWN_CHARS]!r} is no sha256: 64 lower-case hex digits", "sha256")
    service = request.app[FILES]
    if service is None:
        raise UnknownFile(sha256)
    return service, sha256


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _close_unwanted(opening: asyncio.Future[tuple[BinaryIO, int]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()


def routes() -> list[web.RouteDef]:
    """What nodes ask of model files."""
    one = f"{wire.MODELS_PATH}/{{sha256}}"
    return [
        web.get(wire.MODELS_PATH, listing),
        web.get(one, content, allow_head=False),
        web.get(one + wire.PIECES_SUFFIX, pieces),
    ]
