"""The doctor on set-ups that are really broken, as far as that needs no root; more are in the end-to-end tests."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web

from federation.identity import IDENTITY_FILE, load_identity
from swarm.doctor.examination import examine_machine, examine_network
from swarm.doctor.finding import Finding, Level
from swarm.node.settings import Settings, make_settings
from swarm.registry import embedded
from swarm.registry.embedded import embedded_model_path
from swarm.tools.mcp_servers import McpServerSettings, McpSettings
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox

HOUR_S = 3600
CHECKS = ["engine", "models", "memory", "disk", "sandbox", "keys", "versions"]
BARE = Sandbox("none", bash=shutil.which("bash") or "/bin/bash")
NO_BWRAP = NoSandbox("bwrap is not installed", "install the package bubblewrap")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    return make_settings({"federation": True, "data_dir": tmp_path / "data", "port": port, "host": "127.0.0.1"})


def failed(findings: Iterable[Finding]) -> dict[str, str]:
    """Of every check that failed, what was said."""
    return {finding.check: finding.message for finding in findings if finding.level is Level.FAIL}


def test_a_healthy_machine_fails_nothing(settings: Settings) -> None:
    findings = list(examine_machine(settings))
    assert failed(findings) == {}
    assert [finding.check for finding in findings] == CHECKS
    assert not settings.data_path.exists(), "looking changes nothing"


def test_several_things_broken_at_once_are_all_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "package"
    damaged.mkdir()
    (damaged / "SHA256SUMS").write_bytes((embedded_model_path().parent / "SHA256SUMS").read_bytes())
    (damaged / "demo.gguf").write_bytes(embedded_model_path().read_bytes()[:-1])
    monkeypatch.setattr(embedded, "embedded_folder", lambda _: damaged)
    settings.own_models_dir.mkdir(parents=True)
    (settings.own_models_dir / "qwen.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    (settings.data_path / IDENTITY_FILE).write_text("{}")
    found = failed(examine_machine(settings))
    assert set(found) == {"engine", "models", "keys"}
    assert "damaged" in found["engine"]
    assert "qwen.gguf" in found["models"]
    assert IDENTITY_FILE in found["keys"]


def test_a_machine_without_a_sandbox_fails_where_its_node_is_to_run_commands(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setattr("swarm.doctor.examination.find_sandbox", lambda *_, **__: NO_BWRAP)
    assert failed(examine_machine(settings)) == {}
    assert failed(examine_machine(replace(settings, tools=("read",), tools_root=root))) == {}
    found = failed(examine_machine(replace(settings, tools=("read", "bash"), tools_root=root)))
    assert "bwrap is not installed" in found["sandbox"]


def test_tools_that_cannot_be_are_named(settings: Settings) -> None:
    assert "needs --tools-root DIR" in failed(examine_machine(replace(settings, tools=("read",))))["tools"]


def test_mcp_servers_are_asked_for_their_tools(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.doctor.examination.find_sandbox", lambda *_, **__: BARE)
    program = Path(__file__).parents[1] / "doubles" / "mcp_server_program.py"
    servers = {
        "box": McpServerSettings(command=(sys.executable, str(program))),
        "far": McpServerSettings(url="http://127.0.0.1:1/mcp"),
    }
    found = list(examine_machine(replace(settings, mcp=McpSettings(servers))))
    said = [(finding.level, finding.message) for finding in found if finding.check == "MCP server"]
    assert said == [
        (Level.OK, "box was asked, and has 14 tools"),
        (Level.WARN, "far cannot be asked: Connection refused"),
    ]
    monkeypatch.setattr("swarm.doctor.examination.find_sandbox", lambda *_, **__: NO_BWRAP)
    broken = failed(examine_machine(replace(settings, mcp=McpSettings(servers))))
    assert "[mcp.servers.box] is a command, and there is no sandbox" in broken["MCP server"]


def test_a_key_that_others_can_read_is_named(settings: Settings) -> None:
    load_identity(settings.data_path)
    (settings.data_path / IDENTITY_FILE).chmod(0o644)
    assert "other users of this machine can read" in failed(examine_machine(settings))["keys"]


@pytest.mark.parametrize("option", ["api_key_file", "admin_key_file"])
def test_a_file_with_keys_that_others_can_read_or_that_holds_none_is_named(
    settings: Settings, option: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("sk-a\n")
    keys.chmod(0o644)
    given = replace(settings, **{option: keys})
    assert f"can read {keys}" in failed(examine_machine(given))["keys"]
    keys.write_text("")
    assert f"--{option.replace('_', '-')} {keys} holds no key" in failed(examine_machine(given))["keys"]


def test_a_data_directory_that_is_a_file_is_named(settings: Settings) -> None:
    settings.data_path.write_text("")
    assert "is a file, not a folder" in failed(examine_machine(settings))["disk"]


def test_a_taken_port_and_a_machine_without_network_are_named(settings: Settings) -> None:
    with closing(socket.create_server(("127.0.0.1", settings.port))):
        found = failed(examine_network(settings))
    assert str(settings.port) in found["port"]
    assert "127.0.0.1 would be announced" in found["interface"]


@pytest.mark.parametrize(
    ("change", "headers", "check", "words"),
    [
        ({}, lambda: {"Date": formatdate(usegmt=True)}, None, ""),
        ({}, lambda: {"Date": formatdate(1.0, usegmt=True)}, "clock", "behind this machine: invitations"),
        ({"protocol": 2}, dict[str, str], "peer", "speaks federation protocol 2 and this node speaks 1"),
        ({"name": ""}, dict[str, str], "peer", "does not describe a node"),
    ],
)
async def test_a_peer_is_judged_by_what_it_answers(
    settings: Settings, change: dict[str, object], headers: Callable[[], dict[str, str]], check: str | None, words: str
) -> None:
    about = {"id": "study", "name": "study", "version": "1", "protocol": 1, "url": "http://x:1", **change}

    async def describe(_: web.BaseRequest) -> web.Response:
        return web.Response(text=json.dumps(about), content_type="application/json", headers=headers())

    runner = web.ServerRunner(web.Server(describe))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        asked = replace(settings, peer=(f"{host}:{port}",))
        findings = await asyncio.to_thread(lambda: list(examine_network(asked)))
    finally:
        await runner.cleanup()
    about_peer = {name: text for name, text in failed(findings).items() if name.startswith(("peer", "clock"))}
    if check is None:
        assert about_peer == {}
    else:
        ((name, text),) = about_peer.items()
        assert name.startswith(check)
        assert words in text


def test_a_peer_that_is_down_or_no_address_is_named(settings: Settings) -> None:
    down = f"127.0.0.1:{settings.port}"
    assert "cannot be reached" in failed(examine_network(replace(settings, peer=(down,))))[f"peer {down}"]
    assert "'port'" in failed(examine_network(replace(settings, peer=("host:port",))))["peers"]


def test_a_machine_that_cannot_lend_what_it_is_to_lend_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is said of lending where nobody asked for it."""
    assert "lending" not in failed(examine_machine(settings))
    monkeypatch.setattr("swarm.node.lending.find_sandbox", lambda *_, **__: NO_BWRAP)
    found = failed(examine_machine(replace(settings, lend="half")))
    assert "bwrap is not installed" in found["lending"]
    monkeypatch.setattr("swarm.node.lending.find_sandbox", lambda *_, **__: BARE)
    monkeypatch.setattr("swarm.node.lending.builds_of", lambda *_: ())
    assert "`swarm engines install native`" in failed(examine_machine(replace(settings, lend="half")))["lending"]
