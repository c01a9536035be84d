"""MCP servers of others over HTTP, and those that are made with the official package, both ways."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from swarm.errors import BadRequest
from swarm.tools.joined_hosts import JoinedHosts
from swarm.tools.mcp_connections import ServerPlace, http_connection, process_connection
from swarm.tools.mcp_host import McpPace, McpToolHost, server_hosts
from swarm.tools.mcp_servers import McpServerSettings
from swarm.tools.sandbox import Sandbox
from tests.doubles.tool_hosts import until
from tests.doubles.waiting import eventually

OFFICIAL = Path(__file__).parents[1] / "doubles" / "official_mcp_server.py"
NEW = "2026-07-28"
TOOL = {"name": "echo", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}}}


class HttpServer:
    """A server over HTTP of the old era, with a session; `instead` answers a method in another way."""

    def __init__(self, events: bool = False, **instead: Callable[[web.Request, Any], Any]) -> None:
        self.events = events
        self.instead = {name.replace("_", "/"): answer for name, answer in instead.items()}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sessions = 0
        self.left = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            self.left += 1
            return web.Response()
        body = await request.json()
        method = body["method"]
        self.asked.append((method, dict(request.headers)))
        if method in self.instead:
            found = self.instead[method](request, body)
            return await found if asyncio.iscoroutine(found) else found
        if method == "initialize":
            self.sessions += 1
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {}}
            return await self.answer(request, body, result, {"Mcp-Session-Id": f"s{self.sessions}"})
        if method == "server/discover":
            error = {"code": -32600, "message": "no session"}
            return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=400)
        if request.headers.get("Mcp-Session-Id") != f"s{self.sessions}":
            return web.Response(status=404)
        if "id" not in body:
            return web.Response(status=202)
        if method == "tools/list":
            return await self.answer(request, body, {"tools": [TOOL]})
        text = body["params"]["arguments"].get("text", "")
        return await self.answer(request, body, {"content": [{"type": "text", "text": text}]})

    async def answer(
        self, request: web.Request, body: Any, result: Any, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        message = {"jsonrpc": "2.0", "id": body["id"], "result": result}
        if not self.events:
            return web.json_response(message, headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **(headers or {})})
        await response.prepare(request)
        news = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hello"}}
        await response.write(b": hi\n\nevent: message\ndata: " + json.dumps(news).encode() + b"\n\n")
        await response.write(b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n")
        return response


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator[HttpServer]:
    app = web.Application()
    app.router.add_route("*", "/mcp", server.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def host_of(
    url: str, *, pace: McpPace | None = None, environment: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[McpToolHost]:
    server = McpServerSettings(url=url, **settings)
    async with McpToolHost("far", server, partial(http_connection, server, environment or {}), pace=pace) as host:
        await host.settled(20)
        yield host


@pytest.mark.parametrize("events", [False, True], ids=["json", "events"])
async def test_a_server_with_a_session_is_asked_within_it(events: bool) -> None:
    async with serving(HttpServer(events)) as server:
        async with host_of(server.url, headers={"Authorization": "Bearer k"}) as host:
            assert [tool.name for tool in host.tools()] == ["far__echo"]
            assert (await host.execute("far__echo", {"text": "hi"})).output == "hi"
        assert server.left == 1, "the server is told that the session is over"
    methods = [method for method, _ in server.asked]
    assert methods == ["server/discover", "initialize", "notifications/initialized", "tools/list", "tools/call"]
    assert {headers["Authorization"] for _, headers in server.asked} == {"Bearer k"}
    assert {headers["Mcp-Session-Id"] for _, headers in server.asked[2:]} == {"s1"}
    assert {headers["MCP-Protocol-Version"] for _, headers in server.asked[2:]} == {"2025-06-18"}


async def test_a_session_that_is_over_is_begun_again() -> None:
    async with serving(HttpServer()) as server, host_of(server.url) as host:
        server.sessions += 1
        result = await host.execute("far__echo", {"text": "hi"})
        assert (result.output, result.exit_code) == ("MCP server far has ended its session", 1)
        await eventually(lambda: host.problem is not None)
        host._retry_at = 0.0  # as if its time had come
        assert (await host.execute("far__echo", {"text": "hi"})).output == "hi"


async def endless(request: web.Request, _: Any) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": request.query.get("kind", "application/json")})
    await response.prepare(request)
    while True:
        await response.write(b"x" * 2**16)


async def endless_event(request: web.Request, _: Any) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: ")
    while True:
        await response.write(b"x" * 2**16)


async def chatter(request: web.Request, _: Any) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b'data: {"method":"notifications/message"}\n\n' * 1000)


async def nothing(request: web.Request, _: Any) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda *_: web.Response(status=502), "answered with HTTP status 502"),
        (lambda *_: web.Response(status=401), "refuses the key (401): check its `headers`"),
        (
            lambda *_: web.Response(text="<html>", content_type="text/html"),
            "what is no message of its protocol (text/html)",
        ),
        (lambda *_: web.json_response([1]), "what is no message of its protocol (application/json)"),
        (lambda *_: web.json_response({"id": 99, "result": {}}), "what is no message of its protocol"),
        (lambda *_: web.Response(status=202), "answered with HTTP status 202"),
        (
            lambda *_: web.Response(status=307, headers={"Location": "http://e/"}),
            "redirects to http://e/, which is not followed",
        ),
        (nothing, "ended its stream without an answer"),
        (endless, "sent a message of more than 8 MiB"),
        (endless_event, "sent an event of more than 8 MiB"),
        (chatter, "sends more than anybody asked for"),
    ],
    ids=range(11),
)
async def test_what_a_server_does_wrong_is_said_and_others_go_on(
    answer: Callable[[web.Request, Any], Any], why: str
) -> None:
    async with serving(HttpServer(tools_call=answer)) as server, host_of(server.url) as host:
        result = await host.execute("far__echo", {"text": "hi"})
        assert result.exit_code == 1
        assert f"MCP server far {why}" in result.output or why in result.output
        assert [tool.name for tool in host.tools()] == ["far__echo"]
    async with serving(HttpServer(initialize=answer)) as server, host_of(server.url) as host:
        assert host.problem is not None
        assert why in host.problem


async def test_an_error_of_a_call_is_the_model_s_to_read() -> None:
    def refuse(code: int, status: int) -> Callable[[web.Request, Any], Any]:
        return lambda _, body: web.json_response(
            {"id": body["id"], "error": {"code": code, "message": "no"}}, status=status
        )

    async with serving(HttpServer(tools_call=refuse(-32603, 200))) as server, host_of(server.url) as host:
        result = await host.execute("far__echo", {})
        assert (result.output, result.exit_code) == ("MCP server far answered with error -32603: no", 1)
        server.instead["tools/call"] = refuse(-32602, 400)
        with pytest.raises(BadRequest, match="far__echo: no"):
            await host.execute("far__echo", {})


async def test_a_call_that_is_given_up_ends_its_request() -> None:
    running = 0

    async def never(_: web.Request, __: Any) -> web.Response:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1
        raise AssertionError

    async with serving(HttpServer(tools_call=never)) as server, host_of(server.url) as host:
        result = await host.execute("far__echo", {}, 0.2)
        assert result.timed_out
        await eventually(lambda: running == 0)
        assert host.problem is None, "one request says nothing of the others"


async def test_what_nobody_listens_at_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with host_of(f"http://127.0.0.1:{port}/mcp") as host:
        assert host.problem is not None
        assert host.problem.startswith("cannot be asked: ")


async def test_a_server_near_by_is_asked_directly_and_a_far_one_by_the_proxy() -> None:
    async with (
        serving(HttpServer()) as server,
        host_of(server.url, environment={"http_proxy": "http://127.0.0.1:1"}) as host,
    ):
        assert host.problem is None
    async with host_of("http://mcp.example.org/mcp", environment={"http_proxy": "http://127.0.0.1:1"}) as host:
        assert host.problem is not None
        assert host.problem == "cannot be asked: Connection refused"
    async with host_of("http://mcp.example.org/mcp", environment={"all_proxy": "socks5://127.0.0.1:1"}) as host:
        assert host.problem == "would be asked through all_proxy, and only HTTP proxies are used"


# Made with the official package


@asynccontextmanager
async def official_http() -> AsyncIterator[str]:
    """A server in a process of its own, once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(OFFICIAL), "http", str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.to_thread(until, lambda: listens(port))
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def works(host: McpToolHost, name: str) -> None:
    assert host.problem is None
    assert [tool.name for tool in host.tools()] == [f"{name}__add", f"{name}__broken", f"{name}__region"]
    assert host.tools()[0].description == "Add two numbers."
    assert (await host.execute(f"{name}__add", {"a": 2, "b": 3})).output == "5"
    assert "grün" in (await host.execute(f"{name}__region", {"name": "grün"})).output
    result = await host.execute(f"{name}__broken", {})
    assert result.exit_code == 1
    assert "it broke" in result.output or "broken" in result.output
    result = await host.execute(f"{name}__add", {"a": "x", "b": 3})
    assert result.exit_code == 1


@pytest.mark.parametrize("era", ["new", "old"])
async def test_an_official_server_over_lines(era: str) -> None:
    server = McpServerSettings(command=(sys.executable, str(OFFICIAL)))
    place = ServerPlace(Sandbox("none", bash="/bin/bash"))
    host = McpToolHost("box", server, partial(process_connection, server, place), pace=McpPace(discover_s=30))
    host._era = "old" if era == "old" else "unknown"
    async with host:
        await host.settled(60)
        await works(host, "box")
        assert host._link is not None
        assert (host._link.revision == NEW) is (era == "new")


async def test_an_official_server_over_http_and_several_hosts_as_one() -> None:
    async with official_http() as url:
        for era in ("new", "old"):
            server = McpServerSettings(url=url)
            host = McpToolHost("far", server, partial(http_connection, server, {}))
            host._era = "old" if era == "old" else "unknown"
            async with JoinedHosts([host]) as joined:
                await host.settled(60)
                await works(host, "far")
                assert host._link is not None
                assert (host._link.revision == NEW) is (era == "new")
                assert (await joined.execute("far.add", {"a": 1, "b": 1})).output == "2"


async def test_a_key_that_a_server_repeats_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(request: web.Request, body: Any) -> web.Response:
        error = {"code": code, "message": f"unknown key {request.headers['Authorization']}"}
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": error})

    code = -32000
    async with serving(HttpServer(tools_call=refuse)) as server:
        servers = {"far": McpServerSettings(url=server.url, headers={"Authorization": "Bearer ${FAR_KEY}"})}
        (host,) = server_hosts(servers, None, {"FAR_KEY": "sk-of-the-server"})
        async with host:
            await host.settled(20)
            assert "unknown key Bearer [key]" in (await host.execute("far__echo", {"text": "hi"})).output
            code = -32602
            with pytest.raises(BadRequest, match=r"unknown key Bearer \[key\]"):
                await host.execute("far__echo", {"text": "hi"})
    async with serving(HttpServer(initialize=refuse)) as server:
        servers = {"far": McpServerSettings(url=server.url, headers={"Authorization": "Bearer ${FAR_KEY}"})}
        (host,) = server_hosts(servers, None, {"FAR_KEY": "sk-of-the-server"})
        async with host:
            assert not await host.settled(20)
            assert "unknown key Bearer [key]" in str(host.problem)
    assert "sk-of-the-server" not in caplog.text
