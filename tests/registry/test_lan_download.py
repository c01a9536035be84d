"""Files copied from real nodes over real sockets: pieces, liars, losses, cuts, full disks, and the hub as the last way.

A network that fails in every way must cost a peer its credit or the download some time, and never a wrong file.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.client import PeerClient
from federation.file_exchange import PIECE_BYTES, FilePeer, PieceHashes, piece_count
from swarm.errors import SetupError
from swarm.node.files import bring as bring_wish
from swarm.node.settings import Settings
from swarm.registry.download import PARTIAL_FOLDER, download
from swarm.registry.file_hashes import hash_bytes
from swarm.registry.names import HubRef
from swarm.registry.piece_file import PieceFile
from swarm.registry.shared_files import SharedFiles
from tests.doubles.fake_peer import FakePeer
from tests.doubles.file_nodes import (
    CONTENT,
    FILE,
    OWNER,
    PIECES,
    QUICK,
    REPO,
    SHA256,
    Asker,
    CountingTransfers,
    LyingFiles,
    SharingNode,
    stocked,
)
from tests.registry.fake_hub import Hub, Upload

REF = HubRef(f"{OWNER}/{REPO}", FILE)
WRONG = bytes(len(CONTENT))
ONE_STREAM = replace(QUICK, streams_per_peer=1)


@pytest.fixture
async def client() -> AsyncIterator[PeerClient]:
    async with PeerClient("id-asker") as client:
        yield client


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "asker" / "models"


@pytest.fixture
def files(tmp_path: Path) -> SharedFiles:
    return stocked(tmp_path / "holder" / "models")


@pytest.fixture(autouse=True)
def hub_of_the_test(hub: Hub) -> Hub:
    """The internet: it has the file, and notes who asks."""
    hub.put(REF.repo, FILE, Upload(CONTENT))
    return hub


class Noted:
    """Progress reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int | None]] = []

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        self.reports.append((done_bytes, total_bytes))


async def bring(asker: Asker, models_dir: Path, progress: Noted | None = None, sha256: str | None = SHA256) -> Path:
    return await asyncio.to_thread(download, REF, models_dir, progress or Noted(), sha256=sha256, nearby=asker.nearby)


def visible(models_dir: Path) -> list[str]:
    return [p.name for p in models_dir.rglob("*.gguf") if p.is_file() and PARTIAL_FOLDER not in p.parts]


def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


async def test_a_file_comes_from_a_peer_and_the_internet_is_not_asked(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    progress = Noted()
    async with SharingNode("kitchen", files) as kitchen:
        path = await bring(Asker(client, kitchen), models_dir, progress)
    assert path.read_bytes() == CONTENT
    assert visible(models_dir) == [FILE]
    assert hub.asked == []
    assert progress.reports[0] == (0, len(CONTENT))
    assert progress.reports[-1] == (len(CONTENT), len(CONTENT))
    assert all(before[0] < after[0] for before, after in pairwise(progress.reports))
    assert len(progress.reports) == PIECES + 1
    assert [file.sha256 for file in SharedFiles(models_dir).listed()] == [SHA256], "and can be given on at once"


async def test_several_peers_give_at_once(tmp_path: Path, client: PeerClient, models_dir: Path) -> None:
    holders = [
        SharingNode(name, stocked(tmp_path / name), CountingTransfers(stop_at=0)) for name in ("kitchen", "attic")
    ]
    async with holders[0], holders[1]:
        bringing = asyncio.create_task(bring(Asker(client, *holders), models_dir))
        for holder in holders:
            await holder.transfers.reached.wait()
        for holder in holders:
            holder.transfers.go_on.set()
        assert (await bringing).read_bytes() == CONTENT
    assert all(holder.transfers.sent_bytes for holder in holders)
    assert sum(holder.transfers.sent_bytes for holder in holders) == len(CONTENT)


async def test_wrong_bytes_are_charged_and_the_piece_is_fetched_elsewhere(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    async with SharingNode("kitchen", files) as kitchen, SharingNode("liar", LyingFiles(WRONG)) as liar:
        asker = Asker(client, liar, kitchen)
        path = await bring(asker, models_dir)
        assert path.read_bytes() == CONTENT
        (said,) = asker.charges
        assert "peer liar sent wrong bytes" in said
        assert "not asked for files again" in said
        before_bytes = liar.transfers.sent_bytes
        shutil.rmtree(models_dir)
        assert (await bring(asker, models_dir)).read_bytes() == CONTENT
        assert liar.transfers.sent_bytes == before_bytes
    assert hub.bodies == 0


async def test_liars_who_agree_are_found_out_by_the_whole(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    claimed = hash_bytes(io.BytesIO(WRONG)).shared
    liars = [SharingNode(name, LyingFiles(WRONG, claimed)) for name in ("liar", "friend")]
    async with SharingNode("kitchen", files) as kitchen, liars[0], liars[1]:
        asker = Asker(client, *liars, kitchen)
        assert (await bring(asker, models_dir)).read_bytes() == CONTENT
    assert len(asker.charges) == 2
    assert not any("kitchen" in line for line in asker.charges)
    assert hub.bodies == 0


@pytest.mark.parametrize("served", [CONTENT[:-1], CONTENT + b"x", b""], ids=["short", "long", "nothing"])
async def test_a_peer_with_a_file_of_another_length_costs_nothing_but_time(
    client: PeerClient, models_dir: Path, hub: Hub, served: bytes
) -> None:
    async with SharingNode("odd", LyingFiles(served)) as odd:
        assert (await bring(Asker(client, odd), models_dir)).read_bytes() == CONTENT
    assert hub.bodies <= 1


async def test_only_liars_and_the_internet_has_it(client: PeerClient, models_dir: Path, hub: Hub) -> None:
    async with SharingNode("liar", LyingFiles(WRONG)) as liar:
        assert (await bring(Asker(client, liar), models_dir)).read_bytes() == CONTENT
    assert hub.bodies == 1
    assert visible(models_dir) == [FILE]


async def test_a_peer_that_vanishes_is_replaced_by_another(
    tmp_path: Path, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    going = SharingNode("going", stocked(tmp_path / "going"), CountingTransfers(stop_at=PIECE_BYTES // 2))
    staying = SharingNode("staying", stocked(tmp_path / "staying"))
    async with going, staying:
        asker = Asker(client, going, staying)
        bringing = asyncio.create_task(bring(asker, models_dir))
        await going.transfers.reached.wait()
        assert visible(models_dir) == []
        await going.stop()
        assert (await bringing).read_bytes() == CONTENT
    assert "id-going" in asker.failed
    assert hub.bodies == 0


async def test_the_internet_goes_on_where_the_last_peer_vanished(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    only = SharingNode("only", files, CountingTransfers(stop_at=PIECE_BYTES + PIECE_BYTES // 2))
    async with only:
        bringing = asyncio.create_task(bring(Asker(client, only, pace=ONE_STREAM), models_dir))
        await only.transfers.reached.wait()
        await only.stop()
        assert (await bringing).read_bytes() == CONTENT
    assert hub.ranges[0] == f"{PIECE_BYTES}-"


async def test_a_cut_copy_goes_on_with_what_is_missing(
    tmp_path: Path, files: SharedFiles, client: PeerClient, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_hub(monkeypatch)
    first = SharingNode("first", files, CountingTransfers(stop_at=PIECE_BYTES + 1))
    async with first:
        bringing = asyncio.create_task(bring(Asker(client, first, pace=ONE_STREAM), models_dir))
        await first.transfers.reached.wait()
        await first.stop()
        with pytest.raises(SetupError, match="does not answer"):
            await bringing
    assert visible(models_dir) == []
    progress = Noted()
    async with SharingNode("second", files) as second:
        assert (await bring(Asker(client, second), models_dir, progress)).read_bytes() == CONTENT
    assert progress.reports[0] == (PIECE_BYTES, len(CONTENT))
    assert second.transfers.sent_bytes == len(CONTENT) - PIECE_BYTES


async def test_what_the_hub_had_begun_is_used(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    partial = models_dir / PARTIAL_FOLDER / f"{OWNER}--{REPO}" / f"{FILE}.{SHA256[:16]}"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[: PIECE_BYTES + 5])
    async with SharingNode("kitchen", files) as kitchen:
        assert (await bring(Asker(client, kitchen), models_dir)).read_bytes() == CONTENT
        assert kitchen.transfers.sent_bytes == len(CONTENT) - PIECE_BYTES
    assert [path for path in partial.parent.iterdir() if path.name != ".lock"] == []


async def test_a_crash_leaves_pieces_that_must_prove_themselves(
    files: SharedFiles, client: PeerClient, models_dir: Path
) -> None:
    pieces = models_dir / PARTIAL_FOLDER / f"{OWNER}--{REPO}" / f"{FILE}.{SHA256[:16]}.pieces"
    pieces.parent.mkdir(parents=True)
    pieces.write_bytes(bytes(PIECE_BYTES) + CONTENT[PIECE_BYTES:] + b"more than there is")
    async with SharingNode("kitchen", files) as kitchen:
        assert (await bring(Asker(client, kitchen), models_dir)).read_bytes() == CONTENT
        assert kitchen.transfers.sent_bytes == PIECE_BYTES


async def test_a_full_disk_is_explained_and_resumed(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    store = PieceFile.store

    def full(self: PieceFile, piece: int, data: bytes) -> bool:
        if piece == PIECES - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return store(self, piece, data)

    async with SharingNode("kitchen", files) as kitchen:
        asker = Asker(client, kitchen)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(PieceFile, "store", full)
            with pytest.raises(SetupError, match=r"the disk is full; free some space and run it again"):
                await bring(asker, models_dir)
        assert visible(models_dir) == []
        assert hub.bodies == 0
        assert (await bring(asker, models_dir)).read_bytes() == CONTENT


async def test_a_size_that_is_a_lie_is_no_full_disk(
    client: PeerClient, models_dir: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    claimed = PieceHashes(size_bytes=2**29, pieces=(SHA256,) * piece_count(2**29))
    async with SharingNode("liar", LyingFiles(WRONG, claimed)) as liar:
        assert (await bring(Asker(client, liar), models_dir)).read_bytes() == CONTENT
    assert hub.bodies == 1


async def test_two_pulls_of_one_file_share(files: SharedFiles, client: PeerClient, models_dir: Path) -> None:
    async with SharingNode("kitchen", files) as kitchen:
        asker = Asker(client, kitchen)
        paths = await asyncio.gather(bring(asker, models_dir), bring(asker, models_dir))
        assert kitchen.transfers.sent_bytes == len(CONTENT)
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT


async def test_a_name_without_a_known_hash_is_what_the_hub_says(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub
) -> None:
    async with SharingNode("kitchen", files) as kitchen:
        assert (await bring(Asker(client, kitchen), models_dir, sha256=None)).read_bytes() == CONTENT
    assert hub.bodies == 0
    assert hub.asked != []


@pytest.mark.parametrize("paired", [True, False])
async def test_peers_say_what_a_name_means_in_a_paired_swarm_only(
    files: SharedFiles, client: PeerClient, models_dir: Path, monkeypatch: pytest.MonkeyPatch, paired: bool
) -> None:
    no_hub(monkeypatch)
    async with SharingNode("kitchen", files) as kitchen:
        asker = Asker(client, kitchen, paired=paired)
        if paired:
            assert (await bring(asker, models_dir, sha256=None)).read_bytes() == CONTENT
        else:
            with pytest.raises(SetupError, match="does not answer"):
                await bring(asker, models_dir, sha256=None)


async def test_who_finds_no_place_waits_for_one(files: SharedFiles, client: PeerClient, models_dir: Path) -> None:
    async with SharingNode("kitchen", files) as kitchen:
        with kitchen.transfers.place("127.0.0.1"), kitchen.transfers.place("127.0.0.1"):
            bringing = asyncio.create_task(bring(Asker(client, kitchen), models_dir))
            await kitchen.transfers.refused.wait()
        assert (await bringing).read_bytes() == CONTENT


async def test_a_piece_that_somebody_is_slow_with_is_asked_of_another(
    tmp_path: Path, client: PeerClient, models_dir: Path
) -> None:
    slow = SharingNode("slow", stocked(tmp_path / "slow"), CountingTransfers(stop_at=0))
    quick = SharingNode("quick", stocked(tmp_path / "quick"), CountingTransfers(stop_at=0))
    async with slow, quick:
        bringing = asyncio.create_task(bring(Asker(client, slow, quick, pace=replace(QUICK, slow_s=0.05)), models_dir))
        await slow.transfers.reached.wait()
        quick.transfers.stop_at = None
        quick.transfers.go_on.set()
        assert (await bringing).read_bytes() == CONTENT
    assert quick.transfers.sent_bytes == len(CONTENT)


async def test_nodes_of_an_older_version_have_nothing(client: PeerClient, models_dir: Path, hub: Hub) -> None:
    async with FakePeer("older") as older:  # answers 404
        asker = Asker(client)
        asker.peers = [FilePeer("id-older", "older", older.address)]
        assert (await bring(asker, models_dir)).read_bytes() == CONTENT
    assert hub.bodies == 1


async def test_nobody_is_there(client: PeerClient, models_dir: Path, files: SharedFiles) -> None:
    gone = SharingNode("gone", files)
    async with gone:
        pass
    assert (await bring(Asker(client, gone), models_dir)).read_bytes() == CONTENT


# What another node has copied here, by whatever name it knows


@pytest.mark.parametrize(
    ("name", "sha256"),
    [(f"hf:{OWNER}/{REPO}/{FILE}", SHA256), (f"hf:{OWNER}/{REPO}/{FILE}", None), ("../../my-own_model", SHA256)],
)
async def test_a_wish_of_another_node_is_copied(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub, name: str, sha256: str | None
) -> None:
    settings = Settings(data_dir=models_dir.parent)
    async with SharingNode("kitchen", files) as kitchen:
        nearby = Asker(client, kitchen).nearby
        path = await asyncio.to_thread(bring_wish, settings, nearby, name, sha256, threading.Event())
    assert path == models_dir / f"{OWNER}--{REPO}" / FILE
    assert path.read_bytes() == CONTENT
    assert sha256 is None or hub.asked == []


@pytest.mark.parametrize("sha256", [None, "0" * 64])
async def test_a_wish_that_nobody_can_grant_is_told_and_leaves_nothing(
    files: SharedFiles, client: PeerClient, models_dir: Path, hub: Hub, sha256: str | None
) -> None:
    settings = Settings(data_dir=models_dir.parent)
    async with SharingNode("kitchen", files) as kitchen:
        nearby = Asker(client, kitchen).nearby
        with pytest.raises(SetupError, match="no node here shares the file of no-such-model"):
            await asyncio.to_thread(bring_wish, settings, nearby, "no-such-model", sha256, threading.Event())
    assert visible(models_dir) == []
    assert hub.asked == []
