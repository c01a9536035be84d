"""Votes that nobody asked for give way to whoever waits for a worker, here and on peers, all but the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from federation.hostport import Address
from tests.doubles.clients import Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step
from tests.doubles.stage import SLOTS, Stage, staged

ENOUGH = SLOTS // 2 + 1  # to decide
ASK = "What is 9 + 7? Reply with a number."
YES_OR_NO = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}}
FUNCTION = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "number": (ASK, {}),
    "json": ("Is it so?", {"response_format": YES_OR_NO}),
    "tools": ("Look.", {"tools": [FUNCTION]}),
}


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield await staged(stack)


def parts(reply: Reply) -> dict[str, str | None]:
    """How each voter took part: its reason where it abstained."""
    last = reply.json if not reply.chunks else next(chunk for chunk in reply.chunks if "swarm" in chunk)
    return {part["voter"]: part.get("abstained") for part in last["swarm"]["candidates"]}


def gave_way(reply: Reply) -> list[str]:
    return [voter for voter, why in parts(reply).items() if why == "gave way"]


def answer_of(kind: str) -> str:
    return "true" if kind == "json" else "16"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", COUNTED)
async def test_all_votes_but_the_first_give_way_at_once_to_who_waits(stage: Stage, kind: str, stream: bool) -> None:
    text, fields = COUNTED[kind]
    never = asyncio.Event()
    first: list[Step] = [answer_of(kind)]
    stage.engine.script = lambda request, voter: (
        ["hello"] if request.max_tokens == 9 else first if voter == 0 else [never]
    )
    voted = asyncio.create_task(stage.client.chat(text, stream=stream, **fields))
    beside = ENOUGH - 1 if kind == "tools" else SLOTS - 1  # more are only asked where these differ
    await stage.engine.until(lambda engine: engine.running == beside)
    others = [asyncio.create_task(stage.client.chat("hi", max_tokens=9)) for _ in range(SLOTS - 1)]
    for reply in await asyncio.gather(*others):
        assert reply.json["choices"][0]["message"]["content"] == "hello"
    assert stage.engine.cancelled == beside
    reply = await voted
    assert len(gave_way(reply)) == beside
    account = (reply.json if not stream else next(chunk for chunk in reply.chunks if "swarm" in chunk))["swarm"]
    assert (account["votes"], account["outcome"], account["degraded"]) == (1, "single", False)


@pytest.mark.parametrize("kind", COUNTED)
async def test_beside_the_first_answer_nothing_runs_that_nobody_asked_for(stage: Stage, kind: str) -> None:
    """The other votes would read the prompt again, and whoever comes would wait for that; afterwards it is cached."""
    text, fields = COUNTED[kind]
    may_end = asyncio.Event()
    stage.engine.script = lambda *_: [may_end, answer_of(kind)]
    voted = asyncio.create_task(stage.client.chat(text, **fields))
    await stage.engine.until(lambda engine: engine.running > 0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert stage.engine.running == 1
    may_end.set()
    assert (await voted).json["swarm"]["votes"] > 1


async def test_votes_that_were_asked_for_do_not_give_way(stage: Stage) -> None:
    """Their seats that run go on; who comes later waits as for any request."""
    gate = asyncio.Event()
    stage.engine.script = lambda *_: [gate, "16"]
    voted = asyncio.create_task(stage.client.chat(ASK, swarm={"votes": SLOTS, "strategy": "majority"}))
    await stage.engine.until(lambda engine: engine.running == SLOTS - 1)
    others = [asyncio.create_task(stage.client.chat("hi", swarm={"votes": 1})) for _ in range(2)]
    await stage.until_waiting(1)
    assert stage.engine.cancelled == 0
    gate.set()
    assert not gave_way(await voted)
    await asyncio.gather(*others)


async def test_least_votes_that_were_asked_for_do_not_give_way(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.engine.script = lambda *_: [gate, "16"]
    voted = asyncio.create_task(stage.client.chat(ASK, swarm={"min_votes": 3}))
    await stage.engine.until(lambda engine: engine.running >= 3)
    others = [asyncio.create_task(stage.client.chat("hi", swarm={"votes": 1})) for _ in range(3)]
    await stage.until_waiting(2)
    gate.set()
    assert not gave_way(await voted)
    await asyncio.gather(*others)


async def test_votes_for_another_node_give_way_to_the_peers_own_clients() -> None:
    may_end, never = asyncio.Event(), asyncio.Event()
    first, extra = [may_end, "16"], [never]
    here = ScriptedEngine(lambda *_: first, slots=1)
    there = ScriptedEngine(lambda request, _: ["hello"] if request.max_tokens == 9 else extra, slots=2)
    async with AsyncExitStack() as stack:
        study = await stack.enter_async_context(RunningNode("study", ready(there)))
        known: list[Address] = [study.address]
        kitchen = await stack.enter_async_context(RunningNode("kitchen", ready(here), options=NodeOptions(peers=known)))
        asking = await stack.enter_async_context(connect(kitchen.url))
        neighbour = await stack.enter_async_context(connect(study.url))
        voted = asyncio.create_task(asking.chat(ASK))
        await there.until(lambda engine: engine.running > 0)
        replies = await asyncio.gather(*(neighbour.chat("hi", max_tokens=9, model="scripted") for _ in range(2)))
        assert {reply.json["choices"][0]["message"]["content"] for reply in replies} == {"hello"}
        assert not voted.done()
        may_end.set()
        account = (await voted).json["swarm"]
        assert {voter.split("@")[1] for voter in gave_way(await voted)} == {"study"}
        assert (account["votes"], account["winner"].split("@")[1], account["degraded"]) == (1, "kitchen", False)
