"""A model from a peer by the command line: real processes, and an internet that is asked for no byte of it."""

from __future__ import annotations

import asyncio
import filecmp
import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from federation import wire
from tests.doubles.file_nodes import CONTENT, OWNER, CountingTransfers, SharingNode, stocked
from tests.doubles.file_nodes import FILE as MODEL
from tests.doubles.file_nodes import REPO as REPO_NAME
from tests.e2e.node_process import PROGRAM, NodeProcess, environment
from tests.e2e.waiting import eventually
from tests.registry.fake_hub import Hub, Upload

REPO, FILE = "owner/repo-GGUF", "tiny.gguf"
NAME = f"hf:{REPO}/{FILE}"
HERE = ("--host", "127.0.0.1")
ENDED_S = 60.0


@pytest.fixture
def stocked_folder(tmp_path: Path, demo_model: Path, hub: Hub) -> Path:
    """The folder of a node whose models folder has the file, as the hub has."""
    hub.put(REPO, FILE, Upload(demo_model.read_bytes()))
    folder = tmp_path / "holder" / "data" / "models" / REPO.replace("/", "--")
    folder.mkdir(parents=True)
    shutil.copy(demo_model, folder / FILE)
    return tmp_path / "holder"


@pytest.fixture
async def holder(stocked_folder: Path) -> AsyncIterator[NodeProcess]:
    """A node that has the file and has hashed it."""
    with NodeProcess("holder", stocked_folder, arguments=(*HERE, "--federation")) as node:
        await node.ready()

        async def shares() -> bool:
            return FILE in await asyncio.to_thread(read, node.url + wire.MODELS_PATH)

        await eventually(shares, ENDED_S, "the file is hashed")
        yield node


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=ENDED_S) as response:
        return response.read().decode()


async def test_a_node_starts_with_a_model_that_a_peer_has(holder: NodeProcess, tmp_path: Path, hub: Hub) -> None:
    peer = holder.url.removeprefix("http://")
    with NodeProcess("needy", tmp_path / "needy", model=NAME, arguments=(*HERE, "--peer", peer)) as needy:
        await needy.ready()
        served = json.loads(await asyncio.to_thread(read, needy.url + "/v1/models"))["data"]
        assert "tiny" in {model["id"] for model in served}
        assert f"downloading {REPO}" in needy.output or f"downloading {FILE}" in needy.output
    assert hub.bodies == 0


async def test_models_pull_copies_from_a_peer(holder: NodeProcess, tmp_path: Path, hub: Hub, demo_model: Path) -> None:
    peer = holder.url.removeprefix("http://")
    command = (*PROGRAM, "models", "pull", NAME, "--peer", peer, "--data-dir", str(tmp_path / "data"))
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment(tmp_path), capture_output=True, text=True, timeout=ENDED_S
    )
    assert done.returncode == 0, done.stderr
    assert filecmp.cmp(done.stdout.splitlines()[-1], demo_model, shallow=False)
    assert hub.bodies == 0


async def test_ctrl_c_ends_a_pull_at_once_and_leaves_no_file(tmp_path: Path, hub: Hub) -> None:
    hub.put(f"{OWNER}/{REPO_NAME}", MODEL, Upload(CONTENT))
    stalled = SharingNode("stalled", stocked(tmp_path / "shared"), CountingTransfers(stop_at=0))
    name = f"hf:{OWNER}/{REPO_NAME}/{MODEL}"
    async with stalled:
        command = (*PROGRAM, "models", "pull", name, "--data-dir", str(tmp_path), "--peer", str(stalled.address))
        pull = await asyncio.create_subprocess_exec(
            *command, env=environment(tmp_path), stdout=asyncio.subprocess.DEVNULL
        )
        await stalled.transfers.reached.wait()
        pull.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(pull.wait(), ENDED_S) == 1
    assert hub.bodies == 0


async def test_ctrl_c_ends_a_node_that_still_copies_its_model(tmp_path: Path, hub: Hub) -> None:
    hub.put(f"{OWNER}/{REPO_NAME}", MODEL, Upload(CONTENT))
    stalled = SharingNode("stalled", stocked(tmp_path / "shared"), CountingTransfers(stop_at=0))
    model = f"hf:{OWNER}/{REPO_NAME}/{MODEL}"
    async with stalled:
        arguments = (*HERE, "--peer", str(stalled.address))
        with NodeProcess("needy", tmp_path / "needy", model=model, arguments=arguments) as needy:
            await stalled.transfers.reached.wait()
            needy.send(signal.SIGINT)
            await needy.ended(ENDED_S)
            assert "Traceback" not in needy.logs()
    assert hub.bodies == 0


async def test_models_pull_refuses_a_peer_that_is_no_address(tmp_path: Path) -> None:
    command = (*PROGRAM, "models", "pull", NAME, "--peer", "a:b:c:d", "--data-dir", str(tmp_path / "data"))
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment(tmp_path), capture_output=True, text=True, timeout=ENDED_S
    )
    assert done.returncode == 2
    assert "a:b:c:d" in done.stderr
