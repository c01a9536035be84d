"""A model that takes given steps one after the other, for the agent: words, calls of tools, gates to wait at."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from swarm.consensus.options import Strategy
from swarm.generation import Delta, GenerationRequest, ToolCallDelta
from swarm.tools.tool import ToolDefinition, ToolHost, ToolResult
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, ending
from tests.e2e.node_process import PROGRAM, environment

Turn = Sequence[Step] | Callable[[GenerationRequest, int], Sequence[Step]]


def call(tool: str, arguments: Mapping[str, Any] | str | None = None, index: int = 0) -> Delta:
    """One call; `arguments` may be a text that is no JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return Delta(tool_calls=(ToolCallDelta(index=index, id=f"c{index}", name=tool, arguments=text),))


def calls(*made: tuple[str, Mapping[str, Any] | str]) -> list[Step]:
    """A step that calls tools, all at once."""
    return [*(call(tool, arguments, at) for at, (tool, arguments) in enumerate(made)), ending("tool_calls")]


def answered(request: GenerationRequest) -> int:
    """How many answers of the model are in the conversation already."""
    return sum(message["role"] == "assistant" for message in request.messages or ())


def taking(*turns: Turn) -> Callable[[GenerationRequest, int], Sequence[Step]]:
    """The script of an engine whose voters all take these turns; the last one again and again."""

    def script(request: GenerationRequest, voter: int) -> Sequence[Step]:
        turn = turns[min(answered(request), len(turns) - 1)]
        return turn(request, voter) if callable(turn) else turn

    return script


@asynccontextmanager
async def node_taking(
    *turns: Turn, options: NodeOptions | None = None
) -> AsyncGenerator[tuple[RunningNode, ScriptedEngine]]:
    """A real node with that engine."""
    engine = ScriptedEngine(taking(*turns), slots=5)
    options = options or NodeOptions(strategy=Strategy.SINGLE)
    async with RunningNode("kitchen", ready(engine), options=options) as kitchen:
        yield kitchen, engine


def seen(engine: ScriptedEngine) -> list[tuple[str, object]]:
    """The messages of the last request, by role and content."""
    return [(message["role"], message["content"]) for message in engine.requests[-1].messages or ()]


class RecordingHost:
    """A tool host that does what it is told to, and knows what was asked of it."""

    def __init__(self, *tools: ToolDefinition, does: Callable[..., Any] | None = None) -> None:
        self._tools, self._does = tools, does
        self.executed: list[tuple[str, Mapping[str, Any]]] = []
        self.left = False

    async def __aenter__(self) -> ToolHost:
        return self  # type: ignore[return-value]

    async def __aexit__(self, *_: object) -> None:
        self.left = True

    def tools(self) -> tuple[ToolDefinition, ...]:
        return self._tools

    async def execute(self, tool: str, arguments: Mapping[str, Any], timeout_s: float | None = None) -> ToolResult:
        self.executed.append((tool, dict(arguments)))
        if self._does is None:
            return ToolResult(f"{tool} did it")
        return await self._does(tool, arguments)


def run_it(
    url: str,
    folder: Path,
    *words: str,
    typed: str = "",
    variables: Mapping[str, str] | None = None,
    inside: str = "project",
) -> subprocess.CompletedProcess[str]:
    """`swarm agent` where nobody sits, `inside` a folder of its home."""
    project = folder / inside
    project.mkdir(exist_ok=True)
    return subprocess.run(
        [*PROGRAM, "agent", "--url", url, *words],
        cwd=project,
        env={**environment(folder), **(variables or {})},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
