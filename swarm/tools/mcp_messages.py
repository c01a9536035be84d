"""The Model Context Protocol as a client of tools speaks it: what is asked, and what is made of the answers. Pure.

Two eras are spoken, as https://modelcontextprotocol.io/specification has each revision. From **2026-07-28** on each
request stands alone and says its revision itself (`_meta`); `server/discover` tells what a server is. **Before** it, a
connection begins by `initialize`. A server is asked in the new way first, and whatever it answers that is no answer of
the new era, it is then asked in the old way.

What a server says of its tools is a stranger's text that models read: it is cleaned and cut. What it says a tool will
not do (`readOnlyHint`) is not believed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from federation.printable_text import clean_line, clean_text
from swarm import program_version
from swarm.generation import JsonObject
from swarm.tools.mcp_servers import tool_name
from swarm.tools.tool import ToolDefinition

STATELESS_REVISION: Final = "2026-07-28"
HANDSHAKE_REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")

MAX_MESSAGE_BYTES: Final = 8 << 20  # a result with a large file in it, or a list of a hundred tools
MAX_TOOLS_OF_SERVER: Final = 64
MAX_PAGES: Final = 20  # of a list of tools
MAX_DESCRIPTION_CHARS: Final = 1000
MAX_PARAMETERS_BYTES: Final = 16 << 10  # the schema of one tool's arguments
MAX_PARAMETER_TEXT_CHARS: Final = 300  # of a description in it
MAX_PARAMETERS_DEPTH: Final = 16
MAX_REASON_CHARS: Final = 300  # of what a server says went wrong
MAX_PARTS: Final = 256  # of one result

_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_CLIENT_KEY: Final = "io.modelcontextprotocol/clientInfo"
_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_HEADER_KEY: Final = "x-mcp-header"  # of an argument that is to be repeated in a header
_PLAIN_HEADER: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_IN_WORDS: Final = frozenset({"description", "title", "$comment"})
METHOD_UNKNOWN: Final = -32601
ARGUMENTS_INVALID: Final = -32602
REVISION_UNSUPPORTED: Final = -32022


class McpProblem(Exception):
    """What a server does that is not the protocol, in words that complete "MCP server NAME ..."."""


class ServerError(Exception):
    """An error that a server answers with, by JSON-RPC's `code`; its words are cleaned and cut."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(clean_line(message)[:MAX_REASON_CHARS])
        self.code = code


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """The answer to the request with that `id`: its result, or the error."""

    id: int | str | None
    result: JsonObject | ServerError


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request of the server's own, with the `id` that its answer needs; None: a notification, which needs none."""

    method: str
    id: int | str | None


ServerMessage = ServerAnswer | ServerRequest


# What is asked


def client_info() -> JsonObject:
    return {"name": "local-swarm", "title": "Local Swarm", "version": program_version()}


def request_message(request_id: int, method: str, params: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def notification_message(method: str, params: JsonObject | None = None) -> JsonObject:
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}


def initialize_params() -> JsonObject:
    """Of the handshake of the older era."""
    return {"protocolVersion": HANDSHAKE_REVISIONS[-1], "capabilities": {}, "clientInfo": client_info()}


def params_in(revision: str, params: JsonObject) -> JsonObject:
    """The parameters of a request as that revision has them."""
    if revision != STATELESS_REVISION:
        return params
    meta: JsonObject = {_VERSION_KEY: revision, _CLIENT_KEY: client_info(), _CAPABILITIES_KEY: {}}
    return {**params, "_meta": meta}


def cancel_message(request_id: int) -> JsonObject:
    """That nobody waits for an answer any more."""
    return notification_message("notifications/cancelled", {"requestId": request_id, "reason": "nobody waits"})


def headers_of(revision: str | None, method: str, params: Mapping[str, JsonValue]) -> dict[str, str]:
    """What an HTTP request says of its message beside it; None: before a revision is agreed on."""
    if revision is None:
        return {}
    headers = {"MCP-Protocol-Version": revision}
    if revision == STATELESS_REVISION:
        headers["Mcp-Method"] = method
        if method == "tools/call":
            headers["Mcp-Name"] = header_text(str(params.get("name", "")))
    return headers


def argument_headers(schema: Mapping[str, JsonValue], arguments: Mapping[str, JsonValue]) -> dict[str, str]:
    """The headers in which the new era repeats those arguments that a tool's schema marks (`x-mcp-header`)."""
    properties = schema.get("properties")
    headers: dict[str, str] = {}
    for name, part in properties.items() if isinstance(properties, dict) else ():
        header = part.get(_HEADER_KEY) if isinstance(part, dict) else None
        value = arguments.get(name)
        if isinstance(header, str) and re.fullmatch(r"[A-Za-z0-9-]{1,64}", header):
            if isinstance(value, bool):
                headers[f"Mcp-Param-{header}"] = "true" if value else "false"
            elif isinstance(value, str | int):
                headers[f"Mcp-Param-{header}"] = header_text(str(value))
    return headers


def header_text(text: str) -> str:
    """A text as a header: as it is where it may stand in one, else in the protocol's Base64 form."""
    if _PLAIN_HEADER.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode(errors='replace')).decode()}?="


def answer_to(request: ServerRequest) -> JsonObject | None:
    """What a server's own request is answered: it may ask whether anybody is there, and nothing else."""
    if request.id is None:
        return None
    message: JsonObject = {"jsonrpc": "2.0", "id": request.id}
    if request.method == "ping":
        return {**message, "result": {}}
    error: JsonObject = {"code": METHOD_UNKNOWN, "message": "this client only calls tools"}
    return {**message, "error": error}


# What is answered


class EventSplitter:
    """The data of a stream of server-sent events, which comes in pieces. Raises McpProblem for one that is too long."""

    def __init__(self, most_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._lines = _EventLines()
        self._data: list[bytes] = []
        self._most_bytes = most_bytes
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that ends in `piece`; of those without any nothing."""
        found: list[bytes] = []
        for line in self._lines.feed(piece):
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                self._data, self._size = [], 0
                continue
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(value) + 1  # lines without any value take memory, too
        if self._size + self._lines.begun > self._most_bytes:
            raise McpProblem(f"sent an event of more than {self._most_bytes >> 20} MiB")
        return found


class _EventLines:
    """Lines that end in CR, LF or both, as events have them, blank ones too."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._after_return = False

    @property
    def begun(self) -> int:
        return len(self._begun)

    def feed(self, piece: bytes) -> list[bytes]:
        if self._after_return and piece:
            piece = piece.removeprefix(b"\n")
        self._after_return = piece.endswith(b"\r")
        parts = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._begun += parts[0]
        if len(parts) == 1:
            return []
        lines = [bytes(self._begun), *parts[1:-1]]
        self._begun = bytearray(parts[-1])
        return lines


def read_message(raw: bytes) -> tuple[ServerMessage, ...]:
    """The message in `raw`, or those of a batch. Raises McpProblem for what is none."""
    try:
        body: JsonValue = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise McpProblem(f"sent what is no message: {clean_line(raw[:60].decode(errors='replace'))!r}") from error
    return tuple(_message(each) for each in (body if isinstance(body, list) else [body]))


def _message(body: JsonValue) -> ServerMessage:
    if not isinstance(body, dict):
        raise McpProblem("sent JSON that is no message of its protocol")
    given, method = body.get("id"), body.get("method")
    named = given if isinstance(given, int | str) and not isinstance(given, bool) else None
    if isinstance(method, str):
        return ServerRequest(method, named)
    result, error = body.get("result"), body.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        number = code if isinstance(code, int) and not isinstance(code, bool) else 0
        return ServerAnswer(named, ServerError(number, str(error.get("message", ""))[: 4 * MAX_REASON_CHARS]))
    if isinstance(result, dict):
        return ServerAnswer(named, result)
    raise McpProblem("sent JSON that is no message of its protocol")


def agreed_revision(result: Mapping[str, JsonValue]) -> str:
    """What a server answers to `initialize`. Raises McpProblem for a revision that is not spoken here."""
    revision = result.get("protocolVersion")
    if revision not in HANDSHAKE_REVISIONS:
        shown = clean_line(str(revision))[:40]
        raise McpProblem(f"speaks revision {shown} of the protocol; here {', '.join(HANDSHAKE_REVISIONS)} are spoken")
    return str(revision)


def is_discovery(result: Mapping[str, JsonValue]) -> bool:
    """Whether it is the answer of a server of the new era, in a revision that is spoken here."""
    supported = result.get("supportedVersions")
    return isinstance(supported, list) and STATELESS_REVISION in supported


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool as its server calls it, and as it is told of here."""

    name: str
    definition: ToolDefinition
    schema: JsonObject  # as it came: which arguments are repeated in headers


def page_of_tools(result: Mapping[str, JsonValue]) -> tuple[Sequence[JsonValue], str | None]:
    """One page of a list of tools, and what the next is asked with; None: there is none. Raises McpProblem."""
    tools, cursor = result.get("tools"), result.get("nextCursor")
    if not isinstance(tools, list):
        raise McpProblem("lists no tools where it should")
    return tools, cursor if isinstance(cursor, str) and cursor else None


def tools_of(
    server: str, listed: Sequence[JsonValue], allowed: Collection[str] | None
) -> tuple[tuple[ServerTool, ...], tuple[str, ...]]:
    """The tools that are taken of those that a server lists, and what is left out, in words for its owner.

    For hostile ones it takes seconds.
    """
    found: dict[str, ServerTool] = {}
    problems: list[str] = []
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(name, str) or not name or len(name) > 256:
            problems.append("a tool without a name")
            continue
        if allowed is not None and name not in allowed:
            continue
        shown = clean_line(name)[:80]
        schema = entry.get("inputSchema")
        if (why := _parameters_problem(schema)) is not None or not isinstance(schema, dict):
            problems.append(f"{shown}: {why}")
            continue
        public = tool_name(server, name)
        if public in found:
            problems.append(f"{shown}: it is listed twice")
            continue
        if len(found) == MAX_TOOLS_OF_SERVER:
            problems.append(f"what comes after its first {MAX_TOOLS_OF_SERVER} tools")
            break
        words = entry.get("description") or entry.get("title")
        description = shortened(words if isinstance(words, str) else "", MAX_DESCRIPTION_CHARS)
        parameters = cleaned_parameters(schema)
        found[public] = ServerTool(name, ToolDefinition(public, description, parameters), schema)
    missing = sorted(set(allowed or ()) - {tool.name for tool in found.values()})
    problems += [f"{clean_line(name)[:80]}: it has no such tool" for name in missing]
    return tuple(found.values()), tuple(problems)


def _parameters_problem(schema: JsonValue) -> str | None:
    if not isinstance(schema, dict):
        return "it has no schema of its arguments"
    if schema.get("type", "object") != "object":
        return "its arguments are no object"
    try:
        size, depth = len(json.dumps(schema)), _depth(schema)
    except RecursionError:
        size, depth = 0, MAX_PARAMETERS_DEPTH + 1
    if depth > MAX_PARAMETERS_DEPTH:
        return "the schema of its arguments is nested too deep"
    if size > MAX_PARAMETERS_BYTES:
        return f"the schema of its arguments has more than {MAX_PARAMETERS_BYTES >> 10} KiB"
    return None


def _depth(value: JsonValue) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def cleaned_parameters(schema: JsonObject) -> JsonObject:
    """A schema whose texts for readers are clean and short; what it demands stays as it is."""

    def clean(value: JsonValue, is_named: bool) -> JsonValue:
        """`is_named`: the keys are a server's own names, as of `properties`, and no keywords."""
        if isinstance(value, list):
            return [clean(each, False) for each in value]
        if not isinstance(value, dict):
            return value
        made: JsonObject = {}
        for key, part in value.items():
            if not is_named and key in _IN_WORDS and isinstance(part, str):
                made[key] = shortened(part, MAX_PARAMETER_TEXT_CHARS)
            else:
                made[key] = clean(part, not is_named and key in ("properties", "$defs", "definitions"))
        return made

    found = clean(schema, False)
    assert isinstance(found, dict)
    return {"type": "object", "properties": {}, **found}


def shortened(text: str, most_chars: int) -> str:
    """A stranger's words: clean, and not longer than that."""
    words = clean_text(text[: 2 * most_chars]).strip()
    return words if len(words) <= most_chars else words[: most_chars - 1].rstrip() + "…"


def call_text(result: Mapping[str, JsonValue]) -> tuple[str, bool]:
    """What a tool answered, as text that is not cleaned yet, and whether it failed. Raises McpProblem."""
    if result.get("resultType", "complete") != "complete":
        raise McpProblem("asks its client something before it goes on, which this one does not answer")
    content = result.get("content")
    if not isinstance(content, list):
        raise McpProblem("answered a call without content")
    parts = [_said(part) for part in content[:MAX_PARTS] if isinstance(part, dict)]
    if len(content) > MAX_PARTS:
        parts.append(f"[{len(content) - MAX_PARTS} more parts left out]")
    if not any(parts) and "structuredContent" in result:
        try:
            parts = [json.dumps(result["structuredContent"], ensure_ascii=False)]
        except RecursionError as error:
            raise McpProblem("answered a call with what is nested too deep") from error
    return "\n".join(part for part in parts if part), result.get("isError") is True


def _said(part: JsonObject) -> str:
    """One part of a content: a text, or in brackets what there is instead of one."""
    kind = part.get("type")
    match kind:
        case "text":
            return str(part.get("text", ""))
        case "image" | "audio":
            return f"[{kind} left out: {_named(part, 'mimeType')}]"
        case "resource_link":
            return f"[{_named(part, 'uri')}]"
        case "resource":
            inner = part.get("resource")
            resource: JsonObject = inner if isinstance(inner, dict) else {}
            text = resource.get("text")
            return text if isinstance(text, str) else f"[{_named(resource, 'uri')} left out: it is no text]"
        case _:
            return ""


def _named(part: JsonObject, key: str) -> str:
    return clean_line(str(part.get(key, ""))[: 2 * MAX_REASON_CHARS])[:MAX_REASON_CHARS]
