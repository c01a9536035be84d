"""The node's tool host at work for clients: who calls which tool is logged, and what is in progress can be ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from pydantic import JsonValue

from swarm.errors import BadRequest, SwarmError, ToolsOff
from swarm.gateway.http.access_middleware import KEY_HOLDER, caller_of
from swarm.gateway.observing.metrics import CallOutcome, Metrics
from swarm.tools.mcp_servers import as_called
from swarm.tools.tool import ToolDefinition, ToolHost, ToolResult

log = logging.getLogger(__name__)

CallName = tuple[str, str, str | int]
"""What names a call that a message may cancel: who called, its session, and the id of its request there."""


class CallCancelled(Exception):
    """Its own client ended the call, by a message."""


class ToolService:
    """Executes calls on `host`; None: this node runs no tools. For the event loop's thread."""

    def __init__(self, host: ToolHost | None, metrics: Metrics) -> None:
        self._host = host
        self._metrics = metrics
        self._running: defaultdict[CallName, list[asyncio.Timeout]] = defaultdict(list)

    def tools(self) -> tuple[ToolDefinition, ...]:
        """Raises ToolsOff where this node runs none."""
        return self._running_host().tools()

    async def execute(
        self, request: web.Request, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        """One call to its end, on behalf of whoever sent `request`, in the log. Raises as `ToolHost.execute` does."""
        host, who, began = self._running_host(), requester(request), time.monotonic()
        known = {definition.name for definition in host.tools()} & {tool, as_called(tool)}
        name = next(iter(known), "an unknown tool")

        def note(outcome: CallOutcome, words: str, level: int = logging.INFO) -> None:
            self._metrics.tool_called(name if known else "unknown", outcome)
            log.log(level, "%s called %s: %s after %d ms", who, name, words, round((time.monotonic() - began) * 1000))

        try:
            result = await host.execute(tool, arguments, timeout_s)
        except BadRequest:
            note("refused", "refused")
            raise
        except SwarmError as error:
            note("unavailable", f"{type(error).__name__}", logging.WARNING)
            raise
        except asyncio.CancelledError:
            note("cut", "ended before it was done")
            raise
        if result.timed_out:
            note("timed_out", "its time was up")
        else:
            note("ok" if result.exit_code == 0 else "failed", f"exit code {result.exit_code}")
        return result

    @asynccontextmanager
    async def cancellable(self, name: CallName | None) -> AsyncGenerator[None]:
        """A block that `cancel` ends, with CallCancelled once what it runs is gone; None: nothing names it."""
        if name is None:
            yield
            return
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._running[name].append(limit)
                try:
                    yield
                finally:
                    self._forget(name, limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise CallCancelled from None

    def cancel(self, name: CallName) -> int:
        """End the calls of that name; how many there were."""
        running = self._running.pop(name, [])  # of one that is ending nothing more can be said
        for limit in running:
            limit.reschedule(asyncio.get_running_loop().time())
        return len(running)

    def _forget(self, name: CallName, limit: asyncio.Timeout) -> None:
        left = [other for other in self._running.pop(name, ()) if other is not limit]
        if left:
            self._running[name] = left

    def _running_host(self) -> ToolHost:
        if self._host is None:
            raise ToolsOff
        return self._host


TOOLS: Final = web.AppKey("tools", ToolService)


def requester(request: web.Request) -> str:
    """Who sent `request`, for the log: the name of its key (never the key), the owner, or where it came from."""
    where = request.remote or "somebody"
    holder = request.get(KEY_HOLDER)
    if holder is not None:
        return f"{holder.name} ({where})"
    return f"the owner ({where})" if caller_of(request).is_owner else where
