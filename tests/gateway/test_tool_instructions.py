"""A person's own words for models that are given tools: where they go, who never gets them, and files that change."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.upstream.address import parse_upstream
from swarm.errors import ContextExceeded, SetupError
from swarm.gateway.answers.tool_instructions import (
    MAX_INSTRUCTION_BYTES,
    MAX_INSTRUCTION_TOKENS,
    InstructionLength,
    ToolInstructions,
    instructed,
    with_instructions,
)
from swarm.generation import GenerationRequest
from swarm.routing.upstream import Upstream, UpstreamPlan
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import PROMPT_TOKENS, ScriptedEngine, Step
from tests.doubles.upstream_house import PACE
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage

ROOT = Path(__file__).parents[2]
WORDS = "Use one tool at a time."
FUNCTION = {"name": "read", "description": "Read.", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
ANSWER = {"role": "assistant", "content": "hi"}


async def by_words(text: str) -> InstructionLength:
    """As if each word were a token."""
    return InstructionLength(len(text.split()), "demo")


async def uncounted(text: str) -> None:
    """Where no model is loaded."""


def written(folder: Path, words: str = WORDS) -> Path:
    path = folder / "tools.md"
    path.write_text(words)
    return path


# Where they go


@pytest.mark.parametrize(
    ("turns", "then"),
    [
        ([USER], [{"role": "system", "content": WORDS}, USER]),
        ([SYSTEM, USER], [{"role": "system", "content": f"Be kind.\n\n{WORDS}"}, USER]),
        ([SYSTEM, SYSTEM, USER], [{"role": "system", "content": f"Be kind.\n\n{WORDS}"}, SYSTEM, USER]),
        ([USER, SYSTEM], [USER, {"role": "system", "content": f"Be kind.\n\n{WORDS}"}]),
        ([{"role": "developer", "content": ""}, USER], [{"role": "developer", "content": WORDS}, USER]),
        (
            [{"role": "system", "content": [{"type": "text", "text": "Be"}]}, USER],
            [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": f"\n\n{WORDS}"}],
                },
                USER,
            ],
        ),
        ([USER, ANSWER, SYSTEM, USER], [{"role": "system", "content": WORDS}, USER, ANSWER, SYSTEM, USER]),
        ([ANSWER, USER], [{"role": "system", "content": WORDS}, ANSWER, USER]),
    ],
    ids=["new", "first", "of two", "later", "developer", "parts", "after an answer", "answer first"],
)
def test_they_stand_in_the_first_system_message_or_a_new_one(turns: list[Any], then: list[Any]) -> None:
    assert instructed(turns, WORDS) == then
    assert instructed(then, WORDS) == then, "never twice"


def test_the_beginning_of_a_conversation_stays_what_it_was() -> None:
    """What a model has read of it is read from its cache with the next turn."""
    turns: list[Any] = [SYSTEM, USER]
    for role in ("assistant", "tool", "system", "assistant", "user"):
        before = instructed(turns, WORDS)
        turns.append({"role": role, "content": "more"})
        assert instructed(turns, WORDS)[: len(before)] == before


def test_a_text_that_a_user_quotes_is_not_there_yet() -> None:
    quoting = {"role": "user", "content": WORDS}
    assert instructed([quoting], WORDS) == [{"role": "system", "content": WORDS}, quoting]


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": "m", "messages": (USER,), **fields})


def test_only_conversations_with_tools_get_them() -> None:
    for asked in (request(), request(messages=None, prompt="hello", tools=TOOLS), request(tools=())):
        assert with_instructions(asked, WORDS) is asked
    asked = request(tools=TOOLS)
    assert with_instructions(asked, "") is asked
    once = with_instructions(asked, WORDS)
    assert once.messages == ({"role": "system", "content": WORDS}, USER)
    assert with_instructions(once, WORDS) is once


def test_an_upstream_gets_every_other_field_as_it_came() -> None:
    body = {"model": "x", "messages": [USER], "tools": TOOLS, "of_its_own": [1.5, "é"], "stream": True}
    asked = request(tools=TOOLS, original=json.dumps(body).encode())
    sent = with_instructions(asked, WORDS).original
    assert sent is not None
    assert json.loads(sent) == {**body, "messages": [{"role": "system", "content": WORDS}, USER]}


# The file


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is not there: give the path of a text file"),
        (b" \n", "has no text in it"),
        (b"a\0b", "has no text in it"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * (MAX_INSTRUCTION_BYTES + 1), "has more than 64 KiB: use 2000 tokens at most"),
    ],
    ids=["missing", "blank", "binary", "not UTF-8", "large"],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "tools.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=rf"^tool_instructions = '.*tools.md' {why}"):
        ToolInstructions(path, by_words, print)


def test_what_would_never_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for never in (path, Path("/dev/zero"), tmp_path):
        with pytest.raises(SetupError, match="is not there: give the path of a text file"):
            ToolInstructions(never, by_words, print)


async def test_too_many_tokens_are_refused_with_their_count(tmp_path: Path) -> None:
    path = written(tmp_path, "word " * (MAX_INSTRUCTION_TOKENS + 1))
    with pytest.raises(SetupError, match="has 2001 tokens of demo: use 2000 at most"):
        await ToolInstructions(path, by_words, print).check()
    path.write_text("word " * MAX_INSTRUCTION_TOKENS)
    assert await ToolInstructions(path, by_words, print).check() == "2000 tokens of demo"
    with pytest.raises(SetupError, match="has about 2500 tokens: use 2000 at most"):
        await ToolInstructions(written(tmp_path, "x" * 10_000), uncounted, print).check()


async def test_a_changed_file_is_read_again_and_a_bad_one_told_once(tmp_path: Path) -> None:
    path, said = written(tmp_path), list[str]()
    instructions = ToolInstructions(path, by_words, said.append)
    assert await instructions.current() == WORDS
    path.write_text("Read before you write.")
    assert [await instructions.current(), await instructions.current()] == ["Read before you write."] * 2
    assert said == [f"* tool_instructions: {path} was read again, 4 tokens of demo"]
    said.clear()
    path.write_text("word " * 3000)
    assert [await instructions.current(), await instructions.current()] == ["Read before you write."] * 2
    (told,) = said
    assert told.endswith("has 3000 tokens of demo: use 2000 at most; what it said before stays")
    said.clear()
    path.unlink()
    assert [await instructions.current(), await instructions.current()] == ["Read before you write."] * 2
    (told,) = said
    assert "is not there" in told
    path.write_text(WORDS)
    assert await instructions.current() == WORDS


async def test_requests_at_once_tell_of_a_change_once(tmp_path: Path) -> None:
    path, said = written(tmp_path), list[str]()
    instructions = ToolInstructions(path, by_words, said.append)
    path.write_text("Another text.")
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(instructions.current()) for _ in range(20)]
    assert {task.result() for task in found} == {"Another text."}
    assert len(said) == 1


# Through a node


def prompt(request: GenerationRequest) -> list[tuple[Any, Any]]:
    return [(message["role"], message["content"]) for message in request.messages or ()]


def answering(request: GenerationRequest, _: int) -> list[Step]:
    """Does not fit where the prompt is long."""
    if "too long" in str(request.messages) and WORDS in str(request.messages):
        return [ContextExceeded(2000, 1024)]
    return ["fine"]


@asynccontextmanager
async def instructed_node(folder: Path) -> AsyncIterator[tuple[ScriptedEngine, Client]]:
    engine = ScriptedEngine(answering, model_id="m")
    instructions = ToolInstructions(written(folder), by_words, print)
    node = RunningNode("kitchen", ready(engine), options=NodeOptions(instructions=instructions))
    async with node, connect(node.url) as client:
        yield engine, client


BODIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "m", "messages": [USER], "tools": TOOLS}),
    "functions": ("/v1/chat/completions", {"model": "m", "messages": [USER], "functions": [FUNCTION]}),
    "responses": ("/v1/responses", {"model": "m", "input": "hello", "tools": [{"type": "function", **FUNCTION}]}),
    "messages": (
        "/v1/messages",
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [USER],
            "tools": [{"name": "read", "input_schema": FUNCTION["parameters"]}],
        },
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("api", BODIES)
async def test_every_api_adds_them(tmp_path: Path, api: str, stream: bool) -> None:
    path, body = BODIES[api]
    asked = {**body, "stream": stream, "swarm": {"votes": 1}}
    async with instructed_node(tmp_path) as (engine, client):
        assert (await client.post(path, asked)).status == 200
        without = {name: value for name, value in asked.items() if name not in ("tools", "functions")}
        assert (await client.post(path, without)).status == 200
    assert [prompt(request) for request in engine.requests] == [
        [("system", WORDS), ("user", "hello")],
        [("user", "hello")],
    ]


async def test_a_vote_is_asked_with_them_in_every_seat(tmp_path: Path) -> None:
    async with instructed_node(tmp_path) as (engine, client):
        body = {**BODIES["chat"][1], "swarm": {"votes": 3, "strategy": "medoid"}}
        assert (await client.post("/v1/chat/completions", body)).json["swarm"]["asked"] == 3
    assert {str(prompt(request)) for request in engine.requests} == {str([("system", WORDS), ("user", "hello")])}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_prompt_that_does_not_fit_with_them_is_answered_without(tmp_path: Path, stream: bool) -> None:
    long = {**BODIES["chat"][1], "messages": [{"role": "user", "content": "too long"}], "stream": stream}
    async with instructed_node(tmp_path) as (engine, client):
        reply = await client.post("/v1/chat/completions", {**long, "swarm": {"strategy": "single"}})
        assert reply.status == 200, reply.text
    assert prompt(engine.requests[-1]) == [("user", "too long")]


async def test_a_peer_that_asks_has_added_its_own(tmp_path: Path) -> None:
    """Or has none to add: whose conversation it is decides."""
    peer = RunningNode("study", ready(engine := ScriptedEngine(answering, model_id="m")))
    own = ToolInstructions(written(tmp_path), by_words, print)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(peer)
        options = NodeOptions(peers=[peer.address], instructions=own)
        asked = await stack.enter_async_context(RunningNode("kitchen", options=options))
        client = await stack.enter_async_context(connect(asked.url))
        assert (await client.post(*BODIES["chat"])).status == 200
    assert {str(prompt(request)) for request in engine.requests} == {str([("system", WORDS), ("user", "hello")])}


async def test_a_node_that_a_peer_asks_adds_nothing(tmp_path: Path) -> None:
    engine = ScriptedEngine(answering, model_id="m")
    own = ToolInstructions(written(tmp_path), by_words, print)
    peer = RunningNode("study", ready(engine), options=NodeOptions(instructions=own))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(peer)
        asked = await stack.enter_async_context(RunningNode("kitchen", options=NodeOptions(peers=[peer.address])))
        client = await stack.enter_async_context(connect(asked.url))
        assert (await client.post(*BODIES["chat"])).status == 200
    assert {str(prompt(request)) for request in engine.requests} == {str([("user", "hello")])}


async def test_an_upstream_is_asked_with_them(tmp_path: Path) -> None:
    listing = {"object": "list", "data": [{"id": "big", "object": "model"}]}
    server = UpstreamServer(pieces=(text("far"), ending(), usage(), DONE), listing=listing)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        upstream = Upstream(UpstreamPlan(parse_upstream(server.url), "only", None, 2), None, lambda _: None, PACE)
        own = ToolInstructions(written(tmp_path), uncounted, print)
        node = RunningNode("kitchen", options=NodeOptions(upstreams=[upstream], instructions=own))
        await stack.enter_async_context(node)
        client = await stack.enter_async_context(connect(node.url))
        await upstream.first_look()
        body = {**BODIES["chat"][1], "model": "big", "of_its_own": 1}
        assert (await client.post("/v1/chat/completions", body)).status == 200
        body = {**BODIES["messages"][1], "model": "big"}
        assert (await client.post("/v1/messages", body)).status == 200
    system = {"role": "system", "content": WORDS}
    assert [asked.body["messages"] for asked in server.asked] == [[system, USER], [system, USER]]
    assert server.asked[0].body["of_its_own"] == 1


async def test_what_is_counted_is_what_is_read(tmp_path: Path) -> None:
    async with instructed_node(tmp_path) as (engine, client):
        counted: list[GenerationRequest] = []

        async def count(request: GenerationRequest) -> int:
            counted.append(request)
            return PROMPT_TOKENS

        engine.count_tokens = count  # type: ignore[method-assign]
        for path, api in (("/v1/messages/count_tokens", "messages"), ("/v1/chat/completions/input_tokens", "chat")):
            assert (await client.post(path, BODIES[api][1])).json["input_tokens"] == PROMPT_TOKENS
    assert [prompt(request)[0] for request in counted] == [("system", WORDS)] * 2


def test_a_node_does_not_start_with_more_than_its_model_s_tokenizer_counts(tmp_path: Path) -> None:
    path = written(tmp_path, "word thing " * 1500)
    config = tmp_path / "swarm.toml"
    config.write_text(f'tool_instructions = "{path}"\nmodel = "demo"\nport = 0\n')
    command = [sys.executable, str(ROOT / "main.py"), "--config", str(config), "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == f"swarm: tool_instructions = {str(path)!r} has 4500 tokens of demo: use 2000 at most\n"
