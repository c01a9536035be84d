"""`keep_alive`: how long a model stays, said by those who may manage the node; and what all others are told."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.ollama.keep_alive import LONGEST_S, UNITS_S, idle_seconds
from swarm.gateway.ollama.listing import NEVER, expiry
from tests.doubles.clients import Client, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

ASK: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "Tell me."}], "stream": False}
ELSEWHERE: dict[str, Any] = {"X_Forwarded_For": "192.0.2.7"}  # as a proxy says of whoever is not on this machine


@asynccontextmanager
async def loading(machine: Machine, access: AccessRules | None = None) -> AsyncGenerator[tuple[RunningNode, Client]]:
    """A node that loads from `machine`, and its client."""
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK, access=access or AccessRules())
    async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
        yield node, client


def models(*names: str) -> Machine:
    machine = Machine(total=1000)
    for name in names:
        machine.add(name, 100, load_s=0.1)
    return machine


async def expires(client: Client, name: str = "a") -> str:
    """By `/api/ps`."""
    (found,) = [model for model in (await client.get("/api/ps")).json["models"] if model["name"] == name]
    return found["expires_at"]


async def loaded(client: Client) -> list[str]:
    return [model["name"] for model in (await client.get("/api/ps")).json["models"]]


# What is said


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (300, 300), (0, 0), (2.5, 2.5), (-1, math.inf), (-0.5, math.inf), ("5m", 300), ("-1", math.inf), ("300", 300),
        ("1h30m", 5400), ("1.5h", 5400), ("0", 0), ("0s", 0), ("-1s", math.inf), ("+5s", 5), (".5s", 0.5), ("5.s", 5),
        ("250ms", 0.25), ("7µs", 7e-6), (1e300, math.inf), ("9999999h", math.inf), (" 5m ", 300),
    ],
)  # fmt: skip
def test_seconds_and_durations_as_go_writes_them(said: str | float, seconds: float) -> None:
    assert idle_seconds(said) == pytest.approx(seconds)


def test_a_whole_number_of_any_length_is_for_ever() -> None:
    assert idle_seconds(10**400) == idle_seconds(-(10**400)) == math.inf


@pytest.mark.parametrize("said", ["", "5 m", "m", "5x", "5m-1s", "1d", "forever", "5m" * 40, "٣s", "1e3s", "."])
def test_what_is_no_duration_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        idle_seconds(said)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS_S))), min_size=1, max_size=6))
@example([(10**6, "h")] * 3)  # more than Go's durations hold
def test_the_pieces_of_a_duration_add_up(pieces: list[tuple[int, str]]) -> None:
    seconds = sum(number * UNITS_S[unit] for number, unit in pieces)
    expected = pytest.approx(seconds) if seconds < LONGEST_S else math.inf
    assert idle_seconds("".join(f"{number}{unit}" for number, unit in pieces)) == expected


# What it does


async def test_whoever_manages_the_node_says_how_long_a_model_stays() -> None:
    async with loading(models("a")) as (_, client):
        before = datetime.now(UTC)
        answer = (await client.post("/api/chat", {**ASK, "keep_alive": "1h"})).json
        assert answer["swarm"]["keep_alive"] == {"applied": True}
        at = datetime.fromisoformat(await expires(client))
        assert before + timedelta(hours=1) <= at <= datetime.now(UTC) + timedelta(hours=1)
        plain = (await client.post("/api/chat", ASK)).json
        assert "keep_alive" not in plain["swarm"]
        assert await expires(client) != NEVER, "what was said holds for the whole load"
        await client.post("/api/chat", {**ASK, "keep_alive": -1})
        assert await expires(client) == NEVER


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_model_that_is_not_to_stay_goes_after_its_answer(stream: bool) -> None:
    machine = models("a", "b")
    async with loading(machine) as (_, client):
        await client.post("/api/chat", {**ASK, "model": "b"})
        reply = await client.post("/api/chat", {**ASK, "keep_alive": 0, "stream": stream})
        last = reply.text.strip().splitlines()[-1]
        assert '"keep_alive":{"applied":true}' in last
        await eventually(lambda: machine.taken == 100)
        assert await loaded(client) == ["b"]
        again = (await client.post("/api/chat", ASK)).json
        assert again["message"]["content"] == "I am a"
        assert await expires(client) == NEVER, "another load knows nothing of it"
        assert machine.loads == ["b", "a", "a"]


async def test_a_model_that_is_not_to_stay_goes_with_its_last_user_whenever_the_keeper_would_look() -> None:
    machine = models("a")
    seldom = replace(QUICK, tick_s=3600.0)
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=seldom)
    async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
        async with node.pool.using("a"):
            await client.post("/api/chat", {**ASK, "keep_alive": 0})
        await eventually(lambda: machine.taken == 0)


async def test_a_model_goes_only_when_nobody_uses_it() -> None:
    machine = models("a")
    async with loading(machine) as (node, client), node.pool.using("a"):
        await client.post("/api/chat", {**ASK, "keep_alive": 0})
        for _ in range(5):
            assert (await client.post("/api/chat", ASK)).status == 200
        assert machine.loads == ["a"]
        assert await loaded(client) == ["a"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_zero_and_nothing_to_answer_unloads(path: str) -> None:
    machine = models("a")
    async with loading(machine) as (_, client):
        assert (await client.post(path, {"model": "a"})).json["done_reason"] == "load"
        for _ in range(2):  # it is as true of what is not loaded
            gone = (await client.post(path, {"model": "a:latest", "keep_alive": 0})).json
            assert (gone["model"], gone["done"], gone["done_reason"]) == ("a:latest", True, "unload")
            assert await loaded(client) == []
        assert machine.taken == 0
        assert machine.loads == ["a"]
        unknown = await client.post(path, {"model": "nothing", "keep_alive": 0})
        assert (unknown.status, "not found" in unknown.error) == (404, True)


async def test_a_pinned_model_stays_but_where_it_is_told_to_go() -> None:
    machine = models("a")
    async with loading(machine) as (node, client):
        await client.post("/v1/models/pin", {"model": "a", "pinned": True})
        told = (await client.post("/api/chat", {**ASK, "keep_alive": "5m"})).json["swarm"]["keep_alive"]
        assert (told["applied"], "pinned" in told["why"]) == (False, True)
        assert await expires(client) == NEVER
        for_ever = (await client.post("/api/chat", {**ASK, "keep_alive": -1})).json["swarm"]["keep_alive"]
        assert for_ever == {"applied": True}
        gone = await client.post("/api/generate", {"model": "a", "keep_alive": 0})
        assert gone.json["done_reason"] == "unload"
        assert node.pool.get("a") is None


async def test_vectors_keep_their_model_too() -> None:
    machine = models("a")
    async with loading(machine) as (_, client):
        await client.post("/api/chat", ASK)
        kept = (await client.post("/api/embed", {"model": "a", "input": "x", "keep_alive": "2h"})).json
        assert (kept["swarm"], len(kept["embeddings"])) == ({"keep_alive": {"applied": True}}, 1)
        assert await expires(client) != NEVER
        last = (await client.post("/api/embeddings", {"model": "a", "prompt": "x", "keep_alive": 0})).json
        assert last["swarm"] == {"keep_alive": {"applied": True}}
        await eventually(lambda: machine.taken == 0)


# Who may


@pytest.mark.parametrize("keep_alive", [-1, 0, "5m", 0.25])
async def test_others_are_answered_and_told_that_it_has_no_effect(keep_alive: float | str) -> None:
    machine = models("a")
    async with loading(machine) as (_, client):
        for path, body in (
            ("/api/chat", ASK),
            ("/api/generate", {"model": "a", "prompt": "x", "stream": False}),
            ("/api/embed", {"model": "a", "input": "x"}),
        ):
            reply = await client.post(path, {**body, "keep_alive": keep_alive}, **ELSEWHERE)
            assert reply.status == 200
            told = reply.json["swarm"]["keep_alive"]
            assert (told["applied"], "who manages this node" in told["why"]) == (False, True)
        assert await expires(client) == NEVER
        assert machine.loads == ["a"]


async def test_others_unload_nothing_and_load_nothing_by_asking_for_it() -> None:
    machine = models("a")
    async with loading(machine) as (_, client):
        rests = (await client.post("/api/chat", {"model": "a", "keep_alive": 0}, **ELSEWHERE)).json
        assert (rests["done_reason"], machine.loads) == ("unload", [])
        await client.post("/api/chat", ASK)
        runs = (await client.post("/api/chat", {"model": "a", "keep_alive": 0}, **ELSEWHERE)).json
        assert (runs["done_reason"], runs["swarm"]["keep_alive"]["applied"]) == ("load", False)
        assert await loaded(client) == ["a"]


async def test_an_admin_key_may_and_a_clients_key_may_not() -> None:
    access = AccessRules(key_digests=(digest("client"),), admin_digests=(digest("admin"),))
    async with loading(models("a"), access) as (_, client):
        for key, may in (("client", False), ("admin", True)):
            body = {**ASK, "keep_alive": "1h"}
            reply = await client.post("/api/chat", body, Authorization=f"Bearer {key}", **ELSEWHERE)
            assert reply.json["swarm"]["keep_alive"]["applied"] is may
        assert (await client.post("/api/chat", {**ASK, "keep_alive": 0})).status == 401


async def test_a_page_needs_the_nodes_token_for_it() -> None:
    async with loading(models("a")) as (node, client):
        page: dict[str, Any] = {"Origin": node.url, "Sec_Fetch_Site": "same-origin"}
        body = {**ASK, "keep_alive": "1h"}
        assert not (await client.post("/api/chat", body, **page)).json["swarm"]["keep_alive"]["applied"]
        page["X_Swarm_Page"] = node.page_access.token
        assert (await client.post("/api/chat", body, **page)).json["swarm"]["keep_alive"]["applied"]


async def test_all_models_and_those_of_others_are_not_this_nodes_to_keep() -> None:
    there = ready(ScriptedEngine(saying("there"), model_id="theirs"))
    async with RunningNode("study", there) as study:
        options = NodeOptions(
            source=(machine := models("a")), memory=machine.rules(), pool_pace=QUICK, peers=[study.address]
        )
        async with RunningNode("kitchen", options=options) as node, connect(node.url) as client:
            await eventually(lambda: len(node.membership.alive()) == 1)
            theirs = (await client.post("/api/chat", {**ASK, "model": "theirs", "keep_alive": "5m"})).json
            assert theirs["message"]["content"] == "there"
            assert "no model of this node" in theirs["swarm"]["keep_alive"]["why"]
            swarm = (await client.post("/api/chat", {**ASK, "model": "swarm", "keep_alive": "5m"})).json
            assert "stands for all models" in swarm["swarm"]["keep_alive"]["why"]
            (told,) = [model for model in (await client.get("/api/ps")).json["models"] if model["name"] == "theirs"]
            assert "expires_at" not in told, "what another node does is not known"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("keep_alive", ["soon", "", True, [5], {"s": 1}])
async def test_what_is_no_time_is_refused(client: Client, keep_alive: Any) -> None:
    for path, more in (("/api/chat", ASK), ("/api/generate", {"prompt": "a"}), ("/api/embed", {"input": "a"})):
        reply = await client.post(path, {**more, "model": "demo", "keep_alive": keep_alive})
        assert (reply.status, set(reply.json), "keep_alive" in reply.error) == (400, {"error"}, True)


def test_an_expiry_is_an_instant_or_never() -> None:
    assert expiry(None, 0.0) == NEVER
    assert expiry(9e9, 1e12) == NEVER
    assert expiry(90, 0.0) == "1970-01-01T00:01:30Z"
