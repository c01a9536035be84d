"""What clients have this node's tools do: `/v1/tools` and `/v1/tools/execute` in plain JSON, and MCP at `/mcp`.

No model's answer comes here by itself: a client, or an agent, reads a call in it and decides to ask for it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import Field, JsonValue, RootModel

from swarm import program_version
from swarm.errors import BadRequest, SwarmError
from swarm.gateway.http.access import MCP_PATH
from swarm.gateway.http.bodies import ON_LOOP_BYTES, Part, json_response, off_loop, parse_body, read_body, read_bytes
from swarm.gateway.tools import mcp_protocol as mcp
from swarm.gateway.tools.service import TOOLS, CallCancelled, CallName, requester
from swarm.generation import JsonObject
from swarm.tools.tool import MOST_TIMEOUT_S, ToolResult

MAX_TOOL_NAME_CHARS: Final = 128
MAX_SESSION_CHARS: Final = 128


class ExecuteBody(Part):
    """`POST /v1/tools/execute`: `arguments` keep the tool's schema; `timeout_s` null is the tool's own time."""

    tool: Annotated[str, Field(min_length=1, max_length=MAX_TOOL_NAME_CHARS)]
    arguments: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    timeout_s: Annotated[float, Field(gt=0, le=MOST_TIMEOUT_S)] | None = None


class McpMessage(Part):
    """`POST /mcp`: a request of JSON-RPC, or a notification, which has no `id`. For the document alone."""

    jsonrpc: Literal["2.0"]
    id: str | int | None = None
    method: str
    params: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


class _AnyJson(RootModel[JsonValue]):
    """A body whose shape is looked at later, by the protocol."""


async def tools(request: web.Request) -> web.Response:
    """{"object": "list", "data": [...]}: OpenAI's tool objects, as a request for a chat takes them.

    `reads_only` and `alone` beside them name those that change nothing, and those that run by themselves.
    """
    there = request.app[TOOLS].tools()
    return json_response(
        {
            "object": "list",
            "data": [tool.openai() for tool in there],
            "reads_only": [tool.name for tool in there if tool.reads_only],
            "alone": [tool.name for tool in there if tool.alone],
        }
    )


async def execute(request: web.Request) -> web.Response:
    """One call to its end. A tool that fails is a 200 with its exit code; a client that leaves ends it."""
    service = request.app[TOOLS]
    service.tools()  # that there are none is said before anything of the body
    body = await read_body(request, ExecuteBody)
    return json_response(result_object(await service.execute(request, body.tool, body.arguments, body.timeout_s)))


def result_object(result: ToolResult) -> JsonObject:
    """A result as JSON."""
    return {
        "output": result.output,
        "exit_code": result.exit_code,
        "truncated": result.truncated,
        "timed_out": result.timed_out,
        "ms": result.ms,
    }


async def speak_mcp(request: web.Request) -> web.Response:
    """One message of the Model Context Protocol, or a batch of its older clients; answered in JSON, never streamed."""
    tools = request.app[TOOLS].tools()
    server, headers = mcp.McpServer(program_version(), tools), read_headers(request)
    try:
        body = await _json_of(request)
    except BadRequest as error:
        return _sent(mcp.failure(None, mcp.PARSE_ERROR, str(error), 400))
    batch = mcp.read_batch(body, headers)
    if batch is None:
        return _sent(await _reply(request, mcp.read_message(body, headers, server), headers, server))
    # Together: one of them may cancel another.
    steps = [mcp.read_message(message, headers, server) for message in batch]
    async with asyncio.TaskGroup() as group:
        replies = [group.create_task(_reply(request, step, headers, server)) for step in steps]
    owed = [reply.result().message for reply in replies if reply.result().message is not None]
    return json_response(owed) if owed else web.Response(status=202)


def read_headers(request: web.Request) -> mcp.McpHeaders:
    """Those that the protocol reads."""
    headers = request.headers
    session = headers.get(mcp.SESSION_HEADER, "")
    return mcp.McpHeaders(
        versions=headers.getall(mcp.VERSION_HEADER, ()),
        methods=headers.getall(mcp.METHOD_HEADER, ()),
        names=headers.getall(mcp.NAME_HEADER, ()),
        session=session if 0 < len(session) <= MAX_SESSION_CHARS else None,
    )


async def _reply(
    request: web.Request, step: mcp.McpStep, headers: mcp.McpHeaders, server: mcp.McpServer
) -> mcp.McpReply:
    service = request.app[TOOLS]
    match step:
        case mcp.McpReply():
            return step
        case mcp.McpCancel():
            if (name := _name_of(request, step.id, headers)) is not None:
                service.cancel(name)
            return mcp.ACCEPTED
        case mcp.McpCall():
            pass
    try:
        async with service.cancellable(_name_of(request, step.id, headers)):
            return mcp.called(step, await service.execute(request, step.tool, step.arguments), server)
    except CallCancelled:
        return mcp.cancelled(step)
    except BadRequest as error:
        return mcp.refused(step, str(error), error.param, server)
    except SwarmError as error:
        return mcp.refused(step, str(error), None, server)


def _name_of(request: web.Request, request_id: mcp.RequestId, headers: mcp.McpHeaders) -> CallName | None:
    """What a message that cancels names the call by; None in the newer era, and without a session."""
    if headers.is_stateless or headers.session is None:
        return None
    return requester(request), headers.session, request_id


async def _json_of(request: web.Request) -> JsonValue:
    raw = await read_bytes(request)
    if len(raw) <= ON_LOOP_BYTES:
        return parse_body(raw, _AnyJson).root
    return (await off_loop(lambda: parse_body(raw, _AnyJson))).root


def _sent(reply: mcp.McpReply) -> web.Response:
    if reply.message is None:
        return web.Response(status=reply.status)
    response = json_response(reply.message)
    response.set_status(reply.status)
    if reply.opens:
        response.headers[mcp.SESSION_HEADER] = secrets.token_hex(16)
    return response


def routes() -> list[web.RouteDef]:
    """`GET /mcp` is none: this server begins no stream, and says so by a 405, as the protocol has it."""
    return [web.get("/v1/tools", tools), web.post("/v1/tools/execute", execute), web.post(MCP_PATH, speak_mcp)]
