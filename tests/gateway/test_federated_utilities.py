"""Calls that generate nothing across nodes: passed on, failed over, checked, and never passed on twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest

from federation import wire
from federation.advertisement import Capabilities
from federation.client import PeerClient
from federation.tasks import cancel_and_wait
from swarm.errors import BadRequest, EngineFailed
from swarm.gateway.openai.utility_calls import BATCH
from tests.doubles.clients import Client, connect
from tests.doubles.fake_peer import FakePeer, Piece
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

CHAT = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}
CALLS: dict[str, tuple[dict[str, Any], Any]] = {
    "/v1/tokenize": ({"content": "ab"}, {"tokens": [97, 98]}),
    "/tokenize": (
        {"content": "ab", "with_pieces": True},
        {"tokens": [{"id": 97, "piece": "a"}, {"id": 98, "piece": "b"}]},
    ),
    "/detokenize": ({"tokens": [97, 98]}, {"content": "ab"}),
    "/apply-template": (CHAT, {"prompt": "2 messages"}),
}


class Household:
    """A kitchen without a model, unless it is given one, and the peers it knows."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.engines: dict[str, ScriptedEngine] = {}
        self.nodes: dict[str, RunningNode] = {}

    async def add(self, name: str, model: str | None = None, params: int = 2_000_000, **can: bool) -> None:
        loaders = []
        if model is not None:
            engine = self.engines[name] = ScriptedEngine(saying("yes"), model_id=model)
            engine.can = can
            loaders.append(ready(engine))
        known = [node.address for node in self.nodes.values()]
        node = RunningNode(name, *loaders, options=NodeOptions(peers=known, params=params))
        self.nodes[name] = await self._stack.enter_async_context(node)

    async def client(self) -> Client:
        return await self._stack.enter_async_context(connect(list(self.nodes.values())[-1].url))


@asynccontextmanager
async def household() -> AsyncIterator[Household]:
    async with AsyncExitStack() as stack:
        yield Household(stack)


@pytest.mark.parametrize("name", [each.name for each in fields(Capabilities)])
@pytest.mark.parametrize("value", [True, False])
async def test_props_tell_every_capability_of_a_peers_model(name: str, value: bool) -> None:
    async with household() as house:
        await house.add("study", "other", **{name: value})
        await house.add("kitchen")
        said = (await (await house.client()).get("/props")).json["swarm"]["can"]
        assert list(said) == [each.name for each in fields(Capabilities)]
        assert said[name] is value


@pytest.mark.parametrize("model", ["other", None, "swarm"])
async def test_every_call_is_answered_by_the_peer_that_has_the_model(model: str | None) -> None:
    async with household() as house:
        await house.add("study", "other")
        await house.add("kitchen")
        client = await house.client()
        named = {} if model is None else {"model": model}
        for path, (body, expected) in CALLS.items():
            reply = await client.post(path, {**named, **body})
            assert (reply.status, reply.json) == (200, expected), path
        ranked = (await client.post("/v1/rerank", {**named, "query": "a", "documents": ["b", "ccc"]})).json
        assert [row["index"] for row in ranked["results"]] == [1, 0]
        assert ranked["model"] == "other"
        facts = (await client.get("/props" if model is None else f"/props?model={model}")).json
        assert facts["chat_template"] == "template of other"
        assert facts["swarm"]["node"] == "study"
        embedded = (await client.post("/v1/embeddings", {"model": model or "swarm", "input": ["a", "bb"]})).json
        assert [row["embedding"][0] for row in embedded["data"]] == [1.0, 2.0]
        assert embedded["model"] == "other"


async def test_many_texts_travel_in_batches_and_stay_in_order() -> None:
    async with household() as house:
        await house.add("study", "other")
        await house.add("kitchen")
        texts = ["x" * (n + 1) for n in range(2 * BATCH + 3)]
        rows = (await (await house.client()).post("/v1/embeddings", {"model": "other", "input": texts})).json["data"]
        assert [row["embedding"][0] for row in rows] == [float(n + 1) for n in range(2 * BATCH + 3)]


async def test_this_nodes_own_model_goes_first_and_a_peers_follows_when_it_breaks() -> None:
    async with household() as house:
        await house.add("study", "m")
        await house.add("kitchen", "m")
        client = await house.client()
        assert (await client.get("/props")).json["swarm"]["node"] == "kitchen"
        house.engines["kitchen"].utility_error = EngineFailed("out of memory")
        assert (await client.post("/tokenize", {"content": "ab"})).json == {"tokens": [97, 98]}
        assert (await client.post("/v1/embeddings", {"model": "m", "input": "abc"})).status == 200


async def test_a_call_fails_over_between_peers() -> None:
    async with household() as house:
        await house.add("study", "m")
        await house.add("attic", "m")
        await house.add("kitchen")
        client = await house.client()
        for broken in ("study", "attic"):
            for name, engine in house.engines.items():
                engine.utility_error = EngineFailed("broken") if name == broken else None
            assert (await client.post("/tokenize", {"content": "ab"})).status == 200
        for engine in house.engines.values():
            engine.utility_error = EngineFailed("broken")
        reply = await client.post("/tokenize", {"content": "ab"})
        assert (reply.status, reply.error["code"]) == (502, "peer_failed")


async def test_the_alias_means_one_model_however_large_the_others_are() -> None:
    """Vectors of two models do not compare."""
    async with household() as house:
        await house.add("study", "large", params=9_000_000)
        await house.add("attic", "small", params=1_000)
        await house.add("kitchen")
        client = await house.client()
        models = {
            (await client.post("/v1/embeddings", {"model": "swarm", "input": "x"})).json["model"] for _ in range(4)
        }
        assert models == {"large"}


async def test_only_models_that_can_are_asked() -> None:
    async with household() as house:
        await house.add("study", "ranker", generates=False, embeddings=False)
        await house.add("kitchen", "writer", rerank=False, infill=False)
        client = await house.client()
        body = {"query": "a", "documents": ["b"]}
        assert (await client.post("/rerank", body)).json["model"] == "ranker"
        reply = await client.post("/rerank", {"model": "writer", **body})
        assert "'writer' cannot rerank; these can: ranker" in reply.error["message"]
        assert (await client.post("/v1/embeddings", {"model": "swarm", "input": "x"})).json["model"] == "writer"
        assert (await client.chat()).json["swarm"]["candidates"][0]["model"] == "writer"
        reply = await client.post("/v1/completions", {"model": "writer", "prompt": "a", "suffix": "b"})
        assert "cannot fill in the middle" in reply.error["message"]


async def test_a_middle_is_filled_in_by_a_peer() -> None:
    async with household() as house:
        await house.add("study", "coder")
        await house.add("kitchen", "writer", infill=False)
        client = await house.client()
        extra = [{"filename": "a.py", "text": "x"}]
        body = {"input_prefix": "a", "input_suffix": "b", "input_extra": extra, "prompt": "c"}
        reply = await client.post("/infill", body)
        assert reply.json["content"] == "yes"
        (request,) = house.engines["study"].requests
        assert (request.prompt, request.suffix) == ("ac", "b")
        assert request.input_extra[0].filename == "a.py"


async def test_prompts_of_tokens_cross_unchanged() -> None:
    async with household() as house:
        await house.add("study", "other")
        await house.add("kitchen")
        client = await house.client()
        body = {"model": "other", "prompt": [[97, 98], [99]], "echo": True}
        reply = await client.post("/v1/completions", body)
        assert [choice["text"] for choice in reply.json["choices"]] == ["abyes", "cyes"]
        assert {request.prompt for request in house.engines["study"].requests} == {(97, 98), (99,)}


async def test_a_peers_refusal_reaches_the_client_as_it_is() -> None:
    async with household() as house:
        await house.add("study", "other")
        await house.add("kitchen")
        house.engines["study"].utility_error = BadRequest("no such thing")
        reply = await (await house.client()).post("/tokenize", {"content": "x"})
        assert (reply.status, reply.error["code"]) == (400, "invalid_value")
        assert reply.error["message"] == "no such thing"


async def test_a_node_asked_by_a_node_passes_nothing_on() -> None:
    async with household() as house:
        await house.add("study", "other")
        await house.add("kitchen")
        client = await house.client()
        path = f"{wire.UTILITIES_PATH}/tokenize"
        reply = await client.post(path, {"model": "other", "content": "x"})
        assert json.loads(reply.text.strip())["error"]["code"] == "model_not_found"
        reply = await client.post(path, {"model": "other", "content": "x"}, X_Swarm_Hops="2")
        assert reply.status == 400
        assert (await client.post(f"{wire.UTILITIES_PATH}/shell", {})).status == 404


async def test_a_peer_may_not_send_more_than_a_batch() -> None:
    async with household() as house:
        await house.add("kitchen", "m")
        client = await house.client()
        body = {"model": "m", "input": ["x"] * (BATCH + 1)}
        assert (await client.post(f"{wire.UTILITIES_PATH}/embeddings", body)).status == 400


RUBBISH: list[list[Piece]] = [
    [b"rubbish\n"],
    [b"[]\n"],
    [b'{"vectors": [], "prompt_tokens": 1}\n'],
    [b'{"vectors": [[1.0], [2.0]], "prompt_tokens": 1}\n'],
    [b'{"vectors": [[]], "prompt_tokens": 1}\n'],
    [b'{"vectors": [[NaN]], "prompt_tokens": 1}\n'],
    [b'{"vectors": [["x"]], "prompt_tokens": 1}\n'],
    [b'{"vectors": [[1.0]], "prompt_tokens": -1}\n'],
    [b'{"error": {"message": "broken", "code": "engine_failed"}}\n'],
    [b"x" * (9 * 2**20)],
    [b"\n", b""],
]


@pytest.mark.parametrize("pieces", RUBBISH, ids=lambda pieces: str(pieces)[:40])
async def test_rubbish_of_a_peer_is_not_believed(pieces: list[Piece]) -> None:
    """The liar is asked first; the honest peer answers. Alone, the liar is reported."""
    async with AsyncExitStack() as stack:
        liar = await stack.enter_async_context(FakePeer("attic", *pieces, slots=9))
        honest = await stack.enter_async_context(
            RunningNode("study", ready(ScriptedEngine(saying("yes"), model_id="m")))
        )
        options = NodeOptions(peers=[liar.address, honest.address])
        kitchen = await stack.enter_async_context(RunningNode("kitchen", options=options))
        client = await stack.enter_async_context(connect(kitchen.url))
        reply = await client.post("/v1/embeddings", {"model": "m", "input": "abc"})
        assert reply.json["data"][0]["embedding"][0] == 3.0
        assert liar.asked == [f"{wire.UTILITIES_PATH}/embeddings"]
        await honest.stop()
        await kitchen.until(lambda: len(kitchen.membership.alive()) <= 1)
        reply = await client.post("/v1/embeddings", {"model": "m", "input": "abc"})
        assert reply.status in (404, 502)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"content": "x"}), ("/v1/embeddings", {"model": "other", "input": "x"})],
    ids=["tokenize", "embeddings"],
)
async def test_a_client_that_leaves_stops_the_call_at_the_peer(path: str, body: dict[str, Any]) -> None:
    async with household() as house:
        await house.add("study", "other")
        await house.add("kitchen")
        engine = house.engines["study"]
        engine.utility_gate.clear()
        asked = asyncio.create_task((await house.client()).post(path, body))
        await engine.until(lambda engine: engine.running == 1)
        asked.cancel()
        async with asyncio.timeout(1):
            await engine.until(lambda engine: engine.running == 0)
        await cancel_and_wait(asked)


async def test_a_silent_peer_does_not_hold_a_call_forever() -> None:
    class Impatient(PeerClient):
        def open_generation(self, *args: Any, **options: Any) -> Any:
            return super().open_generation(*args, **{**options, "idle_s": 0.1})

    async with AsyncExitStack() as stack:
        silent = await stack.enter_async_context(FakePeer("attic", asyncio.Event()))
        options = NodeOptions(peers=[silent.address], client=Impatient)
        kitchen = await stack.enter_async_context(RunningNode("kitchen", options=options))
        client = await stack.enter_async_context(connect(kitchen.url))
        reply = await client.post("/tokenize", {"content": "x"})
        assert (reply.status, reply.error["code"]) == (502, "peer_failed")
