"""The tools of one MCP server of others, as a tool host: it is connected to, watched, and connected to again.

A server that is not there is no reason for a node not to start, and one that breaks is started again when it is wanted
next: after 1, 2, 4 … 300 s, from the first again once a call was answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self

from pydantic import JsonValue

from federation.tasks import cancel_and_wait
from swarm.errors import BadRequest, SetupError, Unavailable
from swarm.generation import JsonObject
from swarm.tools.bounded_output import OutputEnds
from swarm.tools.mcp_connections import McpConnection, ServerPlace, http_connection, process_connection
from swarm.tools.mcp_messages import (
    ARGUMENTS_INVALID,
    MAX_PAGES,
    MAX_REASON_CHARS,
    STATELESS_REVISION,
    McpProblem,
    ServerError,
    ServerTool,
    agreed_revision,
    argument_headers,
    call_text,
    initialize_params,
    is_discovery,
    page_of_tools,
    tools_of,
)
from swarm.tools.mcp_servers import McpServerSettings, expanded, keys_of
from swarm.tools.sandboxed_process import NoSandbox
from swarm.tools.tool import DEFAULT_TIMEOUT_S, MOST_AT_ONCE, MOST_TIMEOUT_S, ToolDefinition, ToolFailure, ToolResult

FAILED_CALL: Final = 1
MAX_RETRY_S: Final = 300.0
MAX_LISTED_TOOLS: Final = 1000  # of a server that are looked at, to find those that are allowed
MAX_TOLD_CHARS: Final = 300  # of the names of a server's tools

log = logging.getLogger(__name__)

Connect = Callable[[], AbstractAsyncContextManager[McpConnection]]


@dataclass(frozen=True, slots=True)
class McpPace:
    """Seconds that a server is given: to answer whether it is of the new era, to start and list its tools, and to show
    that it is there at all after a call that it did not answer."""

    discover_s: float = 5.0
    start_s: float = 60.0  # what fetches its own program first takes long
    sign_of_life_s: float = 5.0


class _EndedOverEra(Exception):
    """A server ended over a question that only those of the new era know: it is asked in the old way."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A server that is connected to, in the revision that it speaks."""

    connection: McpConnection
    revision: str


def retry_after_s(failures: int) -> float:
    """How long a server that broke so many times in a row is left alone."""
    return 0.0 if failures == 0 else min(MAX_RETRY_S, 2.0 ** min(failures - 1, 30))


def server_hosts(
    servers: Mapping[str, McpServerSettings],
    place: ServerPlace | NoSandbox | None,
    environment: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> tuple[McpToolHost, ...]:
    """A host for each server. `place` is where commands run, None where there are none; `say` tells the node's owner.

    Raises SetupError for a command without a sandbox, and for a variable of the `environment` that is not set.
    """
    hosts: list[McpToolHost] = []
    for name, server in servers.items():
        whole, keys = expanded(name, server, environment), keys_of(server, environment)
        if not server.command:
            hosts.append(McpToolHost(name, whole, partial(http_connection, whole, environment), say=say, keys=keys))
        elif isinstance(place, ServerPlace):
            hosts.append(McpToolHost(name, whole, partial(process_connection, whole, place), say=say, keys=keys))
        else:
            raise SetupError(f"[mcp.servers.{name}] is a command, and there is no sandbox to run it in: {place}")
    return tuple(hosts)


class McpToolHost:
    """A `ToolHost` of the server that `[mcp.servers.NAME]` names; `connect` opens a connection to it."""

    def __init__(
        self,
        name: str,
        server: McpServerSettings,
        connect: Connect,
        *,
        pace: McpPace | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda _: None,
        keys: Sequence[str] = (),
    ) -> None:
        """`keys` are taken out of what the server says: some repeat the one that they refuse."""
        self.name = name
        self._keys = keys
        self._server = server
        self._connect = connect
        self._pace = pace or McpPace()
        self._clock = clock
        self._say = say
        self._tools: dict[str, ServerTool] = {}  # the last that were listed, also while it is away
        self._link: _Link | None = None
        self._problem: str | None = None  # why there is no link
        self._failures = 0
        self._retry_at = 0.0
        self._era: Literal["unknown", "old", "new"] = "unknown"  # as the server was found the last time
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()  # another one for each change
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._running: set[asyncio.Task[ToolResult]] = set()
        self._looking: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._told: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        self._wanted.set()
        self._watch = asyncio.create_task(self._keep(), name=f"MCP server {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await cancel_and_wait(*self._running, *self._looking, self._watch)

    @property
    def problem(self) -> str | None:
        """Why the server cannot be asked, in words that complete "MCP server NAME ..."; None while it can."""
        return self._problem

    async def settled(self, within_s: float) -> bool:
        """Whether it is connected, as far as `within_s` tell: waits until it is, or has failed."""
        try:
            async with asyncio.timeout(within_s):
                while self._link is None and self._problem is None:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self._link is not None

    def tools(self) -> tuple[ToolDefinition, ...]:
        """Those that it listed last: a server that is away for a moment keeps its tools. Has it connected again."""
        self._want()
        return tuple(tool.definition for tool in self._tools.values())

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        """Run one call to its end, as `ToolHost` says; its time is that of starting the server, too.

        The server checks the arguments. Cancelling tells it so: its process goes on, since others use it.
        """
        known = self._tools.get(tool)
        if known is None:
            raise BadRequest(f"MCP server {self.name} has no tool {tool[:100]!r}", param="tool")
        limit_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        if not 0 < limit_s <= MOST_TIMEOUT_S:
            raise BadRequest(f"timeout_s is {limit_s:g}: use more than 0 and at most {MOST_TIMEOUT_S:.0f}", "timeout_s")
        call = asyncio.ensure_future(self._timed(known, dict(arguments), limit_s))
        self._running.add(call)
        call.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            raise Unavailable(f"MCP server {self.name} is shut down with this node") from None
        finally:
            await cancel_and_wait(call)

    async def _timed(self, tool: ServerTool, arguments: JsonObject, limit_s: float) -> ToolResult:
        async with self._places:
            began, link = time.monotonic(), None
            try:
                async with asyncio.timeout(limit_s):
                    link = await self._linked()
                    result = await self._called(link, tool, arguments)
            except TimeoutError:
                if link is not None and not link.connection.hangs_apart:
                    self._look_after(link)
                words = f"MCP server {self.name} did not answer within {limit_s:g} s"
                result = ToolResult(words, FAILED_CALL, timed_out=True)
            except McpProblem as problem:
                result = ToolResult(f"MCP server {self.name} {self._without_keys(str(problem))}", FAILED_CALL)
            return replace(result, ms=round((time.monotonic() - began) * 1000))

    async def _called(self, link: _Link, tool: ServerTool, arguments: JsonObject) -> ToolResult:
        headers = argument_headers(tool.schema, arguments) if link.revision == STATELESS_REVISION else {}
        params: JsonObject = {"name": tool.name, "arguments": arguments}
        try:
            answer = await link.connection.ask("tools/call", params, link.revision, headers)
        except ServerError as error:
            self._failures = 0
            words = self._without_keys(str(error))
            if error.code == ARGUMENTS_INVALID:
                raise BadRequest(f"{tool.definition.name}: {words}", param="arguments") from error
            return ToolResult(f"MCP server {self.name} answered with error {error.code}: {words}", FAILED_CALL)
        self._failures = 0
        text, failed = await asyncio.to_thread(call_text, answer)
        ends = OutputEnds()
        ends.feed(self._without_keys(text).encode(errors="replace"))
        output, truncated = ends.text()
        return ToolResult(output or "(no output)", FAILED_CALL if failed else 0, truncated)

    def _without_keys(self, text: str) -> str:
        for key in self._keys:
            text = text.replace(key, "[key]")
        return text

    def _want(self) -> None:
        """Have it connected, where it is not and its time has come."""
        if self._link is None and self._clock() >= self._retry_at:
            self._wanted.set()

    async def _linked(self) -> _Link:
        """Raises Unavailable while it is left alone, and where it cannot be had."""
        while True:
            link = self._link
            if link is None:
                await self._connected()
            elif link.connection.broken.done():
                await self._changed.wait()  # it is about to be left
            else:
                return link

    async def _connected(self) -> None:
        """Return when something has become of a server that is not connected. Raises as `_linked` does."""
        left_s = self._retry_at - self._clock()
        if self._problem is not None and left_s > 0:
            again = f"it is started again when it is asked for in {left_s:.0f} s"
            raise Unavailable(f"MCP server {self.name} {self._problem}; {again}", max(1, round(left_s)))
        failures = self._failures
        self._wanted.set()
        await self._changed.wait()
        if self._link is None and self._failures > failures:
            raise Unavailable(f"MCP server {self.name} {self._problem}", max(1, round(retry_after_s(failures + 1))))

    def _look_after(self, link: _Link) -> None:
        """A call was not answered: a server that answers nothing at all is left."""
        looking = asyncio.create_task(self._leave_if_dead(link), name=f"MCP server {self.name}: sign of life")
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    async def _leave_if_dead(self, link: _Link) -> None:
        method = "server/discover" if link.revision == STATELESS_REVISION else "ping"
        try:
            async with asyncio.timeout(self._pace.sign_of_life_s):
                await link.connection.ask(method, {}, link.revision)
        except TimeoutError:
            if not link.connection.broken.done():
                link.connection.broken.set_result("does not answer any more, and was ended")
        except (ServerError, McpProblem):
            pass

    # The connection

    async def _keep(self) -> None:
        """Connect when it is wanted, and leave what breaks."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._clock() < self._retry_at:
                continue
            try:
                async with self._connect() as connection:
                    reason = await self._stay(connection)
            except _EndedOverEra:
                self._era = "old"
                self._wanted.set()
                continue
            except (McpProblem, ServerError, ToolFailure) as error:
                reason = str(error)
            except TimeoutError:
                reason = f"did not start within {self._pace.start_s:g} s"
            except OSError as error:
                reason = f"cannot be connected to: {error.strerror or error}"
            if self._link is None:
                self._era = "unknown"
            self._link = None
            self._failures += 1
            self._retry_at = self._clock() + retry_after_s(self._failures)
            self._problem = self._without_keys(reason)[: 2 * MAX_REASON_CHARS]
            log.warning("MCP server %s %s", self.name, self._problem)
            self._tell()

    async def _stay(self, connection: McpConnection) -> str:
        """Agree on a revision, list the tools, list them again when they change; why it broke."""
        changes = asyncio.Event()
        connection.on_change = changes.set
        async with asyncio.timeout(self._pace.start_s):
            link = _Link(connection, await self._agreed(connection))
            await self._list(link)
        self._link, self._problem = link, None
        self._tell()
        while True:
            changed = asyncio.create_task(changes.wait())
            try:
                await asyncio.wait({changed, connection.broken}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_and_wait(changed)
            if connection.broken.done():
                return connection.broken.result()
            changes.clear()
            async with asyncio.timeout(self._pace.start_s):
                await self._list(link)
            self._tell()

    async def _agreed(self, connection: McpConnection) -> str:
        """The revision that both speak. Raises McpProblem, and ServerError where it refuses every way."""
        if self._era != "old" and await self._is_new(connection):
            self._era = "new"
            return STATELESS_REVISION
        revision = agreed_revision(await connection.ask("initialize", initialize_params(), None))
        await connection.tell("notifications/initialized", revision)
        self._era = "old"
        return revision

    async def _is_new(self, connection: McpConnection) -> bool:
        """Raises _EndedOverEra where the question was the end of a server of whose era nothing is known."""
        try:
            async with asyncio.timeout(self._pace.discover_s):
                return is_discovery(await connection.ask("server/discover", {}, STATELESS_REVISION))
        except (ServerError, TimeoutError):
            return False
        except McpProblem as problem:
            if self._era == "unknown":
                raise _EndedOverEra from problem
            raise

    async def _list(self, link: _Link) -> None:
        listed: list[JsonValue] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            params: JsonObject = {} if cursor is None else {"cursor": cursor}
            page, cursor = page_of_tools(await link.connection.ask("tools/list", params, link.revision))
            listed += page
            if cursor is None or len(listed) > MAX_LISTED_TOOLS:
                break
        shown = listed[:MAX_LISTED_TOOLS]
        tools, left_out = await asyncio.to_thread(tools_of, self.name, shown, self._server.tools)
        before, self._tools = self._tools, {tool.definition.name: tool for tool in tools}
        if not before or before.keys() != self._tools.keys():
            several = "" if len(tools) == 1 else "s"
            self._say(
                f"MCP server {self.name} has {len(tools)} tool{several}: {', '.join(self._tools)[:MAX_TOLD_CHARS]}"
            )
        if left_out != self._told:
            self._told = left_out
            for words in left_out[:10]:
                log.warning("MCP server %s: left out is %s", self.name, words)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
