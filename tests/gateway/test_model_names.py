"""What names in requests mean: one rule for every API, whether a model runs, lies on a disk, or is nobody's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.doubles.clients import Client, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")

TURN = [{"role": "user", "content": "hello"}]
SINGLE = {"strategy": "single"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURN, "swarm": SINGLE},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello", "swarm": SINGLE},
    "/v1/messages": {"messages": TURN, "max_tokens": 9, "swarm": SINGLE},
    "/v1/embeddings": {"input": "hello"},
}
TEXTS: dict[str, dict[str, Any]] = {
    "/v1/messages/count_tokens": {"messages": TURN},
    "/v1/tokenize": {"content": "hello"},
    "/v1/apply-template": {"messages": TURN},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
}
Ask = Callable[[bool], Client]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ask() -> AsyncIterator[Ask]:
    """A client of a node that answers any name, or of one that does not."""
    async with AsyncExitStack() as stack:
        clients: dict[bool, Client] = {}
        for answers_any in (False, True):
            engine = ScriptedEngine(lambda _, __: ["yes"], model_id="small")
            options = NodeOptions(answers_any=answers_any)
            node = await stack.enter_async_context(RunningNode("kitchen", ready(engine), options=options))
            clients[answers_any] = await stack.enter_async_context(connect(node.url))
        yield lambda answers_any: clients[answers_any]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("name", "answers_any", "said"),
    [
        ("small", False, "small"),
        ("swarm", False, "swarm"),
        ("swarm:latest", False, "swarm"),
        ("Swarm", False, "swarm"),
        ("claude-sonnet-of-tomorrow", False, "swarm"),
        ("gpt-4o-mini", True, "swarm"),
        ("text-embedding-3-small", True, "swarm"),
        ("small", True, "small"),
    ],
)
async def test_the_answer_bears_the_name_that_answered(
    ask: Ask, path: str, name: str, answers_any: bool, said: str
) -> None:
    reply = await ask(answers_any).post(path, {"model": name, **BODIES[path]})
    assert reply.status == 200, reply.text
    assert reply.json["model"] == ("small" if path == "/v1/embeddings" else said)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"])
async def test_no_name_is_the_swarm_where_any_is_answered(ask: Ask, path: str) -> None:
    for none in ({}, {"model": None}):
        assert (await ask(True).post(path, {**none, **BODIES[path]})).status == 200
        assert (await ask(False).post(path, {**none, **BODIES[path]})).status == 400


@pytest.mark.parametrize("path", [*BODIES, *TEXTS])
async def test_any_other_name_is_unknown(ask: Ask, path: str) -> None:
    reply = await ask(False).post(path, {"model": "gpt-4o-mini", **(BODIES | TEXTS)[path]})
    assert reply.status == 404
    message = reply.json["error"]["message"]
    assert "'gpt-4o-mini' is not served here; available: small, swarm" in message
    assert "--answer-any-model" in message


@pytest.mark.parametrize("path", TEXTS)
async def test_calls_that_generate_nothing_keep_the_rule(ask: Ask, path: str) -> None:
    assert (await ask(True).post(path, {"model": "gpt-4o-mini", **TEXTS[path]})).status == 200
    assert (await ask(False).post(path, {"model": "claude-x", **TEXTS[path]})).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_stream_says_who_answers(ask: Ask, path: str) -> None:
    reply = await ask(True).post(path, {"model": "gpt-4o-mini", "stream": True, **BODIES[path]})
    assert '"model":"swarm"' in reply.text
    assert "gpt-4o-mini" not in reply.text


# Names of models that lie on the disk


OLLAMA, HUB, PLAIN = "Llama3.2:3b", "hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf", "llama3.2-3b-instruct"


def a_disk() -> Machine:
    machine = Machine(total=10_000)
    for name, *also in (
        (PLAIN, OLLAMA), ("qwen3:4b", HUB, "qwen3-4b-q4_k_m"), ("qwen3:8b",), ("gemma-3:1b@a1b2c3",),
    ):  # fmt: skip
        machine.models[name] = replace(machine.add(name, 100), also=tuple(also))
    return machine


@asynccontextmanager
async def node_with(machine: Machine, **options: Any) -> AsyncIterator[tuple[RunningNode, Client]]:
    given = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK, **options)
    async with RunningNode("kitchen", options=given) as node, connect(node.url) as client:
        yield node, client


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qwen3:4b", "qwen3:4b"), ("QWEN3:4B", "qwen3:4b"), ("qwen3-4b-q4_k_m", "qwen3:4b"), (HUB, "qwen3:4b"),
        ("llama3.2:3b", PLAIN), ("llama3.2", PLAIN), ("gemma-3:1b", "gemma-3:1b@a1b2c3"),
        ("gpt-4o-mini", "qwen3:4b"), ("GPT-4o-Mini", "qwen3:4b"), ("small", PLAIN),
        ("small:latest", PLAIN), ("llama3.2:latest", PLAIN), ("qwen3:4b:latest", "qwen3:4b"),
    ],
)  # fmt: skip
async def test_every_name_of_a_model_reaches_it(name: str, meant: str) -> None:
    aliases = {"gpt-4o-mini": "qwen3:4b", "small": OLLAMA}
    async with node_with(a_disk(), aliases=aliases) as (_, client):
        reply = await client.get(f"/v1/models/{quote(name, safe='')}")
        assert (reply.status, reply.json["id"]) == (200, meant), reply.text
        reply = await client.post("/v1/models/load", {"model": name})
        assert (reply.status, reply.json["model"]) == (200, meant), reply.text
        reply = await client.chat(model=name, swarm=SINGLE)
        assert (reply.status, reply.json["model"]) == (200, meant), reply.text
        assert reply.json["choices"][0]["message"]["content"] == f"I am {meant}"


@pytest.mark.parametrize("path", [*BODIES, "/v1/models/load"])
async def test_what_may_be_two_models_is_refused_and_both_are_named(path: str) -> None:
    async with node_with(a_disk()) as (_, client):
        reply = await client.post(path, {"model": "qwen3", **BODIES.get(path, {})})
        assert reply.status == 400
        assert "'qwen3' may be qwen3:4b or qwen3:8b: give one of them" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    "name", [":latest", "qwen", "gpt-4o:latest", "hf:Qwen/Qwen3-8B-GGUF", "/models/qwen3.gguf", "../qwen3:4b", "gpt-4o"]
)
async def test_no_name_in_a_request_downloads_or_opens_anything(name: str) -> None:
    machine = a_disk()
    async with node_with(machine) as (_, client):
        assert (await client.chat(model=name)).status == 404
        assert (await client.post("/v1/models/load", {"model": name})).status == 404
    assert not machine.loads


async def test_a_model_that_is_new_on_the_disk_is_found_by_the_first_that_asks_for_it() -> None:
    machine, looked = Machine(), 0

    async def look_again() -> None:
        nonlocal looked
        looked += 1
        machine.add("new", 10)

    async with node_with(machine, look_again=look_again) as (_, client):
        assert (await client.chat(model="claude-9")).status in (404, 503), "which stands for all models: nobody looks"
        assert looked == 0
        reply = await client.post("/v1/models/load", {"model": "new"})
        assert (reply.status, looked) == (200, 1)
        assert (await client.chat(model="old")).status == 404
        assert looked == 2


async def test_what_a_name_means_is_found_again_once_there_are_other_models() -> None:
    machine = a_disk()
    async with node_with(machine) as (node, client):
        for _ in range(2):
            assert (await client.get("/v1/models/gemma-3")).json["id"] == "gemma-3:1b@a1b2c3"
        machine.add("gemma-3:27b", 10)
        node.loadables.changed()
        assert (await client.get("/v1/models/gemma-3")).status == 400, "two may be meant"


async def test_what_the_user_decided_of_a_model_holds_where_a_request_does_not_say() -> None:
    def sampling(model_id: str, also: Collection[str]) -> Mapping[str, float | int]:
        assert also == ({OLLAMA} if model_id == PLAIN else also)
        return {"temperature": 0.25, "top_k": 7, "max_tokens": 5} if model_id == PLAIN else {}

    machine = a_disk()
    async with node_with(machine, sampling=sampling) as (_, client):
        for model in (PLAIN, "qwen3:4b"):
            await client.post("/v1/models/load", {"model": model})
        await client.chat(model=OLLAMA, temperature=1.5, swarm=SINGLE)
        await client.post("/v1/messages", {"model": PLAIN, "messages": TURN, "max_tokens": 9, "swarm": SINGLE})
        await client.post("/v1/responses", {"model": PLAIN, "input": "hello", "swarm": SINGLE})
        await client.chat(model="qwen3:4b", swarm=SINGLE)
    own, other = machine.engines
    given = [(request.temperature, request.top_k, request.max_tokens) for request in own.requests]
    assert given == [(1.5, 7, 5), (0.25, 7, 9), (0.25, 7, 5)]
    assert [request.top_k for request in other.requests] == [None]


async def test_one_tag_is_left_out_and_no_more(ask: Ask) -> None:
    """A name of many would be looked up as many times."""
    body = {"model": "small:latest:latest", "messages": TURN, "swarm": SINGLE}
    assert (await ask(False).post("/v1/chat/completions", body)).status == 404
