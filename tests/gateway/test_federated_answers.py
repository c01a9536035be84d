"""Two and three real nodes: answers proxied, votes spread, failures failed over, and clients told the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from federation.hostport import Address
from federation.tasks import cancel_and_wait
from swarm.errors import BadRequest, ContextExceeded, EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta, ToolCallDelta
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step
from tests.doubles.waiting import eventually

CHAT = "/v1/chat/completions"
SINGLE = {"strategy": "single"}


class Swarm:
    """Nodes started in order, each knowing those before it; the last one is asked. `engines` by node name."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self.sizes: dict[str, int] = {}  # as if every model were in the catalogue

    async def __aenter__(self) -> Swarm:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def add(self, name: str, *steps: Step, model: str = "m", slots: int = 4, **options: Any) -> RunningNode:
        """A node whose every voter plays `steps`; without steps it has no model."""
        loaders = []
        if steps:
            self.engines[name] = engine = ScriptedEngine(lambda _, __: steps, model_id=model, slots=slots)
            loaders.append(ready(engine))
        known: Sequence[Address] = [node.address for node in self.nodes.values()]
        self.sizes[model] = options.get("params", 2_000_000)
        node = RunningNode(name, *loaders, options=NodeOptions(peers=known, sizes=dict(self.sizes), **options))
        self.nodes[name] = await self._stack.enter_async_context(node)
        return node

    async def client(self, name: str) -> Client:
        return await self._stack.enter_async_context(connect(self.nodes[name].url))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_without_a_model_passes_the_answer_on(stream: bool) -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "one ", "two", model="other")
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        options = {"stream_options": {"include_usage": True}} if stream else {}
        reply = await client.chat(model="other", stream=stream, swarm=SINGLE, **options)
        assert reply.status == 200
        assert reply.headers["X-Swarm-Node"] == "kitchen"
        if stream:
            assert reply.said() == "one two"
            assert reply.done
            assert reply.chunks[-1]["usage"]["completion_tokens"] == 2
            account = reply.chunks[-2]["swarm"]
        else:
            assert reply.json["choices"][0]["message"]["content"] == "one two"
            assert reply.json["usage"]["completion_tokens"] == 2
            account = reply.json["swarm"]
        assert account["coordinator"] == "kitchen"
        assert account["winner"] == "study"


async def test_a_proxied_stream_flows_token_by_token() -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()
        await swarm.add("study", "one ", gate, "two")
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        async with client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
            while b'"content":"one "' not in await response.content.readuntil(b"\n\n"):
                pass
            gate.set()
            assert b'"content":"two"' in await response.content.read()


async def test_calls_reasoning_and_log_probabilities_cross_unchanged() -> None:
    async with Swarm() as swarm:
        call = Delta(tool_calls=(ToolCallDelta(0, "c1", "f", '{"a": "é"}'),))
        logprobs = {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": []}]}
        await swarm.add("study", Delta(reasoning="hm"), Delta(text="x", logprobs=logprobs), call)
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        choice = (await client.chat(swarm=SINGLE)).json["choices"][0]
        assert choice["message"]["reasoning_content"] == "hm"
        assert choice["message"]["tool_calls"] == [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
        ]
        assert choice["logprobs"] == logprobs
        assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"swarm": {"votes": 2}}], ids=["one", "choices", "vote"])
@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_a_call_cross_too(fields: dict[str, Any], stream: bool) -> None:
    logprobs = {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": []}]}
    call = Delta(tool_calls=(ToolCallDelta(0, "c1", "f", "{}"),), logprobs=logprobs)
    async with Swarm() as swarm:
        await swarm.add("study", call)
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        tools = [{"type": "function", "function": {"name": "f"}}]
        reply = await client.chat(model="m", logprobs=True, tools=tools, stream=stream, **fields)
        choices = [each for chunk in reply.chunks for each in chunk["choices"]] if stream else reply.json["choices"]
        assert [each["logprobs"] for each in choices if each.get("logprobs")] == [logprobs] * fields.get("n", 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_a_continuation_are_the_same_through_a_peer(stream: bool) -> None:
    def token(text: str) -> Delta:
        entry = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
        return Delta(text=text, logprobs={"content": [{**entry, "top_logprobs": [entry]}]})

    async with Swarm() as swarm:
        await swarm.add("study", token("é"), token(" then"), token(" more"))
        await swarm.add("kitchen")
        found: list[Any] = []
        for name in ("study", "kitchen"):
            client = await swarm.client(name)
            body = {"model": "m", "prompt": "a", "logprobs": 1, "stream": stream}
            reply = await client.post("/v1/completions", body)
            choices = [each for chunk in reply.chunks for each in chunk["choices"]] if stream else reply.json["choices"]
            found.append([each["logprobs"] for each in choices if each.get("logprobs")])
        assert found[0] == found[1]
        assert [offset for each in found[0] for offset in each["text_offset"]] == [0, 1, 6]
        assert [value for each in found[0] for value in each["token_logprobs"]] == [-0.5] * 3


async def test_every_field_of_a_request_reaches_the_peers_engine() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "yes")
        await swarm.add("kitchen", "yes")
        client = await swarm.client("kitchen")
        fields: dict[str, Any] = {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "seed": 7,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "repeat_penalty": 1.1,
            "logit_bias": {"5": 1.5},
            "stop": ["x", "y"],
            "max_tokens": 9,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": [None, 1]}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": False,
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": None}}},
        }
        await client.chat(model="m", swarm={"votes": 2}, **fields)
        (here,), (there,) = swarm.engines["kitchen"].requests, swarm.engines["study"].requests
        assert there.model_dump(exclude={"seed"}) == here.model_dump(exclude={"seed"})
        assert here.seed != there.seed


async def test_a_vote_spreads_over_the_nodes() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "Answer: 16")
        await swarm.add("attic", "Answer: 18")
        await swarm.add("kitchen", "Answer: 16")
        client = await swarm.client("kitchen")
        account = (await client.chat(swarm={"votes": 3, "min_votes": 3})).json["swarm"]
        assert sorted(candidate["voter"].split("@")[1] for candidate in account["candidates"]) == [
            "attic",
            "kitchen",
            "study",
        ]
        assert account["agreement"] == pytest.approx(2 / 3, abs=1e-4)
        assert account["winner"].split("@")[1] in ("kitchen", "study")


async def test_auto_counts_the_idle_workers_of_peers() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "yes", slots=2)
        await swarm.add("kitchen", "yes", slots=2)
        account = (await (await swarm.client("kitchen")).chat("What is 9 + 7?")).json["swarm"]
        assert len(account["candidates"]) + account["saved"] == 3, "of four: half of a vote is not a peer's"
        assert account["wanted"] == 5


async def test_the_alias_invites_every_model_and_a_name_only_its_own() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "yes", model="b")
        await swarm.add("kitchen", "yes", model="a")
        client = await swarm.client("kitchen")
        every = (await client.chat(swarm={"votes": 2})).json["swarm"]
        assert sorted(candidate["model"] for candidate in every["candidates"]) == ["a", "b"]
        named = (await client.chat(model="b", swarm={"votes": 2})).json["swarm"]
        assert [candidate["model"] for candidate in named["candidates"]] == ["b", "b"]
        listed = (await client.get("/v1/models")).json["data"]
        assert [(model["id"], model["nodes"]) for model in listed] == [
            ("swarm", ["kitchen", "study"]),
            ("a", ["kitchen"]),
            ("b", ["study"]),
        ]
        assert {model["tools"] for model in listed} == {"native"}


async def test_several_choices_come_from_a_peer_in_one_call() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "a", "b")
        await swarm.add("kitchen")
        reply = await (await swarm.client("kitchen")).chat(n=3)
        assert [choice["message"]["content"] for choice in reply.json["choices"]] == ["ab"] * 3
        assert reply.json["usage"]["completion_tokens"] == 6
        assert len(swarm.engines["study"].requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_engine_fails_over_before_the_first_byte(stream: bool) -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "from the study")
        await swarm.add("kitchen", EngineFailed("out of memory"))
        reply = await (await swarm.client("kitchen")).chat(stream=stream, swarm=SINGLE)
        said = reply.said() if stream else reply.json["choices"][0]["message"]["content"]
        assert said == "from the study"


async def test_a_prompt_too_long_here_goes_where_it_fits() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "it fits")
        await swarm.add("kitchen", ContextExceeded(2000, 1024))
        reply = await (await swarm.client("kitchen")).chat(swarm=SINGLE)
        assert reply.json["choices"][0]["message"]["content"] == "it fits"


async def test_a_peer_that_dies_fails_over_before_the_first_byte() -> None:
    async with Swarm() as swarm:
        study = await swarm.add("study", asyncio.Event())
        await swarm.add("attic", "from the attic", model="small", params=1_000_000)  # so the study is asked first
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        asked = asyncio.create_task(client.chat(swarm=SINGLE))
        await swarm.engines["study"].until(lambda engine: engine.running == 1)
        await study.stop()
        reply = await asked
        assert reply.json["choices"][0]["message"]["content"] == "from the attic"


async def test_a_peer_that_dies_in_mid_answer_is_an_error_and_never_a_splice() -> None:
    async with Swarm() as swarm:
        study = await swarm.add("study", "half an ", asyncio.Event())
        await swarm.add("attic", "from the attic", model="small", params=1_000_000)
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        async with client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
            while b"half an " not in await response.content.readuntil(b"\n\n"):
                pass
            await study.stop()
            rest = await response.content.read()
        assert b'"code": "peer_failed"' in rest
        assert b"[DONE]" not in rest
        assert b"attic" not in rest
        assert not swarm.engines["attic"].requests


async def test_nobody_has_seen_a_word_of_a_whole_answer_so_another_peer_takes_over() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "half an ", EngineFailed("broken"))
        await swarm.add("attic", "from the attic", model="small", params=1_000_000)
        await swarm.add("kitchen")
        reply = await (await swarm.client("kitchen")).chat(swarm=SINGLE)
        assert reply.json["choices"][0]["message"]["content"] == "from the attic"
        assert reply.json["swarm"]["winner"] == "attic"
        assert reply.json["usage"]["completion_tokens"] == 1


async def test_a_lost_voter_is_replaced_once_elsewhere() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "Answer: 16", slots=2)
        await swarm.add("attic", EngineFailed("broken"), slots=1)
        await swarm.add("kitchen", EngineFailed("broken"), slots=1)
        account = (await (await swarm.client("kitchen")).chat(swarm={"votes": 5, "min_votes": 3})).json["swarm"]
        assert account["asked"] == 3
        *voted, lost = account["candidates"]
        assert [candidate["voter"].split("@")[1] for candidate in voted] == ["study", "study"]
        assert len({candidate["voter"] for candidate in voted}) == 2, "each seat is a voter of its own"
        assert account["votes"] == 2
        assert lost["group"] is None, "the second loss is not replaced, but it is not hidden either"
        assert "broken" in lost["abstained"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_voters_everywhere(stream: bool) -> None:
    async with Swarm() as swarm:
        for name in ("study", "attic", "kitchen"):
            await swarm.add(name, "a word ", asyncio.Event())
        client = await swarm.client("kitchen")
        asked = asyncio.create_task(client.chat(stream=stream, swarm={"votes": 3, "min_votes": 3}))
        for engine in swarm.engines.values():
            await engine.until(lambda engine: engine.running == 1)
        asked.cancel()
        async with asyncio.timeout(1):
            for engine in swarm.engines.values():
                await engine.until(lambda engine: engine.running == 0)
        assert all(engine.cancelled == 1 for engine in swarm.engines.values())
        await cancel_and_wait(asked)


async def test_a_client_that_leaves_stops_a_proxied_answer() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "a word ", asyncio.Event())
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        async with client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
            while b"a word " not in await response.content.readuntil(b"\n\n"):
                pass
        await swarm.engines["study"].until(lambda engine: engine.running == 0)
        assert swarm.engines["study"].cancelled == 1


@pytest.mark.parametrize("swarm_options", [SINGLE, {"votes": 2}], ids=["single", "vote"])
@pytest.mark.parametrize(
    ("error", "code"),
    [(BadRequest("no such thing"), "invalid_value"), (ContextExceeded(2000, 1024), "context_length_exceeded")],
    ids=["bad request", "context"],
)
async def test_a_peers_refusal_of_the_request_reaches_the_client_as_it_is(
    error: Exception, code: str, swarm_options: dict[str, Any]
) -> None:
    async with Swarm() as swarm:
        study = await swarm.add("study", error)
        kitchen = await swarm.add("kitchen")
        reply = await (await swarm.client("kitchen")).chat(swarm=swarm_options)
        assert reply.status == 400
        assert (reply.error["code"], reply.error["message"]) == (code, str(error))
        if isinstance(error, ContextExceeded):
            assert (reply.error["n_prompt_tokens"], reply.error["n_ctx"]) == (2000, 1024)
        peer = kitchen.membership.get(study.id)
        assert peer is not None
        assert peer.state == "alive", "a refusal is no fault of the peer's"


@pytest.mark.parametrize("swarm_options", [SINGLE, {"votes": 2}], ids=["single", "vote"])
async def test_a_busy_swarm_says_so_and_when_to_come_back(swarm_options: dict[str, Any]) -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()
        study = await swarm.add("study", gate, "yes", slots=1, queue=0)
        kitchen = await swarm.add("kitchen")
        first = asyncio.create_task((await swarm.client("study")).chat())
        await swarm.engines["study"].until(lambda engine: engine.running == 1)
        reply = await (await swarm.client("kitchen")).chat(swarm=swarm_options)
        assert reply.status == 503
        assert int(reply.headers["Retry-After"]) > 0
        assert "study" in reply.error["message"]
        peer = kitchen.membership.get(study.id)
        assert peer is not None
        assert peer.state == "alive", "being busy is no fault of the peer's"
        gate.set()
        assert (await first).status == 200


async def test_the_federations_health_shows_the_peers() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "yes", model="other")
        await swarm.add("kitchen", "yes", model="m")
        seen = (await (await swarm.client("kitchen")).get("/v1/federation/health")).json
        (peer,) = seen["peers"]
        assert (peer["name"], peer["state"], peer["models"], peer["source"]) == ("study", "alive", ["other"], "static")
        assert set(peer) == {
            "id",
            "name",
            "url",
            "state",
            "models",
            "engines",
            "rtt_ms",
            "least_rtt_ms",
            "lending",
            "pooled",
            "last_seen_s",
            "slots_free",
            "source",
            "circuit",
            "conduct",
            "problems",
        }
        assert seen["models"] == {"m": ["kitchen"], "other": ["study"]}


async def test_a_node_without_any_model_says_what_there_is() -> None:
    async with Swarm() as swarm:
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        reply = await client.chat()
        assert reply.status == 404
        assert "no node has loaded a model yet" in reply.error["message"]
        assert (await client.get("/v1/models")).json == {"object": "list", "data": []}
        assert (await client.get("/readyz")).status == 503


async def test_heartbeats_between_nodes_keep_a_slow_answer_alive() -> None:
    """The peer beats faster than the caller gives up, so that silence means a frozen node."""
    async with Swarm() as swarm:
        gate = asyncio.Event()
        await swarm.add("study", gate, "late", pacing=Pacing(peer_beat_s=0.01))
        await swarm.add("kitchen", pacing=Pacing(client_beat_s=0.01))
        client = await swarm.client("kitchen")
        async with client.open(CHAT, chat_body(stream=True, swarm={"votes": 2})) as response:
            for _ in range(5):
                assert await response.content.readuntil(b"\n\n") == b": still working\n\n"
            gate.set()
            assert b"late" in await response.content.read()
        await eventually(lambda: swarm.engines["study"].running == 0)
