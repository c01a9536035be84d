"""Loading, unloading and pinning models over HTTP: on this node, on others, and what each lets others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import EngineFailed, Unavailable
from swarm.gateway.http.access import AccessRules
from swarm.workers.pool import PoolPace
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.waiting import eventually

LOAD, UNLOAD, PIN = "/v1/models/load", "/v1/models/unload", "/v1/models/pin"


def options(machine: Machine, *peers: RunningNode, pace: PoolPace = QUICK, **more: Any) -> NodeOptions:
    given = NodeOptions(source=machine, memory=machine.rules(), pool_pace=pace, **more)
    return replace(given, peers=[peer.address for peer in peers])


@asynccontextmanager
async def alone(machine: Machine, **more: Any) -> AsyncIterator[tuple[RunningNode, Client]]:
    async with RunningNode("kitchen", options=options(machine, **more)) as node, connect(node.url) as client:
        yield node, client


@asynccontextmanager
async def two(kitchen: Machine, study: Machine, pace: PoolPace = QUICK, **more: Any) -> AsyncIterator[Client]:
    """The kitchen's client; `more` are options of the study."""
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(RunningNode("study", options=options(study, pace=pace, **more)))
        here = await stack.enter_async_context(RunningNode("kitchen", options=options(kitchen, there)))
        await eventually(lambda: not study.models or bool(here.membership.alive()[0].loadable))
        yield await stack.enter_async_context(connect(here.url))


@asynccontextmanager
async def two_paired(
    folder: Path, kitchen: Machine, study: Machine, manage: bool, **more: Any
) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        ours, theirs = paired_trusts(folder, "kitchen", "study")
        access = AccessRules(members_manage=manage)
        given = options(study, trust=theirs, access=access, **more)
        there = await stack.enter_async_context(RunningNode("study", options=given))
        here = await stack.enter_async_context(RunningNode("kitchen", options=options(kitchen, there, trust=ours)))
        await eventually(lambda: not study.models or bool(here.membership.alive()[0].loadable))
        yield await stack.enter_async_context(connect(here.url))


def machine(*names: str, **more: Any) -> Machine:
    made = Machine(**more)
    for name in names:
        made.add(name, 100)
    return made


def done(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply.text
    return {name: value for name, value in reply.json.items() if name != "load_ms"}


async def states(client: Client) -> dict[str, str]:
    return {model["id"]: model["state"] for model in (await client.get("/v1/models")).json["data"]}


# On this node


@pytest.mark.parametrize("prefix", ["/v1", ""])  # llama-server's router has the paths without it
async def test_a_model_is_loaded_and_unloaded(prefix: str) -> None:
    async with alone(machine("a", "b")) as (_, client):
        assert await states(client) == {"swarm": "available", "a": "available", "b": "available"}
        reply = await client.post(f"{prefix}/models/load", {"model": "a"})
        assert done(reply) == {"model": "a", "node": "kitchen", "state": "ready", "success": True}
        assert reply.json["load_ms"] >= 0
        assert (await client.post(f"{prefix}/models/load", {"model": "a"})).json["load_ms"] == 0
        assert await states(client) == {"swarm": "ready", "a": "ready", "b": "available"}
        for _ in range(2):  # what is not loaded is as was asked
            reply = await client.post(f"{prefix}/models/unload", {"model": "a"})
            assert done(reply) == {"model": "a", "node": "kitchen", "state": "available", "success": True}
        assert (await states(client))["a"] == "available"


async def test_a_pinned_model_stays_until_it_is_not_pinned_any_more() -> None:
    async with alone(machine("a", "b", "c", total=150)) as (node, client):
        assert done(await client.post(LOAD, {"model": "a", "pin": True}))["pinned"]
        reply = await client.post(LOAD, {"model": "b"})
        assert reply.status == 503
        assert "100 MiB" in reply.error["message"]
        assert "Pinned: a (100 MiB)" in reply.error["message"]
        assert int(reply.headers["Retry-After"]) > 0
        entry = (await client.get("/v1/models/a")).json
        assert (entry["state"], entry["pinned"]) == ("ready", True)
        off = done(await client.post(PIN, {"model": "a", "pinned": False}))
        assert off == {"model": "a", "node": "kitchen", "state": "ready", "pinned": False, "success": True}
        assert done(await client.post(PIN, {"model": "b", "pinned": True}))["state"] == "ready", (
            "for which it is loaded"
        )
        assert [state.model_id for state in node.pool.states()] == ["b"]
        assert done(await client.post(PIN, {"model": "c", "pinned": False}))["state"] == "available"


async def test_a_model_that_is_in_use_is_unloaded_when_its_answers_are_over() -> None:
    async with alone(machine("a")) as (node, client):
        await client.post(LOAD, {"model": "a"})
        async with node.pool.using("a"):
            unloading = asyncio.create_task(client.post(UNLOAD, {"model": "a"}))
            await eventually(lambda: node.pool.states()[0].phase == "draining")
            assert (await states(client))["a"] == "draining"
        assert (await unloading).status == 200


async def test_a_load_that_is_under_way_is_shown_and_its_failure_is_told() -> None:
    disk = machine("a")
    disk.gate.clear()
    disk.failures["a"] = [EngineFailed("a.gguf is damaged")]
    async with alone(disk) as (node, client):
        loading = asyncio.create_task(client.post(LOAD, {"model": "a"}))
        await eventually(lambda: bool(disk.loads))
        entry = (await client.get("/v1/models/a")).json
        assert (entry["state"], entry["status"], entry["states"]) == (
            "loading", {"value": "loading"}, {"kitchen": "loading"},
        )  # fmt: skip
        assert entry["loading"]["share"] >= 0
        disk.gate.set()
        reply = await loading
        assert (reply.status, reply.error["message"]) == (500, "a.gguf is damaged")
        assert (await client.get("/v1/models/a")).json["state"] == "failed"
        assert node.pool.states()[0].reason == "a.gguf is damaged"


async def test_a_node_on_its_way_out_loads_nothing_more() -> None:
    disk = machine("a")
    async with alone(disk) as (node, client):
        node.condition.draining = True
        for path, more in ((LOAD, {}), (PIN, {"pinned": True})):
            reply = await client.post(path, {"model": "a", **more})
            assert (reply.status, reply.error["code"]) == (503, "unavailable")
    assert disk.loads == []


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    (LOAD, {"model": "z"}, 404, "'z' is not served here; available: a, swarm"),
    (LOAD, {"model": "swarm"}, 400, "'swarm' stands for all models"),
    (LOAD, {"model": "a", "node": "attic"}, 400, "node is 'attic': no node has that name; there are kitchen"),
    (LOAD, {"model": "a", "pin": "yes"}, 400, "pin"),
    (LOAD, {}, 400, "model"),
    (UNLOAD, {"model": "z"}, 404, "'z' is not served here"),
    (PIN, {"model": "a"}, 400, "pinned"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), BAD)
async def test_what_cannot_be_done_is_told(path: str, body: dict[str, Any], status: int, words: str) -> None:
    async with alone(machine("a")) as (_, client):
        reply = await client.post(path, body)
        assert reply.status == status, reply.text
        assert words in reply.error["message"]


# On another node


async def test_another_node_loads_what_it_is_named_for_and_what_only_it_has() -> None:
    study = machine("a", "b")
    async with two(machine("a"), study, pace=replace(QUICK, peer_load_s=0.0)) as client:
        reply = await client.post(LOAD, {"model": "a", "node": "STUDY"})
        assert done(reply) == {"model": "a", "node": "study", "state": "ready", "success": True}
        assert done(await client.post(LOAD, {"model": "b"}))["node"] == "study", "which alone has it"
        assert study.loads == ["a", "b"]
        assert done(await client.post(LOAD, {"model": "a"}))["node"] == "kitchen", "where it was asked for"


async def test_peers_cause_a_load_a_minute() -> None:
    study = machine("a", "b")
    async with two(machine(), study) as client:
        assert (await client.post(LOAD, {"model": "a", "node": "study"})).status == 200
        reply = await client.post(LOAD, {"model": "b", "node": "study"})
        assert reply.status == 503
        assert "study: peers had this node load a model lately" in reply.error["message"]
        assert 0 < int(reply.headers["Retry-After"]) <= 60
        assert study.loads == ["a"]


@pytest.mark.parametrize("path", [UNLOAD, PIN])
async def test_in_an_open_swarm_nobody_manages_the_models_of_another(path: str) -> None:
    async with two(machine(), machine("a")) as client:
        reply = await client.post(path, {"model": "a", "node": "study", **({"pinned": True} if path == PIN else {})})
        assert (reply.status, reply.error["code"]) == (403, "management_not_allowed")
        assert "members of its paired swarm only" in reply.error["message"]


async def test_members_manage_models_where_the_owner_lets_them(tmp_path: Path) -> None:
    study = machine("a")
    async with two_paired(tmp_path / "yes", machine(), study, manage=True) as client:
        reply = await client.post(LOAD, {"model": "a", "node": "study", "pin": True})
        assert done(reply) == {"model": "a", "node": "study", "state": "ready", "pinned": True, "success": True}
        assert not done(await client.post(PIN, {"model": "a", "node": "study", "pinned": False}))["pinned"]
        assert done(await client.post(UNLOAD, {"model": "a", "node": "study"}))["state"] == "available"
        assert study.taken == 0
    async with two_paired(tmp_path / "no", machine(), study, manage=False) as client:
        assert done(await client.post(LOAD, {"model": "a", "node": "study"}))["state"] == "ready"
        reply = await client.post(UNLOAD, {"model": "a", "node": "study"})
        assert (reply.status, reply.error["code"]) == (403, "management_not_allowed")
        assert "[peers] manage = true" in reply.error["message"]


async def test_a_model_that_the_other_node_lacks_is_copied_there_first(tmp_path: Path) -> None:
    here, study = machine(), machine()
    here.models["a"] = replace(here.add("a", 100), sha256="ab" * 32)
    pulled: list[tuple[str, str | None]] = []

    async def pull(name: str, sha256: str | None) -> str:
        pulled.append((name, sha256))
        study.add("a-copied", 100)
        return "a-copied"

    async with two_paired(tmp_path / "yes", here, study, manage=True, pull=pull) as client:
        reply = await client.post(LOAD, {"model": "a", "node": "study"})
        assert done(reply) == {"model": "a", "node": "study", "state": "ready", "success": True}
        assert (pulled, study.loads) == ([("a", "ab" * 32)], ["a-copied"])
    async with two_paired(tmp_path / "no", here, machine(), manage=False, pull=pull) as client:
        reply = await client.post(LOAD, {"model": "a", "node": "study"})
        assert (reply.status, reply.error["code"]) == (403, "management_not_allowed")
        assert "study does not have it" in reply.error["message"]
        assert "[peers] manage = true" in reply.error["message"]


async def test_what_goes_wrong_on_the_other_node_is_told_in_its_words(tmp_path: Path) -> None:
    async def pull(name: str, sha256: str | None) -> str:
        del sha256
        raise Unavailable(f"nobody here has {name}: its disk is full", retry_after_s=7)

    here, study = machine("z"), machine("a", "large")
    study.add("large", 5000)
    study.failures["a"] = [EngineFailed("a.gguf is damaged")]
    pace = replace(QUICK, peer_load_s=0.0)
    async with two_paired(tmp_path, here, study, manage=True, pull=pull, pace=pace) as client:
        damaged = await client.post(LOAD, {"model": "a", "node": "study"})
        assert (damaged.status, damaged.error["message"]) == (502, "peer study: a.gguf is damaged")
        large = await client.post(LOAD, {"model": "large", "node": "study"})
        assert large.status == 503
        assert "5000 MiB" in large.error["message"] or "4.9 GiB" in large.error["message"]
        absent = await client.post(LOAD, {"model": "z", "node": "study"})
        assert (absent.status, absent.headers["Retry-After"]) == (503, "7")
        assert "study: nobody here has z: its disk is full" in absent.error["message"]
