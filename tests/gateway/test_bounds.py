"""Work is bounded before it begins: prompts that cannot fit, utilities that would hold up chats, bodies of strings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from swarm.errors import BadRequest
from swarm.gateway.http.bodies import KEEPS_BODIES, MAX_QUOTES, MAX_WIDE_BODY_BYTES, parse_body
from swarm.gateway.openai.bodies import ChatCompletionBody
from swarm.routing.utilities import SMALL_AT_ONCE, SMALL_BYTES
from tests.doubles.clients import connect
from tests.doubles.hostile_schemas import merged_tools
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

LONG = "x" * (1024 * 16 + 1)
TURNS = [{"role": "user", "content": LONG}]
TOO_LONG: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "scripted", "messages": TURNS},
    "/v1/completions": {"model": "scripted", "prompt": LONG},
    "/v1/responses": {"model": "scripted", "input": LONG},
    "/v1/messages": {"model": "scripted", "messages": TURNS, "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": "scripted", "messages": TURNS},
    "/v1/embeddings": {"model": "scripted", "input": ["x", LONG]},
    "/v1/rerank": {"model": "scripted", "query": "x", "documents": ["x", LONG]},
    "/apply-template": {"model": "scripted", "messages": TURNS},
    "/infill": {"model": "scripted", "input_prefix": "x" * (2**20 + 1), "input_suffix": "x"},
    "/federation/v1/candidates": {"request": {"model": "scripted", "messages": TURNS}, "votes": 1},
}


@pytest.mark.parametrize("path", TOO_LONG)
async def test_a_prompt_that_cannot_fit_reaches_no_engine(path: str) -> None:
    engine = ScriptedEngine(saying("yes"))
    engine.has = {"longest_token_bytes": 16}
    engine.utility_gate.clear()  # whoever asked it would wait for ever
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        async with asyncio.timeout(20):
            reply = await client.post(path, TOO_LONG[path])
        said = reply.text
        assert "1024" in said
        assert "too long: 1025 tokens" in said or "at least" in said
        assert reply.status == (200 if "federation" in path else 400), "to a peer it is a line"
        assert not engine.requests


async def test_several_prompts_are_each_bounded() -> None:
    engine = ScriptedEngine(saying("yes"))
    engine.has = {"longest_token_bytes": 16}
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = await client.post("/v1/completions", {"model": "scripted", "prompt": [LONG, LONG]})
        assert reply.status == 400
        assert reply.json["error"]["code"] == "context_length_exceeded"


async def test_large_utilities_go_one_at_a_time_and_small_ones_beside_them() -> None:
    engine = ScriptedEngine(saying("yes"))
    engine.utility_gate.clear()
    large = {"content": "x" * (SMALL_BYTES + 1)}
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        calls = [asyncio.create_task(client.post("/tokenize", large)) for _ in range(4)]
        calls += [asyncio.create_task(client.post("/tokenize", {"content": "x"})) for _ in range(4)]
        await eventually(lambda: engine.running == 1 + SMALL_AT_ONCE)
        assert (await client.chat("a chat has its own turn", swarm={"strategy": "single"})).status == 200
        assert engine.running == 1 + SMALL_AT_ONCE
        engine.utility_gate.set()
        assert [(await call).status for call in calls] == [200] * 8


async def test_utilities_are_bounded_together_by_their_bytes() -> None:
    engine = ScriptedEngine(saying("yes"))
    engine.utility_gate.clear()
    content = {"content": "x" * 2**20}
    options = NodeOptions(most_utility_bytes=3 * 2**20)
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        calls = [asyncio.create_task(client.post("/tokenize", content)) for _ in range(4)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        reply = refused.pop().result()
        assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
        assert "takes 3 MiB at once" in reply.error["message"]
        engine.utility_gate.set()
        assert sorted([(await call).status for call in calls]) == [200] * 3 + [503]


@pytest.mark.parametrize("path", ["/apply-template", "/v1/messages/count_tokens"])
async def test_tools_are_looked_at_where_they_are_only_shown(path: str) -> None:
    """llama.cpp writes a grammar for them all the same: 2^40 copies of what is merged twice forty times."""
    engine = ScriptedEngine(saying("yes"))
    engine.utility_gate.clear()
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "tools": merged_tools(path)}
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = await client.post(path, body)
        assert reply.status == 400
        assert "costs too much" in reply.text


def test_strings_are_bounded_and_text_is_not() -> None:
    objects = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "x": [""] * MAX_QUOTES})
    with pytest.raises(BadRequest, match=f"at most {MAX_QUOTES}"):
        parse_body(objects.encode(), ChatCompletionBody)
    quoted = json.dumps({"model": "m", "messages": [{"role": "user", "content": '"' * 2 * MAX_QUOTES}]})
    parse_body(quoted.encode(), ChatCompletionBody)


def test_text_that_python_holds_four_times_as_large_is_bounded_sooner() -> None:
    for raw in (f'"x{chr(0x1F600)}"'.encode(), b'"\\ud83d\\ude00"'):
        body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"u":[' + raw + b"]%s}"
        parse_body(body % b"", ChatCompletionBody)
        with pytest.raises(BadRequest, match=f"at most {MAX_WIDE_BODY_BYTES} are read of such a one"):
            parse_body(body % (b" " * MAX_WIDE_BODY_BYTES), ChatCompletionBody)


async def test_a_body_is_kept_for_an_upstream_only() -> None:
    engine = ScriptedEngine(saying("yes"))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        assert not node.app[KEEPS_BODIES]
        assert (await client.chat("x", swarm={"strategy": "single"})).status == 200
        assert engine.requests[0].original is None
