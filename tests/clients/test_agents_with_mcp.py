"""Coding agents with a node as their model's API and as their MCP server: configured as their documents say, and run.

The model is played: it calls the tool `read` of the node's tool host, and then says what it was told.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swarm.gateway.http.access import AccessRules, digest
from swarm.generation import Delta, GenerationRequest, ToolCallDelta
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from tests.doubles.coding_agents import AGENT_S, CLAUDE_CODE, OPENCODE
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, ending

pytestmark = pytest.mark.clients

KEY = "sk-anna"
SECRET = "the word is heliotrope"


def played(request: GenerationRequest, _: int) -> Sequence[Step]:
    """Reads a file by the node's tool where it may, says what it read, and else says hello."""
    messages = json.dumps([dict(message) for message in request.messages or ()], default=str)
    if SECRET in messages:
        return [f"I read that {SECRET}."]
    names = [tool.function.name for tool in request.tools or ()]
    name = next((name for name in names if name.endswith("read") and "swarm" in name), None)
    if name is None:
        return ["Hello."]
    return [Delta(tool_calls=(ToolCallDelta(0, "call_1", name, '{"path": "secret.txt"}'),)), ending("tool_calls")]


@dataclass(frozen=True, slots=True)
class House:
    """A node with a tool host, and a folder for an agent to run in, with a home of its own."""

    node: RunningNode
    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TERM")}
        # Claude Code: all tools in its first prompt, which waits for the server.
        claude = {"ENABLE_TOOL_SEARCH": "false", "MCP_CONNECTION_NONBLOCKING": "0"}
        quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
        return {**kept, **claude, **quiet, **OPENCODE.quiet, "HOME": str(self.home)}

    async def run(self, *command: str, **variables: str) -> str:
        """What it says; it has to end well."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(AGENT_S):
                told, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = told.decode(errors="replace")
        assert process.returncode == 0, text
        return text


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    root, folder, home = (tmp_path / name for name in ("root", "folder", "home"))
    for each in (root, folder, home):
        each.mkdir()
    (root / "secret.txt").write_text(f"{SECRET}\n")
    async with LocalToolHost(ToolPlan(("read", "grep"), root)) as host:
        engine = ScriptedEngine(played)
        engine.has["context_tokens"] = 200_000  # agents bring prompts of tens of thousands
        options = NodeOptions(tool_host=host, access=AccessRules(key_digests=(digest(KEY),)))
        async with RunningNode("kitchen", ready(engine), options=options) as node:
            yield House(node, folder, home)


async def test_claude_code_connects_and_uses_the_tools(house: House) -> None:
    claude = str(CLAUDE_CODE.program())
    url = f"{house.node.url}/mcp"
    header = f"Authorization: Bearer {KEY}"
    await house.run(claude, "mcp", "add", "--transport", "http", "swarm", url, "--header", header)
    listed = await house.run(claude, "mcp", "list")
    assert f"swarm: {url} (HTTP) - " in listed
    assert "Connected" in listed
    told = await house.run(
        claude, "-p", "What does secret.txt say?", "--allowedTools", "mcp__swarm__read",
        ANTHROPIC_BASE_URL=house.node.url, ANTHROPIC_AUTH_TOKEN=KEY,
    )  # fmt: skip
    assert SECRET in told


async def test_opencode_connects_and_uses_the_tools(house: House) -> None:
    opencode = str(OPENCODE.program())
    configuration: dict[str, Any] = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "mcp": {
            "swarm": {
                "type": "remote",
                "url": f"{house.node.url}/mcp",
                "enabled": True,
                "oauth": False,
                "headers": {"Authorization": f"Bearer {KEY}"},
            }
        },
        "provider": {
            "kitchen": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "kitchen",
                "options": {"baseURL": f"{house.node.url}/v1", "apiKey": KEY},
                "models": {"swarm": {"name": "swarm", "tool_call": True}},
            }
        },
        "model": "kitchen/swarm",
        "small_model": "kitchen/swarm",
    }
    (house.folder / "opencode.json").write_text(json.dumps(configuration))
    assert shutil.which("git") is not None
    listed = await house.run(opencode, "mcp", "list")
    assert "swarm" in listed
    assert "connected" in listed
    told = await house.run(opencode, "run", "What does secret.txt say?")
    assert SECRET in told
