"""Coding agents against a node: configured as clients.toml says, run as their users run them, to the end of the task.

The model is played (tests/doubles/agent_part.py). Where the tests are root on Linux the agents have no network but the
node: nothing here waits for their makers' servers, and whom they wanted to ask is known.

One of them: pytest tests/clients/test_coding_agents.py -m clients -k codex
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken  # of langchain-openai

from swarm.generation import GenerationRequest
from tests.doubles.agent_part import DONE, EDIT_TASK, SECRET, for_agents, work_of
from tests.doubles.coding_agents import (
    AGENTS,
    AIDER,
    CLAUDE_CODE,
    CODEX,
    QWEN_CODE,
    CodingAgent,
    Desk,
    Ended,
    tokenizer_files,
)
from tests.doubles.played_node import (
    ENDLESS,
    ENDLESS_TASK,
    MODEL,
    OBJECT,
    OBJECT_TASK,
    TEXT,
    TEXT_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    Reply,
    played_node,
    with_key,
)
from tests.doubles.shut_off import ShutOff, shut_off
from tests.doubles.typist import Typist
from tests.doubles.waiting import eventually

pytestmark = pytest.mark.clients

WORD = "heliotrope"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
ESCAPE = b"\x1b"
PRESSES, BETWEEN_PRESSES_S = 20, 2.0
WRITTEN_SHARE = 0.15  # by which what is written down of a prompt's length may differ: its folder's name is in it


def each(*cells: str, of: Sequence[CodingAgent] = AGENTS) -> pytest.MarkDecorator:
    """A test of every agent, which proves these cells of the table; without any it is none of the table's."""
    marks = {agent.id: pytest.mark.client(agent.id, *cells) if cells else () for agent in of}
    return pytest.mark.parametrize("agent", [pytest.param(agent, id=agent.id, marks=marks[agent.id]) for agent in of])


@pytest.fixture(scope="module")
def place() -> Iterator[ShutOff | None]:
    with shut_off() as place:
        yield place


@pytest.fixture(scope="module")
def node(place: ShutOff | None) -> Iterator[PlayedNode]:
    listener = None if place is None else place.listener
    with played_node(for_agents, lambda: replace(with_key(), listener=listener)) as node:
        yield node


def desk_in(folder: Path, agent: CodingAgent, node: PlayedNode, place: ShutOff | None) -> Desk:
    work, home = folder / "work", folder / "home"
    work.mkdir()
    home.mkdir()
    return Desk(agent, node.url, work, home, place)


@pytest.fixture
def desk(agent: CodingAgent, node: PlayedNode, place: ShutOff | None, tmp_path: Path) -> Desk:
    """Where the agent is put to work."""
    node.replies.clear()
    return desk_in(tmp_path, agent, node, place)


@dataclass(frozen=True, slots=True)
class OneAnswer:
    """How an agent ended that was asked one question, what the node was asked, and the names that were looked up."""

    ended: Ended
    replies: Sequence[Reply]
    requests: Sequence[GenerationRequest]
    names: frozenset[str]


@pytest.fixture(scope="module")
def answer_of(
    node: PlayedNode, place: ShutOff | None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[CodingAgent], OneAnswer]:
    """Of each agent, which is asked once."""

    @cache
    def ask(agent: CodingAgent) -> OneAnswer:
        names = [] if place is None else place.asked
        names.clear()
        node.replies.clear()
        before = len(node.asked)
        ended = desk_in(tmp_path_factory.mktemp(agent.id), agent, node, place).asked(TEXT_TASK, model=MODEL)
        return OneAnswer(ended, list(node.replies), node.asked[before:], frozenset(names))

    return ask


@each("text")
def test_it_answers(answer_of: Callable[[CodingAgent], OneAnswer], agent: CodingAgent) -> None:
    ended = answer_of(agent).ended
    assert TEXT in ended.words
    assert ended.code == 0, ended.said


@each("stream")
def test_it_asks_for_answers_as_they_are_made(
    answer_of: Callable[[CodingAgent], OneAnswer], agent: CodingAgent
) -> None:
    answered = [answer for answer in answer_of(agent).replies if "count_tokens" not in answer.path]
    assert answered
    assert all(answer.streamed and answer.status == 200 for answer in answered), answered


@each()
def test_it_asks_nobody_but_the_node(answer_of: Callable[[CodingAgent], OneAnswer], agent: CodingAgent) -> None:
    """With the switches that its page names, and but for whom the page names."""
    assert answer_of(agent).names <= agent.still_asks
    assert all(name in agent.entry.phones_home for name in agent.still_asks)


@pytest.fixture(scope="module")
def prompt_tokens() -> Callable[[Sequence[GenerationRequest]], int]:
    """How long the longest of these is: messages and tools, in tokens of o200k_base. A model's own differ somewhat."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(tokenizer_files()))
        encoding = tiktoken.get_encoding("o200k_base")
    return lambda requests: max(len(encoding.encode(said_in(each), disallowed_special=())) for each in requests)


@each(of=[agent for agent in AGENTS if agent.screen is None])
def test_what_it_says_first_is_as_long_as_its_page_says(
    answer_of: Callable[[CodingAgent], OneAnswer],
    agent: CodingAgent,
    prompt_tokens: Callable[[Sequence[GenerationRequest]], int],
) -> None:
    measured = prompt_tokens(answer_of(agent).requests)
    assert measured == pytest.approx(agent.entry.prompt_tokens, rel=WRITTEN_SHARE)


def said_in(request: GenerationRequest) -> str:
    messages = "".join(str(message["content"]) for message in request.messages or ())
    return messages + "".join(tool.model_dump_json() for tool in request.tools)


@each("text", of=[agent for agent in AGENTS if agent.entry.launch is not None])
def test_swarm_launch_starts_it(desk: Desk) -> None:
    ended = desk.launched(TEXT_TASK)
    assert TEXT in ended.words
    assert ended.code == 0, ended.said


@each("tools", of=[agent for agent in AGENTS if agent is not AIDER])
def test_it_works_with_its_own_tools_to_the_end(desk: Desk, agent: CodingAgent) -> None:
    secret, answer = desk.folder / "secret.txt", desk.folder / "answer.txt"
    secret.write_text(f"{SECRET}{WORD}\n")
    ended = desk.asked(work_of(str(secret), str(answer)), *agent.may_work, model=MODEL)
    assert DONE + WORD in ended.words
    assert ended.code == 0, ended.said
    assert answer.read_text().strip() == f"{WORD} {WORD}"


@each("text", of=[AIDER])
def test_aider_writes_files_by_what_the_model_says(desk: Desk) -> None:
    """It has no tools: it shows the model its files, and reads changes from the text of the answer."""
    file = desk.folder / "answer.txt"
    file.write_text("one\n")
    ended = desk.asked(EDIT_TASK, "answer.txt", model=MODEL)
    assert ended.code == 0, ended.said
    assert file.read_text() == "one\ntwo\n"


@each("stream", of=[CLAUDE_CODE])
def test_claude_code_shows_an_answer_as_it_is_made(desk: Desk, node: PlayedNode) -> None:
    words = ("--output-format", "stream-json", "--include-partial-messages", "--verbose")
    with desk.started(ENDLESS_TASK, *words, model=MODEL) as process:
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            told: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            shown += told.get("event", {}).get("delta", {}).get("text", "")
            if ENDLESS in shown:
                break
        assert ENDLESS in shown
    node.until_idle()


@each("stream", of=[AIDER])
def test_aider_shows_an_answer_as_it_is_made(desk: Desk, node: PlayedNode) -> None:
    with desk.started(ENDLESS_TASK, "--no-pretty", model=MODEL) as process:
        assert process.stdout is not None
        shown = ""
        while ENDLESS not in shown and (more := process.stdout.read(1)):
            shown += more
        assert ENDLESS in shown
    node.until_idle()


@each("stream", "cancel", of=[agent for agent in AGENTS if agent.screen is not None])
async def test_at_a_terminal_words_come_as_they_are_made_and_a_key_stops_them(
    desk: Desk, node: PlayedNode, prompt_tokens: Callable[[Sequence[GenerationRequest]], int]
) -> None:
    """It lives on with the slot free. What it says first is longest here, and as long as its page says."""
    screen, before = desk.agent.screen, len(node.asked)
    assert screen is not None
    async with desk.at_a_terminal(screen, MODEL) as typist:
        await typist.shows(lambda lines: any(screen.ready in line for line in lines))
        typist.type(ENDLESS_TASK.encode())
        await typist.shows(lambda lines: any(ENDLESS_TASK in line for line in lines))
        await press(typist, b"\r", until=lambda: node.busy > 0)
        await typist.shows(lambda lines: any(ENDLESS in line for line in lines))
        assert node.busy > 0
        await press(typist, ESCAPE, until=lambda: node.busy == 0)
        assert typist.process.poll() is None
    written = desk.agent.entry.prompt_tokens
    assert prompt_tokens(node.asked[before:]) == pytest.approx(written, rel=WRITTEN_SHARE)


async def press(typist: Typist, key: bytes, until: Callable[[], bool]) -> None:
    """The key, and again where it came too early: in what looked like a paste, or before a first Escape was told."""
    for _ in range(PRESSES):
        typist.type(key)
        with suppress(TimeoutError):
            async with asyncio.timeout(BETWEEN_PRESSES_S):
                return await eventually(until)
    raise AssertionError("pressed in vain; on the screen:\n" + "\n".join(typist.lines))


@each("structured", of=[CODEX])
def test_codex_answers_by_a_schema(desk: Desk) -> None:
    schema, told = desk.folder / "schema.json", desk.folder / "told.json"
    schema.write_text(json.dumps(SCHEMA))
    words = ("--output-schema", str(schema), "--output-last-message", str(told))
    ended = desk.asked(OBJECT_TASK, *words, model=MODEL)
    assert ended.code == 0, ended.said
    assert json.loads(told.read_text()) == json.loads(OBJECT)


@each("structured", of=[CLAUDE_CODE])
def test_claude_code_answers_by_a_schema(desk: Desk) -> None:
    ended = desk.asked(OBJECT_TASK, "--json-schema", json.dumps(SCHEMA), "--output-format", "json", model=MODEL)
    assert ended.code == 0, ended.said
    told: dict[str, Any] = json.loads(ended.said.splitlines()[-1])
    assert told["structured_output"] == json.loads(OBJECT)


@each("structured", of=[QWEN_CODE])
def test_qwen_code_answers_by_a_schema(desk: Desk) -> None:
    ended = desk.asked(OBJECT_TASK, "--json-schema", json.dumps(SCHEMA), model=MODEL)
    assert ended.code == 0, ended.said
    assert json.loads(ended.said.splitlines()[-1]) == json.loads(OBJECT)


@each("cancel")
def test_interrupted_it_leaves_a_free_slot_and_ends(desk: Desk, node: PlayedNode) -> None:
    with desk.started(ENDLESS_TASK, model=MODEL) as process:
        node.until_busy()
        os.killpg(process.pid, signal.SIGINT)
        node.until_idle()
        process.wait()


@each("errors")
def test_a_model_that_nobody_has_is_told_and_not_asked_for_again_and_again(
    desk: Desk, node: PlayedNode, agent: CodingAgent
) -> None:
    ended = desk.asked(TEXT_TASK, model=UNKNOWN_MODEL)
    assert agent.says_of_unknown.format(UNKNOWN_MODEL) in ended.words
    refused = [answer for answer in node.replies if answer.status == 404]
    assert 1 <= len(refused) <= 2, refused  # the second asks for another thing: a title, or without a stream
