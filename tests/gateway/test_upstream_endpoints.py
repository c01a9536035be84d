"""The other endpoints of a node with an upstream: what goes out of each, what comes back, what never leaves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from swarm.engines.upstream.address import UpstreamMode
from swarm.engines.upstream.upstream_http import VIA_HEADER
from swarm.errors import BadRequest, EngineFailed
from tests.doubles.upstream_house import House, house
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage

CHAT_ANSWER = (text("from above"), ending(), usage(), DONE)
TEXT_ANSWER = ({"choices": [{"index": 0, "text": "from above", "finish_reason": "stop"}]}, usage(), DONE)
VECTORS = {
    "data": [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}],
    "usage": {"prompt_tokens": 4},
}
TOOL = {"name": "look", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    async with UpstreamServer(pieces=CHAT_ANSWER) as running:
        yield running


# Other APIs: what the upstream gets is a chat, made from what was meant


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_messages(server: UpstreamServer, stream: bool) -> None:
    body = {
        "model": "big",
        "max_tokens": 9,
        "system": "be brief",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "look", "input_schema": TOOL["parameters"]}],
        "tool_choice": {"type": "any"},
        "stream": stream,
    }
    async with house(server, "fallback", "from here") as at:
        reply = await at.client.post("/v1/messages", body)
        assert reply.status == 200
        assert "from above" in reply.text
        sent = server.asked[0].body
        assert sent.pop("messages") == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        assert sent.pop("tools")[0]["function"]["name"] == "look"
        assert sent == {
            "model": "big",
            "max_tokens": 9,
            "tool_choice": "required",
            "parallel_tool_calls": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def test_claudes_names_mean_the_alias_where_nobody_has_them_and_the_model_where_the_upstream_does(
    server: UpstreamServer,
) -> None:
    body = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    async with house(server, "fallback", "from here") as at:
        assert "from here" in (await at.client.post("/v1/messages", body)).text
        assert not server.asked
    server.listing = [{"id": "claude-x"}]
    async with house(server, "fallback", "from here") as at:
        assert "from above" in (await at.client.post("/v1/messages", body)).text
        stays = await at.client.post("/v1/messages", {**body, "swarm": {"upstream": False}})
        assert "from here" in stays.text
        assert len(server.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_responses(server: UpstreamServer, stream: bool) -> None:
    body = {
        "model": "big",
        "input": "hi",
        "instructions": "be brief",
        "tools": [{"type": "function", **TOOL}],
        "tool_choice": {"type": "function", "name": "look"},
        "stream": stream,
    }
    async with house(server, "fallback", "from here") as at:
        reply = await at.client.post("/v1/responses", body)
        assert reply.status == 200
        assert "from above" in reply.text
        sent = server.asked[0].body
        assert sent["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "look"}}
        assert "input" not in sent
        assert "stop" not in sent


async def test_an_enforced_call_is_the_upstreams_own_affair(server: UpstreamServer) -> None:
    body = {
        "model": "big",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": "required",
    }
    async with house(server, "only") as at:
        assert (await at.client.post("/v1/chat/completions", body)).status == 200
        assert server.asked[0].body["tool_choice"] == "required"
        assert "response_format" not in server.asked[0].body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
async def test_a_refusal_has_the_shape_of_the_api_that_was_asked(server: UpstreamServer, path: str) -> None:
    server.status, server.headers = 429, {"Retry-After": "17"}
    server.refusal = {"error": {"message": "slow down", "type": "rate_limit_error"}}
    said = [{"role": "user", "content": "hi"}]
    async with house(server, "only") as at:
        reply = await at.client.post(path, {"model": "big", "max_tokens": 9, "messages": said, "input": said})
        assert (reply.status, reply.headers["Retry-After"]) == (429, "17")
        assert "slow down" in reply.error["message"]
        assert reply.error["type"] == "rate_limit_error"
        assert (reply.json.get("type") == "error") == (path == "/v1/messages")


# Completions


async def test_one_prompt_goes_out_as_it_came_and_is_echoed_once(server: UpstreamServer) -> None:
    server.pieces = TEXT_ANSWER
    body = {"model": "big", "prompt": ["once "], "echo": True, "best_of": 1, "swarm": {"votes": 1}}
    async with house(server, "only") as at:
        reply = await at.client.post("/v1/completions", body)
        assert reply.json["choices"][0]["text"] == "once from above"
        sent = server.asked[0]
        assert sent.path == "/v1/completions"
        options = {"stream": True, "stream_options": {"include_usage": True}}
        assert sent.body == {"model": "big", "prompt": ["once "], "best_of": 1, **options}


async def test_several_prompts_are_a_request_each(server: UpstreamServer) -> None:
    server.pieces = TEXT_ANSWER
    body = {"model": "big", "prompt": ["a", [1, 2]], "temperature": 0}
    async with house(server, "fallback", "from here") as at:
        reply = await at.client.post("/v1/completions", body)
        assert [choice["text"] for choice in reply.json["choices"]] == ["from above"] * 2
        prompts = [one.body["prompt"] for one in server.asked]
        assert sorted(prompts, key=str) == ["a", [1, 2]] or sorted(prompts, key=str) == [[1, 2], "a"]
        assert all(one.body["temperature"] == 0 for one in server.asked)
        away = {"model": "big", "prompt": ["a", "b"]}
        assert (await at.client.post("/v1/completions", {**away, "swarm": {"upstream": False}})).status == 404
        assert (await at.client.post("/v1/completions", away, **{VIA_HEADER: "1"})).status == 404
        assert len(server.asked) == 2


async def test_a_middle_that_no_node_can_fill_in_is_filled_in_above(server: UpstreamServer) -> None:
    server.pieces = TEXT_ANSWER
    body = {"input_prefix": "def a", "input_suffix": "return"}
    async with house(server, "fallback", "from here") as at:
        assert (await at.client.post("/infill", body)).json["content"] == "from here"
        assert at.engine is not None
        at.engine.can = {"infill": False}
        assert (await at.client.post("/infill", body)).json["content"] == "from above"
        assert (server.asked[0].body["prompt"], server.asked[0].body["suffix"]) == ("def a", "return")
        assert (await at.client.post("/infill", {**body, "swarm": {"upstream": False}})).status == 400
        assert (await at.client.post("/infill", body, **{VIA_HEADER: "1"})).status == 400
        assert len(server.asked) == 1


# Embeddings, and what is never asked of an upstream


async def embed(at: House, model: str = "big", **fields: Any) -> Any:
    return await at.client.post("/v1/embeddings", {"model": model, "input": ["a", "b"], **fields})


async def test_embeddings_of_a_model_that_only_the_upstream_has(server: UpstreamServer) -> None:
    server.whole = VECTORS
    async with house(server, "fallback", "from here") as at:
        reply = await embed(at, encoding_format="base64", dimensions=2, input_type="query")
        assert reply.json["model"] == "big"
        assert reply.json["usage"]["prompt_tokens"] == 4
        assert len(reply.json["data"]) == 2
        assert (await embed(at)).json["data"][0]["embedding"] == [1.0, 0.0]
        sent = server.asked[0]
        assert sent.path == "/v1/embeddings"
        assert sent.body == {
            "model": "big",
            "input": ["a", "b"],
            "dimensions": 2,
            "input_type": "query",
            "encoding_format": "float",
        }


async def test_embeddings_may_insist_on_staying_and_do_not_go_round(server: UpstreamServer) -> None:
    server.whole = VECTORS
    async with house(server, "fallback", "from here") as at:
        assert (await embed(at, swarm={"upstream": False})).status == 404
        refused = await at.client.post("/v1/embeddings", {"model": "big", "input": "a"}, **{VIA_HEADER: "1"})
        assert refused.status == 404
        assert not server.asked


async def test_embeddings_go_up_where_no_node_has_the_skill(server: UpstreamServer) -> None:
    server.whole = VECTORS
    async with house(server, "fallback", "from here") as at:
        assert at.engine is not None
        at.engine.can = {"embeddings": False}
        assert (await embed(at, "swarm")).json["model"] == "big"
        assert (await embed(at, "m")).status == 400  # no other model stands in for a named one


@pytest.mark.parametrize(("listing", "status"), [([{"id": "m"}], 200), ([{"id": "big"}], 500)])
async def test_where_embedding_fails_only_the_very_same_model_takes_over(
    server: UpstreamServer, listing: Any, status: int
) -> None:
    server.whole, server.listing = VECTORS, listing
    async with house(server, "fallback", "from here") as at:
        assert at.engine is not None
        at.engine.utility_error = EngineFailed("broken")
        for name in ("swarm", "m"):
            reply = await embed(at, name)
            assert reply.status == status
        assert len(server.asked) == (2 if status == 200 else 0)
        at.engine.utility_error = BadRequest("no")
        assert (await embed(at, "m")).status == 400


async def test_the_only_engine_embeds_for_the_alias_too(server: UpstreamServer) -> None:
    server.whole = VECTORS
    async with house(server, "only") as at:
        assert (await embed(at, "swarm")).json["model"] == "big"
        server.status, server.refusal = 404, {"error": {"message": "big does not embed"}}
        refused = await embed(at, "swarm")
        assert refused.status == 404
        assert "big does not embed" in refused.error["message"]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="none"),
        pytest.param([{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}], id="two sizes"),
        pytest.param([{"index": 0, "embedding": ["x"]}, {"index": 1, "embedding": [1]}], id="no numbers"),
    ],
)
async def test_vectors_that_do_not_fit_are_an_error(server: UpstreamServer, rows: list[Any]) -> None:
    server.whole = {"data": rows}
    async with house(server, "only") as at:
        assert (await embed(at)).status == 502


@pytest.mark.parametrize("mode", ["fallback", "only"])
async def test_what_openais_api_has_not_is_not_asked_of_it(server: UpstreamServer, mode: UpstreamMode) -> None:
    calls: dict[str, dict[str, Any]] = {
        "/tokenize": {"content": "a"},
        "/detokenize": {"tokens": [1]},
        "/v1/rerank": {"query": "a", "documents": ["b"]},
        "/apply-template": {"messages": [{"role": "user", "content": "a"}]},
        "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "a"}]},
    }
    async with house(server, mode, *(["from here"] if mode == "fallback" else [])) as at:
        for path, body in calls.items():
            reply = await at.client.post(path, {"model": "big", **body})
            assert reply.status == 404, path
            assert "is not asked for" in json.dumps(reply.error), path
        assert not server.asked
