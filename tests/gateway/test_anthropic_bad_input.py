"""What Anthropic's clients get wrong: each mistake is a 4xx in Anthropic's shape, and the message names the field."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from anthropic.types import ErrorResponse

from swarm.gateway.http.bodies import MAX_BODY_BYTES
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[RunningNode]:
    async with RunningNode("kitchen", ready(ScriptedEngine(saying("yes")))) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def client(node: RunningNode) -> AsyncIterator[Client]:
    async with connect(node.url) as connected:
        yield connected


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}], **fields}


def assert_refused(reply: Reply, message: str, *, status: int = 400, kind: str = "invalid_request_error") -> None:
    assert reply.status == status, reply.text
    error = ErrorResponse.model_validate(reply.json)
    assert error.error.type == kind
    assert re.search(message, error.error.message), error.error.message
    assert error.request_id == reply.headers["request-id"] == reply.headers["X-Request-Id"]


def block(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


TOOL = {"name": "f", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "^model: "),
        ({"messages": []}, "^messages: "),
        ({"messages": "hello"}, "^messages: "),
        ({"messages": [{"role": "user"}]}, r"^messages\[0\].content: this field is required"),
        ({"messages": [{"role": 5, "content": "x"}]}, r"^messages\[0\].role"),
        ({"messages": [{"content": "x"}]}, r"^messages\[0\].role: this field is required"),
        ({"messages": [{"role": "user", "content": 5}]}, r"^messages\[0\].content"),
        (block(type=5), r"content\[0\].type"),
        (block(type="text"), r"content\[0\].text: this field is required"),
        (block(type="tool_use", id="x", name="f", input={}), r"content\[0\].*'tool_use'"),
        (block(type="tool_result"), r"content\[0\].tool_use_id: this field is required"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": 5}]}
                ]
            },
            r"content\[0\].input",
        ),
        ({"max_tokens": -1}, "^max_tokens"),
        ({"max_tokens": None}, "^max_tokens"),
        ({"temperature": 1.5}, "^temperature"),
        ({"temperature": "0.5"}, "^temperature"),
        ({"top_p": 2}, "^top_p"),
        ({"top_k": -1}, "^top_k"),
        ({"stop_sequences": "x"}, "^stop_sequences"),
        ({"stop_sequences": ["x"] * 17}, "^stop_sequences"),
        ({"system": 5}, "^system"),
        ({"system": [{"type": "image"}]}, r"^system\[0\].type"),
        ({"stream": "yes"}, "^stream"),
        ({"tools": [{"name": "f"}]}, r"^tools\[0\].input_schema: this field is required"),
        ({"tools": [{"input_schema": {}}]}, r"^tools\[0\].name: this field is required"),
        ({"tools": [{**TOOL, "input_schema": {"minimum": float("inf")}}]}, "not finite"),
        ({"tool_choice": {"type": "any"}}, "tool_choice any needs tools"),
        ({"tool_choice": {"type": "tool"}, "tools": [TOOL]}, "needs the tool's name"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "names 'g', which is not among the tools"),
        ({"tool_choice": "auto", "tools": [TOOL]}, "^tool_choice"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "schema: this field is required"),
        ({"swarm": {"strategy": "dictator"}}, "^swarm.strategy"),
    ],
    ids=str,
)
async def test_a_field_that_cannot_work_is_named(client: Client, fields: dict[str, Any], message: str) -> None:
    assert_refused(await client.post(MESSAGES, body(**fields)), message)


@pytest.mark.parametrize("path", [MESSAGES, COUNT, "/messages"])
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"{}", b'{"model": "\\ud800"}'], ids=repr)
async def test_a_body_that_is_none(client: Client, path: str, raw: bytes) -> None:
    assert_refused(await client.post(path, raw=raw), "body|required")


async def test_max_tokens_is_required_where_something_is_generated(client: Client) -> None:
    sent = {key: value for key, value in body().items() if key != "max_tokens"}
    assert_refused(await client.post(MESSAGES, sent), "^max_tokens: this field is required")
    assert (await client.post(COUNT, sent)).json == {"input_tokens": 7}


async def test_what_the_gateway_refuses_is_in_the_same_shape(client: Client) -> None:
    large = await client.post(MESSAGES, raw=b" " * (MAX_BODY_BYTES + 1))
    assert large.status == 413
    assert large.json["error"]["type"] == "request_too_large"
    assert_refused(await client.get(MESSAGES), "does not take that method", status=405)
    nothing = await client.post("/v1/messages/batches", {})
    assert_refused(nothing, "no such endpoint", status=404, kind="not_found_error")
    openai = await client.post("/v1/messages_of_another_kind", {})
    assert openai.error["code"] == "not_found"


async def test_a_node_without_a_model_says_so() -> None:
    async with RunningNode("attic") as node, connect(node.url) as client:
        for path in (MESSAGES, COUNT):
            reply = await client.post(path, body())
            assert_refused(reply, "no node has loaded a model yet", status=404, kind="not_found_error")
        node.condition.loading = True
        for path in (MESSAGES, COUNT):
            reply = await client.post(path, body())
            assert_refused(reply, "still loading", status=503, kind="overloaded_error")
            assert int(reply.headers["Retry-After"]) > 0
