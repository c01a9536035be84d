"""`swarm models pull` in a paired swarm: over TLS as a member, nothing for strangers, and a plain word when it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from federation import wire
from federation.client import PeerClient
from federation.errors import PeerError
from federation.file_exchange import FilePeer, list_files, read_piece
from federation.roster import Endpoint
from swarm.cli import main
from swarm.gateway.peers.model_files import FileService
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from tests.doubles.clients import connect
from tests.doubles.file_nodes import CONTENT, FILE, HASHES, OWNER, REPO, SHA256, CountingTransfers, stocked
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.waiting import eventually
from tests.registry.fake_hub import Hub, Upload

NAME = f"hf:{OWNER}/{REPO}/{FILE}"
WAIT_S = 60.0


class Holder:
    """Kitchen, a paired node that has the file; of study, the other member, there is the data directory only."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        self.folder = folder
        self.transfers = CountingTransfers(stop_at)
        self.trust, self.study = paired_trusts(folder, "kitchen", "study")
        service = FileService(stocked(folder / "kitchen" / "models"), self.transfers)
        self.node = RunningNode("kitchen", options=NodeOptions(trust=self.trust, files=service))

    async def pull(self, name: str) -> int:
        """`swarm models pull` with the data directory of `name`; its exit code."""
        arguments = ["models", "pull", NAME, "--data-dir", str(self.folder / name), "--peer", str(self.node.address)]
        return await asyncio.wait_for(asyncio.to_thread(main, arguments), WAIT_S)


async def test_a_member_pulls_from_a_member_and_the_internet_sends_no_byte(tmp_path: Path, hub: Hub) -> None:
    hub.put(f"{OWNER}/{REPO}", FILE, Upload(CONTENT))
    holder = Holder(tmp_path)
    async with holder.node:
        assert await holder.pull("study") == 0
        assert (tmp_path / "study" / "models" / f"{OWNER}--{REPO}" / FILE).read_bytes() == CONTENT
        assert holder.transfers.sent_bytes == len(CONTENT)
    assert hub.bodies == 0


async def test_it_finds_the_members_by_their_list_alone(tmp_path: Path, hub: Hub) -> None:
    hub.put(f"{OWNER}/{REPO}", FILE, Upload(CONTENT))
    holder = Holder(tmp_path)
    async with holder.node:
        here = Endpoint(host=holder.node.address.host, port=holder.node.address.port)
        await holder.study.found_at(holder.trust.node_id, [here])
        arguments = ["models", "pull", NAME, "--data-dir", str(tmp_path / "study")]
        assert await asyncio.wait_for(asyncio.to_thread(main, arguments), WAIT_S) == 0
    assert hub.bodies == 0


async def test_a_member_is_believed_what_a_file_is_called_while_the_hub_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue knows no hash of it, and nobody answers for the hub."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    holder = Holder(tmp_path)
    async with holder.node:
        assert await holder.pull("study") == 0
        assert (tmp_path / "study" / "models" / f"{OWNER}--{REPO}" / FILE).read_bytes() == CONTENT
        assert await holder.pull("visitor") == 2, "a stranger gets nothing"


async def test_the_node_that_runs_here_knows_where_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of members says nothing of kitchen's port: the running node of the same data directory found it."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    holder = Holder(tmp_path)
    arguments = ["models", "pull", NAME, "--data-dir", str(tmp_path / "study")]
    async with holder.node:
        options = NodeOptions(trust=holder.study, peers=[holder.node.address])
        async with RunningNode("study", options=options) as study:
            await eventually(lambda: bool(study.membership.alive()))
            assert await asyncio.wait_for(asyncio.to_thread(main, arguments), WAIT_S) == 0
        assert (tmp_path / "study" / "models" / f"{OWNER}--{REPO}" / FILE).read_bytes() == CONTENT


async def test_strangers_get_no_list_and_no_byte(tmp_path: Path, hub: Hub) -> None:
    hub.put(f"{OWNER}/{REPO}", FILE, Upload(CONTENT))
    holder = Holder(tmp_path)
    paired_trusts(tmp_path / "elsewhere", "office", "lab")
    async with holder.node:
        assert await holder.pull("visitor") == 0
        assert await holder.pull("elsewhere/office") == 0
        async with connect(holder.node.url) as client:
            for path in (wire.MODELS_PATH, f"{wire.MODELS_PATH}/{SHA256}", f"{wire.MODELS_PATH}/{SHA256}/pieces"):
                assert (await client.get(path)).status == 403
        peer = FilePeer(holder.node.id, "kitchen", holder.node.address)
        visitor = open_trust(tmp_path, "visitor")
        async with PeerClient(visitor.node_id, trust=visitor) as client:
            with pytest.raises(PeerError, match="belongs to a paired swarm"):
                await list_files(client, peer)
            with pytest.raises(PeerError, match="belongs to a paired swarm"):
                await read_piece(client, peer, SHA256, HASHES.shared.span(0))
        assert holder.transfers.sent_bytes == 0
    assert hub.bodies == 2, "each stranger had to go to the internet"


async def test_who_is_revoked_while_copying_gets_no_more_and_is_told_why(
    tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (entry, *_) = Catalogue.load().models
    source = {"repo": f"{OWNER}/{REPO}", "file": FILE, "sha256": SHA256}
    wanted = CatalogueChoice(entry, entry.variants[0].model_copy(update=source))
    monkeypatch.setattr("swarm.commands.models.what_to_pull", lambda *_: wanted)
    holder = Holder(tmp_path, stop_at=2**20)
    async with holder.node:
        pull = asyncio.create_task(holder.pull("study"))
        await asyncio.wait_for(holder.transfers.reached.wait(), WAIT_S)
        await holder.node.trust_service.revoke("study")
        sent_bytes = holder.transfers.sent_bytes
        holder.transfers.go_on.set()
        assert await pull == 2
        out, err = capsys.readouterr()
        assert "peer kitchen gives this node nothing any more" in out
        assert "it may have to be invited again" in out
        assert "127.0.0.1:9" in err
        assert holder.transfers.sent_bytes <= sent_bytes + 2**20, "a chunk that was on its way"
    assert not list((tmp_path / "study").rglob("*.gguf"))
