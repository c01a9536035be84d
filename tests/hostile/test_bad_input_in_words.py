"""What a person gets wrong is answered by the real command line in clear words, and the rest is unharmed."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from federation import wire
from federation.invitation import PairingTiming, decode, encode
from swarm.cli import main
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually as soon
from tests.e2e.asking import ask, federation_view
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually
from tests.trust.conftest import MakeNode, make_node

__all__ = ["make_node"]  # a fixture

Command = Callable[..., Awaitable[tuple[int, str, str]]]
TOLD_S = 15.0


@pytest.fixture
def swarm(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command as a person gives it, beside this test's event loop: exit code, output, errors."""

    async def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        exit_code = await asyncio.to_thread(main, list(words))
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return exit_code, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("spoil", "exit_code", "words"),
    [
        (lambda code: code[:-4], 2, "mistyped or cut short"),
        (lambda code: code.replace("swarm1", "swarm9"), 2, "this is not an invitation"),
        (lambda _: "please", 2, "this is not an invitation"),
        (lambda code: encode(replace(decode(code), secret=b"x" * 16)), 1, "used already, is too old"),
        (lambda code: encode(replace(decode(code), fingerprint=b"x" * 32)), 1, "is not the node that made this"),
        (lambda code: encode(replace(decode(code), port=1)), 1, "nobody takes this invitation"),
        (lambda code: encode(replace(decode(code), swarm="0" * 16)), 1, "not what it invited to"),
    ],
    ids=["cut short", "another version's", "no code", "guessed", "another node's", "nobody there", "another swarm's"],
)  # fmt: skip
async def test_an_invitation_that_is_none_says_why(
    make_node: MakeNode, swarm: Command, tmp_path: Path, spoil: object, exit_code: int, words: str
) -> None:
    async with make_node("kitchen") as kitchen:
        code = (await kitchen.trust_service.invite()).code
        at_rest = ("--data-dir", str(tmp_path / "study"))
        found, _, errors = await swarm(*at_rest, "join", spoil(code))  # type: ignore[operator]
        assert (found, words in errors) == (exit_code, True), errors
        if "invited to" in words:  # the joiner is a member there, and knows of no such swarm: nothing to go on with
            return
        assert kitchen.trust.others == ()
        assert (await swarm(*at_rest, "join", code))[0] == 0, "the good one is still good"
        found, _, errors = await swarm("--data-dir", str(tmp_path / "attic"), "join", code)
        assert found == 1, "and good once"
        assert "nobody takes this invitation any more" in errors or "used already" in errors
        assert len(kitchen.trust.others) == 1


async def test_an_invitation_that_is_too_old_says_so(make_node: MakeNode, swarm: Command, tmp_path: Path) -> None:
    async with make_node("kitchen", pairing=PairingTiming(code_life_s=0.1)) as kitchen:
        code = (await kitchen.trust_service.invite()).code
        await soon(lambda: not kitchen.trust_service.takes_joiners)
        exit_code, _, errors = await swarm("--data-dir", str(tmp_path / "study"), "join", code)
        assert exit_code == 1
        assert "nobody takes this invitation any more" in errors
        assert "swarm invite" in errors, "the remedy"


async def test_a_member_of_one_swarm_is_not_taken_by_another(
    make_node: MakeNode, swarm: Command, tmp_path: Path
) -> None:
    async with make_node("kitchen") as kitchen, make_node("office") as office:
        at_rest = ("--data-dir", str(tmp_path / "study"))
        assert (await swarm(*at_rest, "join", (await kitchen.trust_service.invite()).code))[0] == 0
        exit_code, _, errors = await swarm(*at_rest, "join", (await office.trust_service.invite()).code)
        assert exit_code == 2
        assert "member of another swarm" in errors
        assert len(kitchen.trust.others) == 1
        assert office.trust.others == ()


@asynccontextmanager
async def serving(answer: dict[str, object]) -> AsyncIterator[int]:
    """The port of something that answers every path so."""

    async def everything(_: web.BaseRequest) -> web.Response:
        return web.json_response(answer)

    runner = web.ServerRunner(web.Server(everything))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


async def test_peers_that_cannot_be_are_each_called_by_what_they_are(swarm: Command, tmp_path: Path) -> None:
    """Down, no node, this node itself, of another major version, and a good one that has this node's name."""
    newer = {"protocol": 2, "id": "id-newer", "name": "newer", "version": "2.0.0", "url": "http://x"}
    namesake = RunningNode("kitchen", ready(ScriptedEngine(saying("hello"), model_id="m")))
    own, down = free_port(), free_port()
    async with serving({"hello": "I am a printer"}) as printer, serving(newer) as version_2, namesake:
        ports = {down: "down", printer: "no node", version_2: "other version"}
        peers = [word for port in (own, *ports, namesake.address.port) for word in ("--peer", f"127.0.0.1:{port}")]
        with NodeProcess("kitchen", tmp_path, arguments=["--host", "127.0.0.1", "--port", str(own), *peers]) as node:
            await node.ready()

            async def whys() -> dict[str, str]:
                view = await federation_view(node)
                assert view is not None
                return {entry["address"]: entry["why"] for entry in view["rejected"]}

            wanted = {f"127.0.0.1:{port}": why for port, why in ports.items()}
            await eventually(whys, TOLD_S, "each has its word", until=lambda seen: wanted.items() <= seen.items())
            await node.says(f"! --peer 127.0.0.1:{own} is this node's own address: it is dropped")
            for port, words in {
                down: "nobody listens",
                printer: "does not describe a node",
                version_2: "speaks federation protocol 2 and this node speaks 1: run matching versions",
            }.items():
                await node.says(f"no peer at 127.0.0.1:{port} ")
                line = next((line for line in node.errors.splitlines() if f"no peer at 127.0.0.1:{port} " in line), "")
                assert words in line, node.errors
            view = await federation_view(node)
            assert view is not None
            (peer,) = view["peers"]
            assert peer["state"] == "alive"
            assert re.fullmatch(r"kitchen.+", peer["name"]), "told apart from the node that shows it"
            assert "Paris" in (await ask(node)).text, "and it serves"
            exit_code, out, _ = await swarm("status", "--url", node.url)
            assert exit_code == 0
            assert f"127.0.0.1:{version_2}" in out, out
            assert "protocol 2" in out or "version" in out, out
            assert wire.NODE_PATH not in json.dumps(view)


@pytest.mark.parametrize("peer", ["", "host:notaport", "http://", "a b", "[::1", "1.2.3.4:99999", "host:0", "../x"])
def test_a_peer_that_is_no_address_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, peer: str
) -> None:
    assert main(["--model", "demo", "--port", "0", "--data-dir", str(tmp_path), "--peer", peer]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("swarm: ")
    assert peer in errors
