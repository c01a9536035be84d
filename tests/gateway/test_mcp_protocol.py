"""The protocol without a socket: what follows from each message, in both eras; the official types read every answer."""

from __future__ import annotations

import base64
from typing import Any

import mcp_types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import methods
from mcp_types.jsonrpc import jsonrpc_message_adapter
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS

from swarm.gateway.tools.mcp_protocol import (
    ACCEPTED,
    REVISIONS,
    STATELESS,
    WITH_HANDSHAKE,
    McpCall,
    McpCancel,
    McpHeaders,
    McpReply,
    McpServer,
    called,
    cancelled,
    decoded_header,
    read_batch,
    read_message,
    refused,
)
from swarm.tools.tool import ToolDefinition, ToolResult

SCHEMA: Any = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
SERVER = McpServer("1.2.3", (ToolDefinition("read", "Read a file.", SCHEMA, True), ToolDefinition("bash", "Run.", {})))
META = {
    "io.modelcontextprotocol/protocolVersion": STATELESS,
    "io.modelcontextprotocol/clientCapabilities": {},
}
OLD = McpHeaders()


def message(method: str, request_id: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def new(method: str, name: str | None = None) -> McpHeaders:
    return McpHeaders([STATELESS], [method], [] if name is None else [name])


def asked(method: str, headers: McpHeaders = OLD, **params: Any) -> Any:
    """The reply to a request; that of the newer era carries what that one wants."""
    if headers.is_stateless:
        params = {"_meta": META, **params}
    step = read_message(message(method, **params), headers, SERVER)
    assert isinstance(step, McpReply)
    assert step.message is not None
    jsonrpc_message_adapter.validate_python(step.message)
    return step


def code(reply: McpReply) -> Any:
    assert reply.message is not None
    error: Any = reply.message["error"]
    return error["code"], reply.status


def test_the_revisions_are_those_that_there_are() -> None:
    assert REVISIONS == KNOWN_PROTOCOL_VERSIONS
    assert WITH_HANDSHAKE == HANDSHAKE_PROTOCOL_VERSIONS


# The older era


@pytest.mark.parametrize("revision", WITH_HANDSHAKE)
def test_a_handshake_settles_the_revision_that_was_asked_for(revision: str) -> None:
    reply = asked("initialize", protocolVersion=revision, capabilities={}, clientInfo={"name": "a", "version": "1"})
    assert reply.opens
    result = methods.parse_server_result("initialize", revision, reply.message["result"])
    assert isinstance(result, mcp_types.InitializeResult)
    assert result.protocol_version == revision
    assert result.server_info.name == "local-swarm"
    assert result.server_info.version == "1.2.3"
    assert result.capabilities.tools is not None
    assert result.capabilities.resources is None
    assert result.capabilities.prompts is None


@pytest.mark.parametrize("revision", ["2019-01-01", "2026-07-28", "9999-12-31", ""])
def test_a_handshake_offers_the_newest_that_has_one_where_another_was_asked_for(revision: str) -> None:
    assert asked("initialize", protocolVersion=revision).message["result"]["protocolVersion"] == WITH_HANDSHAKE[-1]


def test_a_handshake_without_a_revision_is_refused() -> None:
    assert code(asked("initialize")) == (-32602, 200)
    assert code(asked("initialize", protocolVersion=20250618)) == (-32602, 200)


@pytest.mark.parametrize("revision", [None, *WITH_HANDSHAKE])
def test_tools_are_listed_and_called(revision: str | None) -> None:
    headers = McpHeaders([] if revision is None else [revision])
    result = methods.parse_server_result(
        "tools/list", revision or "2025-03-26", asked("tools/list", headers).message["result"]
    )
    assert isinstance(result, mcp_types.ListToolsResult)
    read, bash = result.tools
    assert (read.name, read.description, read.input_schema) == ("read", "Read a file.", SCHEMA)
    assert read.annotations is not None
    assert read.annotations.read_only_hint is True
    assert bash.annotations is not None
    assert bash.annotations.read_only_hint is False
    assert bash.input_schema == {"type": "object"}, "which the protocol wants, be the tool's own schema as it may"
    assert result.next_cursor is None
    call = read_message(message("tools/call", 7, name="read", arguments={"path": "a"}), headers, SERVER)
    assert call == McpCall(7, "read", {"path": "a"}, is_stateless=False)


def test_a_call_without_arguments_has_none() -> None:
    for arguments in ({}, {"arguments": None}, {"arguments": {}}):
        step = read_message(message("tools/call", "x", name="bash", **arguments), OLD, SERVER)
        assert step == McpCall("x", "bash", {}, is_stateless=False)


def test_a_ping_is_answered_by_nothing() -> None:
    assert asked("ping").message == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize("method", ["resources/list", "prompts/list", "server/discover", "tools/", "", "x" * 10_000])
def test_a_method_that_is_none_is_named(method: str) -> None:
    reply = asked(method)
    assert code(reply) == (-32601, 200)
    assert method[:80] in reply.message["error"]["message"]
    assert len(reply.message["error"]["message"]) < 250


def test_notifications_are_taken_and_owed_nothing() -> None:
    for method in ("notifications/initialized", "notifications/roots/list_changed", "notifications/whatever"):
        assert read_message({"jsonrpc": "2.0", "method": method}, OLD, SERVER) == ACCEPTED
    assert ACCEPTED.status == 202


def test_a_message_that_cancels_counts_with_its_session_alone() -> None:
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7, "reason": "x"}}
    assert read_message(cancel, McpHeaders(session="s"), SERVER) == McpCancel(7)
    assert read_message(cancel, OLD, SERVER) == ACCEPTED
    assert read_message(cancel, McpHeaders([STATELESS], session="s"), SERVER) == ACCEPTED
    for params in ({}, {"requestId": None}, {"requestId": True}, {"requestId": [7]}, None, "x"):
        odd: Any = {**cancel, "params": params}
        assert read_message(odd, McpHeaders(session="s"), SERVER) == ACCEPTED


def test_batches_are_read_where_the_revision_has_them() -> None:
    batch: Any = [message("ping"), message("tools/list", 2)]
    assert read_batch(batch, OLD) == batch
    assert read_batch(batch, McpHeaders(["2025-03-26"])) == batch
    for revision in ("2024-11-05", "2025-06-18", "2025-11-25", STATELESS):
        assert read_batch(batch, McpHeaders([revision])) is None
    assert read_batch([], OLD) is None
    assert read_batch([message("ping")] * 17, OLD) is None
    step = read_message(batch, McpHeaders(["2025-06-18"]), SERVER)
    assert isinstance(step, McpReply)
    assert code(step) == (-32600, 400)


# The era without a state


def test_discovery_tells_the_revision_and_what_there_is() -> None:
    reply = asked("server/discover", new("server/discover"))
    result = methods.parse_server_result("server/discover", STATELESS, reply.message["result"])
    assert isinstance(result, mcp_types.DiscoverResult)
    assert result.supported_versions == [STATELESS]
    assert reply.message["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["version"] == "1.2.3"
    assert not reply.opens


def test_tools_are_listed_and_called_without_a_handshake() -> None:
    reply = asked("tools/list", new("tools/list"))
    result = methods.parse_server_result("tools/list", STATELESS, reply.message["result"])
    assert isinstance(result, mcp_types.ListToolsResult)
    assert [tool.name for tool in result.tools] == ["read", "bash"]
    call = message("tools/call", 7, name="read", arguments={"path": "a"}, _meta=META)
    assert read_message(call, new("tools/call", "read"), SERVER) == McpCall(7, "read", {"path": "a"}, is_stateless=True)


@pytest.mark.parametrize(
    ("headers", "params", "expected"),
    [
        (new("tools/list"), {}, -32602),
        (new("tools/list"), {"_meta": None}, -32602),
        (new("tools/list"), {"_meta": {}}, -32602),
        (new("tools/list"), {"_meta": {"io.modelcontextprotocol/protocolVersion": STATELESS}}, -32602),
        (new("tools/list"), {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": "2025-11-25"}}, -32020),
        (new("tools/list"), {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": 5}}, -32020),
        (new("tools/call"), {"_meta": META}, -32020),
        (McpHeaders([STATELESS]), {"_meta": META}, -32020),
        (McpHeaders([STATELESS], ["tools/list", "tools/list"]), {"_meta": META}, -32020),
        (McpHeaders([STATELESS, STATELESS], ["tools/list"]), {"_meta": META}, -32020),
        (McpHeaders([STATELESS], ["tools/list"], ["a", "a"]), {"_meta": META}, -32020),
        (new("tools/list"), {"_meta": META, "cursor": "x"}, -32602),
    ],
)
def test_what_says_two_things_of_itself_is_refused(headers: McpHeaders, params: Any, expected: int) -> None:
    step = read_message(message("tools/list", **params), headers, SERVER)
    assert isinstance(step, McpReply)
    assert code(step) == (expected, 400)


def test_the_name_of_a_tool_is_in_a_header_too() -> None:
    call = message("tools/call", name="wörk", _meta=META)
    encoded = f"=?base64?{base64.b64encode('wörk'.encode()).decode()}?="
    assert isinstance(read_message(call, new("tools/call", encoded), SERVER), McpCall)
    for name in (None, "read", "=?base64?!?=", "=?base64?d8O2cms?="):
        step = read_message(call, new("tools/call", name), SERVER)
        assert isinstance(step, McpReply)
        assert code(step) == (-32020, 400)


@pytest.mark.parametrize("method", ["initialize", "ping", "resources/list", "subscriptions/listen"])
def test_what_that_era_does_not_have_is_a_404(method: str) -> None:
    assert code(asked(method, new(method))) == (-32601, 404)


def test_an_unknown_revision_is_told_which_there_are() -> None:
    step = read_message(message("server/discover", _meta=META), McpHeaders(["2030-01-01"]), SERVER)
    assert isinstance(step, McpReply)
    assert code(step) == (-32022, 400)
    assert step.message is not None
    error: Any = step.message["error"]
    read = mcp_types.UnsupportedProtocolVersionErrorData.model_validate(error["data"])
    assert read.supported == [*KNOWN_PROTOCOL_VERSIONS]
    assert read.requested == "2030-01-01"


# What both have


@pytest.mark.parametrize(
    "body",
    [
        None, 1, "x", [], {}, {"jsonrpc": "1.0", "id": 1, "method": "ping"}, {"id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1}, {"jsonrpc": "2.0", "id": 1, "method": 5},
        {"jsonrpc": "2.0", "id": None, "method": "ping"},
        {"jsonrpc": "2.0", "id": True, "method": "ping"}, {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
        {"jsonrpc": "2.0", "id": [], "method": "ping"},
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(body: Any) -> None:
    for headers in (OLD, new("ping")):
        step = read_message(body, headers, SERVER)
        assert isinstance(step, McpReply)
        assert code(step) == (-32600, 400)


def test_an_answer_to_what_nobody_asked_is_taken_by_the_older_era() -> None:
    answer: Any = {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert read_message(answer, OLD, SERVER) == ACCEPTED
    step = read_message(answer, new("ping"), SERVER)
    assert isinstance(step, McpReply)
    assert code(step) == (-32600, 400)


@pytest.mark.parametrize(
    "params",
    [{}, {"name": 5}, {"name": "read", "arguments": []}, {"name": "read", "arguments": "x"}],
)
def test_a_call_of_the_wrong_shape_is_the_clients_mistake(params: Any) -> None:
    assert code(asked("tools/call", **params)) == (-32602, 200)
    name = [params["name"]] if isinstance(params.get("name"), str) else ["5"]
    headers = McpHeaders([STATELESS], ["tools/call"], name)
    expected = -32020 if params.get("name") == 5 else -32602
    assert code(asked("tools/call", headers, **params)) == (expected, 400)


@pytest.mark.parametrize("is_stateless", [False, True])
def test_results_are_read_by_the_official_types(is_stateless: bool) -> None:
    call = McpCall(7, "read", {}, is_stateless)
    revision = STATELESS if is_stateless else "2025-11-25"

    def result(reply: McpReply) -> mcp_types.CallToolResult:
        assert reply.status == 200
        told: Any = reply.message
        found = methods.parse_server_result("tools/call", revision, told["result"])
        assert isinstance(found, mcp_types.CallToolResult)
        return found

    def text(found: mcp_types.CallToolResult) -> str:
        (block,) = found.content
        assert isinstance(block, mcp_types.TextContent)
        return block.text

    good = result(called(call, ToolResult("a text"), SERVER))
    assert (text(good), good.is_error) == ("a text", False)
    failed = result(called(call, ToolResult("no such file", exit_code=2), SERVER))
    assert (text(failed), failed.is_error) == ("no such file\n[exit code 2]", True)
    silent = result(called(call, ToolResult("", exit_code=1), SERVER))
    assert (text(silent), silent.is_error) == ("[exit code 1]", True)
    mistaken = result(refused(call, "arguments.path: 5 is not a text", "arguments.path", SERVER))
    assert (text(mistaken), mistaken.is_error) == ("arguments.path: 5 is not a text", True)
    assert code(refused(call, "there is no tool 'x'", "tool", SERVER)) == (-32602, 400 if is_stateless else 200)
    assert code(cancelled(call)) == (-32800, 200)


@given(st.text())
@settings(deadline=None)
def test_every_name_survives_its_header(name: str) -> None:
    """By the encoding of the official client."""
    from mcp.shared.inbound import encode_header_value

    try:
        name.encode()
    except UnicodeEncodeError:
        return
    assert decoded_header(encode_header_value(name)) == name


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
METHODS = st.sampled_from(
    ["initialize", "tools/list", "tools/call", "server/discover", "ping", "notifications/cancelled"]
)


@given(
    body=st.fixed_dictionaries(
        {}, optional={"jsonrpc": st.just("2.0") | JSON, "id": JSON, "method": METHODS | JSON, "params": JSON}
    )
    | JSON,
    versions=st.lists(st.sampled_from(REVISIONS) | st.text(max_size=5), max_size=2),
    names=st.lists(METHODS | st.text(max_size=5), max_size=2),
)
@settings(deadline=None, max_examples=500)
def test_no_message_breaks_it_and_every_reply_is_json_rpc(body: Any, versions: Any, names: Any) -> None:
    headers = McpHeaders(versions, names, names, "s")
    step = read_message(body, headers, SERVER)
    if isinstance(step, McpReply) and step.message is not None:
        jsonrpc_message_adapter.validate_python(step.message)
        assert step.status in (200, 400, 404)
