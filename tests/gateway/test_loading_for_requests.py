"""A request whose model is not loaded: it waits, says so, or is told when to come back; in every API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from swarm.engines.engine import Capabilities, Engine, EngineSpec
from swarm.engines.registry import load_engine
from swarm.errors import EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from swarm.gateway.documentation.answer_bodies import SwarmReport
from swarm.registry.embedded import embedded_model_path
from swarm.registry.model_memory import MIB
from swarm.workers.loadable import Loadable, LoadOption, MemoryRules
from tests.doubles.clients import Client, Reply, chat_body, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.waiting import eventually

ABLE = Capabilities(embeddings=True, rerank=True)  # as headers of files tell
TOLD = Pacing(told_s=0.005)
SINGLE = {"strategy": "single"}
TURN = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TURN},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": TURN, "max_tokens": 9},
}
UTILITIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "hello"},
    "/v1/tokenize": {"content": "hello"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v1/messages/count_tokens": {"messages": TURN},
}


@asynccontextmanager
async def node_with(machine: Machine, *peers: RunningNode, name: str = "kitchen") -> AsyncIterator[RunningNode]:
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK, pacing=TOLD)
    async with RunningNode(name, options=replace(options, peers=[peer.address for peer in peers])) as node:
        yield node


def a_machine(total: int = 1000, load_s: float | None = 4.0) -> Machine:
    machine = Machine(total=total)
    for name in ("a", "b"):
        machine.models[name] = replace(machine.add(name, 100, load_s=load_s), capabilities=ABLE)
    return machine


@pytest.mark.parametrize("path", BODIES)
async def test_a_whole_answer_waits_for_its_model_and_says_that_it_was_loaded(path: str) -> None:
    async with node_with(a_machine()) as node, connect(node.url) as client:
        for turn in range(2):
            reply = await client.post(path, {"model": "a", **BODIES[path], "swarm": SINGLE})
            assert reply.status == 200, reply.text
            assert "I am a" in reply.text
            account = reply.json["swarm"]
            SwarmReport.model_validate(account, strict=True)
            if turn:
                assert "loaded" not in account, "it ran already"
                continue
            ms = account["loaded"].pop("ms")
            assert account["loaded"] == {"model": "a", "node": "kitchen"}
            assert ms >= 0


@pytest.mark.parametrize("path", UTILITIES)
async def test_calls_that_generate_nothing_wait_too(path: str) -> None:
    machine = a_machine()
    async with node_with(machine) as node, connect(node.url) as client:
        reply = await client.post(path, {"model": "b", **UTILITIES[path]})
        assert reply.status == 200, reply.text
    assert machine.loads == ["b"]


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_opens_at_once_and_tells_how_far_the_load_is(path: str) -> None:
    machine = a_machine()
    machine.gate.clear()
    async with node_with(machine) as node, connect(node.url) as client:
        body = {"model": "a", **BODIES[path], "stream": True, "swarm": SINGLE}
        async with client.open(path, body) as response:
            assert response.status == 200
            first = await response.content.readline()
            assert re.fullmatch(rb": loading a \d+ %, \d+ s left\n", first), first
            machine.gate.set()
            rest = (await response.read()).decode()
    assert "I am a" in rest
    assert rest.count(": loading a") < 100
    assert '"loaded":{"model":"a","node":"kitchen","ms":' in rest


async def test_a_vote_on_a_model_that_nobody_runs_has_it_loaded_and_says_so() -> None:
    machine = a_machine()
    async with node_with(machine) as node, connect(node.url) as client:
        account = (await client.chat(model="a", swarm={"votes": 2})).json["swarm"]
        assert account["votes"] >= 1
        assert account["loaded"]["model"] == "a"
        assert account["loaded"]["ms"] is not None
    assert machine.loads == ["a"]


async def test_who_does_not_want_to_wait_is_told_when_to_come_back() -> None:
    machine = a_machine()
    machine.gate.clear()
    async with node_with(machine) as node, connect(node.url) as client:
        for stream in (False, True):
            reply = await client.chat(model="a", stream=stream, swarm={**SINGLE, "on_loading": "reject"})
            assert (reply.status, reply.error["code"]) == (503, "unavailable")
            assert "'a'" in reply.error["message"]
            assert 1 <= int(reply.headers["Retry-After"]) <= 5
        machine.gate.set()
        await eventually(lambda: any(state.phase == "ready" for state in node.pool.states()))
        assert (await client.chat(model="a", swarm={**SINGLE, "on_loading": "reject"})).status == 200
    assert machine.loads == ["a"]


async def test_a_value_that_there_is_not_is_refused() -> None:
    async with node_with(a_machine()) as node, connect(node.url) as client:
        reply = await client.chat(model="a", swarm={"on_loading": "hurry"})
        assert (reply.status, reply.error["param"]) == (400, "swarm.on_loading")


async def stream_of(client: Client, model: str) -> Reply:
    return await client.post("/v1/chat/completions", chat_body(model=model, stream=True, swarm=SINGLE))


async def test_what_cannot_be_loaded_is_told_with_its_status_or_in_the_stream() -> None:
    machine = a_machine()
    machine.add("large", 5000)
    machine.failures["b"] = [EngineFailed("b.gguf is damaged")]
    async with node_with(machine) as node, connect(node.url) as client:
        for ask in (stream_of(client, "large"), client.chat(model="large", swarm=SINGLE)):
            reply = await ask
            assert reply.status == 503, reply.text
            assert "free" in reply.error["message"], "the numbers"
        machine.gate.clear()
        asking = asyncio.create_task(stream_of(client, "b"))
        await eventually(lambda: bool(machine.loads))
        await asyncio.sleep(0)
        machine.gate.set()
        reply = await asking
        assert "b.gguf is damaged" in reply.text
        again = await client.chat(model="b", swarm=SINGLE)
        assert again.status == 503, "it is not tried again at once"
        assert "b.gguf is damaged" in again.error["message"]


async def test_a_model_that_only_a_peer_has_is_loaded_there_and_the_stream_says_so() -> None:
    study = a_machine()
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(node_with(study, name="study"))
        here = await stack.enter_async_context(node_with(Machine(), there))
        await eventually(lambda: bool(here.membership.alive()[0].loadable))
        client = await stack.enter_async_context(connect(here.url))
        study.gate.clear()
        body = {"model": "a", **BODIES["/v1/chat/completions"], "stream": True, "swarm": SINGLE}
        async with client.open("/v1/chat/completions", body) as response:
            first = await response.content.readline()
            assert first.startswith(b": loading a on study"), first
            study.gate.set()
            rest = (await response.read()).decode()
        assert "I am a" in rest
        assert '"loaded":{"model":"a","node":"study","ms":null}' in rest
    assert study.loads == ["a"]


async def test_a_load_on_a_peer_begins_for_who_does_not_wait_for_it() -> None:
    study = a_machine()
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(node_with(study, name="study"))
        here = await stack.enter_async_context(node_with(Machine(), there))
        await eventually(lambda: bool(here.membership.alive()[0].loadable))
        client = await stack.enter_async_context(connect(here.url))
        reply = await client.chat(model="a", swarm={**SINGLE, "on_loading": "reject"})
        assert (reply.status, reply.headers["Retry-After"]) == (503, "4")
        await eventually(lambda: any(state.phase == "ready" for state in there.pool.states()))
    assert study.loads == ["a"]


async def test_real_models_take_turns_in_memory_for_one() -> None:
    def stored(name: str) -> Loadable:
        async def load(option: LoadOption) -> Engine:
            path = embedded_model_path(name)
            return await load_engine("auto", EngineSpec(name, path, option.context_tokens, option.slots, threads=1))

        usual = LoadOption(512, 1, {"ram": 100 * MIB})
        return Loadable(model_id=name, usual=usual, options=lambda _: (usual,), load=load, capabilities=ABLE)

    machine = Machine()
    machine.models = {name: stored(name) for name in ("demo", "demo:b")}
    options = NodeOptions(source=machine, memory=MemoryRules(most_models=1), pool_pace=QUICK)
    said: dict[str, set[str]] = {"demo": set(), "demo:b": set()}
    async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
        for name in ("demo", "demo:b", "demo"):
            body = {"model": name, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, "swarm": SINGLE}
            reply = await client.post("/v1/completions", body)
            assert reply.status == 200, reply.text
            assert reply.json["swarm"]["loaded"]["model"] == reply.json["model"] == name
            said[name].add(reply.json["choices"][0]["text"])
            assert [state.model_id for state in node.pool.states()] == [name]
    assert len(said["demo"]) == len(said["demo:b"]) == 1, "the same each time"
    assert said["demo"] != said["demo:b"]


async def test_a_request_that_has_no_time_for_the_load_is_refused_at_once_or_ends_at_its_deadline() -> None:
    machine = a_machine(load_s=None)
    machine.add("slow", 100, load_s=60.0)
    machine.gate.clear()
    async with node_with(machine) as node, connect(node.url) as client:
        at_once = await client.chat(model="slow", swarm={**SINGLE, "deadline_s": 9})
        assert at_once.status == 503, at_once.text
        assert "takes about 60 s to load, and the request's deadline is in 9 s" in at_once.error["message"]
        for stream in (False, True):
            reply = await client.chat(model="a", stream=stream, swarm={**SINGLE, "deadline_s": 0.05})
            assert reply.status == (200 if stream else 504), "a stream is open by then"
            assert "deadline_exceeded" in reply.text
        machine.gate.set()
        assert (await client.chat(model="a", swarm=SINGLE)).status == 200, "the load goes on for those who come later"
    assert machine.loads == ["a"]


async def test_comments_do_not_take_the_place_of_what_clients_need_as_a_sign_of_life() -> None:
    machine = a_machine()
    machine.gate.clear()
    pacing = Pacing(told_s=0.001, client_beat_s=0.01, patience_s=0.05)
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK, pacing=pacing)
    async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
        body = {"model": "a", **BODIES["/v1/responses"], "stream": True, "swarm": SINGLE}
        async with client.open("/v1/responses", body) as response:
            while not (line := await response.content.readline()).startswith(b"event:"):
                assert line.startswith(b":") or not line.strip()
            machine.gate.set()
            assert b"I am a" in await response.read()
