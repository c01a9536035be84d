"""Every failure of Ollama's API is `{"error": "..."}` with its status: whatever is sent, to whichever endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import pytest

from swarm.engines.engine import Engine
from swarm.errors import EngineDied, EngineFailed, Unavailable
from swarm.gateway.http.access import AccessRules, KeyHolder, KeyLimits, digest
from swarm.gateway.http.bodies import MAX_BODY_BYTES
from swarm.gateway.ollama.modelfiles import OllamaCreateBody, asked_for, why_not_made
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A body that each endpoint takes, but for what a test makes of it.
BODIES: Final[Mapping[str, dict[str, Any]]] = {
    "/api/chat": {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "stream": False},
    "/api/generate": {"model": "demo", "prompt": "hello", "stream": False},
    "/api/embed": {"model": "demo", "input": "hello"},
    "/api/embeddings": {"model": "demo", "prompt": "hello"},
    "/api/show": {"model": "demo"},
    "/api/pull": {"model": "qwen3:4b", "stream": False},
    "/api/copy": {"source": "demo", "destination": "x"},
    "/api/delete": {"model": "demo"},
    "/api/create": {"model": "x", "from": "demo"},
}
DELETE: Final = "/api/delete"


async def asked(client: Client, path: str, body: Any = None, raw: bytes | None = None, **headers: str) -> Reply:
    if path != DELETE:
        return await client.post(path, body, raw=raw, **headers)
    session: aiohttp.ClientSession = client._session  # type: ignore[reportPrivateUsage]
    sent = {"json": body} if raw is None else {"data": raw}
    kept = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.delete(client._url + path, headers=kept, **sent) as answer:  # type: ignore[reportPrivateUsage]
        return Reply(answer.status, answer.headers, await answer.text())


def told(reply: Reply, status: int) -> str:
    """The message, where the answer is of Ollama's shape."""
    assert reply.status == status, reply.text
    assert reply.headers["Content-Type"].startswith("application/json")
    assert list(reply.json) == ["error"]
    assert isinstance(reply.json["error"], str)
    return reply.json["error"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "not JSON"), (b'{"model": "demo",}', "not JSON"), (b"", "empty"), (b"[]", ""), (b'"demo"', ""),
        (b"null", ""), (b'{"model": 5, "source": 5}', ""), (b"{}", "this field is required"),
        (b'{"model": "\xff"}', "not JSON"), (b'{"model": {}, "source": {}}', ""), (b"NaN", ""),
    ],
)  # fmt: skip
async def test_bodies_that_are_none(client: Client, path: str, raw: bytes, words: str) -> None:
    assert words in told(await asked(client, path, raw=raw), 400)


@pytest.mark.parametrize(
    ("path", "wrong", "place"),
    [
        ("/api/chat", {"messages": "hello"}, "messages"), ("/api/chat", {"messages": [5]}, "messages"),
        ("/api/chat", {"messages": [{"content": "hello"}]}, "messages[0].role"),
        ("/api/chat", {"stream": "no"}, "stream"),
        ("/api/chat", {"tools": {}}, "tools"), ("/api/chat", {"format": "xml"}, "format"),
        ("/api/chat", {"think": "very"}, "think"), ("/api/chat", {"options": []}, "options"),
        ("/api/chat", {"options": {"stop": 5}}, "options.stop"), ("/api/chat", {"keep_alive": "soon"}, "keep_alive"),
        ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": "x"}]}, "images"),
        ("/api/generate", {"prompt": ["a"]}, "prompt"), ("/api/generate", {"template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {"images": [5]}, "images"), ("/api/generate", {"options": {"seed": "a"}}, "options.seed"),
        ("/api/embed", {"input": 5}, "input"), ("/api/embed", {"input": [["a"]]}, "input"),
        ("/api/embed", {"dimensions": 0}, "dimensions"), ("/api/embeddings", {"prompt": []}, "prompt"),
        ("/api/pull", {"stream": 1}, "stream"), ("/api/copy", {"destination": None}, "destination"),
        ("/api/show", {"model": "x" * 600}, "model"),
    ],
)  # fmt: skip
async def test_wrong_types_are_named_with_their_place(
    client: Client, path: str, wrong: dict[str, Any], place: str
) -> None:
    assert place in told(await asked(client, path, {**BODIES[path], **wrong}), 400)


@pytest.mark.parametrize("path", [path for path in BODIES if path not in ("/api/pull", "/api/create", DELETE)])
@pytest.mark.parametrize("name", ["dmo", "demo:7b", "dem:latest"])
async def test_an_unknown_model_is_told_with_the_nearest(client: Client, path: str, name: str) -> None:
    body = {**BODIES[path], "model": name, "source": name}
    words = told(await asked(client, path, body), 404)
    assert "not found" in words
    assert "did you mean 'demo'" in words


async def test_an_unknown_model_streams_no_half_answer(client: Client) -> None:
    reply = await client.post("/api/chat", {**BODIES["/api/chat"], "model": "dmo", "stream": True})
    assert "did you mean 'demo'" in told(reply, 404)


@pytest.mark.parametrize("path", [*BODIES, "/api/tags", "/api/ps", "/api/version", "/api/blobs/sha256:0", "/api/push"])
async def test_other_methods_are_refused_with_those_that_there_are(client: Client, path: str) -> None:
    session: aiohttp.ClientSession = client._session  # type: ignore[reportPrivateUsage]
    async with session.patch(client._url + path) as answer:  # type: ignore[reportPrivateUsage]
        reply = Reply(answer.status, answer.headers, await answer.text())
    assert "method" in told(reply, 405)
    assert reply.headers["Allow"]


@pytest.mark.parametrize("path", ["/api/nothing", "/api/chat/more", "/api/blobs"])
async def test_no_such_endpoint(client: Client, path: str) -> None:
    assert "/api/chat" in told(await client.post(path, {}), 404)


async def test_a_body_too_large_is_one_error(client: Client) -> None:
    raw = b'{"model": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert "larger than" in told(await asked(client, "/api/chat", raw=raw), 413)


async def test_encodings_that_nobody_reads(client: Client) -> None:
    zipped = await asked(client, "/api/chat", raw=b"x", Content_Encoding="br")
    assert "plain, or as gzip" in told(zipped, 415)
    form = await asked(client, "/api/chat", raw=b"a=b", Content_Type="multipart/form-data")
    assert "send JSON" in told(form, 400)
    plain = json.dumps(BODIES["/api/show"]).encode()  # as `curl -d` sends it
    curl = await asked(client, "/api/show", raw=plain, Content_Type="application/x-www-form-urlencoded")
    assert curl.status == 200


async def test_a_prompt_beyond_the_context(client: Client) -> None:
    long = "hello there " * 4000
    for path, body in (("/api/generate", {"prompt": long}), ("/api/embed", {"input": long})):
        for stream in (False, True):
            told(await asked(client, path, {**BODIES[path], **body, "stream": stream}), 400)


async def test_keys_that_are_missing_wrong_or_used_up() -> None:
    holders = (KeyHolder("anna", KeyLimits(requests_a_minute=1)),)
    access = AccessRules(key_digests=(digest("right"),), key_holders=holders)
    engine = ready(ScriptedEngine(saying("a"), model_id="demo"))
    async with RunningNode("kitchen", engine, options=NodeOptions(access=access)) as node, connect(node.url) as client:
        assert "API key" in told(await asked(client, "/api/show", BODIES["/api/show"]), 401)
        wrong = await asked(client, "/api/show", BODIES["/api/show"], Authorization="Bearer wrong")
        assert "does not know" in told(wrong, 401)
        away: dict[str, Any] = {"X_Forwarded_For": "192.0.2.7", "Authorization": "Bearer right"}
        assert "admin key" in told(await asked(client, DELETE, BODIES[DELETE], **away), 403)
        assert (await asked(client, "/api/show", BODIES["/api/show"], Authorization="Bearer right")).status == 200
        used = await asked(client, "/api/show", BODIES["/api/show"], Authorization="Bearer right")
        assert "1 request" in told(used, 429)
        assert used.headers["Retry-After"]


@pytest.mark.parametrize(
    ("failure", "status"),
    [(EngineFailed("it broke"), 500), (EngineDied("it died"), 502), (Unavailable("it is busy", 5), 503)],
)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_what_breaks_while_an_answer_is_made(path: str, failure: Exception, status: int) -> None:
    engine: Engine = ScriptedEngine(lambda _, __: [failure], model_id="demo")
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        assert str(failure) in told(await asked(client, path, BODIES[path]), status)


async def test_a_node_without_models_says_so() -> None:
    async with RunningNode("kitchen") as node, connect(node.url) as client:
        assert (await client.get("/api/tags")).json == {"models": []}
        assert (await client.get("/api/ps")).json == {"models": []}
        for path in ("/api/chat", "/api/generate", "/api/embed", "/api/show"):
            assert "not found" in told(await asked(client, path, BODIES[path]), 404)


async def test_a_client_that_leaves_is_owed_nothing(client: Client) -> None:
    """And the node answers the next one."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await client.post("/api/chat", {**BODIES["/api/chat"], "options": {"num_predict": 500}})
    assert (await client.get("/api/version")).status == 200


# Modelfiles

MODELFILE: Final = '''# a comment FROM here
from qwen3:4b
PARAMETER temperature 0.7
SYSTEM """You are Mario.
FROM the other castle
ADAPTER nothing"""
TEMPLATE "{{ .Prompt }}"
'''


async def test_what_a_modelfile_asks_for_is_found() -> None:
    assert asked_for(MODELFILE) == {
        "from": "qwen3:4b", "parameters": "temperature 0.7", "system": '""', "template": '"{{ .Prompt }}"',
    }  # fmt: skip
    assert asked_for("") == asked_for("FROMAGE x") == asked_for("FROM") == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"modelfile": MODELFILE}, ["a second name for qwen3:4b", "sampling", "system prompt", "chat template"]),
        ({"from": "a", "quantize": "q8_0"}, ["a second name for a", "qwen3:4b:q8_0"]),
        ({"files": {"a.gguf": "sha256:0"}, "adapters": {"b": "c"}}, ["models folder", "llama-export-lora"]),
        ({"messages": [{"role": "user", "content": "a"}], "license": ["MIT"]}, ["with each request", "licence"]),
        ({"from": "{0} %s" * 50}, ["a second name for {0} %s"]),
        ({}, ["models folder", "sampling"]),
    ],
)
async def test_each_wish_is_answered_with_where_it_is_granted(fields: dict[str, Any], words: list[str]) -> None:
    said = why_not_made(OllamaCreateBody.model_validate({"model": "x", **fields}))
    assert said.startswith("models are not made here: ")
    assert [word for word in words if word not in said] == []
    assert len(said) < 1000
