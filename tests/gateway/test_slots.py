"""`/slots` as llama-server has it, of this node's models; and what other servers have, refused with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from swarm.engines.llama_cpp.http import without_texts
from swarm.errors import EngineFailed, SwarmError
from swarm.gateway.llama.slots import TOLD_WITHIN_S
from swarm.generation import GenerationRequest, JsonObject
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, saying

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "the word is xylophone"
# What llama-server tells of a slot with the embedded model (build 11434), without texts: `tests/clients` compares them.
OF_A_SLOT = {
    "id", "n_ctx", "speculative", "is_processing", "id_task", "n_prompt_tokens", "n_prompt_tokens_processed",
    "n_prompt_tokens_cache", "params", "next_token",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/slots", "/v1/slots", "/slots?model=demo", "/slots?model=swarm"])
async def test_every_slot_is_told_in_llama_servers_shape(client: Client, path: str) -> None:
    """A slot that was used tells of its last request, too; and never in words."""
    await client.chat(SECRET, model="demo", max_tokens=2, stop=["xylophone"], temperature=0.25)
    reply = await client.get(path)
    assert reply.status == 200, reply.text
    assert [slot["id"] for slot in reply.json] == [0, 1, 2, 3]
    assert {slot["model"] for slot in reply.json} == {"demo"}
    assert {slot["n_ctx"] for slot in reply.json} == {1024}
    assert not any(slot["is_processing"] for slot in reply.json)
    used = [slot for slot in reply.json if slot.get("params", {}).get("temperature") == 0.25]
    assert used
    assert used[0].keys() >= OF_A_SLOT
    assert used[0]["params"]["max_tokens"] == 2
    assert used[0]["next_token"][0].keys() >= {"has_next_token", "n_remain", "n_decoded"}
    assert "xylophone" not in reply.text


async def test_a_slot_at_work_is_seen_with_how_far_it_is(client: Client) -> None:
    ends = (await client.post("/tokenize", {"content": "<|im_end|><|endoftext|>"})).json["tokens"]
    bias = dict.fromkeys(map(str, ends), -100)
    body = {"model": "demo", "prompt": "One day", "max_tokens": 900, "stream": True, "logit_bias": bias, "seed": 7}
    busy: list[Any] = []
    for _ in range(50):  # it may have ended by the time that one looks
        async with client.open("/v1/completions", body) as response:
            await response.content.readline()
            busy = [slot for slot in (await client.get("/slots")).json if slot["is_processing"]]
        if busy:
            break
    assert busy[0]["next_token"][0]["n_decoded"] > 0
    assert busy[0]["params"]["seed"] == 7


async def test_older_builds_tell_prompts_there_and_a_node_does_not() -> None:
    told = {
        "id": 0, "is_processing": True, "prompt": SECRET, "stop": [SECRET], "n_ctx": 512, "truncated": False,
        "params": {"temperature": 0.5, "grammar": SECRET, "samplers": [SECRET], "lora": [], "stop": [SECRET],
                   "logit_bias": [{"token": 1, "bias": 5}]},
        "next_token": [{"n_decoded": 5, "stopping_word": SECRET}], "tokens": [1, 2], "more": {"n": 1},
    }  # fmt: skip
    assert without_texts(told) == {
        "id": 0, "is_processing": True, "n_ctx": 512, "truncated": False, "params": {"temperature": 0.5},
        "next_token": [{"n_decoded": 5}],
    }  # fmt: skip
    assert without_texts({"id": 1, "next_token": {"n_decoded": 5}}) == {"id": 1, "next_token": [{"n_decoded": 5}]}
    assert without_texts([told]) == without_texts({"next_token": []}) == {}


class Household:
    """A kitchen with the models "m" (two slots) and "other" (one), whose answers wait for `gate`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.engines = [
            ScriptedEngine(self.script, model_id="m", slots=2),
            ScriptedEngine(saying("no"), model_id="other", slots=1),
        ]

    def script(self, _: GenerationRequest, __: int) -> Sequence[Step]:
        return ["yes", self.gate]


async def test_an_engine_that_tells_nothing_of_its_slots_has_as_many_as_are_in_use() -> None:
    house = Household()
    async with RunningNode("kitchen", *map(ready, house.engines)) as node, connect(node.url) as asked:
        of_all = (await asked.get("/slots")).json
        assert [(slot["id"], slot["model"]) for slot in of_all] == [(0, "m"), (1, "m"), (2, "other")]
        answering = asyncio.create_task(asked.chat(model="m"))
        await house.engines[0].until(lambda engine: engine.running == 1)
        told = (await asked.get("/slots?model=m")).json
        assert [(slot["id"], slot["is_processing"]) for slot in told] == [(0, True), (1, False)]
        house.gate.set()
        await answering


async def test_whoever_asks_for_a_free_slot_is_told_by_the_status() -> None:
    house = Household()
    async with RunningNode("kitchen", *map(ready, house.engines)) as node, connect(node.url) as asked:
        assert (await asked.get("/slots?model=m&fail_on_no_slot=1")).status == 200
        answering = [asyncio.create_task(asked.chat(model="m")) for _ in range(2)]
        await house.engines[0].until(lambda engine: engine.running == 2)
        reply = await asked.get("/slots?model=m&fail_on_no_slot=1")
        assert (reply.status, reply.error["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")
        assert (await asked.get("/slots?model=m")).status == 200
        assert (await asked.get("/slots?model=m&fail_on_no_slot=0")).status == 200
        assert (await asked.get("/slots?fail_on_no_slot=1")).status == 200  # the other model has one
        house.gate.set()
        await asyncio.gather(*answering)


class Telling(ScriptedEngine):
    """An engine that tells of its slots, fails over it, or is `busy`."""

    wrong: SwarmError | None = None
    busy: asyncio.Event | None = None

    async def slot_states(self) -> Sequence[JsonObject]:
        if self.busy is not None:
            await self.busy.wait()
        if self.wrong is not None:
            raise self.wrong
        return [{"id": 5, "n_ctx": 7, "is_processing": True}]


async def test_what_an_engine_tells_counts_and_where_it_cannot_its_workers_do() -> None:
    engine = Telling(saying("yes"), model_id="m", slots=1)
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as asked:
        told = {"id": 0, "model": "m", "n_ctx": 7, "is_processing": True}
        assert (await asked.get("/slots")).json == [told]
        engine.wrong = EngineFailed("this server does not support slots endpoint")
        by_workers = [{**told, "n_ctx": 1024, "is_processing": False}]
        assert (await asked.get("/slots")).json == by_workers
        engine.wrong, engine.busy = None, asyncio.Event()
        async with asyncio.timeout(10 * TOLD_WITHIN_S):
            assert (await asked.get("/slots")).json == by_workers, "nobody waits for a step of its"


async def test_slots_are_those_of_this_node_alone() -> None:
    other = RunningNode("study", ready(ScriptedEngine(saying("yes"), model_id="m")))
    async with other as study, AsyncExitStack() as stack:
        node = await stack.enter_async_context(RunningNode("kitchen", options=NodeOptions(peers=[study.address])))
        asked = await stack.enter_async_context(connect(node.url))
        assert (await asked.get("/slots")).json == []
        assert (await asked.get("/slots?fail_on_no_slot=1")).status == 503
        reply = await asked.get("/slots?model=m")
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert "by the node that has them" in reply.error["message"]


@pytest.mark.parametrize(("name", "status"), [("nobody", 404), ("x" * 600, 400)])
async def test_a_name_that_means_no_model_of_it_is_refused(client: Client, name: str, status: int) -> None:
    assert (await client.get(f"/slots?model={name}")).status == status


REFUSED: list[tuple[str, str, str]] = [
    ("post", "/slots/0?action=save", "--kv-disk"),
    ("post", "/v1/slots/3?action=restore", "--kv-disk"),
    ("post", "/slots/0?action=erase", "--kv-disk"),
    ("get", "/lora-adapters", "adapter"),
    ("post", "/v1/lora-adapters", "adapter"),
    ("get", "/api/v0/models", "/v1/models"),
    ("get", "/api/v0/models/some/name", "/v1/models"),
    ("post", "/api/v0/chat/completions", "Ollama's API"),
    ("post", "/v1/audio/transcriptions", "hears"),
    ("post", "/audio/speech", "speaks"),
    ("post", "/v1/images/generations", "draws"),
]


@pytest.mark.parametrize(("method", "path", "why"), REFUSED)
async def test_what_others_have_and_no_node_is_refused_with_the_reason(
    client: Client, method: str, path: str, why: str
) -> None:
    body: Any = {"filename": "x"}
    reply = await (client.get(path) if method == "get" else client.post(path, body))
    assert reply.status == 404
    if path.startswith("/api/"):  # in the form of that API
        assert why in reply.error
    else:
        assert reply.error["code"] == "not_served"
        assert why in reply.error["message"]
