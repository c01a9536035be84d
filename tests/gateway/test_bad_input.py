"""What clients get wrong: each mistake is a 4xx in OpenAI's shape that names the field, and the node serves on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from openai import APIStatusError, AsyncOpenAI, BadRequestError

from swarm.gateway.http.bodies import MAX_BODY_BYTES, MAX_MARKS
from tests.doubles.clients import Client, Reply, chat_body, connect, openai_client
from tests.doubles.running_node import RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LONG = "word " * 2000  # twice what the context holds


@pytest_asyncio.fixture(loop_scope="module")
async def client(demo_node: RunningNode) -> AsyncIterator[Client]:
    """Like the usual one; afterwards the node must still answer."""
    async with connect(demo_node.url) as connected:
        yield connected
        after = await connected.chat("hello", max_tokens=2)
    assert after.status == 200


def assert_refused(reply: Reply, message: str, *, status: int = 400) -> None:
    assert reply.status == status, reply.text
    assert set(reply.error) >= {"message", "type", "code", "param"}
    assert re.search(message, reply.error["message"]), reply.error["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT, EMBED, "/federation/v1/candidates", "/federation/v1/generate"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[]", "should be an object"),
        (b"null", "should be an object|valid dictionary"),
        (b'"text"', "should be an object|valid dictionary"),
        (b"{}", "required"),
        (b'{"model": "demo", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b'{"model": "\\ud800"}', "not JSON"),
        (b'{"model": "demo", "seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"model": "demo", "x": [' + b"1," * MAX_MARKS + b"1]}", f"at most {MAX_MARKS}"),
    ],
    ids=["empty", "cut", "bytes", "list", "null", "string", "no fields", "deep", "surrogate", "long int", "many items"],
)
async def test_a_body_that_is_none(client: Client, path: str, raw: bytes, message: str) -> None:
    assert_refused(await client.post(path, raw=raw), message)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": 5}]}]},
            "messages[0].content[1].type",
        ),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": float("inf")}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {"1": 1000}}, "logit_bias.1"),
        ({"logit_bias": {str(token): 1 for token in range(2000)}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wat"}}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"minimum": float("inf")}}}}, None),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": "required"}, None),
        ({"swarm": {"votes": 0}}, "swarm.votes"),
        ({"swarm": {"votes": 1000}}, "swarm.votes"),
        ({"swarm": {"votes": "3"}}, "swarm.votes"),
        ({"swarm": {"strategy": "dictator"}}, "swarm.strategy"),
        ({"swarm": {"votes": 2, "min_votes": 3}}, "swarm.min_votes"),
        ({"swarm": {"strategy": "single", "votes": 3}}, "swarm.votes"),
        ({"swarm": {"deadline_s": 0}}, "swarm.deadline_s"),
        ({"swarm": []}, "swarm"),
    ],
    ids=str,
)
async def test_a_field_that_cannot_work_is_named(client: Client, fields: dict[str, Any], param: str | None) -> None:
    reply = await client.post(CHAT, chat_body(**fields))
    assert_refused(reply, ".")
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"


async def test_an_unknown_strategy_is_answered_with_the_known_ones(client: Client) -> None:
    reply = await client.chat(swarm={"strategy": "dictator"})
    known = "'auto', 'majority', 'weighted', 'confident', 'medoid', 'judge', 'cascade', 'first' or 'single'"
    assert_refused(reply, f"strategy: Input should be {known} .*'dictator'")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("swarm", [{"strategy": "single"}, {}], ids=["single", "vote"])
async def test_a_prompt_beyond_the_context_names_both_numbers(
    client: Client, stream: bool, swarm: dict[str, Any]
) -> None:
    reply = await client.chat(LONG, stream=stream, swarm=swarm)
    assert_refused(reply, f"the prompt has {reply.error['n_prompt_tokens']} tokens and the context holds 1024")
    assert reply.error["type"] == "exceed_context_size_error"
    assert reply.error["code"] == "context_length_exceeded"
    assert reply.error["n_prompt_tokens"] > 2000
    assert reply.error["n_ctx"] == 1024
    assert reply.error["param"] == "messages"


@pytest.mark.parametrize("words", [1500, 30_000], ids=["counted", "by its bytes"])
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", lambda text: {"prompt": text}, "prompt"),
        ("/v1/completions", lambda text: {"prompt": [5] * text.count("word")}, "prompt"),
        ("/v1/responses", lambda text: {"input": text}, "input"),
        ("/v1/responses", lambda text: {"input": "a", "instructions": text}, "input"),
        ("/v1/embeddings", lambda text: {"input": [text]}, "input"),
    ],
    ids=["completion", "completion of tokens", "response", "response by its instructions", "embedding"],
)
async def test_a_prompt_beyond_the_context_names_the_field_that_has_it(
    client: Client, path: str, fields: Callable[[str], dict[str, Any]], param: str, words: int
) -> None:
    reply = await client.post(path, {"model": "demo", **fields("word " * words)})
    assert reply.status == 400
    assert reply.error["param"] == param, reply.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("swarm", [{"strategy": "single"}, {}], ids=["single", "vote"])
async def test_a_conversation_beyond_the_context_loses_no_turn(
    client: Client, stream: bool, swarm: dict[str, Any]
) -> None:
    turns = [{"role": role, "content": "word " * 20} for _ in range(100) for role in ("user", "assistant")]
    last = {"role": "user", "content": "What is the capital of France?"}
    body = {"model": "demo", "stream": stream, "swarm": swarm, "max_tokens": 2}
    assert_refused(await client.post(CHAT, {**body, "messages": [*turns, last]}), "the context holds 1024")
    counted = [
        (await client.post(CHAT, {**body, "stream": False, "messages": [*turns[:count], last]})).json["usage"]
        for count in (0, 2, 10)
    ]
    assert [usage["prompt_tokens"] > 20 * turns for usage, turns in zip(counted, (0, 2, 10), strict=True)] == [True] * 3


async def test_the_sdk_tells_the_errors_apart(ai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        await ai.chat.completions.create(model="demo", messages=[{"role": "user", "content": LONG}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    huge = [{"role": "user", "content": "x" * MAX_BODY_BYTES}]
    with pytest.raises(APIStatusError) as too_large:
        await ai.chat.completions.create(model="demo", messages=huge)  # type: ignore[arg-type]
    assert too_large.value.status_code == 413


@pytest.mark.parametrize("path", [CHAT, TEXT, EMBED, "/federation/v1/candidates", "/federation/v1/generate"])
async def test_a_body_that_is_too_large_is_refused_in_the_usual_shape(client: Client, path: str) -> None:
    assert_refused(await client.post(path, raw=b" " * (MAX_BODY_BYTES + 1)), str(MAX_BODY_BYTES), status=413)


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(demo_node: RunningNode) -> None:
    reader, writer = await asyncio.open_connection(*demo_node.address)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
    )
    async with asyncio.timeout(5):
        assert b" 413 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_body_without_a_length_is_cut_off_at_the_same_size(client: Client, demo_node: RunningNode) -> None:
    reader, writer = await asyncio.open_connection(*demo_node.address)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b" " * 2**20
    for _ in range(MAX_BODY_BYTES // 2**20 + 1):
        writer.write(b"100000\r\n" + piece + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert b" 413 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_unknown_endpoints_and_methods_are_answered_in_the_same_shape(client: Client) -> None:
    assert_refused(await client.post("/v1/nothing", {}), "/v1/chat/completions", status=404)
    reply = await client.get(CHAT)
    assert_refused(reply, "does not take that method", status=405)
    assert reply.headers["Allow"] == "POST"


async def test_an_empty_text_cannot_be_embedded(client: Client) -> None:
    reply = await client.post(EMBED, {"model": "demo", "input": ["a", ""]})
    assert_refused(reply, r"input\[1\]")


async def test_absurd_but_legal_figures_are_taken(client: Client) -> None:
    reply = await client.chat(
        max_tokens=2**31 - 1, top_k=2**31 - 1, seed=-(2**70), logit_bias={"999999999": 100, "5": -100}, stop=["\0"]
    )
    assert reply.status == 200


async def test_a_retry_is_ruled_out_where_it_cannot_help(demo_node: RunningNode) -> None:
    """The SDK repeats 5xx and 409, 408, 429 by itself; each repetition would cost a generation."""
    async with openai_client(demo_node.url, max_retries=2) as ai:
        with pytest.raises(BadRequestError) as caught:
            await ai.chat.completions.create(model="demo", messages=[{"role": "user", "content": LONG}])
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


async def test_request_ids_of_clients_come_back_and_bad_ones_are_replaced(client: Client) -> None:
    assert (await client.get("/v1/models", X_Request_Id="my-id_1")).headers["X-Request-Id"] == "my-id_1"
    for bad in ("", "a b", "x" * 65, "é"):
        given = (await client.get("/v1/models", X_Request_Id=bad)).headers["X-Request-Id"]
        assert re.fullmatch(r"req-[0-9a-f]{16}", given), bad
