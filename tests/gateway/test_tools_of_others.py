"""MCP servers of others behind a node: their tools at /v1/tools and /mcp, and a node as the server of another."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mcp.client import Client as McpClient

from swarm.tools.joined_hosts import JoinedHosts
from swarm.tools.mcp_connections import ServerPlace, http_connection, process_connection
from swarm.tools.mcp_host import McpToolHost
from swarm.tools.mcp_servers import McpServerSettings
from swarm.tools.sandbox import Sandbox
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.waiting import eventually

PROGRAM = Path(__file__).parents[1] / "doubles" / "mcp_server_program.py"
OF_OPENAI = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def box() -> McpToolHost:
    server = McpServerSettings(command=(sys.executable, str(PROGRAM), json.dumps({})))
    place = ServerPlace(Sandbox("none", bash=shutil.which("bash") or "/bin/bash"))
    return McpToolHost("box", server, partial(process_connection, server, place))


@asynccontextmanager
async def node_with(*hosts: McpToolHost, name: str = "kitchen") -> AsyncIterator[tuple[RunningNode, Client]]:
    async with (
        JoinedHosts(hosts) as joined,
        RunningNode(name, options=NodeOptions(tool_host=joined)) as node,
        connect(node.url) as client,
    ):
        for host in hosts:
            assert await host.settled(20)
        yield node, client


async def executed(client: Client, tool: str, **arguments: Any) -> Any:
    return await client.post("/v1/tools/execute", {"tool": tool, "arguments": arguments})


async def test_their_tools_are_listed_under_names_that_models_are_given() -> None:
    async with node_with(box()) as (_, client):
        listed = (await client.get("/v1/tools")).json["data"]
        names = [tool["function"]["name"] for tool in listed]
        assert names[0] == "box__echo"
        assert all(OF_OPENAI.fullmatch(name) for name in names)
        assert (await executed(client, "box__echo", text="hi")).json["output"] == "hi"
        assert (await executed(client, "box.echo", text="hi")).json["output"] == "hi"
        dotted = await executed(client, "box.dotted.name/x", text="hi")
        assert dotted.json["output"] == "hi"


async def test_what_goes_wrong_has_the_status_that_it_has_of_the_node_s_own() -> None:
    host = box()
    async with node_with(host) as (_, client):
        refused = await executed(client, "box.refuse")
        assert (refused.status, refused.error["param"]) == (400, "arguments")
        failed = await executed(client, "box.fail")
        assert (failed.status, failed.json["exit_code"]) == (200, 1)
        died = await executed(client, "box.die")
        assert (died.status, died.json["exit_code"]) == (200, 1)
        await eventually(lambda: host.problem is not None)
        gone = await executed(client, "box.echo", text="hi")
        assert gone.status == 503
        assert "it cannot go on" in gone.error["message"]
        assert int(gone.headers["Retry-After"]) >= 1
        assert (await client.get("/v1/tools")).json["data"], "a server that is away keeps its tools"


async def test_an_mcp_client_and_another_node_use_them() -> None:
    async with node_with(box()) as (node, _):
        async with McpClient(f"{node.url}/mcp") as mcp:
            assert "box__echo" in [tool.name for tool in (await mcp.list_tools()).tools]
            result: Any = await mcp.call_tool("box__echo", {"text": "hi"})
            assert result.content[0].text == "hi"
        server = McpServerSettings(url=f"{node.url}/mcp")
        far = McpToolHost("kitchen", server, partial(http_connection, server, {}))
        async with node_with(far, name="study") as (_, client):
            assert far._link is not None
            assert far._link.revision == "2026-07-28"
            assert (await executed(client, "kitchen__box__echo", text="hi")).json["output"] == "hi"
            failed = await executed(client, "kitchen.box__fail")
            assert failed.json["exit_code"] == 1
            assert "it failed" in failed.json["output"]
