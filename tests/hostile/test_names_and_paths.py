"""Ids, sizes and names that a peer sends never reach the file system unchecked: the whole tree is watched."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation import wire
from federation.advertisement import NodeDescription
from federation.client import PeerClient
from federation.errors import FederationError, RosterError
from federation.file_exchange import MAX_FILE_BYTES, parse_file_list, parse_pieces
from federation.hostport import Address, make_address
from federation.identity import load_identity
from federation.membership import Membership
from federation.roster import Endpoint, Entry, Roster, parse_roster
from federation.roster_store import load_roster, save_roster
from federation.static_peers import load_peers, save_peers
from swarm.errors import SetupError
from swarm.gateway.peers.model_files import FileService
from swarm.registry.names import HubRef, parse_model
from tests.doubles.file_nodes import CountingTransfers, stocked
from tests.doubles.paired import identity
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.timing import FAST
from tests.doubles.waiting import eventually
from tests.hostile.malformed import SHA256

NAMES = (
    "../outside", "../../../../tmp/outside", "/etc/outside", "..", ".", "", "~", "~root/.ssh/authorized_keys",
    "a/../../b", "..\\..\\outside", "C:\\outside", "\\\\server\\share", "CON", "NUL",
    "aux.gguf", "COM1", "a\0b", "\0", "a\nb",
    "%2e%2e%2f", "..%2f..%2foutside", "\u2025/\u2025", "\uff0e\uff0e/x", "a" * 5000, "é" * 300,
    "\u202egnp.exe", "file:///etc/passwd",
    "$(touch outside)", "`touch outside`", "; touch outside", "|touch outside", "-rf", "--help", ".ssh/config", "a:b",
    "a*", "😀", "node.pem", "roster.json", "control.json", "owner/repo/../../../x.gguf", "owner/repo/.hidden.gguf",
    "owner/repo/a//b.gguf",
)  # fmt: skip
names = st.sampled_from(NAMES) | st.text(st.characters(), max_size=80) | st.text("./\\~\0:%C", max_size=30)
SIZES = (-1, 0, 2**31, 2**63 - 1, 2**64, 10**30, MAX_FILE_BYTES + 1)
MANY = settings(
    max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def tree(folder: Path) -> set[str]:
    """Everything below `folder`, itself included, however odd its name."""
    return {str(path) for path in folder.rglob("*")}


@contextmanager
def nothing_new(folder: Path, *allowed: str) -> Iterator[None]:
    """Nothing is made or removed below `folder`, nor where this process stands, but files by the `allowed` names."""
    before, here_before = tree(folder), set(Path().iterdir())
    yield
    changed = {path for path in tree(folder) ^ before if Path(path).name not in allowed}
    assert changed == set(), changed
    assert set(Path().iterdir()) == here_before


@MANY
@given(name=names)
def test_a_peers_names_are_kept_inside_files_and_never_become_one(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Node names, hosts and members' names: written as JSON into two files of fixed names, and read back."""
    folder = tmp_path_factory.getbasetemp() / "names"
    data_dir = folder / "inner" / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "peers.json").touch()
    member = identity(folder / "inner", "member")
    with nothing_new(folder, "peers.json", "roster.json", "paired"):
        try:
            entry = Entry(id=member.node_id, name=name, certificate=None, places=(Endpoint(host=name or "x", port=1),))
            save_roster(data_dir, Roster(swarm="0" * 16, entries=(entry,)))
            kept = load_roster(data_dir)
            assert kept is not None
            assert kept.entries[0].name.isprintable()
        except (ValueError, FederationError):
            pass
        save_roster(data_dir, None)
        try:
            save_peers(data_dir, [make_address(name, 1)])
            assert len(load_peers(data_dir)) == 1
        except FederationError:
            pass
        for claimed in (name, {"name": name}):
            with pytest.raises(RosterError):
                parse_roster(json.dumps({"swarm": claimed, "entries": []}).encode("utf-8", "surrogatepass"))


@MANY
@given(name=names, size=st.sampled_from(SIZES) | st.integers(), digest=names | st.just("ab" * 31 + "zz"))
def test_only_a_hash_addresses_a_file(name: str, size: int, digest: str) -> None:
    """CVE-2024-37032: a digest with ../ in it was joined to a path. Here it is no digest."""
    for sha256, size_bytes in ((digest, 5), (SHA256, size)):
        listed = {"files": [{"sha256": sha256, "size_bytes": size_bytes, "name": name or "x"}]}
        pieces = {"size_bytes": size_bytes, "pieces": [sha256]}
        for parse, said in ((parse_file_list, listed), (parse_pieces, pieces)):
            try:
                parse(json.dumps(said).encode("utf-8", "surrogatepass"))
            except FederationError:
                continue
            assert sha256 == SHA256 or (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef"))
            assert 0 < size_bytes <= MAX_FILE_BYTES


@MANY
@given(name=names)
def test_a_name_becomes_a_path_only_within_the_models_folder(name: str) -> None:
    try:
        found = parse_model("hf:owner/" + name)
    except SetupError:
        return
    assert isinstance(found, HubRef)
    inside = Path("/models") / found.repo.replace("/", "--") / (found.file or "")
    assert Path(os.path.normpath(inside)) == inside
    assert "\0" not in str(inside)


async def raw_get(node: RunningNode, path: str) -> tuple[int, bytes]:
    """A path as it stands, which no client's URL type would let out."""
    reader, writer = await asyncio.open_connection(*node.address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("utf-8", "replace"))
    answer = await reader.read()
    writer.transport.abort()
    return int(answer.split(b" ")[1]), answer


async def test_no_path_in_a_url_leads_out_of_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.gguf").write_bytes(b"a secret outside")
    files = FileService(stocked(tmp_path / "models", b"public"), CountingTransfers())
    engine = ScriptedEngine(saying("x"), model_id="m")
    async with RunningNode("kitchen", ready(engine), options=NodeOptions(files=files)) as kitchen:
        with nothing_new(tmp_path):
            for name in NAMES:
                for way in (name, name.replace("/", "%2f").replace("\0", "%00"), f"../{name}", f"{SHA256}/../{name}"):
                    clean = "".join(char for char in way if char.isprintable() and char != " ") or "x"
                    for path in (f"{wire.MODELS_PATH}/{clean}", f"{wire.MODELS_PATH}/{clean}/pieces", f"/docs/{clean}"):
                        status, answer = await raw_get(kitchen, path)
                        assert status in (200, 307, 400, 403, 404), (path, status)
                        assert b"secret" not in answer
                        assert b"root:" not in answer


class OddPeer:
    """A node whose every name is `name`, and which offers a file of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __aenter__(self) -> OddPeer:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = Address("127.0.0.1", int(self._runner.addresses[0][1]))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        said: dict[str, Any] = {
            wire.NODE_PATH: {
                "id": "id-attic", "name": self.name, "version": self.name, "protocol": 1, "url": "http://x",
                "models": [{"id": self.name, "slots": 1, "slots_free": 1, "fingerprint": self.name}],
                "hardware": {self.name: self.name}, "instance": "run-1", "loadable": self.name,
            },
            wire.LOADABLE_PATH: {"models": [{"id": self.name, "sha256": self.name, "also": [self.name]}]},
            wire.PEERS_PATH: {"peers": [{"id": "id-b", "name": self.name, "host": self.name, "port": 1}]},
            wire.MODELS_PATH: {"files": [{"sha256": SHA256, "size_bytes": 6, "name": self.name}]},
        }.get(request.path, {"size_bytes": 6, "piece_bytes": 8 << 20, "pieces": [SHA256]})  # fmt: skip
        return web.json_response(said)


@pytest.mark.parametrize("name", [name[:60] for name in NAMES if name], ids=ascii)
async def test_a_peer_with_an_odd_name_leaves_no_trace(tmp_path: Path, name: str) -> None:
    """Met as --peer, known by its name and its models' names, and remembered: within the data directory."""
    data_dir = tmp_path / "inner" / "data"
    data_dir.mkdir(parents=True)
    me = load_identity(data_dir, "kitchen")
    here = NodeDescription(id=me.node_id, name="kitchen", version="1", url="http://127.0.0.1:1", instance="run-1")
    with nothing_new(tmp_path, "peers.json"):
        async with OddPeer(name) as attic, PeerClient(me.node_id) as client:
            membership = Membership(here, client, static_peers=(attic.address,), data_dir=data_dir, timing=FAST)
            async with membership:
                await eventually(lambda: bool(membership.alive() or membership.rejected()))
                for peer in membership.alive():
                    assert peer.name.isprintable()
                    assert all(model.id.isprintable() for model in peer.description.models)
                if membership.alive():
                    await eventually(lambda: all(peer.loadable for peer in membership.alive()))
                    (found,) = membership.alive()[0].loadable
                    assert all(text.isprintable() for text in (found.id, *found.also))
                    assert found.sha256 is None
