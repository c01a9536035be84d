"""Ollama's API through the `ollama` package: what it parses, and what it raises."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import pytest
import pytest_asyncio

from tests.doubles.clients import Client
from tests.doubles.running_node import RunningNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

Ollama = Any  # an `ollama.AsyncClient`, whose own types are partly unknown
HELLO = [{"role": "user", "content": "hello"}]
FEW = {"num_predict": 6, "temperature": 0}


@pytest_asyncio.fixture(loop_scope="module")
async def asked(demo_node: RunningNode) -> AsyncIterator[Ollama]:
    """The official package."""
    client = ollama.AsyncClient(host=demo_node.url, limits=httpx.Limits(max_keepalive_connections=0))
    try:
        yield client
    finally:
        await client._client.aclose()  # type: ignore[reportPrivateUsage]  # it has no other way


@pytest.mark.client("ollama-python", "text", "stream")
async def test_a_conversation_streams_what_it_says_whole(asked: Ollama) -> None:
    whole = await asked.chat("demo", HELLO, options=FEW)
    parts = [part async for part in await asked.chat("demo", HELLO, options=FEW, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    for last in (whole, parts[-1]):
        assert (last.done_reason, last.eval_count, last.model) == ("length", 6, "demo")
        assert last.prompt_eval_count
        assert last.load_duration == 0
        assert last.total_duration >= last.load_duration + last.prompt_eval_duration + last.eval_duration
        assert last.prompt_eval_duration
        assert last.eval_duration


async def test_a_stream_is_lines_by_default(client: Client) -> None:
    reply = await client.post("/api/generate", {"model": "demo", "prompt": "hello", "options": FEW})
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert reply.text.count("\n") > 1
    assert reply.text.endswith("\n")


async def test_how_likely_its_tokens_were_is_told_where_it_is_asked(client: Client) -> None:
    body = {"model": "demo", "prompt": "hello", "options": FEW, "logprobs": True, "top_logprobs": 3}
    whole = (await client.post("/api/generate", {**body, "stream": False})).json
    assert "".join(token["token"] for token in whole["logprobs"]) == whole["response"]
    assert [len(token["top_logprobs"]) for token in whole["logprobs"]] == [3] * 6
    lines = [json.loads(line) for line in (await client.post("/api/generate", body)).text.splitlines()]
    streamed = [token for line in lines for token in line.get("logprobs", ())]
    assert [token["token"] for token in streamed] == [token["token"] for token in whole["logprobs"]]
    plain = (await client.post("/api/generate", {"model": "demo", "prompt": "a", "options": FEW, "stream": False})).json
    assert "logprobs" not in plain
    for wrong in ({"logprobs": False}, {"top_logprobs": 21}, {"suffix": "z"}):
        assert "logprobs" in (await client.post("/api/generate", {**body, **wrong})).json["error"]


async def test_a_prompt_is_a_turn_and_raw_is_none(asked: Ollama) -> None:
    turn = await asked.generate("demo", "The capital of", options=FEW)
    chat = await asked.chat("demo", [{"role": "user", "content": "The capital of"}], options=FEW)
    raw = await asked.generate("demo", "The capital of", options=FEW, raw=True)
    assert turn.response == chat.message.content
    assert turn.prompt_eval_count == chat.prompt_eval_count
    assert (raw.prompt_eval_count or 0) < (turn.prompt_eval_count or 0)


@pytest.mark.client("ollama-python", "structured")
async def test_an_answer_keeps_a_schema(asked: Ollama) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    answer = await asked.chat("demo", HELLO, format=schema, options={"num_predict": 40})
    assert json.loads(answer.message.content)["a"] in ("x", "y")


@pytest.mark.parametrize("ask", [{"messages": []}, {"messages": None}, {}])
async def test_no_messages_load_the_model(client: Client, ask: dict[str, Any]) -> None:
    reply = await client.post("/api/chat", {"model": "demo", **ask})
    assert (reply.status, reply.json["done"], reply.json["done_reason"]) == (200, True, "load")
    assert reply.json["message"] == {"role": "assistant", "content": ""}


async def test_no_prompt_loads_the_model(asked: Ollama) -> None:
    answer = await asked.generate("demo")
    assert (answer.done_reason, answer.response, answer.eval_count) == ("load", "", 0)


async def test_models_are_listed_shown_and_running(asked: Ollama) -> None:
    listed = await asked.list()
    assert [model.model for model in listed.models] == ["swarm", "demo"]
    running = await asked.ps()
    assert [model.model for model in running.models] == ["demo"]
    shown = await asked.show("demo:latest")
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "unknown", "nobody gave this node the model's file"
    assert shown.modelinfo["unknown.context_length"] == 1024


async def test_each_model_has_a_digest_of_its_own(asked: Ollama) -> None:
    """`llm-ollama` takes models of one digest for one, under its longest name, and keeps what it can by the digest."""
    digests = [model.digest for model in (await asked.list()).models]
    assert len(set(digests)) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest or "") for digest in digests)


@pytest.mark.parametrize("name", ["demo", "demo:latest", "swarm", "swarm:latest", "DEMO"])
async def test_a_name_may_end_in_latest(asked: Ollama, name: str) -> None:
    answer = await asked.generate(name, "hello", options=FEW)
    assert (answer.model, answer.done) == (name, True)


@pytest.mark.client("ollama-python", "errors")
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_a_404_with_the_nearest_name(asked: Ollama, stream: bool) -> None:
    async def ask() -> None:
        answer = await asked.chat("dmo", HELLO, stream=stream)
        if stream:
            await anext(answer)

    with pytest.raises(ollama.ResponseError, match="model 'dmo' not found; did you mean 'demo'") as raised:
        await ask()
    assert raised.value.status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/chat", {"messages": HELLO}, 400, "model: this field is required"),
        ("/api/chat", {"model": "demo", "messages": "hello"}, 400, "messages"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "format": "xml"}, 400, 'neither "json" nor'),
        ("/api/chat", {"model": "demo", "messages": HELLO, "options": {"temperature": 9}}, 400, "options.temperature"),
        ("/api/generate", {"model": "demo", "prompt": "a", "template": "{{ .Prompt }}"}, 400, "own language"),
        ("/api/generate", {"model": "demo", "prompt": "a", "raw": True, "system": "b"}, 400, "leave system out"),
        ("/api/show", {}, 400, "model: this field is required"),
        ("/api/show", {"name": "nothing"}, 404, "not found"),
        ("/api/create", {"model": "x", "modelfile": "FROM demo"}, 400, "a second name for demo"),
        (
            "/api/create",
            {"model": "x", "from": "demo", "system": "s"},
            400,
            "a system prompt is sent with each",
        ),
        ("/api/create", {"from": "demo"}, 400, "model: this field is required"),
        ("/api/create", {"model": "x", "files": "a"}, 400, "files"),
        ("/api/blobs/sha256:0", {}, 400, "files are not sent to a node"),
        ("/api/push", {"model": "demo"}, 400, "not published"),
        ("/api/nothing", {}, 404, "no such endpoint; there are /api/chat"),
        ("/api/tags", {}, 405, "method"),
    ],
)
async def test_errors_are_in_ollamas_shape(client: Client, path: str, body: Any, status: int, words: str) -> None:
    reply = await client.post(path, body)
    assert reply.status == status
    assert set(reply.json) == {"error"}
    assert words in reply.json["error"]


async def test_clients_that_look_whether_a_server_is_there_find_one(client: Client, demo_node: RunningNode) -> None:
    version = (await client.get("/api/version")).json["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    async with client._session.head(demo_node.url + "/") as reply:  # type: ignore[reportPrivateUsage]
        assert reply.status == 200


async def test_a_votes_account_is_in_the_last_line(client: Client) -> None:
    body = {"model": "demo", "messages": HELLO, "options": FEW, "swarm": {"strategy": "majority", "votes": 2}}
    whole = await client.post("/api/chat", {**body, "stream": False})
    assert whole.json["swarm"]["votes"] == 2
    streamed = await client.post("/api/chat", body)
    assert '"swarm"' in streamed.text.splitlines()[-1]
