"""The Model Context Protocol as a server of tools speaks it, without any I/O: a message in, an answer or a call out.

Two eras are spoken, as https://modelcontextprotocol.io/specification has each revision. From **2026-07-28** on each
request stands alone: it names its revision, method and tool in headers and again in itself, `server/discover` tells
what there is, and closing the connection cancels. **Before** it, a client begins by `initialize`, and cancels by a
message. Which of the two a message belongs to, its `MCP-Protocol-Version` says; without one it is an older client's.

A node keeps nothing of a client between two messages. The id of a session that `initialize` gives out serves one thing:
a message that cancels a call is heard only with the session that began it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from pydantic import JsonValue

from swarm.generation import JsonObject
from swarm.tools.tool import ToolDefinition, ToolResult

STATELESS: Final = "2026-07-28"
WITH_HANDSHAKE: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
WITH_BATCHES: Final = "2025-03-26"  # alone; the next revision took them out again
REVISIONS: Final = (*WITH_HANDSHAKE, STATELESS)
MOST_IN_BATCH: Final = 16

VERSION_HEADER: Final = "MCP-Protocol-Version"
METHOD_HEADER: Final = "Mcp-Method"
NAME_HEADER: Final = "Mcp-Name"
SESSION_HEADER: Final = "Mcp-Session-Id"

_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"

# JSON-RPC's own codes, MCP's from -32020 on, and that of a request which its client cancelled.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
HEADER_MISMATCH, UNSUPPORTED_VERSION, CANCELLED_CODE = -32020, -32022, -32800
_STATUS: Final = {METHOD_NOT_FOUND: 404, INVALID_PARAMS: 400, HEADER_MISMATCH: 400, UNSUPPORTED_VERSION: 400}
MAX_SHOWN_CHARS: Final = 80  # of what a client sent, in an error

_ENCODED: Final = re.compile(r"=\?base64\?(?P<payload>[A-Za-z0-9+/=]*)\?=")

RequestId = str | int


@dataclass(frozen=True, slots=True)
class McpHeaders:
    """What the protocol reads of a request's headers: every value that came, in order."""

    versions: Sequence[str] = ()
    methods: Sequence[str] = ()
    names: Sequence[str] = ()
    session: str | None = None

    @property
    def version(self) -> str | None:
        """The revision that it names; None for none."""
        return self.versions[0].strip() if self.versions else None

    @property
    def is_stateless(self) -> bool:
        return self.version == STATELESS


@dataclass(frozen=True, slots=True)
class McpServer:
    """What a server says of itself."""

    version: str
    tools: tuple[ToolDefinition, ...] = ()

    @property
    def info(self) -> JsonObject:
        return {"name": "local-swarm", "title": "Local Swarm", "version": self.version}


@dataclass(frozen=True, slots=True)
class McpReply:
    """What is sent back: a JSON-RPC message (None: nothing is owed) and the HTTP status. `opens`: a session begins."""

    message: JsonObject | None
    status: int = 200
    opens: bool = False


@dataclass(frozen=True, slots=True)
class McpCall:
    """A tool is to be executed; `called`, `refused` and the like make the reply. `id` is the request's."""

    id: RequestId
    tool: str
    arguments: JsonObject
    is_stateless: bool


@dataclass(frozen=True, slots=True)
class McpCancel:
    """The call with that request id is to be ended, of the same session; nothing is sent back but a 202."""

    id: RequestId


McpStep = McpReply | McpCall | McpCancel
ACCEPTED: Final = McpReply(None, 202)


def read_batch(body: JsonValue, headers: McpHeaders) -> list[JsonValue] | None:
    """The messages of a batch, which one revision alone has; None for what is none, and is read as one message."""
    if not isinstance(body, list) or headers.version not in (None, WITH_BATCHES):
        return None
    return body if 0 < len(body) <= MOST_IN_BATCH else None


def read_message(message: JsonValue, headers: McpHeaders, server: McpServer) -> McpStep:
    """What follows from one message. Never raises: whatever is wrong with it is a reply."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return failure(None, INVALID_REQUEST, 'the body is no message of JSON-RPC: {"jsonrpc": "2.0", ...}', 400)
    version = headers.version
    known_id, method = _as_id(message.get("id")), message.get("method")
    if version is not None and version not in REVISIONS:
        return _unsupported(known_id, version)
    if method is None and ("result" in message or "error" in message):  # an answer; this server asks nothing
        return failure(None, INVALID_REQUEST, "this server asked nothing", 400) if headers.is_stateless else ACCEPTED
    if not isinstance(method, str):
        return failure(known_id, INVALID_REQUEST, "`method` is missing, or is no text", 400)
    if "id" not in message:
        return _notification(method, message.get("params"), headers)
    if known_id is None:
        return failure(None, INVALID_REQUEST, "`id` is neither a text nor a whole number", 400)
    params = message.get("params", {})
    if not isinstance(params, dict):
        return _refusal(known_id, INVALID_PARAMS, "`params` is no object", headers)
    if headers.is_stateless:
        return _envelope_problem(known_id, method, params, headers) or _stateless(known_id, method, params, server)
    return _with_handshake(known_id, method, params, server)


# The older era


def _with_handshake(request_id: RequestId, method: str, params: JsonObject, server: McpServer) -> McpStep:
    match method:
        case "initialize":
            asked = params.get("protocolVersion")
            if not isinstance(asked, str):
                return failure(request_id, INVALID_PARAMS, "`protocolVersion` is missing, or is no text")
            result: JsonObject = {
                "protocolVersion": asked if asked in WITH_HANDSHAKE else WITH_HANDSHAKE[-1],
                "capabilities": {"tools": {"listChanged": False}},
                "serverInfo": server.info,
            }
            return McpReply(_message(request_id, result), opens=True)
        case "ping":
            return McpReply(_message(request_id, {}))
        case "tools/list":
            problem = _cursor_problem(params)
            if problem is not None:
                return failure(request_id, INVALID_PARAMS, problem)
            return McpReply(_message(request_id, {"tools": _listed(server.tools)}))
        case "tools/call":
            return _call(request_id, params, is_stateless=False)
        case _:
            return failure(request_id, METHOD_NOT_FOUND, _no_method(method))


def _notification(method: str, params: JsonValue, headers: McpHeaders) -> McpStep:
    """What no answer is owed to. One that cancels counts in the older era, with its session, which nobody guesses."""
    if method != "notifications/cancelled" or headers.is_stateless or headers.session is None:
        return ACCEPTED
    named = _as_id(params.get("requestId")) if isinstance(params, dict) else None
    return ACCEPTED if named is None else McpCancel(named)


# The era without a state


def _stateless(request_id: RequestId, method: str, params: JsonObject, server: McpServer) -> McpStep:
    match method:
        case "server/discover":
            found: JsonObject = {"supportedVersions": [STATELESS], "capabilities": {"tools": {"listChanged": False}}}
            return McpReply(_complete(request_id, {**found, "ttlMs": 0, "cacheScope": "private"}, server))
        case "tools/list":
            problem = _cursor_problem(params)
            if problem is not None:
                return failure(request_id, INVALID_PARAMS, problem, 400)
            listed: JsonObject = {"tools": _listed(server.tools), "ttlMs": 0, "cacheScope": "private"}
            return McpReply(_complete(request_id, listed, server))
        case "tools/call":
            return _call(request_id, params, is_stateless=True)
        case _:
            return failure(request_id, METHOD_NOT_FOUND, _no_method(method), 404)


def _envelope_problem(request_id: RequestId, method: str, params: JsonObject, headers: McpHeaders) -> McpReply | None:
    """What is wrong with how a request names its revision, method and tool, of which each has to agree with itself."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return failure(request_id, INVALID_PARAMS, "`params._meta` is missing, or is no object", 400)
    for key in (_VERSION_KEY, _CAPABILITIES_KEY):
        if key not in meta:
            return failure(request_id, INVALID_PARAMS, f"`params._meta` lacks `{key}`", 400)
    for name, values in ((VERSION_HEADER, headers.versions), (METHOD_HEADER, headers.methods)):
        if len(values) > 1:
            return failure(request_id, HEADER_MISMATCH, f"there are several {name} headers", 400)
    if len(headers.names) > 1:
        return failure(request_id, HEADER_MISMATCH, f"there are several {NAME_HEADER} headers", 400)
    if headers.version != meta[_VERSION_KEY]:
        return failure(request_id, HEADER_MISMATCH, f"{VERSION_HEADER} is not `{_VERSION_KEY}`", 400)
    if [value.strip() for value in headers.methods] != [method]:
        return failure(request_id, HEADER_MISMATCH, f"{METHOD_HEADER} is not the message's `method`", 400)
    if method == "tools/call" and (name := params.get("name")) is not None:
        given = decoded_header(headers.names[0]) if headers.names else None
        if given != name:
            return failure(request_id, HEADER_MISMATCH, f"{NAME_HEADER} is not `params.name`", 400)
    return None


def decoded_header(value: str) -> str | None:
    """A header's text: as it is, or in the protocol's Base64 form, `=?base64?...?=`; None where that is broken."""
    encoded = _ENCODED.fullmatch(value.strip())
    if encoded is None:
        return value.strip()
    try:
        raw = base64.b64decode(encoded["payload"], validate=True)
        return raw.decode() if base64.b64encode(raw).decode() == encoded["payload"] else None
    except (binascii.Error, UnicodeDecodeError):
        return None


# What both have


def _call(request_id: RequestId, params: JsonObject, *, is_stateless: bool) -> McpStep:
    status = 400 if is_stateless else 200
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str):
        return failure(request_id, INVALID_PARAMS, "`params.name` is missing, or is no text", status)
    if arguments is not None and not isinstance(arguments, dict):
        return failure(request_id, INVALID_PARAMS, "`params.arguments` is no object", status)
    return McpCall(request_id, name, arguments or {}, is_stateless)


def called(call: McpCall, result: ToolResult, server: McpServer) -> McpReply:
    """What a call came to. Its exit code is in the text where it is not 0: a client shows its model nothing else."""
    text = result.output
    if result.exit_code != 0:
        text = f"{text}\n[exit code {result.exit_code}]".lstrip("\n")
    return _told(call, text, server, is_error=result.exit_code != 0)


def refused(call: McpCall, why: str, param: str | None, server: McpServer) -> McpReply:
    """A call that could not be made: an unknown tool is the client's mistake, bad arguments are its model's to mend."""
    if param == "tool":
        return failure(call.id, INVALID_PARAMS, why, 400 if call.is_stateless else 200)
    return _told(call, why, server, is_error=True)


def cancelled(call: McpCall) -> McpReply:
    """A call that its client took back by a message: an answer nobody waits for, which the request is owed."""
    return failure(call.id, CANCELLED_CODE, "the call was cancelled")


def _told(call: McpCall, text: str, server: McpServer, *, is_error: bool) -> McpReply:
    result: JsonObject = {"content": [{"type": "text", "text": text}], "isError": is_error}
    return McpReply(_complete(call.id, result, server) if call.is_stateless else _message(call.id, result))


def _listed(tools: Iterable[ToolDefinition]) -> list[JsonValue]:
    return [
        {
            "name": tool.name,
            "description": tool.description,
            "inputSchema": {"type": "object", **tool.parameters},
            "annotations": {"readOnlyHint": tool.reads_only, **({"openWorldHint": False} if tool.reads_only else {})},
        }
        for tool in tools
    ]


def _as_id(value: JsonValue) -> RequestId | None:
    """`value` as the id of a request; None where it is none: JSON-RPC's are texts and whole numbers."""
    return value if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _cursor_problem(params: Mapping[str, JsonValue]) -> str | None:
    if params.get("cursor") is None:
        return None
    return "`params.cursor` is none of this server's: it lists all tools at once"


def _complete(request_id: RequestId, result: JsonObject, server: McpServer) -> JsonObject:
    return _message(request_id, {"resultType": "complete", **result, "_meta": {_SERVER_KEY: server.info}})


def _message(request_id: RequestId, result: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def failure(request_id: RequestId | None, code: int, why: str, status: int = 200) -> McpReply:
    """A JSON-RPC error."""
    return McpReply({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": why}}, status)


def _refusal(request_id: RequestId, code: int, why: str, headers: McpHeaders) -> McpReply:
    return failure(request_id, code, why, _STATUS[code] if headers.is_stateless else 200)


def _unsupported(request_id: RequestId | None, version: str) -> McpReply:
    shown = version[:MAX_SHOWN_CHARS]
    error: JsonObject = {
        "code": UNSUPPORTED_VERSION,
        "message": f"this server does not speak revision {shown!r}: it speaks {', '.join(REVISIONS)}",
        "data": {"supported": cast("list[JsonValue]", [*REVISIONS]), "requested": shown},
    }
    return McpReply({"jsonrpc": "2.0", "id": request_id, "error": error}, _STATUS[UNSUPPORTED_VERSION])


def _no_method(method: str) -> str:
    return f"there is no method {method[:MAX_SHOWN_CHARS]!r} here: this server has tools, and nothing else"
