"""How a node starts and ends by itself: refusals that say why, useless peers, signals. On loopback, without root."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from swarm.node.listeners import another_port
from tests.e2e.asking import ask, federation_view, get_text, long_stream
from tests.e2e.commands import swarm_command
from tests.e2e.node_process import PROGRAM, NodeProcess, environment
from tests.e2e.waiting import eventually

COMMAND_S = 20.0
AT_ONCE_S = 5.0  # it takes 0.6 s alone; the drain time, were it waited for, is 30 s
DRAIN_S = 30.0
REPORTED_S = 5.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a command line ended that cannot be run."""

    exit_code: int | None
    errors: str


async def refused(folder: Path, *arguments: str) -> Refusal:
    """Run `swarm` with `arguments` to its end; fails if it is still there after COMMAND_S."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("--data-dir", str(folder / "data"), *arguments),
        env=environment(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(COMMAND_S):
            _, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    return Refusal(process.returncode, errors.decode())


async def test_a_port_in_use_is_refused_before_a_model_is_looked_at_with_the_remedy(tmp_path: Path) -> None:
    """Nobody waits for a model to load to hear that the port is taken."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        refusal = await refused(tmp_path, "--model", str(tmp_path / "missing.gguf"), "--port", str(port))
    assert refusal.exit_code == 2
    assert "missing.gguf" not in refusal.errors
    assert f"port {port} is in use" in refusal.errors
    assert f"--port {another_port(port)} and a --data-dir of its own" in refusal.errors
    assert "Traceback" not in refusal.errors


async def test_a_second_node_on_one_data_directory_is_refused_and_the_first_unharmed(tmp_path: Path) -> None:
    with NodeProcess("kitchen", tmp_path) as kitchen:
        await kitchen.ready()
        control = (tmp_path / "data" / "control.json").read_text()
        refusal = await refused(tmp_path, "--model", "demo", "--port", "0", "--name", "study")
        assert refusal.exit_code == 2
        assert f"another node (kitchen, process {kitchen.pid}) runs with the data directory" in refusal.errors
        assert "--data-dir OTHER and --port N" in refusal.errors
        assert "Traceback" not in refusal.errors
        assert (tmp_path / "data" / "control.json").read_text() == control
        assert "Paris" in (await ask(kitchen)).text
        kitchen.kill()
        kitchen.start()
        await kitchen.ready()
        assert "Paris" in (await ask(kitchen)).text, "the system has freed what the killed one held"


async def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    refusal = await refused(tmp_path, "--model", "demo", "--port", "0", "--host", "1.2.3.4")
    assert refusal.exit_code == 2
    assert "--host 1.2.3.4 is not an address of this machine" in refusal.errors
    assert "127.0.0.1" in refusal.errors, "it lists what there is"
    assert "Traceback" not in refusal.errors


@pytest.mark.parametrize(
    "content", [b"Dear diary, this is no model.\n" * 100, b"", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64],
    ids=["text", "empty", "damaged"],
)  # fmt: skip
async def test_a_model_file_that_is_none_is_refused_with_the_reason(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "diary.gguf"
    path.write_bytes(content)
    refusal = await refused(tmp_path, "--port", "0", "--model", str(path))
    assert refusal.exit_code == 2, refusal.errors
    assert "diary.gguf" in refusal.errors
    assert "Traceback" not in refusal.errors


async def test_a_model_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refusal = await refused(tmp_path, "--port", "0", "--model", str(tmp_path / "missing.gguf"))
    assert refusal.exit_code == 2, refusal.errors
    assert "missing.gguf" in refusal.errors
    assert "Traceback" not in refusal.errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--frobnicate"], "--frobnicate"), (["--workers", "0"], "--workers"), (["--peer", "host:notaport"], "notaport")],
)
async def test_a_wrong_command_line_is_refused(tmp_path: Path, arguments: list[str], named: str) -> None:
    refusal = await refused(tmp_path, "--model", "demo", "--port", "0", *arguments)
    assert refusal.exit_code == 2
    assert named in refusal.errors
    assert "Traceback" not in refusal.errors


async def test_a_key_is_no_lock_on_an_open_federation_and_pairing_first_makes_it_one(tmp_path: Path) -> None:
    """The way that the refusal and `docs/deploy.md` describe, and what is left of it when the node leaves its swarm."""
    keys = tmp_path / "keys"
    keys.write_text("sk-house\n")
    keys.chmod(0o600)
    here, key = ("--federation", "--host", "127.0.0.1"), ("--api-key-file", str(keys))
    refusal = await refused(tmp_path / "kitchen", "--model", "demo", "--port", "0", *here, *key)
    assert refusal.exit_code == 2
    assert "an API key closes half of an open federation" in refusal.errors
    assert "Traceback" not in refusal.errors
    with NodeProcess("kitchen", tmp_path / "kitchen", arguments=here) as open_node:
        await open_node.ready()
        assert '"id"' in (await get_text(f"{open_node.url}/federation/v1/node") or "")
        await swarm_command(open_node, tmp_path, "invite")
    with NodeProcess("kitchen", tmp_path / "kitchen", arguments=(*here, *key)) as kitchen:
        await kitchen.ready()
        assert "with an API key; members need none" in kitchen.output
        assert "members_only" in (await get_text(f"{kitchen.url}/federation/v1/node") or "")
        left = await swarm_command(kitchen, tmp_path, "revoke", "kitchen", "--yes")
        assert (left["itself"], left["closed"]) == (True, True)
        await kitchen.says("It has an API key, so it stays closed to other nodes")
        assert "members_only" in (await get_text(f"{kitchen.url}/federation/v1/node") or "")
        assert "invalid_api_key" in (await get_text(f"{kitchen.url}/v1/models") or "")
    aloud = NodeProcess("study", tmp_path / "study", arguments=(*here, *key, "--open-federation"))
    with aloud as study:
        await study.ready()
        assert "OPEN TO NODES WITHOUT ONE (--open-federation)" in study.output
        assert '"id"' in (await get_text(f"{study.url}/federation/v1/node") or "")


async def test_peers_that_talk_rubbish_or_are_down_do_not_keep_a_node_from_serving(tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\x00\xffnot HTTP at all\r\n\r\n")
        writer.close()

    async def other_service(_: web.BaseRequest) -> web.Response:
        return web.json_response({"hello": "I am a printer"})

    with closing(socket.create_server(("127.0.0.1", 0))) as down:
        nobody = down.getsockname()[1]
    runner = web.ServerRunner(web.Server(other_service))
    await runner.setup()
    printer = web.TCPSite(runner, "127.0.0.1", 0)
    await printer.start()
    babbler = await asyncio.start_server(babble, "127.0.0.1", 0)
    ports = [nobody, runner.addresses[0][1], babbler.sockets[0].getsockname()[1]]
    peers = [argument for port in ports for argument in ("--peer", f"127.0.0.1:{port}")]
    try:
        with NodeProcess("brave", tmp_path, arguments=["--host", "127.0.0.1", *peers]) as node:
            await node.ready()
            assert "Paris" in (await ask(node)).text

            async def all_reported() -> bool:
                return all(f"no peer at 127.0.0.1:{port}" in node.errors for port in ports)

            await eventually(all_reported, REPORTED_S, "each useless --peer is reported")
            view = await federation_view(node)
            assert view is not None
            assert view["peers"] == []
            assert "Traceback" not in node.errors
    finally:
        babbler.close()
        await babbler.wait_closed()
        await runner.cleanup()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_an_idle_node_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with NodeProcess("solo", tmp_path) as node:
        await node.ready()
        node.send(number)
        assert await node.ended(AT_ONCE_S) == 0
        assert node.errors == ""


async def test_a_second_signal_ends_a_node_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    with NodeProcess("solo", tmp_path) as node:
        await node.ready()
        async with long_stream(node):
            node.send(signal.SIGINT)

            async def says_so() -> bool:
                return "stopping: " in node.output

            await eventually(says_so, AT_ONCE_S, "it says that it stops")
            assert node.exit_code is None
            node.send(signal.SIGINT)
            assert await node.ended(AT_ONCE_S) == 1
