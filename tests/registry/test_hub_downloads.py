"""Downloads against a hub on loopback: progress, resume, hashes, and what is said when something goes wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import shutil
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import filelock
import huggingface_hub.constants
import pytest

from swarm.errors import SetupError
from swarm.registry import hub as hub_module
from swarm.registry.catalogue import Catalogue
from swarm.registry.download import PARTIAL_FOLDER, download, download_choice, locked
from swarm.registry.hub import describe, fetch, file_of, hub_reachable, list_mlx_model
from swarm.registry.names import HubRef
from tests.registry.fake_hub import COMMIT, Hub, Portal, Upload

REPO = "owner/repo-GGUF"
FILE = "model-q4_k_m.gguf"
CONTENT = random.Random(1).randbytes(200_000)
REF = HubRef(REPO, FILE)


class Progress:
    """Notes every report."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int | None]] = []

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        self.reports.append((done_bytes, total_bytes))


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def stocked(hub: Hub) -> Hub:
    hub.put(REPO, FILE, Upload(CONTENT))
    return hub


def visible(models_dir: Path) -> list[str]:
    """The files that a scan would see."""
    files = (p.relative_to(models_dir) for p in models_dir.rglob("*") if p.is_file() and not p.name.startswith("."))
    return sorted(str(path) for path in files if PARTIAL_FOLDER not in path.parts)


def shown(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def leftovers(models_dir: Path) -> list[Path]:
    return [p for p in (models_dir / PARTIAL_FOLDER).rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_file_arrives_whole_under_its_name(stocked: Hub, models_dir: Path) -> None:
    progress = Progress()
    path = download(REF, models_dir, progress)
    assert path == models_dir / "owner--repo-GGUF" / FILE
    assert path.read_bytes() == CONTENT
    assert stat.S_ISREG(path.stat().st_mode)
    assert visible(models_dir) == [f"owner--repo-GGUF/{FILE}"]
    assert leftovers(models_dir) == []
    assert progress.reports[0] == (0, len(CONTENT))
    assert progress.reports[-1] == (len(CONTENT), len(CONTENT))
    assert all(before[0] <= after[0] for before, after in pairwise(progress.reports))
    assert len(progress.reports) > 3
    assert stocked.encodings == {"identity"}  # a range of a compressed body is not a range of the file


def test_what_is_here_is_not_asked_for_again(stocked: Hub, models_dir: Path) -> None:
    download(REF, models_dir)
    stocked.asked.clear()
    assert download(REF, models_dir).read_bytes() == CONTENT
    assert stocked.asked == []


def test_the_login_token_stays_with_the_hub(stocked: Hub, models_dir: Path) -> None:
    download(REF, models_dir)
    assert stocked.bodies == 1
    assert f"/{REPO}/resolve/{COMMIT}/{FILE}" in stocked.authorized  # of the commit that was described
    assert not any(path.startswith("/stored/") for path in stocked.authorized)


def test_a_cut_is_mended_within_one_download(stocked: Hub, models_dir: Path) -> None:
    stocked.cuts = [50_000, 70_000]
    progress = Progress()
    assert download(REF, models_dir, progress).read_bytes() == CONTENT
    starts = [int(text.rstrip("-")) for text in stocked.ranges]
    assert sorted(set(starts)) == [50_000, 120_000]  # no byte comes twice
    assert progress.reports[-1] == (len(CONTENT), len(CONTENT))


def test_a_download_that_broke_off_goes_on_where_it_stopped(stocked: Hub, models_dir: Path) -> None:
    stocked.cuts, stocked.cut_rest = [100_000], True
    with pytest.raises(SetupError, match=r"does not answer \(.*run it again: it goes on where it stopped"):
        download(REF, models_dir)
    assert visible(models_dir) == []
    (partial,) = leftovers(models_dir)
    kept = partial.stat().st_size
    assert kept == 100_000

    stocked.cut_rest = False
    stocked.asked.clear()
    progress = Progress()
    assert download(REF, models_dir, progress).read_bytes() == CONTENT
    assert set(stocked.ranges) == {f"{kept}-"}
    assert progress.reports[0] == (kept, len(CONTENT))
    assert leftovers(models_dir) == []


def test_a_server_without_ranges_starts_over(stocked: Hub, models_dir: Path) -> None:
    stocked.cuts, stocked.ignores_ranges = [100_000], True
    progress = Progress()
    assert download(REF, models_dir, progress).read_bytes() == CONTENT
    assert progress.reports[-1] == (len(CONTENT), len(CONTENT))


def test_a_complete_partial_file_is_only_checked(stocked: Hub, models_dir: Path) -> None:
    partial = models_dir / PARTIAL_FOLDER / "owner--repo-GGUF" / f"{FILE}.{hashlib.sha256(CONTENT).hexdigest()[:16]}"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT)
    progress = Progress()
    assert download(REF, models_dir, progress).read_bytes() == CONTENT
    assert stocked.bodies == 0
    assert progress.reports == [(len(CONTENT), len(CONTENT))]


def test_a_partial_file_that_is_too_long_starts_over(stocked: Hub, models_dir: Path) -> None:
    partial = models_dir / PARTIAL_FOLDER / "owner--repo-GGUF" / f"{FILE}.{hashlib.sha256(CONTENT).hexdigest()[:16]}"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT + b"more")
    assert download(REF, models_dir).read_bytes() == CONTENT


def test_a_new_version_does_not_continue_the_old(stocked: Hub, models_dir: Path) -> None:
    stocked.cuts, stocked.cut_rest = [100_000], True
    with pytest.raises(SetupError):
        download(REF, models_dir)
    stocked.cut_rest = False
    newer = CONTENT[::-1]
    stocked.put(REPO, FILE, Upload(newer))
    stocked.asked.clear()
    assert download(REF, models_dir).read_bytes() == newer
    assert stocked.ranges == []
    assert leftovers(models_dir) == []


def test_wrong_bytes_are_removed_and_named(stocked: Hub, models_dir: Path) -> None:
    wrong = CONTENT[:-1] + b"\0"
    stocked.put(REPO, FILE, Upload(CONTENT, served=wrong))
    with pytest.raises(
        SetupError, match=r"arrived damaged and was removed: its sha256 is \w{64} instead of \w{64}; run"
    ):
        download(REF, models_dir)
    assert visible(models_dir) == []
    assert leftovers(models_dir) == []


def test_a_body_of_the_wrong_length_is_never_taken(stocked: Hub, models_dir: Path) -> None:
    stocked.put(REPO, FILE, Upload(CONTENT, served=CONTENT + b"surplus"))
    with pytest.raises(SetupError, match=r"sends 200007 bytes instead of 200000: .*; run it again"):
        download(REF, models_dir)
    assert visible(models_dir) == []
    stocked.put(REPO, FILE, Upload(CONTENT))
    assert download(REF, models_dir).read_bytes() == CONTENT


def test_the_catalogues_hash_is_checked_before_the_first_byte(stocked: Hub, models_dir: Path) -> None:
    with pytest.raises(
        SetupError, match=r"is no longer the file that the catalogue knows .*swarm models pull hf:owner"
    ):
        download(REF, models_dir, sha256="0" * 64)
    assert stocked.bodies == 0


def test_the_catalogues_hash_is_checked_where_the_hub_has_none(stocked: Hub, models_dir: Path) -> None:
    stocked.put(REPO, FILE, Upload(CONTENT, etag="some-mirror-tag"))
    with pytest.raises(SetupError, match=f"instead of {'0' * 64}"):
        download(REF, models_dir, sha256="0" * 64)
    assert visible(models_dir) == []
    assert download(REF, models_dir, sha256=hashlib.sha256(CONTENT).hexdigest()).read_bytes() == CONTENT


LOGIN = b"<html>Log in</html>"


@pytest.mark.parametrize(
    ("portal", "etag"),
    [
        ({"content": LOGIN, "kind": "text/html"}, None),
        ({"content": LOGIN, "kind": "text/html; charset=utf-8"}, None),
        ({"content": LOGIN, "kind": ""}, None),
        ({"content": b'{"error": "no"}', "kind": "application/json"}, None),
        ({"content": b"", "kind": "text/html"}, None),
        ({"content": LOGIN, "kind": "text/html", "after_asking": True}, None),
        ({"content": LOGIN, "kind": "application/octet-stream", "after_asking": True}, None),
        ({"content": b'{"error": "no"}', "kind": "application/json", "after_asking": True}, None),
        ({"content": LOGIN, "kind": "text/html", "after_asking": True}, "some-mirror-tag"),
        ({"content": LOGIN.ljust(len(CONTENT)), "kind": "", "after_asking": True}, "some-mirror-tag"),
        ({"content": b"GGUF".ljust(len(CONTENT)), "kind": "", "after_asking": True}, None),
        ({"content": CONTENT[:-1], "kind": "", "after_asking": True}, None),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_not_the_hubs_answer_is_refused_and_nothing_of_it_kept(
    hub: Hub, models_dir: Path, portal: dict[str, object], etag: str | None, begun: bool
) -> None:
    """A network that wants a login first answers everything, with status 200; a proxy cuts a file short."""
    hub.put(REPO, FILE, Upload(CONTENT, etag=etag))
    if begun:
        hub.cuts, hub.cut_rest = [1000], True
        with pytest.raises(SetupError):
            download(REF, models_dir)
        hub.cut_rest = False
        assert [path.stat().st_size for path in leftovers(models_dir)] == [1000]
    hub.portal = Portal(**portal)  # type: ignore[arg-type]  # of the table above
    with pytest.raises(SetupError, match=r"not the hub but a page .*; log in|bytes instead of|damaged and was removed"):
        download(REF, models_dir)
    assert visible(models_dir) == []
    assert LOGIN not in b"".join(path.read_bytes() for path in leftovers(models_dir))

    hub.portal = None
    hub.put(REPO, FILE, Upload(CONTENT))
    assert download(REF, models_dir).read_bytes() == CONTENT, "asked again, and begun where it stopped"


@pytest.mark.parametrize("content", [LOGIN, b"", b'{"error": "no"}', b"[]", b"null", b'"x"'])
@pytest.mark.parametrize("repo_only", [HubRef(REPO, None, "q4_k_m"), HubRef(REPO, None)])
def test_a_repository_is_not_read_from_a_page(hub: Hub, repo_only: HubRef, content: bytes) -> None:
    hub.portal = Portal(content)
    with pytest.raises(SetupError, match="not the hub but a page"):
        file_of(repo_only, ["gguf"])
    with pytest.raises(SetupError, match="not the hub but a page"):
        list_mlx_model(REPO)


def test_what_an_earlier_version_took_for_a_model_is_asked_for_again(stocked: Hub, models_dir: Path) -> None:
    path = models_dir / "owner--repo-GGUF" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>login</html>")
    assert download(REF, models_dir).read_bytes() == CONTENT


def test_a_model_that_is_cut_short_on_the_disk_is_asked_for_again(hub: Hub, models_dir: Path, demo_model: Path) -> None:
    content = demo_model.read_bytes()
    hub.put(REPO, FILE, Upload(content))
    path = download(REF, models_dir)
    path.write_bytes(content[:-1000])
    assert download(REF, models_dir).read_bytes() == content


def test_a_network_that_wants_a_login_is_no_hub(hub: Hub) -> None:
    assert hub_reachable()
    hub.portal = Portal(LOGIN)
    assert not hub_reachable()


def test_a_catalogue_choice_is_downloaded(hub: Hub, models_dir: Path) -> None:
    (choice,) = (c for c in Catalogue.load().choices() if c.id == "qwen2.5-coder:7b:q8_0")
    hub.put(choice.variant.repo, choice.variant.file or "", Upload(CONTENT))
    path = download_choice(choice, models_dir)
    assert path == models_dir / "Qwen--Qwen2.5-Coder-7B-Instruct-GGUF" / "qwen2.5-coder-7b-instruct-q8_0.gguf"
    assert path.read_bytes() == CONTENT


def test_a_choice_with_a_known_hash_is_held_to_it(hub: Hub, models_dir: Path) -> None:
    (choice,) = (c for c in Catalogue.load().choices() if c.id == "qwen3:8b:q4_k_m")
    assert choice.variant.sha256 is not None
    hub.put(choice.variant.repo, choice.variant.file or "", Upload(CONTENT))
    with pytest.raises(SetupError, match=choice.variant.sha256):
        download_choice(choice, models_dir)


PARTS = [f"Q4/big-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]


def test_all_parts_come_with_one_progress(hub: Hub, models_dir: Path) -> None:
    for n, part in enumerate(PARTS):
        hub.put(REPO, part, Upload(CONTENT[n * 1000 :]))
    progress = Progress()
    path = download(HubRef(REPO, PARTS[0]), models_dir, progress)
    assert path == models_dir / "owner--repo-GGUF" / PARTS[0]
    assert visible(models_dir) == [f"owner--repo-GGUF/{part}" for part in PARTS]
    total = 3 * len(CONTENT) - 3000
    assert progress.reports[-1] == (total, total)
    assert {report[1] for report in progress.reports} == {total}
    assert all(before[0] <= after[0] for before, after in pairwise(progress.reports))


def test_only_missing_parts_are_fetched(hub: Hub, models_dir: Path) -> None:
    for part in PARTS:
        hub.put(REPO, part, Upload(CONTENT))
    download(HubRef(REPO, PARTS[0]), models_dir)
    (models_dir / "owner--repo-GGUF" / PARTS[1]).unlink()
    hub.asked.clear()
    download(HubRef(REPO, PARTS[0]), models_dir)
    assert hub.bodies == 1
    assert len(visible(models_dir)) == 3


MLX = "mlx-community/Tiny-4bit"


@pytest.fixture
def mlx_hub(hub: Hub) -> Hub:
    hub.put(MLX, "model.safetensors", Upload(CONTENT))
    hub.put(MLX, "config.json", Upload(b'{"model_type": "qwen3"}', large=False))
    hub.put(MLX, "tokenizer.json", Upload(b"{}", large=False))
    hub.put(MLX, "modeling_evil.py", Upload(b"import os", large=False))
    hub.put(MLX, "original/consolidated.safetensors", Upload(CONTENT))
    hub.put(MLX, "README.md", Upload(b"read me", large=False))
    return hub


def test_an_mlx_repository_comes_without_code(mlx_hub: Hub, models_dir: Path) -> None:
    progress = Progress()
    folder = download(HubRef(MLX, None), models_dir, progress)
    assert folder == models_dir / "mlx-community--Tiny-4bit"
    assert shown(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert progress.reports[-1] == (len(CONTENT) + 25, len(CONTENT) + 25)
    mlx_hub.asked.clear()
    assert download(HubRef(MLX, None), models_dir) == folder
    assert mlx_hub.asked == []


def test_an_mlx_repository_is_not_visible_in_part(mlx_hub: Hub, models_dir: Path) -> None:
    mlx_hub.put(MLX, "tokenizer.json", Upload(b"{}", large=False, served=b"[]"))
    with pytest.raises(SetupError, match=r"its git hash is \w{40} instead of"):
        download(HubRef(MLX, None), models_dir)
    assert visible(models_dir) == []
    mlx_hub.put(MLX, "tokenizer.json", Upload(b"{}", large=False))
    mlx_hub.asked.clear()
    folder = download(HubRef(MLX, None), models_dir)
    assert len(shown(folder)) == 3
    assert mlx_hub.bodies == 0  # the weights had already arrived


def test_a_gguf_repository_is_not_an_mlx_model(stocked: Hub, models_dir: Path) -> None:
    with pytest.raises(SetupError, match=rf"{REPO} is not an MLX model: .*name one, hf:{REPO}/{FILE}"):
        download(HubRef(REPO, None), models_dir)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, "RepoNotFound"), r"has no repository owner/repo-GGUF, or it is private: check the name"),
        ((401, "RepoNotFound"), r"has no repository owner/repo-GGUF, or it is private"),
        (
            (403, "GatedRepo"),
            r"owner/repo-GGUF is gated: accept its terms on http://127.*/owner/repo-GGUF, then log in",
        ),
        ((503, ""), r"answered 503; try again later"),
        ((429, ""), r"answered 429; try again later"),
    ],
)
def test_refusals_are_explained(stocked: Hub, models_dir: Path, answer: tuple[int, str], said: str) -> None:
    stocked.answers[REPO] = answer
    with pytest.raises(SetupError, match=said):
        download(REF, models_dir)


def test_a_file_that_is_not_there_is_named(stocked: Hub, models_dir: Path) -> None:
    with pytest.raises(SetupError, match=r"/owner/repo-GGUF has no file other\.gguf: check the name"):
        download(HubRef(REPO, "other.gguf"), models_dir)


def test_no_network_is_explained(stocked: Hub, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SetupError, match=r"does not answer \(ConnectError: .*check the network or HF_ENDPOINT"):
        download(REF, models_dir)
    with pytest.raises(SetupError, match="does not answer"):
        download(HubRef(MLX, None), models_dir)


def test_offline_mode_is_respected(stocked: Hub, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SetupError, match="HF_HUB_OFFLINE is set; unset it, or give a local"):
        download(REF, models_dir)
    assert stocked.asked == []


def test_too_little_disk_is_said_before_the_first_byte(
    stocked: Hub, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(SetupError, match=r"owner/repo-GGUF needs 1 MiB on the disk of .*which has 1 MiB: free some"):
        download(REF, models_dir)
    assert stocked.bodies == 0


class FullDisk(io.BytesIO):
    def write(self, data: object, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_is_explained(stocked: Hub) -> None:
    with pytest.raises(SetupError, match="the disk is full; free some space, or give another --data-dir"):
        fetch(describe(REPO, FILE), FullDisk(), 0, Progress())


def test_a_folder_that_cannot_be_written_is_explained(stocked: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot store owner/repo-GGUF: .*check --data-dir"):
        download(REF, tmp_path / "file" / "models")


def test_two_downloads_of_one_file_share(stocked: Hub, models_dir: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        paths = list(threads.map(lambda _: download(REF, models_dir), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert stocked.bodies == 1


def test_a_download_that_waits_for_another_shows_its_progress_and_not_for_ever(stocked: Hub, models_dir: Path) -> None:
    partial = models_dir / PARTIAL_FOLDER / "owner--repo-GGUF" / f"{FILE}.0123456789abcdef"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(8192))
    progress = Progress()
    with (
        filelock.FileLock(models_dir / PARTIAL_FOLDER / "owner--repo-GGUF.lock"),
        pytest.raises(SetupError, match="being downloaded by another process, which does not get on: stop that one"),
        locked(models_dir, REPO, progress, look_s=0.01, most_still=3),
    ):
        pytest.fail("it was locked")
    assert progress.reports
    assert {total for _, total in progress.reports} == {None}
    assert download(REF, models_dir).read_bytes() == CONTENT


def test_what_the_hub_says_of_a_file(stocked: Hub) -> None:
    small = b"{}"
    stocked.put(REPO, "config.json", Upload(small, large=False))
    large = describe(REPO, FILE)
    assert (large.size_bytes, large.sha256, large.git_sha1) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), None)
    assert large.commit.startswith("c0ffee")
    config = describe(REPO, "config.json")
    git = hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert (config.size_bytes, config.sha256, config.git_sha1) == (2, None, git)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_hub_that_answers_is_reachable(hub: Hub) -> None:
    assert hub_reachable()


def test_a_closed_port_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert not hub_reachable(timeout_s=0.3)


def test_silence_is_not_waited_for(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent_port}")
    assert not hub_reachable(timeout_s=0.2)


@pytest.mark.parametrize("address", ["not an address", "http://", "ftp:/x", "http://[::1"])
def test_nonsense_is_not_reachable(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert not hub_reachable(timeout_s=0.3)


def test_offline_mode_is_not_reachable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub_reachable()
    assert hub.asked == []


def test_the_default_hub_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub_module.endpoint() == huggingface_hub.constants.ENDPOINT.rstrip("/")
