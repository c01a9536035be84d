"""Several tool hosts as one: tools of this machine and of others' servers, each asked for its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from difflib import get_close_matches
from types import TracebackType
from typing import Final, Self

from pydantic import JsonValue

from swarm.errors import BadRequest, Unavailable
from swarm.tools.mcp_host import McpToolHost
from swarm.tools.mcp_servers import SEPARATOR, as_called
from swarm.tools.tool import ToolDefinition, ToolHost, ToolResult

MAX_LISTED: Final = 40  # names of tools in one message


class JoinedHosts:
    """A `ToolHost` of the tools of `hosts`, in their order; of two with one name the first counts.

    A server's tool may be asked for as `github.search`, too. They are entered and left together: where one cannot be
    entered, those before it are left, and where leaving one fails, the others are left all the same. Hosts that
    somebody else has entered are joined without entering this.
    """

    def __init__(self, hosts: Sequence[ToolHost]) -> None:
        self._hosts = tuple(hosts)
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for host in self._hosts:
                await stack.enter_async_context(host)
            self._entered = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._entered.aclose()

    def tools(self) -> tuple[ToolDefinition, ...]:
        """The tools that there are now."""
        return tuple(definition for definition, _ in self._by_name().values())

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        """Run one call to its end, as `ToolHost` says."""
        found = self._by_name()
        name = tool if tool in found else as_called(tool)
        if name not in found:
            self._refuse_absent(name)
            raise BadRequest(unknown_tool(tool, tuple(found)), param="tool")
        return await found[name][1].execute(name, arguments, timeout_s)

    def _refuse_absent(self, name: str) -> None:
        """Raises Unavailable for what may be a tool of a server that is not there, and has not been yet."""
        for host in self._hosts:
            if isinstance(host, McpToolHost) and name.startswith(f"{host.name}{SEPARATOR}") and not host.tools():
                raise Unavailable(f"MCP server {host.name} {host.problem or 'is still starting'}")

    def _by_name(self) -> dict[str, tuple[ToolDefinition, ToolHost]]:
        found: dict[str, tuple[ToolDefinition, ToolHost]] = {}
        for host in self._hosts:
            for definition in host.tools():
                found.setdefault(definition.name, (definition, host))
        return found


def unknown_tool(tool: str, known: Sequence[str]) -> str:
    """What is said of a tool that there is not: the nearest, and those that there are."""
    near = get_close_matches(as_called(tool)[:100], known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return f"there is no tool {tool[:100]!r} here: {hint}there are {', '.join(known[:MAX_LISTED]) or 'none'}{more}"
