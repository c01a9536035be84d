"""Reading bodies: what is said of a bad one, and how long the worst one takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest

from swarm.engines.openai_dialect import request_body
from swarm.errors import BadRequest
from swarm.gateway.http.bodies import BODIES, FREE_BYTES, MAX_BODY_BYTES, MAX_MARKS, parse_body
from swarm.gateway.openai.bodies import ChatCompletionBody, CompletionBody, EmbeddingBody, Sampling
from swarm.gateway.peers.endpoints import CandidatesBody
from tests.doubles.clients import chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.waiting import eventually

SINGLE = {"strategy": "single"}
TURN = {"role": "user", "content": "x"}
BLOCKED_S = 1.0  # of processor time that the worst body may take from the event loop; the typical one takes 10 ms


def refusal(body: Any, schema: type[Sampling] = ChatCompletionBody) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_body(body if isinstance(body, bytes) else json.dumps(body).encode(), schema)
    return caught.value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m"}, "messages: this field is required"),
        (
            {"model": "m", "messages": [{**TURN, "content": [{"type": "text", "text": "a"}, {"type": 5}]}]},
            "messages[0].content[1].type: Input should be a valid string (got 5)",
        ),
        ({"model": "m", "messages": [TURN], "temperature": "0.5"}, "temperature: Input should be a valid number"),
        ({"model": "m", "messages": [TURN], "stop": ["a", 1]}, "stop[1]: Input should be a valid string (got 1)"),
        ({"model": "m", "messages": [{"role": "user"}]}, "messages[0]: a user message needs content"),
        ({"model": "x" * 1000, "messages": [TURN]}, "model: String should have at most 512 characters (got 'xxx"),
    ],
    ids=["missing", "in a union", "wrong type", "in a list", "our own rule", "long value"],
)
def test_a_problem_is_told_with_its_place_and_value(body: Any, message: str) -> None:
    error = refusal(body)
    assert str(error).startswith(message)
    assert error.param == message.split(":")[0]
    assert len(str(error)) < 300


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "field",
    [
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"a":[{"minimum":%s}]}}}]',
        '"response_format":{"type":"json_schema","json_schema":{"schema":{"minimum":%s}}}',
        '"temperature":%s',
    ],
    ids=["tool", "schema", "number"],
)
def test_numbers_that_json_cannot_write_again_are_refused(field: str, number: str) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],' + (field % number).encode() + b"}"
    assert "finite" in str(refusal(body))


def test_requests_inside_peers_bodies_are_placed_too() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(json.dumps({"request": {"model": "m", "prompt": 5}, "votes": 1}).encode(), CandidatesBody)
    assert caught.value.param == "request.prompt"


def test_unknown_fields_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        parse_body(json.dumps({"model": "m", "prompt": "x", "a_field_of_this_test": 1}).encode(), CompletionBody)
    assert len([record for record in caplog.records if "a_field_of_this_test" in record.getMessage()]) == 1


def listed(item: str, key: str, around: str = "%s") -> bytes:
    """A chat body with as many `item` under `key` as are let through."""
    items = ",".join([item] * (MAX_MARKS // (1 + item.count("{") + item.count("[") + item.count(",")) - 20))
    fields = {"model": '"m"', "messages": json.dumps([TURN]), key: around % f"[{items}]"}
    return b"{" + ",".join(f'"{name}":{value}' for name, value in fields.items()).encode() + b"}"


def saying(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


WORST = {
    "one text": saying("x" * (MAX_BODY_BYTES - 200)),
    "escapes": saying("é\n" * (MAX_BODY_BYTES // 8 - 50)),
    "unknown numbers": listed("1", "u"),
    "unknown objects": listed("{}", "u"),
    "numbers for messages": listed("1", "messages"),
    "objects for messages": listed("{}", "messages"),
    "turns": listed('{"role":"user","content":"x"}', "messages"),
    "numbers for parts": listed("1", "messages", '[{"role":"user","content":%s}]'),
    "parts": listed('{"type":"text","text":"x"}', "messages", '[{"role":"user","content":%s}]'),
    "numbers for tools": listed("1", "tools"),
    "stops": listed('"x"', "stop"),
    "schema": listed("1", "tools", '[{"type":"function","function":{"name":"f","parameters":{"enum":%s}}}]'),
}  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_the_worst_body_does_not_block_for_long(name: str) -> None:
    started = time.thread_time()
    with contextlib.suppress(BadRequest):
        parse_body(WORST[name], ChatCompletionBody).to_request()
    assert time.thread_time() - started < BLOCKED_S


def test_many_parts_and_many_turns_are_bounded_separately() -> None:
    parts = [{"type": "text", "text": "x"}] * 1025
    assert "1024" in str(refusal({"model": "m", "messages": [{**TURN, "content": parts}]}))
    assert "4096" in str(refusal({"model": "m", "messages": [TURN] * 4097}))


def test_embedding_inputs_are_counted() -> None:
    with pytest.raises(BadRequest, match="2048"):
        parse_body(json.dumps({"model": "m", "input": ["x"] * 2049}).encode(), EmbeddingBody)


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with RunningNode("kitchen", options=NodeOptions(body_timeout_s=0.05)) as node:
        reader, writer = await asyncio.open_connection(*node.address)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b" 408 " in head.split(b"\r\n")[0]
        writer.close()
        await writer.wait_closed()


async def test_large_bodies_are_bounded_together_from_the_first_piece_to_the_answers_end() -> None:
    answering = asyncio.Event()
    engine = ScriptedEngine(lambda _, __: [answering, "yes"], slots=2)
    large = "x" * (FREE_BYTES + 1000)
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        node.app[BODIES]._most_bytes = 1500  # pyright: ignore[reportPrivateUsage]
        reader, writer = await asyncio.open_connection(*node.address)
        raw = json.dumps(chat_body(large, swarm=SINGLE)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw[:-1])
        await eventually(lambda: node.app[BODIES]._held_bytes > 0)  # pyright: ignore[reportPrivateUsage]
        refusal = await client.chat(large, swarm=SINGLE)
        assert refusal.status == 503
        assert refusal.headers["Retry-After"] == "1"
        assert "MiB of text" in refusal.json["error"]["message"]
        writer.write(raw[-1:])
        await engine.until(lambda engine: engine.running == 1)
        assert (await client.chat(large, swarm=SINGLE)).status == 503, "it is being answered"
        small = asyncio.create_task(client.chat("x" * 1000, swarm=SINGLE))
        await engine.until(lambda engine: engine.running == 2)
        answering.set()
        assert (await small).status == 200, "usual ones are never turned away"
        async with asyncio.timeout(5):
            assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(5):
            while (await client.chat(large, swarm=SINGLE)).status != 200:
                pass  # the first one's end is a moment after its answer


@pytest.mark.parametrize(
    ("part", "note"),
    [
        ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, "[audio left out"),
        ({"type": "file", "file": {"file_id": "f"}}, "[file left out"),
    ],
    ids=["audio", "file"],
)
def test_what_is_no_text_leaves_a_note(part: dict[str, Any], note: str) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "What is this? "}, part]}
    (message,) = parse_body(json.dumps({"model": "m", "messages": [turn]}).encode(), ChatCompletionBody).messages
    assert str(message.to_engine()["content"]).startswith(f"What is this? {note}: this model reads text only")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"enable_thinking": True, "other": 1}}, {"enable_thinking": True}),
        ({"chat_template_kwargs": {}}, None),
    ],
)
def test_whether_to_think_reaches_the_engine_and_peers(fields: Any, wanted: Any) -> None:
    body = ChatCompletionBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})
    assert request_body(body.to_request(), 1).get("chat_template_kwargs") == wanted
