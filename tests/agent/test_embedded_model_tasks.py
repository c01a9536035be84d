"""`swarm agent` with the embedded model, real votes, real tools: what two million weights can do.

It was trained on requests that spell their values out, and on one round of calls: each command is a conversation of its
own, in one repository, so that what one did the next finds. What it says of a result is asserted where it can say it.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp import load
from tests.doubles.agent_program import Ended, ForkedCommands, Scratch
from tests.doubles.running_node import RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT_TOKENS, SLOTS = 2048, 8


@dataclass(frozen=True, slots=True)
class Helper:
    """Does one thing at a time in one repository."""

    url: str
    commands: ForkedCommands
    scratch: Scratch

    async def do(self, task: str, tools: str) -> Ended:
        words = ["agent", task, "--json", "--url", self.url, "--votes", "5", "--yes", "all", "--tools", tools]
        ended = await self.commands.run([*words, "--max-turns", "4"], self.scratch)
        assert ended.code == 0, ended.output + ended.errors
        return ended


def only(ended: Ended, kind: str) -> dict[str, Any]:
    [event] = [event for event in ended.events if event["type"] == kind]
    return event


@pytest_asyncio.fixture(loop_scope="module")
async def helper(demo_model: Path) -> AsyncIterator[Helper]:
    spec = EngineSpec("demo", demo_model, CONTEXT_TOKENS, SLOTS, threads=1)
    scratch = Scratch.make({"a.txt": "blue\n"})
    try:
        async with RunningNode("kitchen", lambda: load(spec, "never")) as node, ForkedCommands() as commands:
            yield Helper(node.url, commands, scratch)
    finally:
        shutil.rmtree(scratch.folder)


async def test_a_file_is_written_changed_searched_and_shown(helper: Helper) -> None:
    wrote = await helper.do('Use the tool write, path "hello.txt", content "good morning"', "read,write,bash")
    assert only(wrote, "tool_call")["arguments"] == {"path": "hello.txt", "content": "good morning"}
    assert helper.scratch.files() == {"a.txt": "blue\n", "hello.txt": "good morning"}
    first = next(event for event in wrote.events if event["type"] == "vote")
    assert (first["account"]["outcome"], first["account"]["kind"]) == ("consensus", "tool_calls")
    assert first["account"]["votes"] >= 3

    showed = await helper.do('Run bash with command "cat hello.txt"', "read,write,bash")
    assert only(showed, "tool_call")["tool"] == "bash"
    assert only(showed, "tool_result")["result"]["output"] == "good morning"
    assert "good morning" in only(showed, "end")["output"]

    edited = await helper.do('edit: path "hello.txt", old "morning", new "evening"', "edit")
    assert only(edited, "tool_result")["result"]["exit_code"] == 0
    assert helper.scratch.read("hello.txt") == "good evening"

    found = await helper.do('grep: pattern "evening"', "grep")
    assert only(found, "tool_result")["result"]["output"].startswith("hello.txt:1:")

    read = await helper.do('read: path "hello.txt"', "read,bash")
    assert only(read, "tool_result")["result"]["output"] == "1\tgood evening"

    listed = await helper.do('glob: pattern "*.txt"', "read,glob")
    assert only(listed, "tool_result")["result"]["output"].split() == ["a.txt", "hello.txt"]


async def test_what_needs_no_tool_is_answered_in_words(helper: Helper) -> None:
    fact = await helper.do("What is the capital of France?", "bash")
    assert only(fact, "end")["output"] == "The capital of France is Paris."
    sum_ = await helper.do("Calculate 12 + 7 - 3", "bash")
    assert only(sum_, "end")["output"].endswith("16")
    for ended in (fact, sum_):
        assert not [event for event in ended.events if event["type"] == "tool_call"]
