"""Hundreds of bodies that went wrong somewhere, on each endpoint: never a 5xx, always JSON, and the node serves on."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doubles.clients import Client
from tests.doubles.valid_bodies import (
    CANDIDATES,
    CHAT,
    EMBED,
    EXECUTE,
    INFILL,
    JSON_CHAT,
    MCP,
    MESSAGE,
    TEXT,
    TOKENIZE,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = {**MESSAGE, "stream": False}
ENDPOINTS = {
    "tokenize": ("/tokenize", TOKENIZE),
    "detokenize": ("/detokenize", {"model": "demo", "tokens": [1, 2, 300]}),
    "template": ("/apply-template", CHAT),
    "rerank": ("/v1/rerank", {"model": "demo", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1}),
    "infill": ("/infill", INFILL),
    "prompts": ("/v1/completions", {"model": "demo", "prompt": [[1, 2], "b"], "suffix": "", "n": 1}),
    "token vectors": ("/v1/embeddings", {"model": "demo", "input": [[1, 2], [300], "x"]}),
    "peer tokenize": ("/federation/v1/utilities/tokenize", TOKENIZE),
    "peer embeddings": ("/federation/v1/utilities/embeddings", {"model": "demo", "input": ["a", [5]]}),
    "chat": ("/v1/chat/completions", CHAT),
    "json chat": ("/v1/chat/completions", JSON_CHAT),
    "text": ("/v1/completions", TEXT),
    "messages": ("/v1/messages", MESSAGES),
    "count tokens": ("/v1/messages/count_tokens", MESSAGES),
    "embeddings": ("/v1/embeddings", EMBED),
    "candidates": ("/federation/v1/candidates", CANDIDATES),
    "generate": ("/federation/v1/generate", CHAT),
    "execute": ("/v1/tools/execute", EXECUTE),
    "mcp": ("/mcp", MCP),
}
# Whatever survives the damage generates one token: the fields that bound it are set after it.
BOUNDED = {"max_tokens": 1, "max_completion_tokens": 1}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 40)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["", "\ud800", "\0", "function", "object", "text", "tool", "system", "required", "9" * 400])
)
names = st.sampled_from(
    ["type", "function", "name", "content", "role", "$ref", "properties", "enum", "pattern", "text"]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=3), inner, max_size=4)
)


def places(body: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path into `body`."""
    inside = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [at, *(place for key, value in inside for place in places(value, (*at, key)))]


@st.composite
def damaged(draw: st.DrawFn, body: Any) -> Any:
    """`body` with one to three of its parts replaced, removed, or joined by something new."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([place for place in places(body) if place] or [("x",)]))
        holder: Any = body
        for key in place[:-1]:
            holder = holder[key]
        match draw(st.integers(0, 3)):
            case 0 if place[-1] in (holder if isinstance(holder, dict) else range(len(holder))):
                del holder[place[-1]]
            case 1 if isinstance(holder, dict):
                holder[draw(names)] = draw(values)
            case _ if isinstance(holder, dict | list) and holder:
                holder[place[-1]] = draw(values)
    return body


def bounded(body: Any) -> Any:
    for holder in (body, body.get("request")):
        if isinstance(holder, dict) and ("messages" in holder or "prompt" in holder):
            holder.update(BOUNDED)
    return body


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_damaged_bodies_never_break_the_node(client: Client, endpoint: str, data: st.DataObject) -> None:
    path, body = ENDPOINTS[endpoint]
    reply = await client.post(path, bounded(data.draw(damaged(body))))
    if endpoint == "mcp" and reply.status == 202:  # it has become a notification
        assert reply.text == ""
        return
    assert reply.status in (200, 400, 404), reply.text
    if reply.status != 200:
        assert reply.error["message"]
    elif "ndjson" in reply.headers["Content-Type"]:
        lines = [json.loads(line) for line in reply.text.splitlines() if line]
        codes = [line["error"]["code"] for line in lines if "error" in line]
        assert set(codes) <= {"invalid_value", "context_length_exceeded", "model_not_found"}
    else:
        assert all("error" not in chunk for chunk in reply.chunks)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(at=st.integers(0), junk=st.binary(max_size=6))
async def test_bytes_damaged_on_the_way_never_break_the_node(
    client: Client, endpoint: str, at: int, junk: bytes
) -> None:
    path, body = ENDPOINTS[endpoint]
    raw = json.dumps(bounded(copy.deepcopy(body))).encode()
    cut = at % len(raw)
    reply = await client.post(path, raw=raw[:cut] + junk + raw[cut + len(junk) :])
    assert reply.status in (200, 400, 404), reply.text
