"""A node that is only a tool host, as a user starts it: real processes in the real sandbox, on this machine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swarm.tools.plan import AUTO
from swarm.tools.sandboxed_process import NoSandbox, find_sandbox
from tests.doubles.clients import Client, connect
from tests.e2e.node_process import PROGRAM, NodeProcess, environment
from tests.e2e.waiting import eventually

GONE_S = 10.0  # a tenth of a second alone
LASTS_S = 300  # of a command that is ended long before


@pytest.fixture(scope="module")
def commands() -> None:
    """Skips where commands cannot run in a sandbox, as for root outside of a container."""
    found = find_sandbox(AUTO)
    if isinstance(found, NoSandbox):
        pytest.skip(str(found))


def process(folder: Path, root: Path, *arguments: str) -> NodeProcess:
    options = ("--no-model", "--tools", "read,write,bash", "--tools-root", str(root), *arguments)
    return NodeProcess("tools", folder, arguments=options, model=None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "notes.txt").write_text("one\ntwo\n")
    return folder


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, root: Path, commands: None) -> Iterator[NodeProcess]:
    with process(tmp_path_factory.mktemp("node"), root) as running:
        asyncio.run(running.ready())
        yield running


def command_of(pid: Path) -> bytes:
    try:
        return (pid / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def running_with(mark: str) -> int:
    """Processes of this machine whose command line has `mark`: also those in a sandbox."""
    return sum(mark.encode() in command_of(pid) for pid in Path("/proc").iterdir() if pid.name.isdigit())


async def until_running(mark: str, wanted: bool) -> None:
    async def there() -> bool:
        return (running_with(mark) > 0) is wanted

    await eventually(there, GONE_S, f"a process with {mark} {'runs' if wanted else 'is gone'}")


async def execute(client: Client, tool: str, **arguments: Any) -> Any:
    reply = await client.post("/v1/tools/execute", {"tool": tool, "arguments": arguments})
    assert reply.status == 200, reply.text
    return reply.json


async def test_it_is_well_without_a_model_and_says_what_it_is(node: NodeProcess, root: Path) -> None:
    assert (
        f"  tool host  read, write, bash below {root}; bash in bwrap, without network; for this machine" in node.output
    )
    assert "\nready: without a model of its own (--no-model)" in node.output
    async with connect(node.url) as client:
        assert (await client.get("/readyz")).json == {"status": "ok"}
        assert (await client.get("/v1/models")).json["data"] == []
        assert (await client.chat("hello")).status in (404, 503)
        names = [tool["function"]["name"] for tool in (await client.get("/v1/tools")).json["data"]]
        assert names == ["read", "write", "bash"]


async def test_its_tools_work_below_the_root_and_nowhere_else(node: NodeProcess, root: Path) -> None:
    async with connect(node.url) as client:
        assert "two" in (await execute(client, "read", path="notes.txt"))["output"]
        assert (await execute(client, "write", path="new/a.txt", content="three\n"))["exit_code"] == 0
        assert (root / "new" / "a.txt").read_text() == "three\n"
        told = await execute(client, "bash", command="cat new/a.txt && exit 5")
        assert (told["output"].startswith("three\n"), told["exit_code"], told["timed_out"]) == (True, 5, False)
        assert (await execute(client, "read", path="../node/out.txt"))["exit_code"] != 0
        environment_inside = (await execute(client, "bash", command="env"))["output"]
        assert "SWARM" not in environment_inside
        late = await client.post(
            "/v1/tools/execute", {"tool": "bash", "arguments": {"command": "sleep 60"}, "timeout_s": 0.5}
        )
        assert late.json["timed_out"]


@pytest.mark.parametrize("path", ["/v1/tools/execute", "/mcp"])
async def test_a_client_that_leaves_takes_the_whole_tree_with_it(node: NodeProcess, path: str) -> None:
    mark = f"swarm-test-{uuid.uuid4().hex}"
    command = f"(exec -a {mark} sleep {LASTS_S}) & setsid bash -c 'exec -a {mark} sleep {LASTS_S}' & wait"
    body: dict[str, Any] = {"tool": "bash", "arguments": {"command": command}, "timeout_s": LASTS_S}
    if path == "/mcp":
        params = {"name": "bash", "arguments": {"command": command, "timeout_s": LASTS_S}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(node.url + path, json=body))
        await until_running(mark, True)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until_running(mark, False)


@pytest.mark.usefixtures("commands")
async def test_killed_with_9_it_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    mark = f"swarm-test-{uuid.uuid4().hex}"
    with process(tmp_path / "node", root) as node:
        await node.ready()
        body = {"tool": "bash", "arguments": {"command": f"exec -a {mark} sleep {LASTS_S}"}, "timeout_s": LASTS_S}
        async with aiohttp.ClientSession() as session:
            asking = asyncio.create_task(session.post(f"{node.url}/v1/tools/execute", json=body))
            await until_running(mark, True)
            node.kill()
            await asyncio.gather(asking, return_exceptions=True)
        await until_running(mark, False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tools", "read"], "--tools-root DIR"),
        (["--tools", "read", "--tools-root", "HERE", "--host", "0.0.0.0"], "Give it a key (--api-key-file FILE)"),
        (["--tools", "read", "--tools-root", "HERE", "--federation"], "Give it a key (--api-key-file FILE)"),
        (["--no-model", "--model", "demo"], "--no-model loads none"),
    ],
)
def test_what_must_not_be_keeps_it_from_starting(tmp_path: Path, arguments: list[str], told: str) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    given = [str(folder) if word == "HERE" else word for word in arguments]
    command = [*PROGRAM, "--port", "0", "--data-dir", str(tmp_path / "data"), *given]
    ended = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, timeout=GONE_S * 3, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert told in ended.stderr


async def test_a_key_opens_it_to_other_machines(tmp_path: Path) -> None:
    """It listens everywhere, and takes nobody's call without the key, from this machine neither."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "a.txt").write_text("inside\n")
    keys = tmp_path / "keys"
    keys.write_text("sk-anna name=anna\n")
    keys.chmod(0o600)
    options = ["--no-model", "--tools", "read", "--tools-root", str(folder), "--host", "0.0.0.0"]
    with NodeProcess("open", tmp_path / "node", arguments=[*options, "--api-key-file", str(keys)], model=None) as node:
        await node.ready()
        assert "for whoever has an API key" in node.output
        url = f"http://127.0.0.1:{node.url.rpartition(':')[2]}"
        async with connect(url) as client:
            body = {"tool": "read", "arguments": {"path": "a.txt"}}
            assert (await client.post("/v1/tools/execute", body)).status == 401
            reply = await client.post("/v1/tools/execute", body, Authorization="Bearer sk-anna")
            assert "inside" in json.loads(reply.text)["output"]
