"""The tools of this machine: files below a root, and commands in a sandbox."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from pydantic import JsonValue

from swarm.errors import BadRequest
from swarm.tools.definitions import DEFINITIONS, check_arguments
from swarm.tools.file_tools import FILE_TOOLS
from swarm.tools.plan import CHANGING_TOOLS, ToolPlan
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.tool import (
    DEFAULT_TIMEOUT_S,
    MOST_AT_ONCE,
    MOST_TIMEOUT_S,
    ToolDefinition,
    ToolFailure,
    ToolResult,
)

log = logging.getLogger(__name__)


class LocalToolHost:
    """A `ToolHost` of the tools that a plan names.

    `MOST_AT_ONCE` calls run at a time, and one of those that change something: what is edited at once is lost.
    """

    def __init__(self, plan: ToolPlan) -> None:
        self.plan = plan
        self._files = RootedFiles(plan.root)
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def tools(self) -> tuple[ToolDefinition, ...]:
        """The tools that there are now, in the order in which a model is told of them."""
        return tuple(DEFINITIONS[name] for name in self.plan.names if name in FILE_TOOLS)

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        """Run one call to its end, as `ToolHost` says."""
        definition = next((one for one in self.tools() if one.name == tool), None)
        if definition is None:
            known = ", ".join(one.name for one in self.tools()) or "none"
            raise BadRequest(f"there is no tool {tool[:100]!r} here: there are {known}", param="tool")
        check_arguments(definition, arguments)
        limit_s = _limit_s(timeout_s, arguments)
        began = time.monotonic()
        async with self._places:
            try:
                if tool in CHANGING_TOOLS:
                    async with self._changing:
                        result = await self._run(tool, arguments, limit_s)
                else:
                    result = await self._run(tool, arguments, limit_s)
            except ToolFailure as failure:
                result = ToolResult(str(failure), failure.exit_code)
        return replace(result, ms=round((time.monotonic() - began) * 1000))

    async def _run(self, tool: str, arguments: Mapping[str, Any], limit_s: float) -> ToolResult:
        return await asyncio.to_thread(FILE_TOOLS[tool], self._files, arguments)


def _limit_s(timeout_s: float | None, arguments: Mapping[str, JsonValue]) -> float:
    """How long the call may take: what the caller says, else what the model says, else the default."""
    if timeout_s is None:
        asked = arguments.get("timeout_s")
        return float(asked) if isinstance(asked, int | float) else DEFAULT_TIMEOUT_S
    if not 0 < timeout_s <= MOST_TIMEOUT_S:
        raise BadRequest(
            f"timeout_s is {timeout_s}, and a call takes more than 0 and at most {MOST_TIMEOUT_S:.0f} s",
            param="timeout_s",
        )
    return timeout_s
