"""Other people's MCP clients at a node's `/mcp`: the official one in both eras, and pydantic-ai's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp_types
import pytest
import pytest_asyncio
from mcp import Client
from mcp.shared.exceptions import MCPError
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.mcp import MCPToolset

from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import ToolPlan
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.scripted_tools import ScriptedTools

ERAS: Any = pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])


@pytest_asyncio.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """Of a node with tools of its own."""
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    async with LocalToolHost(ToolPlan(("read", "write", "grep"), tmp_path)) as host:
        options = NodeOptions(tool_host=host)
        async with RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options) as node:
            yield f"{node.url}/mcp"


def text_of(result: Any) -> str:
    (block,) = result.content
    assert isinstance(block, mcp_types.TextContent)
    return block.text


@ERAS
async def test_the_official_client_lists_and_calls(url: str, mode: Any, tmp_path: Path) -> None:
    async with Client(url, mode=mode) as client:
        assert client.session.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == ["read", "write", "grep"]
        found = await client.call_tool("read", {"path": "a.txt"})
        assert not found.is_error
        assert "two" in text_of(found)
        made = await client.call_tool("write", {"path": "b.txt", "content": "grüße\n"})
        assert not made.is_error
        assert (tmp_path / "b.txt").read_text() == "grüße\n"


@ERAS
async def test_the_official_client_is_told_what_went_wrong(url: str, mode: Any) -> None:
    async with Client(url, mode=mode) as client:
        missing = await client.call_tool("read", {"path": "none.txt"})
        assert missing.is_error
        mistaken = await client.call_tool("read", {"path": 5})
        assert mistaken.is_error
        assert "arguments.path" in text_of(mistaken)
        with pytest.raises(MCPError, match="there is no tool 'nothing' here: there are read, write, grep"):
            await client.call_tool("nothing", {})
        again = await client.call_tool("read", {"path": "a.txt"})
        assert not again.is_error


@ERAS
async def test_a_call_that_the_official_client_gives_up_is_ended(mode: Any) -> None:
    """By closing its connection in the newer era, by a message in the older one."""
    tools = ScriptedTools()
    options = NodeOptions(tool_host=tools)
    async with (
        RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options) as node,
        Client(f"{node.url}/mcp", mode=mode) as client,
    ):
        asking = asyncio.create_task(client.call_tool("wait", {}))
        await tools.until(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await tools.until(0)
        assert text_of(await client.call_tool("say", {"text": "still here"})) == "still here"


async def test_pydantic_ai_lists_and_calls(url: str) -> None:
    async with MCPToolset(url) as toolset:
        assert [tool.name for tool in await toolset.list_tools()] == ["read", "write", "grep"]
        assert "two" in str(await toolset.direct_call_tool("read", {"path": "a.txt"}))
        with pytest.raises(ModelRetry, match=r"none\.txt"):
            await toolset.direct_call_tool("read", {"path": "none.txt"})
