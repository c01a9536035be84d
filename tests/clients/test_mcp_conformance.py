"""The Model Context Protocol's own conformance tests against a node, as far as they are about a server of tools."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import JsonValue

from swarm.errors import BadRequest
from swarm.tools.tool import ToolDefinition, ToolResult
from tests.doubles.npm_packages import npm_packages
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

MANIFEST = Path(__file__).parent / "mcp_conformance" / "package.json"
SCENARIO_S = 60.0  # half a second on an idle machine
OLDEST_NODE = 22  # of Node.js, that they run on
NOTHING: Any = {"type": "object", "properties": {}}
WITH_DEFINITIONS: Any = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
    "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
    "additionalProperties": False,
}


class ConformanceTools:
    """The tools that the scenarios ask for, by their names."""

    def tools(self) -> tuple[ToolDefinition, ...]:
        return (
            ToolDefinition("test_simple_text", "Give a text.", NOTHING),
            ToolDefinition("test_error_handling", "Fail.", NOTHING),
            ToolDefinition("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", WITH_DEFINITIONS),
        )

    async def execute(
        self, tool: str, arguments: Mapping[str, JsonValue], timeout_s: float | None = None
    ) -> ToolResult:
        match tool:
            case "test_simple_text":
                return ToolResult("This is a simple text response for testing.")
            case "test_error_handling":
                return ToolResult("This tool intentionally returns an error for testing", exit_code=1)
            case _:
                raise BadRequest(f"there is no tool {tool!r}", "tool")


@pytest.fixture(scope="module")
def command() -> tuple[str, ...]:
    """What runs the tests: this system's Node.js where it is new enough, else the one from npm."""
    packages = npm_packages(MANIFEST)
    program = shutil.which("node")
    assert program is not None
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        newer = sorted(packages.glob("node-*/bin/node"))
        if not newer:
            pytest.skip(f"needs Node.js {OLDEST_NODE}, and npm has none for {sys.platform} here")
        program = str(newer[0])
    return program, str(packages / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    options = NodeOptions(tool_host=ConformanceTools())
    async with RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options) as node:
        yield f"{node.url}/mcp"


@pytest.mark.parametrize(
    ("scenario", "checks"),
    [
        ("server-initialize", 1),
        ("ping", 1),
        ("tools-list", 1),
        ("tools-call-simple-text", 1),
        ("tools-call-error", 1),
        ("json-schema-2020-12", 4),
        ("server-sse-multiple-streams", 1),
        ("dns-rebinding-protection", 2),
    ],
)
async def test_a_scenario_passes(
    url: str, command: tuple[str, ...], tmp_path: Path, scenario: str, checks: int
) -> None:
    """The others are of what a server of tools alone does not have: resources, prompts, logging, sampling, streams."""
    asked = ("server", "--url", url, "--scenario", scenario, "--output-dir", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        *command, *asked, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(SCENARIO_S):
        told, _ = await process.communicate()
    text = told.decode()
    assert re.search(rf"Passed: {checks}/{checks}, 0 failed, 0 warnings", text), text
    assert process.returncode == 0
