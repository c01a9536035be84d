"""A node with an upstream, in its three modes: who is asked, what leaves the node, what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from swarm.engines.upstream.address import UpstreamMode
from swarm.errors import BadRequest, EngineFailed
from tests.doubles.clients import chat_body
from tests.doubles.upstream_house import KEY, content, house
from tests.doubles.upstream_server import CUT, DONE, UpstreamServer, ending, text, usage
from tests.doubles.waiting import eventually

CHAT = "/v1/chat/completions"
ANSWER = (text("from ", "above"), ending(), usage(), DONE)


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    async with UpstreamServer(pieces=ANSWER) as running:
        yield running


# What is asked of whom


@pytest.mark.parametrize("model", ["m", "swarm"])
async def test_fallback_sends_nothing_while_a_node_can_serve(server: UpstreamServer, model: str) -> None:
    async with house(server, "fallback", "from here") as at:
        assert content(await at.client.chat(model=model)) == "from here"
        assert content(await at.client.chat(model=model, swarm={"votes": 5})) == "from here"
        assert not server.asked
        assert at.upstream.http.requests == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_fallback_answers_a_model_that_only_the_upstream_has(server: UpstreamServer, stream: bool) -> None:
    async with house(server, "fallback", "from here") as at:
        reply = await at.client.chat(
            model="big", stream=stream, stream_options={"include_usage": True} if stream else None
        )
        assert (reply.said() if stream else content(reply)) == "from above"
        counts = reply.chunks[-1]["usage"] if stream else reply.json["usage"]
        assert counts["prompt_tokens_details"] == {"cached_tokens": 5}
        assert (counts["prompt_tokens"], counts["completion_tokens"]) == (11, 3)
        assert reply.done == stream
        if not stream:
            assert reply.json["swarm"]["winner"].endswith(f"@{at.upstream.plan.address.host}")
            assert reply.json["swarm"]["candidates"][0]["model"] == "big"


@pytest.mark.parametrize("asked", [{}, {"swarm": {"votes": 2}}, {"swarm": {"strategy": "single"}}, {"stream": True}])
async def test_fallback_takes_over_when_every_voter_failed_before_the_first_byte(
    server: UpstreamServer, asked: dict[str, Any]
) -> None:
    async with house(server, "fallback", EngineFailed("broken")) as at:
        reply = await at.client.chat(**asked)
        assert (reply.said() if reply.chunks else content(reply)) == "from above"
        assert len(server.asked) == 1


async def test_an_assistants_turn_before_a_demanded_form_goes_to_the_upstream_as_it_is(server: UpstreamServer) -> None:
    """Elsewhere it is a turn like others. A model here would go on with it, and is asked in a turn more."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]
    body = {"messages": turns, "response_format": {"type": "json_object"}}
    async with house(server, "fallback", "from here") as at:
        assert content(await at.client.post(CHAT, {"model": "big", **body})) == "from above"
        assert server.asked[-1].body["messages"] == turns
        assert (await at.client.post(CHAT, {"model": "m", **body})).status == 200
        assert len(server.asked) == 1


async def test_what_only_llama_cpp_obeys_stays_here(server: UpstreamServer) -> None:
    """Clouds refuse what they do not know, and Ollama's clients send these as defaults."""
    options = {"repeat_last_n": 64, "typical_p": 0.5, "temperature": 0.5}
    body = {"model": "big", "messages": [{"role": "user", "content": "x"}], "options": options, "stream": False}
    async with house(server, "fallback", "from here") as at:
        assert (await at.client.post("/api/chat", body)).json["message"]["content"] == "from above"
        assert server.asked[-1].body["temperature"] == 0.5
        assert not {"repeat_last_n", "typical_p"} & server.asked[-1].body.keys()


async def test_no_other_model_stands_in_for_a_named_one(server: UpstreamServer) -> None:
    async with house(server, "fallback", EngineFailed("broken")) as at:
        assert (await at.client.chat(model="m")).status == 500
        unknown = await at.client.chat(model="nowhere")
        assert unknown.status == 404
        assert "big" in unknown.error["message"]
        assert not server.asked


async def test_a_bad_request_is_not_repeated_upstream(server: UpstreamServer) -> None:
    async with house(server, "fallback", BadRequest("no")) as at:
        assert (await at.client.chat()).status == 400
        assert not server.asked


async def test_a_request_may_insist_on_staying(server: UpstreamServer) -> None:
    async with house(server, "fallback") as at:
        assert (await at.client.chat(swarm={"upstream": False})).status == 404
        assert not server.asked


async def test_a_voter_has_one_vote_on_the_alias_and_none_on_named_models(server: UpstreamServer) -> None:
    async with house(server, "voter", "from here") as at:
        reply = await at.client.chat(temperature=1, swarm={"votes": 5})
        voters = [candidate["voter"] for candidate in reply.json["swarm"]["candidates"]]
        host = at.upstream.plan.address.host
        assert sorted(voter.split("@")[1] for voter in voters) == sorted([host, "kitchen", "kitchen"])
        assert server.asked[0].body["temperature"] == 1
        assert "seed" not in server.asked[0].body
        await at.client.chat(model="m", swarm={"votes": 5})
        assert len(server.asked) == 1


async def test_a_voter_that_refuses_costs_the_vote_nothing(server: UpstreamServer) -> None:
    server.status, server.refusal = 429, {"error": {"message": "slow down"}}
    async with house(server, "voter", "from here") as at:
        reply = await at.client.chat(swarm={"votes": 5})
        assert content(reply) == "from here"


async def test_a_voter_never_answers_alone_while_this_node_can(server: UpstreamServer) -> None:
    gate = asyncio.Event()
    async with house(server, "voter", gate, "from here") as at, asyncio.TaskGroup() as group:
        assert at.engine is not None
        first = group.create_task(at.client.chat(model="m", swarm={"votes": 2}))
        await at.engine.until(lambda engine: engine.running == 2)
        second = group.create_task(at.client.chat())
        await eventually(lambda: any(workers.waiting for workers in [at.node.pool.get("m")] if workers))
        gate.set()
        assert content(await first) == content(await second) == "from here"
        assert not server.asked


async def test_the_only_engine_answers_the_alias_once_and_votes_where_it_is_told_to(server: UpstreamServer) -> None:
    async with house(server, "only") as at:
        assert content(await at.client.chat()) == "from above"
        assert len(server.asked) == 1
        assert server.asked[0].body["model"] == "big"
        voted = await at.client.chat(swarm={"votes": 3})
        assert voted.json["swarm"]["votes"] == 3
        several = await at.client.chat(n=2, seed=7)
        assert [choice["index"] for choice in several.json["choices"]] == [0, 1]
        assert sorted(one.body["seed"] for one in server.asked[-2:]) == [7, 8]


async def test_the_only_engine_says_why_it_cannot_until_it_can(server: UpstreamServer) -> None:
    listing, server.listing = server.listing, None
    async with house(server, "only") as at:
        refused = await at.client.chat()
        assert refused.status == 503
        assert "lists no models" in refused.error["message"]
        assert refused.headers["Retry-After"]
        assert (await at.client.get("/readyz")).status == 503
        server.listing = listing
        await at.found()
        assert content(await at.client.chat()) == "from above"
        assert (await at.client.get("/readyz")).status == 200
        assert len(at.news) == 2


async def test_nobody_there_is_a_503_with_the_reason() -> None:
    async with house(UpstreamServer(), "only", url="http://127.0.0.1:1/v1") as at:
        refused = await at.client.chat()
        assert refused.status == 503
        assert "127.0.0.1:1 does not answer" in refused.error["message"]


async def test_a_server_without_a_list_serves_the_named_model(server: UpstreamServer) -> None:
    server.listing = None
    async with house(server, "only", url=f"{server.url}/v1", model="mine") as at:
        assert content(await at.client.chat()) == "from above"
        assert server.asked[0].body["model"] == "mine"


@pytest.mark.parametrize("prefix", ["/v1", "", "/api/v1"])
@pytest.mark.parametrize("listing", [[{"id": "big"}], {"models": [{"name": "big"}]}])
async def test_the_base_is_found_and_lists_are_read(server: UpstreamServer, prefix: str, listing: Any) -> None:
    server.prefix, server.listing = prefix, listing
    async with house(server, "only", url=f"{server.url}{prefix.removesuffix('/v1')}/") as at:
        assert content(await at.client.chat()) == "from above"
        assert server.asked[0].path == f"{prefix}/chat/completions"


# What goes out, and what comes back


async def test_the_body_goes_out_as_it_came_but_for_what_is_ours(server: UpstreamServer) -> None:
    async with house(server, "only") as at:
        body = chat_body(
            "hi",
            user="u",
            service_tier="flex",
            reasoning_effort="low",
            seed=2**40,
            top_k=3,
            swarm={"strategy": "single"},
        )
        await at.client.post(CHAT, body)
        sent = server.asked[0].body
        del body["swarm"]
        assert sent == {**body, "model": "big", "stream": True, "stream_options": {"include_usage": True}}


async def test_the_key_is_in_the_authorization_header_and_nowhere_else(
    server: UpstreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with house(server, "only") as at:
        await at.client.post(CHAT, chat_body(), Authorization="Bearer the-clients-own", X_Api_Key="the-clients-own")
        server.status, server.refusal = 401, {"error": {"message": f"Incorrect API key {KEY}"}}
        refused = await at.client.chat()
        health = (await at.client.get("/v1/federation/health")).text
        asked = server.asked[0]
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        others = {name: value for name, value in asked.headers.items() if name != "Authorization"}
        assert KEY not in json.dumps([others, asked.body])
        assert "the-clients-own" not in json.dumps([dict(asked.headers), asked.body])
        assert refused.status == 502
        assert KEY not in refused.text + health + caplog.text + repr(at.upstream.plan) + "".join(at.news)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_passed_on_with_its_status_words_and_time(server: UpstreamServer, stream: bool) -> None:
    server.status, server.headers = 429, {"Retry-After": "17"}
    server.refusal = {"error": {"message": "slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
    async with house(server, "only") as at:
        reply = await at.client.chat(stream=stream)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "17")
        assert reply.error["type"] == "rate_limit_error"
        assert reply.error["code"] == "rate_limit_exceeded"
        assert "slow down" in reply.error["message"]
        voted = await at.client.chat(swarm={"votes": 2})
        assert voted.status == 429


@pytest.mark.parametrize(("status", "refusal"), [(500, b"<html>oops"), (400, {"error": "bad"}), (503, {"detail": "x"})])
async def test_other_refusals_keep_their_status(server: UpstreamServer, status: int, refusal: Any) -> None:
    server.status, server.refusal = status, refusal
    async with house(server, "only") as at:
        reply = await at.client.chat()
        assert reply.status == status
        assert set(reply.error) >= {"message", "type", "code", "param"}


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((text("half"),), id="ends early"),
        pytest.param((text("half"), CUT), id="cut off"),
        pytest.param((text("half"), b"data: {oops\n\n"), id="no JSON"),
        pytest.param((text("half"), b"data: [1]\n\n"), id="no object"),
        pytest.param((text("half"), {"error": {"message": "overloaded", "code": 503}}), id="an error in the stream"),
        pytest.param((b"<html>hello</html>",), id="a web page"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_breaks_off_is_an_error_and_never_half_an_answer(
    server: UpstreamServer, pieces: tuple[Any, ...], stream: bool
) -> None:
    server.pieces = pieces
    async with house(server, "only") as at:
        reply = await at.client.chat(stream=stream)
        if stream and reply.status == 200:
            assert "error" in reply.chunks[-1]
            assert not reply.done
        else:
            assert reply.status in (502, 503)


async def test_a_server_that_does_not_stream_is_streamed_for(server: UpstreamServer) -> None:
    message = {"role": "assistant", "content": "all at once", "reasoning_content": "hm"}
    server.whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    async with house(server, "only") as at:
        reply = await at.client.chat(stream=True)
        assert reply.said() == "all at once"
        assert reply.done
        assert (await at.client.chat()).json["choices"][0]["message"]["reasoning_content"] == "hm"


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_that_an_upstream_leaves_in_its_text_are_parted(server: UpstreamServer, stream: bool) -> None:
    server.pieces = (text("<th"), text("ink>hm</thi"), text("nk>\n\nfrom above"), ending(), usage(), DONE)
    async with house(server, "only") as at:
        reply = await at.client.chat(model="big", stream=stream)
        if stream:
            deltas = [choice["delta"] for chunk in reply.chunks for choice in chunk["choices"]]
            thought = "".join(delta.get("reasoning_content") or "" for delta in deltas)
        else:
            thought = reply.json["choices"][0]["message"]["reasoning_content"]
        assert (thought, reply.said() if stream else content(reply)) == ("hm", "from above")


async def test_a_client_that_leaves_is_heard_of_upstream(server: UpstreamServer) -> None:
    server.pieces = (text("a"), asyncio.Event())
    async with house(server, "only") as at:
        async with at.client.open(CHAT, chat_body(stream=True)) as response:
            while b'"a"' not in await response.content.readuntil(b"\n\n"):
                pass
            assert server.running == 1
            response.close()
        await eventually(lambda: not server.running)
        assert server.left == 1


async def test_a_hanging_upstream_is_left_at_the_deadline(server: UpstreamServer) -> None:
    server.pieces = (asyncio.Event(),)
    async with house(server, "only") as at:
        reply = await at.client.chat(swarm={"deadline_s": 0.2})
        assert reply.status == 504
        await eventually(lambda: not server.running)


async def test_requests_beyond_the_bound_wait(server: UpstreamServer) -> None:
    gate = asyncio.Event()
    server.pieces = (gate, *ANSWER)
    async with house(server, "only", slots=2) as at, asyncio.TaskGroup() as group:
        replies = [group.create_task(at.client.chat()) for _ in range(3)]
        await eventually(lambda: server.running == 2 and at.upstream.workers.waiting == 1)
        gate.set()
        assert [content(await reply) for reply in replies] == ["from above"] * 3


# Who hears of it


async def test_models_are_listed_where_they_can_be_used_and_bear_their_owner(server: UpstreamServer) -> None:
    async with house(server, "fallback", "from here") as at:
        listed = {entry["id"]: entry["owned_by"] for entry in (await at.client.get("/v1/models")).json["data"]}
        assert listed == {"m": "local-swarm", "big": at.upstream.plan.address.host, "swarm": "local-swarm"}
        assert (await at.client.get("/v1/models/big")).json["owned_by"] == at.upstream.plan.address.host


@pytest.mark.parametrize("mode", ["fallback", "voter", "only"])
async def test_peers_hear_of_no_upstream_and_get_nothing_of_it(server: UpstreamServer, mode: UpstreamMode) -> None:
    async with house(server, mode) as at:
        assert at.node.describe().models == ()
        body = chat_body(model="big")
        assert (await at.client.post("/federation/v1/generate", body)).status == 404
        assert (await at.client.post("/federation/v1/candidates", {"request": body, "votes": 1})).status == 404
        assert not server.asked


async def test_two_swarms_that_are_each_others_upstream_do_not_go_round(server: UpstreamServer) -> None:
    async with house(server, "fallback", "from here") as above, house(server, "fallback", url=above.node.url) as below:
        assert content(await below.client.chat()) == "from here"
        assert (await below.client.chat(model="big")).status == 404
        assert not server.asked


async def test_the_health_view_says_where_requests_may_go(server: UpstreamServer) -> None:
    async with house(server, "only") as at:
        await at.client.chat()
        seen = (await at.client.get("/v1/federation/health")).json["upstream"]
        assert (seen["mode"], seen["model"], seen["requests"], seen["reach"]) == ("only", "big", 1, "machine")
