"""The tool host over HTTP: `/v1/tools`, `/v1/tools/execute` and `/mcp` of a running node, on real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from swarm.commands.status import render
from swarm.gateway.http.access import AccessRules, KeyHolder, KeyLimits, digest
from swarm.gateway.observing.view import parse_view
from swarm.generation import Delta, ToolCallDelta
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, ending, saying
from tests.doubles.scripted_tools import ScriptedTools

NEW = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": NEW, "io.modelcontextprotocol/clientCapabilities": {}}


def node_with(tools: ScriptedTools | None, access: AccessRules | None = None) -> RunningNode:
    options = NodeOptions(tool_host=tools, access=access or AccessRules())
    return RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options)


@pytest_asyncio.fixture
async def tools() -> ScriptedTools:
    return ScriptedTools()


@pytest_asyncio.fixture
async def node(tools: ScriptedTools) -> AsyncIterator[RunningNode]:
    async with node_with(tools) as running:
        yield running


@pytest_asyncio.fixture
async def client(node: RunningNode) -> AsyncIterator[Client]:
    async with connect(node.url) as connected:
        yield connected


def call(name: str, request_id: Any = 1, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


# Plain JSON


@pytest.mark.parametrize("path", ["/v1/tools", "/tools"])
async def test_tools_are_listed_as_a_chat_takes_them(client: Client, path: str) -> None:
    reply = await client.get(path)
    assert reply.status == 200
    assert reply.json["object"] == "list"
    said = reply.json["data"][0]
    assert said["type"] == "function"
    assert said["function"]["name"] == "say"
    assert said["function"]["parameters"]["required"] == ["text"]
    asked = await client.post(
        "/v1/chat/completions",
        {"model": "swarm", "messages": [{"role": "user", "content": "hello"}], "tools": reply.json["data"]},
    )
    assert asked.status == 200


async def test_a_call_is_executed_and_a_tool_that_fails_is_no_failure_of_the_request(client: Client) -> None:
    reply = await client.post("/v1/tools/execute", {"tool": "say", "arguments": {"text": "grüße\n"}})
    assert reply.status == 200
    assert reply.json == {"output": "grüße\n", "exit_code": 0, "truncated": False, "timed_out": False, "ms": 1}
    reply = await client.post("/v1/tools/execute", {"tool": "fail"})
    assert (reply.status, reply.json["exit_code"], reply.json["output"]) == (200, 3, "it failed")


async def test_the_time_that_is_asked_for_is_the_tools(client: Client, tools: ScriptedTools) -> None:
    await client.post("/v1/tools/execute", {"tool": "say", "arguments": {"text": "a"}, "timeout_s": 300})
    await client.post("/v1/tools/execute", {"tool": "say", "arguments": {"text": "b"}})
    assert [timeout_s for _, _, timeout_s in tools.calls] == [300, None]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tool": "say", "arguments": {}}, "arguments"),
        ({"tool": "say", "arguments": {"text": 5}}, "arguments.text"),
        ({"tool": "say", "arguments": {"text": "a", "more": 1}}, "arguments"),
        ({"tool": "nothing"}, "tool"),
        ({"tool": ""}, "tool"),
        ({"arguments": {}}, "tool"),
        ({"tool": "say", "arguments": []}, "arguments"),
        ({"tool": "say", "arguments": "{}"}, "arguments"),
        ({"tool": "say", "arguments": {"text": "a"}, "timeout_s": 601}, "timeout_s"),
        ({"tool": "say", "arguments": {"text": "a"}, "timeout_s": 0}, "timeout_s"),
        ({"tool": "say", "arguments": {"text": "a"}, "timeout_s": "5"}, "timeout_s"),
    ],
)
async def test_bad_arguments_are_refused_with_their_path(
    client: Client, tools: ScriptedTools, body: Any, param: str
) -> None:
    reply = await client.post("/v1/tools/execute", body)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert tools.calls == []


async def test_a_tool_whose_server_is_gone_is_unavailable(client: Client) -> None:
    reply = await client.post("/v1/tools/execute", {"tool": "break"})
    assert (reply.status, reply.error["code"]) == (503, "unavailable")


async def test_a_client_that_leaves_ends_its_call(node: RunningNode, tools: ScriptedTools) -> None:
    for path, body in (("/v1/tools/execute", {"tool": "wait"}), ("/mcp", call("wait"))):
        async with aiohttp.ClientSession() as session:
            asking = asyncio.create_task(session.post(node.url + path, json=body))
            await tools.until(1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await tools.until(0)
    assert tools.cancelled == 2


async def test_whoever_manages_the_node_sees_a_call_and_ends_it(
    node: RunningNode, client: Client, tools: ScriptedTools
) -> None:
    asking = asyncio.create_task(client.post("/v1/tools/execute", {"tool": "wait"}, X_Request_Id="mine"))
    await tools.until(1)
    listed = (await client.get("/swarm/v1/requests")).json
    assert [(entry["id"], entry["path"]) for entry in listed["data"]] == [("mine", "/v1/tools/execute")]
    assert (await client.post("/swarm/v1/requests/mine/cancel", {})).json["cancelled"] == 1
    reply = await asking
    assert (reply.status, reply.error["code"]) == (409, "cancelled")
    assert tools.cancelled == 1


async def test_a_node_that_leaves_ends_what_runs(tools: ScriptedTools) -> None:
    async with node_with(tools) as node, connect(node.url) as client:
        asking = asyncio.create_task(client.post("/v1/tools/execute", {"tool": "wait"}))
        await tools.until(1)
        await node.stop()
        await asyncio.gather(asking, return_exceptions=True)
        assert tools.waiting == 0


async def test_no_model_route_executes_a_call(tools: ScriptedTools) -> None:
    """The line that does not move: the client does."""
    called = Delta(tool_calls=(ToolCallDelta(0, "c1", "say", '{"text": "a"}'),))
    engine = ScriptedEngine(lambda *_: [called, ending("tool_calls")])
    schema = ScriptedTools().tools()[0].parameters
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "say a"}]},
        "/v1/messages": {
            "messages": [{"role": "user", "content": "say a"}],
            "max_tokens": 50,
            "tools": [{"name": "say", "input_schema": schema}],
        },
        "/v1/responses": {"input": "say a", "tools": [{"type": "function", "name": "say", "parameters": schema}]},
    }
    async with (
        RunningNode("kitchen", ready(engine), options=NodeOptions(tool_host=tools)) as node,
        connect(node.url) as client,
    ):
        asked["/v1/chat/completions"]["tools"] = (await client.get("/v1/tools")).json["data"]
        for path, body in asked.items():
            for stream in (False, True):
                reply = await client.post(path, {"model": "swarm", "stream": stream, **body})
                assert reply.status == 200, reply.text
                assert '"say"' in reply.text or any('"say"' in json.dumps(chunk) for chunk in reply.chunks), path
    assert tools.calls == []


async def test_the_node_says_which_tools_it_has(client: Client) -> None:
    told = (await client.get("/v1/federation/health")).json
    assert told["tools"] == ["say", "fail", "wait", "break"]
    assert f"tools: say, fail, wait, break (for agents and MCP clients: {told['node']['url']}/mcp)" in render(
        parse_view(told)
    )
    async with node_with(None) as without, connect(without.url) as other:
        told = (await other.get("/v1/federation/health")).json
        assert told["tools"] == []
        assert "tools" not in render(parse_view(told))


# Who may


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/tools", None), ("/v1/tools/execute", {"tool": "say"}), ("/mcp", call("say", text="a"))]
)
async def test_a_node_without_tools_says_how_to_have_some(path: str, body: Any) -> None:
    async with node_with(None) as node, connect(node.url) as client:
        reply = await (client.get(path) if body is None else client.post(path, body))
        assert (reply.status, reply.error["code"]) == (404, "tools_off")
        assert "--tools" in reply.error["message"]
        assert "--tools-root" in reply.error["message"]


ALLOWED, FOREIGN = "http://app.example:3000", "http://evil.example"


async def test_no_page_of_another_origin_and_no_other_node_has_tools_executed(tools: ScriptedTools) -> None:
    access = AccessRules(origins=frozenset({ALLOWED}), key_digests=(digest("sk-a"),), admin_digests=(digest("sk-b"),))
    async with node_with(tools, access) as node, connect(node.url) as client:
        for key in ("sk-a", "sk-b"):
            for headers, refusal in (
                ({"Origin": FOREIGN}, "origin_not_allowed"),
                ({"Origin": ALLOWED}, "origin_not_allowed"),
                ({"Origin": "null"}, "origin_not_allowed"),
                ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, "origin_not_allowed"),
                ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, "origin_not_allowed"),
                ({"Host": "evil.example"}, "host_not_allowed"),
                ({"X_Swarm_From": "somebody"}, "tools_not_allowed"),
            ):
                for reply in (
                    await client.post("/mcp", call("say", text="a"), Authorization=f"Bearer {key}", **headers),
                    await client.post(
                        "/v1/tools/execute",
                        {"tool": "say", "arguments": {"text": "a"}},
                        Authorization=f"Bearer {key}",
                        **headers,
                    ),
                ):
                    assert (reply.status, reply.error["code"]) == (403, refusal), headers
        assert (await client.post("/mcp", call("say", text="a"))).status == 401
        assert (await client.post("/mcp", call("say", text="a"), Authorization="Bearer sk-x")).status == 401
        assert tools.calls == []
        assert (await client.post("/mcp", call("say", text="a"), Authorization="Bearer sk-a")).status == 200
        assert (await client.post("/mcp", call("say", text="a"), x_api_key="sk-b")).status == 200
        assert len(tools.calls) == 2
        # What names the node itself as its origin is no other page: some clients do.
        own = await client.post("/mcp", call("say", text="a"), x_api_key="sk-a", Origin=node.url)
        assert own.status == 200


async def test_a_simple_request_of_a_page_is_no_message(client: Client, tools: ScriptedTools) -> None:
    """What a browser sends without asking first, where it says nothing of itself."""
    for kind in ("text/plain", "multipart/form-data; boundary=x"):
        reply = await client.post("/mcp", call("say", text="a"), Content_Type=kind)
        assert reply.status == 400
    assert tools.calls == []


async def test_through_a_proxy_it_takes_a_key(client: Client, tools: ScriptedTools) -> None:
    for header in ("X_Forwarded_For", "Forwarded", "Via"):
        reply = await client.post("/mcp", call("say", text="a"), **{header: "192.168.1.9"})
        assert (reply.status, reply.error["code"]) == (403, "tools_not_allowed")
    assert tools.calls == []


async def test_each_call_is_logged_with_who_asked_and_without_its_arguments(
    tools: ScriptedTools, caplog: pytest.LogCaptureFixture
) -> None:
    access = AccessRules(
        key_digests=(digest("sk-anna"), digest("sk-ben")), key_holders=(KeyHolder("anna"), KeyHolder("ben"))
    )
    with caplog.at_level(logging.INFO, "swarm.gateway.tools"):
        async with node_with(tools, access) as node, connect(node.url) as client:
            key = {"Authorization": "Bearer sk-ben"}
            await client.post("/v1/tools/execute", {"tool": "say", "arguments": {"text": "hunter2"}}, **key)
            await client.post("/mcp", call("fail"), **key)
            await client.post("/v1/tools/execute", {"tool": "say\nhunter2"}, **key)
            await client.post("/v1/tools/execute", {"tool": "say", "arguments": {"hunter2": 1}}, **key)
        async with node_with(tools) as node, connect(node.url) as client:
            await client.post("/mcp", call("say", text="hunter2"))
    said = [record.getMessage() for record in caplog.records if record.name == "swarm.gateway.tools.service"]
    assert [line.partition(" after")[0] for line in said] == [
        "ben (127.0.0.1) called say: exit code 0",
        "ben (127.0.0.1) called fail: exit code 3",
        "ben (127.0.0.1) called an unknown tool: refused",
        "ben (127.0.0.1) called say: refused",
        "127.0.0.1 called say: exit code 0",
    ]
    assert all(line.endswith(" ms") for line in said)
    assert "sk-ben" not in caplog.text


async def test_calls_are_counted_by_how_they_ended(client: Client, tools: ScriptedTools) -> None:
    """Under the names of tools that there are: a client cannot make up labels."""
    for body in (
        {"tool": "say", "arguments": {"text": "a"}},
        {"tool": "say"},
        {"tool": "fail"},
        {"tool": "break"},
        {"tool": "made-up"},
    ):
        await client.post("/v1/tools/execute", body)
    asking = asyncio.create_task(client.post("/mcp", call("wait", 7), Mcp_Session_Id="mine"))
    await tools.until(1)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    await client.post("/mcp", cancel, Mcp_Session_Id="mine")
    await asking
    shown = (await client.get("/metrics")).text
    found = re.findall(r'^swarm_tool_calls_total\{outcome="(\w+)",tool="([^"]+)"\} (\S+)$', shown, re.MULTILINE)
    assert {(tool, outcome): float(count) for outcome, tool, count in found} == {
        ("say", "ok"): 1,
        ("say", "refused"): 1,
        ("fail", "failed"): 1,
        ("break", "unavailable"): 1,
        ("unknown", "refused"): 1,
        ("wait", "cut"): 1,
    }


async def test_the_limits_of_a_key_hold_for_its_calls(tools: ScriptedTools) -> None:
    access = AccessRules(key_digests=(digest("sk-a"),), key_holders=(KeyHolder("anna", KeyLimits(2)),))
    async with node_with(tools, access) as node, connect(node.url) as client:
        body = {"tool": "say", "arguments": {"text": "a"}}
        found = [(await client.post("/v1/tools/execute", body, x_api_key="sk-a")).status for _ in range(3)]
    assert found == [200, 200, 429]


# MCP


async def test_a_client_of_the_older_era_from_its_handshake_on(client: Client) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    begun = await client.post("/mcp", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
    assert begun.status == 200
    assert begun.headers["Content-Type"].startswith("application/json")
    session = {"Mcp_Session_Id": begun.headers["Mcp-Session-Id"], "MCP_Protocol_Version": "2025-11-25"}
    assert len(session["Mcp_Session_Id"]) >= 32
    ready = await client.post("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)
    assert (ready.status, ready.text) == (202, "")
    listed = await client.post("/mcp", {"jsonrpc": "2.0", "id": "a", "method": "tools/list"}, **session)
    assert [tool["name"] for tool in listed.json["result"]["tools"]] == ["say", "fail", "wait", "break"]
    said = await client.post("/mcp", call("say", 2, text="a text"), **session)
    assert said.json == {
        "jsonrpc": "2.0",
        "id": 2,
        "result": {"content": [{"type": "text", "text": "a text"}], "isError": False},
    }


async def test_what_goes_wrong_is_told_to_the_model_or_to_its_client(client: Client) -> None:
    failed = (await client.post("/mcp", call("fail"))).json["result"]
    assert (failed["content"][0]["text"], failed["isError"]) == ("it failed\n[exit code 3]", True)
    mistaken = (await client.post("/mcp", call("say", text=5))).json["result"]
    assert mistaken["isError"]
    assert "arguments.text" in mistaken["content"][0]["text"]
    gone = (await client.post("/mcp", call("break"))).json["result"]
    assert (gone["content"][0]["text"], gone["isError"]) == ("the tool's server is gone", True)
    unknown = (await client.post("/mcp", call("nothing"))).json["error"]
    assert unknown["code"] == -32602
    assert "say, fail, wait" in unknown["message"]


async def test_a_message_that_cancels_ends_the_call_of_its_session_and_no_other(
    client: Client, tools: ScriptedTools
) -> None:
    def cancel(request_id: Any) -> Any:
        return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}

    asking = asyncio.create_task(client.post("/mcp", call("wait", 7), Mcp_Session_Id="mine"))
    other = asyncio.create_task(client.post("/mcp", call("wait", 7), Mcp_Session_Id="yours"))
    await tools.until(2)
    for message, session in ((cancel("7"), "mine"), (cancel(8), "mine"), (cancel(7), "theirs")):
        assert (await client.post("/mcp", message, Mcp_Session_Id=session)).status == 202
    assert (await client.post("/mcp", cancel(7))).status == 202
    assert tools.waiting == 2
    assert (await client.post("/mcp", cancel(7), Mcp_Session_Id="mine")).status == 202
    assert (await asking).json["error"]["code"] == -32800
    await tools.until(1)
    assert (await client.post("/mcp", cancel(7), Mcp_Session_Id="yours")).status == 202
    assert (await other).json["error"]["code"] == -32800


async def test_a_call_that_is_cancelled_twice_while_it_ends_ends_once(client: Client, tools: ScriptedTools) -> None:
    tools.lets_go.clear()
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    asking = asyncio.create_task(client.post("/mcp", call("wait", 7), Mcp_Session_Id="mine"))
    await tools.until(1)
    for _ in range(3):
        assert (await client.post("/mcp", cancel, Mcp_Session_Id="mine")).status == 202
    assert not asking.done(), "it is answered when what it ran is gone"
    tools.lets_go.set()
    assert (await asking).json["error"]["code"] == -32800
    assert tools.cancelled == 1


async def test_a_batch_is_answered_by_a_batch(client: Client) -> None:
    batch = [call("say", 1, text="a"), {"jsonrpc": "2.0", "method": "notifications/x"}, call("say", 2, text="b")]
    replies = (await client.post("/mcp", batch)).json
    assert {reply["id"]: reply["result"]["content"][0]["text"] for reply in replies} == {1: "a", 2: "b"}
    nothing = await client.post("/mcp", [{"jsonrpc": "2.0", "method": "notifications/x"}])
    assert (nothing.status, nothing.text) == (202, "")
    assert (await client.post("/mcp", batch, MCP_Protocol_Version="2025-06-18")).json["error"]["code"] == -32600


async def test_the_era_without_a_state_is_served_by_its_statuses(client: Client) -> None:
    async def ask(method: str, **headers: str) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META}}
        return await client.post("/mcp", body, MCP_Protocol_Version=NEW, Mcp_Method=method, **headers)

    found = await ask("server/discover")
    assert (found.status, found.json["result"]["supportedVersions"]) == (200, [NEW])
    assert "Mcp-Session-Id" not in found.headers
    assert (await ask("ping")).status == 404
    assert (await ask("tools/call")).status == 400


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("DELETE", 405), ("PUT", 405)])
async def test_there_is_no_stream_to_open_and_no_session_to_end(node: RunningNode, method: str, status: int) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{node.url}/mcp", headers={"Accept": "text/event-stream"}) as response,
    ):
        assert response.status == status
        assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize("raw", [b"", b"{", b"nothing", b'{"a": \xff}', b"[" * 2000])
async def test_what_is_no_json_is_an_error_of_the_protocol(client: Client, raw: bytes) -> None:
    reply = await client.post("/mcp", raw=raw)
    assert reply.status == 400
    error = json.loads(reply.text)["error"]
    assert error["code"] == -32700


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(node: RunningNode) -> None:
    async with aiohttp.ClientSession() as session:
        body = b'{"tool": "say", "arguments": {"text": "' + b"a" * 17 * 2**20 + b'"}}'
        for path in ("/mcp", "/v1/tools/execute"):
            async with session.post(node.url + path, data=_pieces(body)) as response:
                assert response.status == 413


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 2**16):
        yield body[start : start + 2**16]
