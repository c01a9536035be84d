"""A tool host whose tools do what a test needs of them, and nothing on the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import JsonValue

from swarm.errors import BadRequest, Unavailable
from swarm.tools.tool import MOST_TIMEOUT_S, ToolDefinition, ToolResult

TEXT: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class ScriptedTools:
    """Keeps the contract of a tool host. `say` gives its text back, `fail` ends by exit code 3, `break` is unavailable.

    `wait` runs until it is cancelled, and takes until `lets_go` is set to end then (it is, at first); `waiting` counts
    those that do, and `turned` is set at each change of it.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, JsonValue], float | None]] = []
        self.waiting = 0
        self.cancelled = 0
        self.turned = asyncio.Event()
        self.lets_go = asyncio.Event()
        self.lets_go.set()

    def tools(self) -> tuple[ToolDefinition, ...]:
        return (
            ToolDefinition("say", "Give a text back.", TEXT, reads_only=True),
            ToolDefinition("fail", "Fail.", NOTHING),
            ToolDefinition("wait", "Wait for ever.", NOTHING),
            ToolDefinition("break", "Be unavailable.", NOTHING),
        )

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        known = {definition.name: definition for definition in self.tools()}
        if tool not in known:
            raise BadRequest(f"there is no tool {tool!r}; there are {', '.join(known)}", "tool")
        if timeout_s is not None and timeout_s > MOST_TIMEOUT_S:
            raise BadRequest(f"timeout_s is {timeout_s}: use at most {MOST_TIMEOUT_S}", "timeout_s")
        for wrong in Draft202012Validator(known[tool].parameters).iter_errors(dict(arguments)):
            where = ".".join(["arguments", *map(str, wrong.absolute_path)])
            raise BadRequest(f"{where}: {wrong.message}", where)
        self.calls.append((tool, dict(arguments), timeout_s))
        match tool:
            case "say":
                return ToolResult(str(arguments["text"]), ms=1)
            case "fail":
                return ToolResult("it failed", exit_code=3, ms=2)
            case "break":
                raise Unavailable("the tool's server is gone")
            case _:
                return await self._wait()

    async def _wait(self) -> ToolResult:
        self.waiting += 1
        self.turned.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        finally:
            await self.lets_go.wait()
            self.waiting -= 1
            self.cancelled += 1
            self.turned.set()

    async def until(self, waiting: int) -> None:
        """Return when so many calls of `wait` run."""
        async with asyncio.timeout(10):
            while self.waiting != waiting:
                self.turned.clear()
                await self.turned.wait()
