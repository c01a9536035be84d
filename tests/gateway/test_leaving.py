"""A node that leaves: new requests go to the others, running answers end, and whoever cannot wait is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from swarm.commands.status import render
from swarm.gateway.observing.view import parse_view
from swarm.node.leaving import ASKED_LATELY_S, LeavingPace, linger_s, stopping_lines
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step
from tests.doubles.waiting import eventually

CHAT = "/v1/chat/completions"
SINGLE = {"strategy": "single"}
AT_ONCE_S = 0.5
CUT_SOON_S = 0.2
LINGERING_S = 0.3
LONG_S = 20.0  # never reached by a test that passes
IMPATIENT = LeavingPace(drain_s=LONG_S, linger_s=LINGERING_S)
CUTTING = LeavingPace(drain_s=CUT_SOON_S, linger_s=LINGERING_S)


@dataclass(frozen=True, slots=True)
class House:
    """Two nodes that know each other, "study" and "kitchen", whose engines play what a test says; study is idle."""

    study: RunningNode
    kitchen: RunningNode
    engines: dict[str, ScriptedEngine]
    client: Client  # of the kitchen


@asynccontextmanager
async def house(*steps: Step, slots: int = 2) -> AsyncIterator[House]:
    """The kitchen's voters play `steps`; the study's say "elsewhere"."""
    engines = {
        "study": ScriptedEngine(lambda _, __: ["elsewhere"], model_id="m", slots=slots),
        "kitchen": ScriptedEngine(lambda _, __: steps, model_id="m", slots=slots),
    }
    async with AsyncExitStack() as stack:
        study = await stack.enter_async_context(RunningNode("study", ready(engines["study"])))
        knows = NodeOptions(peers=[study.address])
        kitchen = await stack.enter_async_context(RunningNode("kitchen", ready(engines["kitchen"]), options=knows))
        await study.membership.__aenter__()
        stack.push_async_callback(study.membership.__aexit__, None, None, None)
        study.membership.endpoint_reported(kitchen.address.host, kitchen.address.port)
        await study.until(lambda: len(study.membership.alive()) == 1)
        yield House(study, kitchen, engines, await stack.enter_async_context(connect(kitchen.url)))


@asynccontextmanager
async def alone(*steps: Step) -> AsyncIterator[tuple[RunningNode, ScriptedEngine, Client]]:
    engine = ScriptedEngine(lambda _, __: steps, model_id="m", slots=4)
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        yield node, engine, client


@asynccontextmanager
async def leaving(node: RunningNode, pace: LeavingPace = IMPATIENT) -> AsyncIterator[asyncio.Task[None]]:
    """`node` leaves while the block runs, and has left when it ends."""
    task = asyncio.create_task(node.leave(pace))
    await eventually(lambda: node.condition.draining)
    try:
        yield task
    finally:
        await task


async def took_s(task: asyncio.Task[None]) -> float:
    began = time.perf_counter()
    await task
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("others_serve", "asked_s_ago", "expected"),
    [
        (True, 0.0, LINGERING_S),
        (True, ASKED_LATELY_S - 1, LINGERING_S),
        (True, ASKED_LATELY_S + 1, 0.0),
        (True, None, 0.0),
        (False, 0.0, 0.0),
        (False, None, 0.0),
    ],
)
def test_a_node_lingers_only_for_those_who_may_come_and_can_be_served(
    others_serve: bool, asked_s_ago: float | None, expected: float
) -> None:
    assert linger_s(others_serve, asked_s_ago, LINGERING_S) == expected


@pytest.mark.parametrize(
    ("in_progress", "left_s", "told"),
    [
        (0, 0.0, []),
        (2, 0.0, ["stopping: 2 in progress, with 30 s to end; press Ctrl-C again to end now"]),
        (0, 5.0, ["stopping: new requests go to the other nodes for 5 s; press Ctrl-C again to end now"]),
        (
            1,
            5.0,
            [
                "stopping: 1 in progress, with 30 s to end; new requests go to the other nodes for 5 s; "
                "press Ctrl-C again to end now"
            ],
        ),
    ],
)
def test_a_person_is_told_why_the_node_does_not_end_at_once(in_progress: int, left_s: float, told: list[str]) -> None:
    assert list(stopping_lines(in_progress, left_s)) == told


async def test_new_requests_are_passed_on_and_each_answer_closes_its_connection() -> None:
    gate = asyncio.Event()
    async with house("here ", gate, "still") as nodes, aiohttp.ClientSession() as kept:
        running = asyncio.create_task(nodes.client.chat(model="m", swarm=SINGLE, stream=True))
        await nodes.engines["kitchen"].until(lambda engine: engine.running == 1)
        async with leaving(nodes.kitchen):
            for stream in (False, True):
                reply = await nodes.client.chat(model="m", swarm=SINGLE, stream=stream)
                assert reply.status == 200
                assert "elsewhere" in reply.text
                assert reply.headers["Connection"] == "close"
                assert reply.headers["X-Swarm-Node"] == "kitchen"
            async with kept.post(nodes.kitchen.url + CHAT, json=chat_body(model="m")) as vote:
                account = (await vote.json())["swarm"]
            assert len(voters(account, "study")) == len(account["candidates"]) > 0
            tokens = await nodes.client.post("/v1/tokenize", {"model": "m", "content": "ab"})
            assert tokens.json == {"tokens": [97, 98]}
            assert len(nodes.engines["kitchen"].requests) == 1
            ready_reply = await nodes.client.get("/readyz")
            assert (ready_reply.status, ready_reply.json["reason"]) == (503, "draining")
            view = parse_view((await nodes.client.get("/v1/federation/health")).json)
            assert "this node is shutting down" in render(view)
            assert "swarm_draining 1.0" in (await nodes.client.get("/metrics")).text
            gate.set()
            reply = await running
            assert reply.done
            assert reply.said() == "here still"


def voters(account: dict[str, Any], node: str) -> set[str]:
    """Those of a vote who sit at `node`."""
    return {candidate["voter"] for candidate in account["candidates"] if candidate["voter"].split("@")[-1] == node}


async def test_a_peer_is_refused_and_goes_elsewhere_and_hears_the_goodbye() -> None:
    gate = asyncio.Event()
    async with house("here ", gate, "still") as nodes, connect(nodes.study.url) as asking_study:
        running = asyncio.create_task(nodes.client.chat(model="m", swarm=SINGLE))
        await nodes.engines["kitchen"].until(lambda engine: engine.running == 1)
        async with leaving(nodes.kitchen):
            await nodes.study.until(lambda: not nodes.study.membership.alive())
            for path in ("generate", "candidates", "utilities/tokenize"):
                body = {"request": chat_body(model="m"), "votes": 1} if path == "candidates" else chat_body(model="m")
                body = {"model": "m", "content": "x"} if path == "utilities/tokenize" else body
                reply = await nodes.client.post(f"/federation/v1/{path}", body)
                assert (reply.status == 503) or "is shutting down" in reply.text, reply
            assert "elsewhere" in (await asking_study.chat(model="m")).text
            gate.set()
            assert (await running).status == 200
        assert len(nodes.engines["kitchen"].requests) == 1


async def test_where_no_other_node_can_answer_a_client_is_sent_elsewhere() -> None:
    gate = asyncio.Event()
    async with alone("here ", gate, "still") as (node, engine, client):
        running = asyncio.create_task(client.chat(model="m", swarm=SINGLE))
        await engine.until(lambda engine: engine.running == 1)
        async with leaving(node):
            for path, body in ((CHAT, chat_body(model="m")), ("/v1/tokenize", {"model": "m", "content": "x"})):
                reply = await client.post(path, body)
                assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
                assert "ask another node" in reply.error["message"]
            gate.set()
            assert (await running).status == 200


async def test_an_idle_node_alone_leaves_at_once_even_if_somebody_asked_just_now() -> None:
    async with alone("yes") as (node, _, client):
        assert (await client.chat(model="m")).status == 200
        async with leaving(node) as left:
            assert await took_s(left) < AT_ONCE_S


async def test_an_idle_node_that_nobody_asked_leaves_its_peers_at_once() -> None:
    async with house("yes") as nodes, leaving(nodes.kitchen) as left:
        assert await took_s(left) < AT_ONCE_S


async def test_a_node_that_was_asked_lingers_so_that_kept_connections_are_closed_in_peace() -> None:
    async with house("yes") as nodes, aiohttp.ClientSession() as kept:
        async with kept.post(nodes.kitchen.url + CHAT, json=chat_body(model="m")) as answer:
            assert (answer.status, answer.headers.get("Connection")) == (200, None)
            await answer.read()
        async with leaving(nodes.kitchen) as left:
            began = time.perf_counter()
            async with kept.post(nodes.kitchen.url + CHAT, json=chat_body(model="m")) as answer:
                assert (answer.status, answer.headers.get("Connection")) == (200, "close")
                assert "elsewhere" in await answer.text()
            await left
            assert time.perf_counter() - began > LINGERING_S / 2


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_takes_too_long_is_ended_aloud(stream: bool) -> None:
    async with alone("here ", asyncio.Event()) as (node, engine, client):
        running = asyncio.create_task(client.chat(model="m", swarm=SINGLE, stream=stream))
        await engine.until(lambda engine: engine.running == 1)
        async with leaving(node, CUTTING) as left:
            assert await took_s(left) < LONG_S
        reply = await running
        assert engine.cancelled == 1
        if stream:
            assert reply.status == 200
            assert not reply.done
            assert "shut down before the answer was complete" in reply.chunks[-1]["error"]["message"]
        else:
            assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
            assert "shut down before the answer was complete" in reply.error["message"]


@pytest.mark.parametrize("cut", [False, True])
async def test_a_vote_held_elsewhere_loses_nothing_to_a_node_that_leaves(cut: bool) -> None:
    """Its voters finish, or others take their place."""
    gate = asyncio.Event()
    async with house(gate, "elsewhere") as nodes, connect(nodes.study.url) as asking_study:
        asked = {"votes": 3, "min_votes": 3, "strategy": "majority"}
        vote = asyncio.create_task(asking_study.chat(model="m", swarm=asked))
        await nodes.engines["kitchen"].until(lambda engine: engine.running == 1)
        async with leaving(nodes.kitchen, CUTTING if cut else IMPATIENT):
            await nodes.study.until(lambda: not nodes.study.membership.alive())
            if not cut:
                gate.set()
            reply = await vote
        assert reply.status == 200
        account = reply.json["swarm"]
        assert account["votes"] == 3
        assert len(voters(account, "kitchen")) == (0 if cut else 1)


async def test_a_vote_in_progress_may_still_use_the_leaving_nodes_own_voters() -> None:
    gate = asyncio.Event()
    async with alone() as (node, engine, client):
        engine.script = lambda _, voter: [gate, f"Answer: {voter}"]  # no two agree, so a second wave has to be asked
        vote = asyncio.create_task(client.chat(model="m", swarm={"votes": 4, "strategy": "majority"}))
        await engine.until(lambda engine: engine.running > 0)
        assert engine.running < 4
        async with leaving(node):
            gate.set()
            reply = await vote
        assert reply.status == 200
        assert reply.json["swarm"]["votes"] == 4
