"""A node's tool host over HTTP: `GET /v1/tools` says what there is, `POST /v1/tools/execute` runs one call.

What comes is checked, since an address may lead to anything: an answer that is not of that shape is an error that says
so, and never a result. Cancelling a call closes its connection, by which the node ends what it started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Annotated, Any, Final, Literal, Self

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from federation.printable_text import clean_line, clean_text
from swarm.errors import BadRequest, Forbidden, SetupError, SwarmError, Unauthorized, Unavailable
from swarm.generation import MAX_TOOLS, JsonObject, ToolSpec
from swarm.tools.tool import MAX_OUTPUT_CHARS, ToolDefinition, ToolResult

MAX_ANSWER_BYTES: Final = 4 << 20  # all definitions of a host, with those of its MCP servers
MAX_ERROR_CHARS: Final = 2000
TOOLS_OFF: Final = "this node runs no tools: "  # so a node says it of itself
CONNECT_S: Final = 5.0
LIST_S: Final = 10.0
GRACE_S: Final = 30.0  # above a call's own time: for the place among the calls that a host runs at once
MOST_LEFT_OUT_CHARS: Final = 200  # of the line that says what was cut of an output


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Listing(_Lenient):
    object: Literal["list"]
    data: Annotated[tuple[ToolSpec, ...], Field(max_length=MAX_TOOLS)]
    reads_only: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


class _Outcome(_Lenient):
    output: str
    exit_code: int
    truncated: bool = False
    timed_out: bool = False
    ms: Annotated[int, Field(ge=0)] = 0


class _Detail(_Lenient):
    message: str = ""
    param: str | None = None
    code: str | None = None


class _Failure(_Lenient):
    error: _Detail


class RemoteToolHost:
    """The tools of the node at `url`. Entering it asks what there is.

    Raises SetupError where the node runs no tools, Unauthorized for a key that it does not take, and Unavailable where
    nothing answers, or what answers is no node.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http: aiohttp.ClientSession | None = None
        self._tools: tuple[ToolDefinition, ...] = ()

    async def __aenter__(self) -> Self:
        # Nodes are in this network: what is asked of them, and their key, are no business of a proxy for the internet.
        self._http = aiohttp.ClientSession(headers=self._headers, trust_env=False)
        try:
            found = await self._ask("GET", "/v1/tools", None, LIST_S)
            listing = _Listing.model_validate(found)
        except ValidationError as error:
            await self.close()
            raise self._rubbish("what it says of its tools is unreadable") from error
        except BaseException:
            await self.close()
            raise
        self._tools = tuple(
            ToolDefinition(
                spec.function.name,
                clean_text(spec.function.description),
                spec.function.parameters,
                reads_only=spec.function.name in listing.reads_only,
                alone=spec.function.name in listing.alone,
            )
            for spec in listing.data
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections: calls that run are cancelled at the node."""
        if self._http is not None:
            await self._http.close()

    def tools(self) -> tuple[ToolDefinition, ...]:
        return self._tools

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        body: JsonObject = {"tool": tool, "arguments": dict(arguments)}
        if timeout_s is not None:
            body["timeout_s"] = timeout_s
        # Without a time of its own a call has the tool's, which a caller need not know: nothing here is shorter.
        found = await self._ask("POST", "/v1/tools/execute", body, None if timeout_s is None else timeout_s + GRACE_S)
        try:
            outcome = _Outcome.model_validate(found)
        except ValidationError as error:
            raise self._rubbish("what it says of a call is unreadable") from error
        output = clean_text(outcome.output)
        most = MAX_OUTPUT_CHARS + MOST_LEFT_OUT_CHARS
        return ToolResult(
            output[:most],
            outcome.exit_code,
            outcome.truncated or len(output) > most,
            outcome.timed_out,
            outcome.ms,
        )

    async def _ask(self, method: str, path: str, body: JsonObject | None, total_s: float | None) -> JsonValue:
        assert self._http is not None, "a tool host is used within `async with`"
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S)
        try:
            async with self._http.request(
                method, self._url + path, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await response.content.read(MAX_ANSWER_BYTES + 1)
                while len(raw) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES)):
                    raw += more
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            why = clean_line(str(error) or type(error).__name__)
            raise Unavailable(f"the tool host {self._url} cannot be asked ({why}): is it running?") from error
        try:
            found: Any = json.loads(raw) if len(raw) <= MAX_ANSWER_BYTES else None
        except (ValueError, RecursionError):
            found = None
        if status != 200:
            raise self._refusal(status, found)
        if found is None:
            raise self._rubbish("it does not answer as a node does")
        return found

    def _rubbish(self, why: str) -> Unavailable:
        return Unavailable(f"the tool host {self._url} is none: {why}. Is the address right (--tool-host URL)?")

    def _refusal(self, status: int, found: Any) -> SwarmError:
        try:
            detail = _Failure.model_validate(found).error
        except ValidationError:
            detail = _Detail()
        message = clean_line((detail.message or f"it answered {status}")[:MAX_ERROR_CHARS])
        match status:
            case 400 | 413 | 422:
                return BadRequest(message, detail.param)
            case 401:
                return Unauthorized(f"the tool host {self._url} wants another API key: {message}", bool(self._headers))
            case 403:
                return Forbidden(f"the tool host {self._url} refuses: {message}", detail.code or "refused")
            case 404:
                return SetupError(f"the node at {self._url} runs no tools: {message.removeprefix(TOOLS_OFF)}")
            case _:
                return Unavailable(f"the tool host {self._url} could not do it: {message}")
