"""What a node gives of its models folder: files it downloaded, by their hash, by range, in turn; and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation import wire
from federation.client import PeerClient
from federation.file_exchange import PIECE_BYTES
from swarm.errors import BadRequest, Unavailable
from swarm.gateway.http.listener import plain_path
from swarm.gateway.peers.model_files import (
    MAX_HEAD_START_S,
    MAX_TRANSFERS,
    MAX_TRANSFERS_PER_HOST,
    FileService,
    Transfers,
    paced,
    parse_range,
)
from swarm.node.files import NodeFiles, keeping_hashed
from swarm.registry.file_hashes import hashes_path
from swarm.registry.shared_files import SharedFiles
from tests.doubles.clients import Client, connect
from tests.doubles.file_nodes import FILE, OWNER, REPO, Asker, CountingTransfers, SharingNode, stocked
from tests.doubles.running_node import RunningNode
from tests.doubles.waiting import eventually

CONTENT = random.Random(3).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECRET = b"what was never meant to be shared " * 100
SECRET_SHA256 = hashlib.sha256(SECRET).hexdigest()
PATH = f"{wire.MODELS_PATH}/{SHA256}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A node that shares one file, and a client."""

    models_dir: Path
    files: SharedFiles
    node: SharingNode
    client: Client

    @property
    def path(self) -> Path:
        return self.models_dir / f"{OWNER}--{REPO}" / FILE


@pytest.fixture
def rescan_s() -> float:
    """How old a list of files may be; tests have others by their parameter of that name."""
    return 0.0


@pytest.fixture
async def stage(tmp_path: Path, rescan_s: float) -> AsyncIterator[Stage]:
    files = stocked(tmp_path / "models", CONTENT, rescan_s)
    async with SharingNode("kitchen", files) as node, connect(node.url) as client:
        yield Stage(tmp_path / "models", files, node, client)


async def body_of(node: RunningNode, path: str, **headers: str) -> tuple[int, bytes, aiohttp.typedefs.LooseHeaders]:
    async with aiohttp.ClientSession() as session, session.get(node.url + path, headers=headers) as response:
        return response.status, await response.read(), response.headers


def hash_all(files: SharedFiles) -> None:
    while files.hash_one(threading.Event()):
        pass


async def test_what_is_shared_is_listed(stage: Stage) -> None:
    (file,) = (await stage.client.get(wire.MODELS_PATH)).json["files"]
    assert file == {"sha256": SHA256, "size_bytes": len(CONTENT), "name": f"{OWNER}/{REPO}/{FILE}"}
    pieces = (await stage.client.get(PATH + wire.PIECES_SUFFIX)).json
    assert pieces == {"size_bytes": len(CONTENT), "piece_bytes": PIECE_BYTES, "pieces": [SHA256]}


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-9", 5, 10), ("bytes=299000-", 299_000, 300_000), ("bytes=7-999999", 7, 300_000)],
)
async def test_a_range_is_what_was_asked_for(stage: Stage, asked: str, first: int, end: int) -> None:
    status, body, headers = await body_of(stage.node, PATH, Range=asked)
    assert (status, body) == (206, CONTENT[first:end])
    assert headers["Content-Range"] == f"bytes {first}-{end - 1}/300000"


async def test_without_a_range_it_is_the_whole_file(stage: Stage) -> None:
    assert (await body_of(stage.node, PATH))[:2] == (200, CONTENT)


@pytest.mark.parametrize("asked", ["bytes=300000-", "bytes=999999999999999-"])
async def test_a_range_behind_the_end_says_how_long_the_file_is(stage: Stage, asked: str) -> None:
    reply = await stage.client.get(PATH, Range=asked)
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */300000")
    assert reply.error["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "asked", ["", "bytes=", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "bytes=²-", "bytes=-"]
)
async def test_a_range_that_is_none_is_refused(stage: Stage, asked: str) -> None:
    reply = await stage.client.get(PATH, Range=asked)
    assert reply.status == 400
    assert "ask for one range" in reply.error["message"]


@given(st.one_of(st.text(max_size=40), st.from_regex(r"bytes=\d{0,17}-\d{0,17}(,\d+-)?")), st.integers(1, 10**12))
def test_any_range_lies_within_the_file_or_is_refused(text: str, size_bytes: int) -> None:
    try:
        first, end = parse_range(text, size_bytes)
    except (BadRequest, web.HTTPRequestRangeNotSatisfiable):
        return
    assert 0 <= first < end <= size_bytes


TRICKS = st.sampled_from(["..", "%2e%2e", "%2F", "/", "\\", "%5C", "%00", "C:", "~", ".", "etc", "passwd", SHA256, "A"])
HOSTILE_IDS = st.one_of(
    st.lists(TRICKS, min_size=1, max_size=8).map("".join),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=70),
    st.from_regex(r"[0-9a-fA-F]{60,70}", fullmatch=True),
).filter(lambda text: text.strip("/") != SHA256)  # slashes that say nothing are taken out of every path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile=HOSTILE_IDS, suffix=st.sampled_from(["", wire.PIECES_SUFFIX]))
def test_no_id_but_a_hash_that_is_shared_gives_anything(served: ServedNode, hostile: str, suffix: str) -> None:
    raw = hostile.encode().replace(b" ", b"%20").replace(b"\r", b"%0d").replace(b"\n", b"%0a")
    target = wire.MODELS_PATH.encode() + b"/" + raw + suffix.encode()
    status, body = served.ask(target)
    # Slashes alone are no id: that asks for the list.
    is_list = plain_path(target.decode("latin-1").partition("?")[0]) == wire.MODELS_PATH
    assert 400 <= status < 500 or (status == 200 and is_list)
    assert CONTENT[:100] not in body
    assert b"root:" not in body


@pytest.mark.parametrize("suffix", ["", wire.PIECES_SUFFIX])
def test_slashes_that_say_nothing_ask_for_the_same_file(served: ServedNode, suffix: str) -> None:
    plain = served.ask(f"{wire.MODELS_PATH}/{SHA256}{suffix}".encode())
    assert plain[0] == 200
    for target in (f"{wire.MODELS_PATH}///{SHA256}{suffix}", f"//{wire.MODELS_PATH[1:]}//{SHA256}{suffix}/"):
        assert served.ask(target.encode()) == plain
    for target in (f"{wire.MODELS_PATH}/%2F{SHA256}{suffix}", f"{wire.MODELS_PATH}/.//{SHA256}{suffix}"):
        assert served.ask(target.encode())[0] in (400, 404)  # no hash, no path


@dataclass(frozen=True, slots=True)
class ServedNode:
    """A node in a thread of its own: Hypothesis is synchronous."""

    port: int

    def ask(self, target: bytes) -> tuple[int, bytes]:
        """What a request line with exactly these bytes is answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            parts: list[bytes] = []
            while part := connection.recv(65536):
                parts.append(part)
        answer = b"".join(parts)
        return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    files = stocked(tmp_path_factory.mktemp("served") / "models", CONTENT)
    ports: list[int] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with SharingNode("kitchen", files) as node:
            ports.append(node.address.port)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="node")
    thread.start()
    assert started.wait(10)
    yield ServedNode(ports[0])
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def test_links_and_what_is_no_download_are_not_shared(stage: Stage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    for secret in (outside / "secret.gguf", outside / "inner" / "secret.gguf"):
        secret.write_bytes(SECRET)
    inside = stage.path.parent
    (inside / "link.gguf").symlink_to(outside / "secret.gguf")
    (inside / "folder").symlink_to(outside / "inner")
    (stage.models_dir / "other--repo").symlink_to(outside)
    (stage.models_dir / "loop--loop").symlink_to(stage.models_dir)
    os.mkfifo(inside / "pipe.gguf")
    (inside / "empty.gguf").touch()
    for unshared in (
        stage.models_dir / "mine.gguf", stage.models_dir / "mine" / "mine.gguf", inside / ".hidden.gguf",
        inside / "notes.txt", stage.models_dir / ".partial" / "a--b" / "part.gguf", inside / ".git" / "x.gguf",
        inside / "no name.gguf",
    ):  # fmt: skip
        unshared.parent.mkdir(parents=True, exist_ok=True)
        unshared.write_bytes(SECRET)
    await asyncio.to_thread(hash_all, stage.files)
    assert [file["sha256"] for file in (await stage.client.get(wire.MODELS_PATH)).json["files"]] == [SHA256]
    assert (await stage.client.get(f"{wire.MODELS_PATH}/{SECRET_SHA256}")).status == 404


@pytest.mark.parametrize("rescan_s", [1e9])  # so that the swap falls between scan and open
async def test_a_file_that_becomes_a_link_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    stage.files.listed()
    secret = tmp_path / "secret.gguf"
    secret.write_bytes(bytes(len(CONTENT)))
    os.utime(secret, ns=(stage.path.stat().st_atime_ns, stage.path.stat().st_mtime_ns))
    stage.path.unlink()
    stage.path.symlink_to(secret)
    assert (await stage.client.get(PATH)).status == 404


@pytest.mark.parametrize("rescan_s", [1e9])
async def test_a_folder_that_becomes_a_link_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    stage.files.listed()
    shutil.move(stage.path.parent, tmp_path / "moved")
    stage.path.parent.symlink_to(tmp_path / "moved")
    assert (await stage.client.get(PATH)).status == 404


async def test_a_file_that_changed_is_not_given_under_its_old_hash(stage: Stage) -> None:
    stage.path.write_bytes(CONTENT[::-1])
    reply = await stage.client.get(PATH)
    assert (reply.status, reply.error["code"]) == (404, "file_not_found")
    await asyncio.to_thread(hash_all, stage.files)
    (file,) = (await stage.client.get(wire.MODELS_PATH)).json["files"]
    assert file["sha256"] == hashlib.sha256(CONTENT[::-1]).hexdigest()


async def test_hashes_are_kept_beside_the_file_and_not_believed_when_it_changed(stage: Stage) -> None:
    assert not SharedFiles(stage.models_dir).hash_one(threading.Event())
    kept = hashes_path(stage.path)
    text = kept.read_text()
    a_path, no_hash = text.replace(SHA256, "../../etc/passwd"), text.replace('"pieces":["', '"pieces":["zz')
    for broken in ("", "{}", "[]", text[:-20], a_path, no_hash):
        kept.write_text(broken)
        assert SharedFiles(stage.models_dir).listed() == ()
        assert SharedFiles(stage.models_dir).hash_one(threading.Event())
    os.utime(stage.path, (1, 1))
    assert SharedFiles(stage.models_dir).hash_one(threading.Event())


async def test_a_running_node_hashes_what_it_finds_and_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "a--b"
    folder.mkdir()
    (folder / "x.gguf").write_bytes(CONTENT)
    with (folder / "large.gguf").open("wb") as large:
        large.truncate(40 << 30)  # all holes: minutes to hash
    files = SharedFiles(tmp_path)
    async with PeerClient("id-x") as client:
        nearby = Asker(client).nearby
    async with keeping_hashed(NodeFiles(FileService(files, CountingTransfers()), nearby)):
        await eventually(lambda: any(task.get_name() == "hashing models" for task in asyncio.all_tasks()))


async def test_a_node_in_no_federation_shares_nothing(client_of_a_loner: Client) -> None:
    assert (await client_of_a_loner.get(wire.MODELS_PATH)).json == {"files": []}
    assert (await client_of_a_loner.get(PATH)).status == 404
    assert (await client_of_a_loner.get(PATH + wire.PIECES_SUFFIX)).status == 404


@pytest.fixture
async def client_of_a_loner() -> AsyncIterator[Client]:
    async with RunningNode("loner") as node, connect(node.url) as client:
        yield client


async def test_only_so_many_transfers_run_at_once_and_a_reader_that_leaves_makes_room(tmp_path: Path) -> None:
    transfers = CountingTransfers(stop_at=0)
    async with (
        SharingNode("kitchen", stocked(tmp_path / "models", CONTENT), transfers) as node,
        aiohttp.ClientSession() as session,
    ):
        held = [await session.get(node.url + PATH) for _ in range(MAX_TRANSFERS_PER_HOST)]
        async with session.get(node.url + PATH) as refused:
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
        for response in held:
            response.close()
        await eventually(lambda: transfers.running == 0)
        transfers.stop_at = None
        assert (await body_of(node, PATH))[:2] == (200, CONTENT)


async def test_a_reader_that_stalls_is_cut_off(tmp_path: Path) -> None:
    transfers, files = CountingTransfers(stop_at=0), stocked(tmp_path / "models", CONTENT)
    async with SharingNode("kitchen", files, transfers, grace_s=0.05, min_bytes_per_s=1e12) as node:
        with pytest.raises(aiohttp.ClientPayloadError):
            await body_of(node, PATH)
        await eventually(lambda: transfers.running == 0)


async def test_no_host_takes_all_places() -> None:
    transfers = Transfers(lambda: False)
    with transfers.place("a"), transfers.place("a"):
        with pytest.raises(Unavailable), transfers.place("a"):
            pass
        with transfers.place("b"), transfers.place("b"):
            assert transfers.running == MAX_TRANSFERS
            with pytest.raises(Unavailable), transfers.place("c"):
                pass
    assert transfers.running == 0


@pytest.mark.parametrize(
    ("now", "free_at", "size_bytes", "expected"),
    [
        (100.0, 0.0, 1000, 100.0 - MAX_HEAD_START_S + 1.0),  # long idle: a small head start, no burst of all that time
        (100.0, 100.0, 1000, 101.0),
        (100.0, 107.0, 500, 107.5),  # behind what others take
    ],
)
def test_bytes_go_at_their_turn(now: float, free_at: float, size_bytes: int, expected: float) -> None:
    assert paced(now, free_at, size_bytes, bytes_per_s=1000) == pytest.approx(expected)


async def test_the_pace_holds_for_all_transfers_together_and_is_slower_while_models_answer() -> None:
    loop = asyncio.get_running_loop()
    for busy, least_s in ((False, 0.0), (True, 0.25)):
        transfers = Transfers(lambda busy=busy: busy, idle_bytes_per_s=1e12, busy_bytes_per_s=10_000)
        began_at = loop.time()
        await asyncio.gather(*(transfers.take_turn(1000) for _ in range(5)))
        assert loop.time() - began_at >= least_s
