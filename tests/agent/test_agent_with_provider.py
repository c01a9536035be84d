"""`swarm agent --provider` over a protocol of its own, and what cannot be asked so."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import main
from swarm.providers import FOREIGN_KEY_VARIABLE, THINKING_LEVELS
from tests.agent.fake_providers.messages import MessagesWire
from tests.agent.fake_providers.replies import Called, Turn
from tests.agent.fake_providers.server import KEY, fake_provider
from tests.e2e.node_process import PROGRAM, environment

READING = Turn(thinking=("I look.",), calls=(Called("read", '{"path": "a.txt"}', "call_1"),))
SAYING = Turn(text=("It says ", "hello."))


async def agent(folder: Path, *words: str, key: str = KEY) -> tuple[int, list[dict[str, Any]], str]:
    """The exit code, the events, and what it complained about."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "a.txt").write_text("hello\n")
    variables = {**environment(folder), FOREIGN_KEY_VARIABLE: key}
    command = [*PROGRAM, "agent", "--json", "--tools", "read", *words]
    process = await asyncio.create_subprocess_exec(*command, cwd=project, env=variables, stdout=PIPE, stderr=PIPE)
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    events = [json.loads(line) for line in out.decode().splitlines()]
    return process.returncode or 0, events, errors.decode()


async def test_a_row_is_asked_over_its_own_protocol_at_another_address_and_thinks_as_told(tmp_path: Path) -> None:
    words = ("--provider", "anthropic", "--model", "claude-sonnet-5", "--think", "high", "What does it say?")
    async with fake_provider(MessagesWire(), READING, SAYING, models=("claude-sonnet-5",)) as fake:
        code, events, errors = await agent(tmp_path, *words, "--base-url", fake.base)
        assert code == 0, errors
        assert "".join(event["text"] for event in events if event["type"] == "thinking") == "I look."
        assert fake.bodies[0]["thinking"] == {"type": "adaptive"}
        assert fake.bodies[0]["output_config"] == {"effort": "high"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--provider", "groq", "--model", "m", "--tool-host"], "needs a URL"),
        (["--think", "hard"], ", ".join(THINKING_LEVELS)),
        (["--provider", "ftp://x", "--model", "m"], "http"),
        (["--provider", "http://user:pass@x/v1", "--model", "m"], "base URL"),
    ],
)
def test_what_cannot_be_asked_is_said_with_the_remedy(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWARM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert main(["agent", "hello", *words]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "pass@" not in errors
