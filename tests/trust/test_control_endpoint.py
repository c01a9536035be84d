"""The endpoint for this machine's commands: who is answered, and what the commands say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from swarm.cli import main
from swarm.commands.members import ask_node, duration, find_node, join_text
from swarm.control_messages import (
    CONTROL_FILE,
    INVITE_PATH,
    JOIN_PATH,
    PEERS_PATH,
    REVOKE_PATH,
    WITHDRAW_PATH,
    ControlFile,
    Joined,
    KnownNodes,
)
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import RunningNode
from tests.trust.conftest import MakeNode


def control_of(node: RunningNode) -> ControlFile:
    assert node.trust is not None
    found = find_node(node.trust.identity.pem.parent)
    assert found is not None
    return found


async def asked(control: ControlFile, method: str, path: str, headers: dict[str, str], host: str = "127.0.0.1") -> int:
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://{host}:{control.port}{path}", json={}, headers=headers) as response,
    ):
        await response.read()
        return response.status


async def command(*words: object) -> int:
    """A command as a person gives it, beside the node's own event loop."""
    return await asyncio.to_thread(main, [str(word) for word in words])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer " + "0" * 64},
        {"Authorization": "Bearer \xff"},
        {"Authorization": "SECRET"},
        {"Authorization": "Bearer SECRET", "Origin": "http://127.0.0.1:17615"},
        {"Authorization": "Bearer SECRET", "Sec-Fetch-Site": "same-origin"},
        {"Authorization": "Bearer SECRET", "Referer": "http://evil.example/"},
    ],
)
async def test_without_the_secret_or_from_a_browser_nothing_is_done(
    make_node: MakeNode, headers: dict[str, str]
) -> None:
    async with make_node("kitchen") as kitchen:
        control = control_of(kitchen)
        sent = {name: text.replace("SECRET", control.secret) for name, text in headers.items()}
        if headers.get("Authorization") == "SECRET":
            sent = {"Authorization": control.secret}
        posts = (INVITE_PATH, JOIN_PATH, REVOKE_PATH, WITHDRAW_PATH)
        for method, path in (("GET", PEERS_PATH), *(("POST", path) for path in posts)):
            assert await asked(control, method, path, sent) in (401, 403), path
        assert kitchen.trust is not None
        assert kitchen.trust.mode == "open"


async def test_the_public_port_has_no_such_endpoint(make_node: MakeNode) -> None:
    async with make_node("kitchen") as kitchen:
        control = control_of(kitchen)
        at_public_port = control.model_copy(update={"port": kitchen.address.port})
        headers = {"Authorization": f"Bearer {control.secret}"}
        for method, path in (("POST", INVITE_PATH), ("GET", PEERS_PATH)):
            assert await asked(at_public_port, method, path, headers) == 404


async def test_the_commands_from_the_first_invitation_to_the_last_goodbye(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    at_kitchen, at_study = (("--data-dir", tmp_path / name) for name in ("kitchen", "study"))
    async with kitchen, study:
        assert await command("invite", *at_kitchen) == 0
        said = capsys.readouterr().out
        assert "Good once, for 10 minutes" in said
        assert "paired from now on" in said
        code = next(word for word in said.split() if word.startswith("swarm1"))
        assert await command("join", code, *at_study) == 0
        assert "Joined the swarm of kitchen" in capsys.readouterr().out
        await kitchen.until(lambda: len(kitchen.membership.alive()) == 1)

        assert await command("join", code, *at_kitchen) == 2
        assert "this node's own invitation" in capsys.readouterr().err
        assert await command("join", code[:-1] + "!", *at_kitchen) == 2
        assert "mistyped" in capsys.readouterr().err

        assert await command("peers", *at_kitchen) == 0
        assert f"study    {study.id[:12]}  alive      127.0.0.1:" in capsys.readouterr().out
        assert await command("peers", "--json", *at_kitchen) == 0
        listed = json.loads(capsys.readouterr().out)
        assert [(node["name"], node["state"]) for node in listed["nodes"]] == [("study", "alive")]

        for nobody in ("", " ", "x" * 300):
            assert await command("revoke", nobody, *at_kitchen) == 2
            assert "say whom to revoke" in capsys.readouterr().err
        assert await command("revoke", "attic", *at_kitchen) == 2
        assert "'attic' is not a member; there are kitchen" in capsys.readouterr().err
        assert await command("revoke", study.id[:6], "--yes", *at_kitchen) == 0
        assert "study" in capsys.readouterr().out
        assert await command("peers", *at_kitchen) == 0
        assert "revoked" in capsys.readouterr().out
        assert await command("revoke", "kitchen", "-y", *at_kitchen) == 0
        assert "is open again" in capsys.readouterr().out
        assert await command("revoke", "study", *at_kitchen) == 2
        assert "this node is open" in capsys.readouterr().err


async def test_joining_reading_and_revoking_work_at_rest_and_inviting_does_not(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_rest = ("--data-dir", tmp_path / "study")
    assert await command("invite", *at_rest) == 2
    assert "start one with `swarm --federation`" in capsys.readouterr().err
    assert await command("peers", *at_rest) == 2
    assert "no node has run with the data directory" in capsys.readouterr().err
    async with make_node("kitchen") as kitchen:
        code = (await kitchen.trust_service.invite()).code
        assert await command(*at_rest, "join", code) == 0
        assert "start it with `swarm --federation`" in capsys.readouterr().out
        assert await command("peers", *at_rest) == 0
        assert "kitchen" in capsys.readouterr().out
        assert await command("join", code, *at_rest) == 0, "used, by this very node"
        assert "is a member of that swarm already, with kitchen" in capsys.readouterr().out
        assert await command("join", code, "--json", "--data-dir", tmp_path / "attic") == 1
        assert "nobody takes this invitation any more" in capsys.readouterr().err
    assert await command("join", code, "--json", *at_rest) == 0, "and while the inviter is away"
    told = json.loads(capsys.readouterr().out)
    assert (told["already"], told["inviter"], told["members"]) == (True, "kitchen", ["kitchen"])
    assert await command("revoke", "kitchen", "--yes", *at_rest) == 0
    assert open_trust(tmp_path, "study").others == ()


async def test_a_file_that_a_killed_node_left_leads_nowhere(tmp_path: Path) -> None:
    paired_trusts(tmp_path, "kitchen")
    left = ControlFile(port=9, secret="x", pid=2**22 + 1)
    (tmp_path / "kitchen" / CONTROL_FILE).write_text(left.model_dump_json())
    assert find_node(tmp_path / "kitchen") is None
    (tmp_path / "kitchen" / CONTROL_FILE).write_text("{")
    assert find_node(tmp_path / "kitchen") is None
    assert await asyncio.to_thread(ask_node, left, PEERS_PATH, KnownNodes) is None


async def test_a_code_may_come_from_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("swarm1aaaa\n"))
    assert await command("join", "-", "--data-dir", tmp_path) == 2
    assert "mistyped or cut short" in capsys.readouterr().err


def test_a_clock_that_is_off_is_worth_a_word() -> None:
    joined = Joined(
        inviter="kitchen", members=("kitchen",), running=True, federated=True, clock_ahead_s=-3 * 31_557_600
    )
    assert "This machine's clock is 3 years behind kitchen's" in join_text(joined)
    assert [duration(s) for s in (130, 7300, 180_000, 10)] == ["2 minutes", "2 hours", "2 days", "10 seconds"]
