"""Several tool hosts as one: who is asked for what, and that all of them are left."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import pytest

from swarm.errors import BadRequest, Unavailable
from swarm.tools.joined_hosts import JoinedHosts
from swarm.tools.mcp_connections import McpConnection
from swarm.tools.mcp_host import McpToolHost
from swarm.tools.mcp_messages import McpProblem
from swarm.tools.mcp_servers import McpServerSettings
from swarm.tools.tool import ToolDefinition, ToolResult


class Host:
    """Has tools by name; says which of them was called with what."""

    def __init__(self, *names: str, enters: bool = True, leaves: bool = True) -> None:
        self.names = names
        self.enters = enters
        self.leaves = leaves
        self.entered = 0
        self.called: list[tuple[str, Any, float | None]] = []

    async def __aenter__(self) -> Self:
        if not self.enters:
            raise OSError("cannot be entered")
        self.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.entered -= 1
        if not self.leaves:
            raise OSError("cannot be left")

    def tools(self) -> tuple[ToolDefinition, ...]:
        return tuple(ToolDefinition(name, f"of {self.names}", {"type": "object"}) for name in self.names)

    async def execute(self, tool: str, arguments: Mapping[str, Any], timeout_s: float | None = None) -> ToolResult:
        self.called.append((tool, dict(arguments), timeout_s))
        return ToolResult(f"{tool} of {self.names}")


async def test_each_is_asked_for_its_own_and_the_first_of_two_counts() -> None:
    first, second = Host("read", "grep"), Host("grep", "box__add")
    async with JoinedHosts([first, second]) as joined:
        assert [tool.name for tool in joined.tools()] == ["read", "grep", "box__add"]
        assert (await joined.execute("grep", {"a": 1}, 5)).output == "grep of ('read', 'grep')"
        assert (await joined.execute("box__add", {})).output == "box__add of ('grep', 'box__add')"
        assert (await joined.execute("box.add", {})).output == "box__add of ('grep', 'box__add')"
        second.names = ()
        assert [tool.name for tool in joined.tools()] == ["read", "grep"]
    assert first.called == [("grep", {"a": 1}, 5)]
    assert [tool for tool, _, _ in second.called] == ["box__add", "box__add"]
    assert (first.entered, second.entered) == (0, 0)


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ("gerp", "there is no tool 'gerp' here: did you mean grep? there are read, grep, box__add"),
        ("box.ad", "there is no tool 'box.ad' here: did you mean box__add? there are read, grep, box__add"),
        ("x" * 500, f"there is no tool '{'x' * 100}' here: there are read, grep, box__add"),
        ("", "there is no tool '' here: there are read, grep, box__add"),
    ],
)
async def test_a_tool_that_there_is_not_is_named_with_those_that_there_are(tool: str, message: str) -> None:
    async with JoinedHosts([Host("read", "grep"), Host("box__add")]) as joined:
        with pytest.raises(BadRequest) as refused:
            await joined.execute(tool, {})
    assert (str(refused.value), refused.value.param) == (message, "tool")


async def test_where_one_cannot_be_entered_those_before_it_are_left() -> None:
    first, last = Host("read"), Host("grep")
    with pytest.raises(OSError, match="cannot be entered"):
        async with JoinedHosts([first, Host(enters=False), last]):
            pass
    assert (first.entered, last.entered) == (0, 0)


async def test_where_one_cannot_be_left_the_others_are() -> None:
    hosts = [Host("a"), Host("b", leaves=False), Host("c")]
    joined = JoinedHosts(hosts)
    await joined.__aenter__()
    with pytest.raises(OSError, match="cannot be left"):
        await joined.__aexit__(None, None, None)
    assert [host.entered for host in hosts] == [0, 0, 0]


async def test_a_server_that_is_not_there_is_no_unknown_tool() -> None:
    @asynccontextmanager
    async def connect() -> Any:
        raise McpProblem("cannot be asked: it rains")
        yield McpConnection

    server = McpToolHost("box", McpServerSettings(url="http://127.0.0.1:1/mcp"), connect)
    async with JoinedHosts([Host("read"), server]) as joined:
        await server.settled(5)
        with pytest.raises(Unavailable, match=r"^MCP server box cannot be asked: it rains$"):
            await joined.execute("box.add", {})
        with pytest.raises(BadRequest):
            await joined.execute("boxes.add", {})
