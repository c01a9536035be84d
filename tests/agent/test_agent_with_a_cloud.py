"""`swarm agent --provider`: a cloud's model with the tools of this machine, by servers that speak as clouds do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from swarm.cli import main
from tests.agent.fake_providers.chat import ChatWire
from tests.agent.fake_providers.replies import Called, Refusal, Trouble, Turn
from tests.agent.fake_providers.server import KEY, fake_provider
from tests.agent.scripted_turns import calls, node_taking, run_it, seen


async def test_a_cloud_s_model_works_with_the_tools_here(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes.txt").write_text("banana\n")
    turns = [Turn(calls=(Called("read", '{"path": "notes.txt"}', "call_1"),)), Turn(text=("It is ", "banana."))]
    async with fake_provider(ChatWire(), *turns) as fake:
        ran = await asyncio.to_thread(
            run_it, "http://127.0.0.1:9", tmp_path, "--provider", f"{fake.base}/v1", "--model", "model-a",
            "--api-key", KEY, "--think", "high", "what is in notes.txt?",
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "It is banana." in ran.stdout
    assert "1  read path=notes.txt\n" in ran.stdout, "no vote is claimed"
    assert "what tools read, goes there" in ran.stderr
    assert "banana" in json.dumps(fake.bodies[-1])
    assert "swarm" not in fake.bodies[-1]
    assert fake.bodies[-1]["reasoning_effort"] == "high"
    assert [name for name in fake.seen[-1].headers if name == "authorization"]
    (kept,) = (tmp_path / ".local/share/local-swarm/agent").glob("*.jsonl")
    assert KEY not in kept.read_text()


async def test_an_expired_key_is_said_once(tmp_path: Path) -> None:
    async with fake_provider(ChatWire()) as fake:
        ran = await asyncio.to_thread(
            run_it, "http://127.0.0.1:9", tmp_path, "--provider", f"{fake.base}/v1", "--model", "model-a",
            "--api-key", "sk-old-and-expired", "go",
        )  # fmt: skip
        assert len(fake.bodies) == 1, "it is not tried again"
    assert ran.returncode == 1
    assert ran.stderr.count("refuses the key") == 1
    assert "set SWARM_PROVIDER_KEY in" in ran.stderr
    assert "sk-old-and-expired" not in ran.stderr


async def test_a_session_moves_from_the_swarm_to_a_cloud_and_back(tmp_path: Path) -> None:
    async with node_taking(calls(("read", {"path": "x"})), ["One."], ["Three."]) as (node, engine):
        ran = await asyncio.to_thread(run_it, node.url, tmp_path, "--json", "the first")
        name = json.loads(ran.stdout.splitlines()[0])["session"]
        turn = Turn(text=("Two.",), thinking=("Let me see.",))
        async with fake_provider(ChatWire(thinking_field="reasoning_content"), turn) as fake:
            cloud = ["--provider", f"{fake.base}/v1", "--model", "model-a", "--api-key", KEY]
            ran = await asyncio.to_thread(run_it, node.url, tmp_path, "--resume", name, *cloud, "the second")
            assert ran.stdout.startswith("Two."), ran.stderr
            assert [message["role"] for message in fake.bodies[0]["messages"]] == [
                "user", "assistant", "tool", "assistant", "user",
            ]  # fmt: skip
        ran = await asyncio.to_thread(run_it, node.url, tmp_path, "--resume", name, "the third")
        assert ran.stdout.startswith("Three."), ran.stderr
        told = dict(seen(engine)[-2:-1])
    assert told == {"assistant": "[Reasoning]\nLet me see.\n[/Reasoning]\n\nTwo."}


async def test_a_key_that_is_refused_elsewhere_is_not_the_vendor_s(tmp_path: Path) -> None:
    async with fake_provider(ChatWire()) as fake:
        ran = await asyncio.to_thread(
            run_it, "http://127.0.0.1:9", tmp_path, "--provider", "groq", "--base-url", f"{fake.base}/v1",
            "--model", "model-a", "--api-key", "sk-old-and-expired", "go",
        )  # fmt: skip
    assert ran.returncode == 1
    assert "set SWARM_PROVIDER_KEY in" in ran.stderr
    assert "GROQ_API_KEY" not in ran.stderr, "that one would not be sent there"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--provider", "grok", "go"], "name a model of grok"),
        (["--provider", "gruq", "--model", "m", "go"], "did you mean groq?"),
        (["--provider", "groq", "--model", "m", "--votes", "3", "go"], "swarm --upstream groq"),
        (["--provider", "groq", "--model", "m", "go"], "GROQ_API_KEY"),
        (["--base-url", "http://127.0.0.1:9", "go"], "name it with --provider"),
    ],
)
def test_what_cannot_be_asked_of_a_cloud(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("SWARM_API_KEY", "sk-of-a-node-0123456789")
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert main(["agent", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "sk-of-a-node" not in said


async def test_a_node_s_key_never_goes_to_a_cloud(tmp_path: Path) -> None:
    async with fake_provider(ChatWire(), Refusal(Trouble.BROKEN), key=None) as fake:
        await asyncio.to_thread(
            run_it, "http://127.0.0.1:9", tmp_path, "--provider", f"{fake.base}/v1", "--model", "model-a", "go",
            variables={"SWARM_API_KEY": "sk-of-a-node-0123456789"},
        )  # fmt: skip
        assert fake.bodies
        assert "sk-of-a-node" not in json.dumps([seen.headers for seen in fake.seen])
