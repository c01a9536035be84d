"""Ctrl-C and a node's end do not wait for a large file to be read: every stage of a download stops at once."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.file_exchange import PIECE_BYTES, PieceHashes
from swarm.registry.download import download
from swarm.registry.file_hashes import WorkStopped, hash_file, stoppable
from swarm.registry.names import HubRef
from swarm.registry.piece_file import PieceFile, pieces_path
from tests.doubles.waiting import eventually
from tests.registry.fake_hub import Hub, Upload

LARGE_BYTES = 2**36  # with holes, so that it takes no disk: a minute's hashing
ENDS_S = 1.0
REPO, FILE = "owner/repo-GGUF", "model-q4_k_m.gguf"
CONTENT = bytes(range(256)) * 8192


@pytest.fixture
def large(tmp_path: Path) -> PieceFile:
    """A copy all of whose pieces are here."""
    partial = tmp_path / "model.gguf.abc"
    zeros = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"  # of nothing that lies here
    with pieces_path(partial).open("wb") as file:
        file.truncate(LARGE_BYTES)
    return PieceFile(partial, PieceHashes(size_bytes=LARGE_BYTES, pieces=(zeros,) * (LARGE_BYTES // PIECE_BYTES)))


@pytest.mark.parametrize("stage", ["the whole", "the pieces", "any file"])
async def test_reading_a_large_file_stops_when_nobody_waits_any_more(
    large: PieceFile, tmp_path: Path, stage: str
) -> None:
    work: Callable[[threading.Event], object] = {
        "the whole": functools.partial(large.finish, "0" * 64),
        "the pieces": large.found,
        "any file": functools.partial(hash_file, pieces_path(tmp_path / "model.gguf.abc")),
    }[stage]
    began, ended = threading.Event(), threading.Event()

    def noted(stop: threading.Event) -> object:
        began.set()
        try:
            return work(stop)
        finally:
            ended.set()

    task = asyncio.create_task(stoppable(noted))
    await eventually(began.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, ENDS_S)


@pytest.mark.parametrize("at", ["the first byte", "the last"])
def test_a_download_stops_where_it_is_and_goes_on_later(hub: Hub, tmp_path: Path, at: str) -> None:
    hub.put(REPO, FILE, Upload(CONTENT))
    stop = threading.Event()

    def progress(done_bytes: int, total_bytes: int | None) -> None:
        if at == "the first byte" or done_bytes == total_bytes:
            stop.set()

    began_at = time.monotonic()
    with pytest.raises(WorkStopped):
        download(HubRef(REPO, FILE), tmp_path, progress, stop=stop)
    assert time.monotonic() - began_at < 10 * ENDS_S
    assert not list(tmp_path.glob("*/*.gguf")), "no file under its own name"
    assert download(HubRef(REPO, FILE), tmp_path).read_bytes() == CONTENT
