"""What whoever manages a node sees of the requests in progress, and how it ends one: aloud, everywhere, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from pydantic import TypeAdapter

from swarm.gateway.documentation.answer_bodies import Cancelled
from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.http.in_progress import CANCELLED
from swarm.gateway.observing.view import RequestListing
from tests.doubles.clients import Client, Reply, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.waiting import eventually

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
REQUESTS = "/swarm/v1/requests"
SINGLE: dict[str, Any] = {"strategy": "single"}
VOTE: dict[str, Any] = {"strategy": "majority", "votes": 3}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat_body(),
    MESSAGES: {**chat_body(), "max_tokens": 9},
    RESPONSES: {"model": "swarm", "input": "hello"},
}


def cancel_path(request_id: str) -> str:
    return f"{REQUESTS}/{request_id}/cancel"


@asynccontextmanager
async def endless(
    name: str = "kitchen", slots: int = 3, **options: Any
) -> AsyncIterator[tuple[RunningNode, ScriptedEngine, Client]]:
    """A node whose voters say one word and then nothing, until they are stopped."""
    engine = ScriptedEngine(lambda _, __: ["one ", asyncio.Event()], slots=slots)
    async with RunningNode(name, ready(engine), options=NodeOptions(**options)) as node:
        async with connect(node.url) as client:
            yield node, engine, client
        await eventually(lambda: engine.running == 0)
        assert all(state.slots_free == state.slots for state in node.pool.states())


async def listed(client: Client, **headers: str) -> list[Any]:
    reply = await client.get(REQUESTS, **headers)
    assert reply.status == 200
    TypeAdapter(RequestListing).validate_python(reply.json)
    return reply.json["data"]


@asynccontextmanager
async def asked(
    node: RunningNode, client: Client, path: str = CHAT, request_id: str = "mine", **fields: Any
) -> AsyncIterator[asyncio.Task[Reply]]:
    """A request that is in progress; it has ended when the block does."""
    before = len(node.condition.in_progress)
    task = asyncio.create_task(client.post(path, {**BODIES[path], **fields}, X_Request_Id=request_id))
    await eventually(lambda: len(node.condition.in_progress) > before)
    yield task
    await task


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("swarm", [SINGLE, VOTE], ids=["single", "vote"])
@pytest.mark.parametrize("path", BODIES)
async def test_a_request_is_seen_and_ended(
    path: str, swarm: dict[str, Any], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with endless() as (node, engine, client):
        async with asked(node, client, path, stream=stream, swarm=swarm) as task:
            await engine.until(lambda engine: engine.running > 0)
            (entry,) = await listed(client)
            assert (entry["id"], entry["path"], entry["from"]) == ("mine", path, "client")
            assert 0 <= entry["running_s"] < 60
            done = await client.post(cancel_path("mine"))
            assert Cancelled.model_validate(done.json) == Cancelled(id="mine", cancelled=1)
            reply = await task
        assert CANCELLED in reply.text
        if reply.status != 200:
            assert (reply.status, reply.headers["x-should-retry"]) == (409, "false")
        else:
            assert stream
            assert not reply.done
        if path == CHAT:
            said = reply.json["error"] if reply.status != 200 else reply.chunks[-1]["error"]
            assert (said["type"], said["code"]) == ("cancelled_error", "cancelled")
        assert await listed(client) == []
        assert "127.0.0.1 cancelled request mine" in caplog.text


async def test_one_that_waits_for_a_worker_is_ended_too() -> None:
    async with (
        endless(slots=1) as (node, engine, client),
        asked(node, client, request_id="first", swarm=SINGLE) as first,
    ):
        await engine.until(lambda engine: engine.running == 1)
        async with asked(node, client, request_id="second", swarm=SINGLE) as second:
            await eventually(lambda: node.pool.states()[0].waiting == 1)
            assert [entry["id"] for entry in await listed(client)] == ["first", "second"], "the oldest first"
            assert (await client.post(cancel_path("second"))).status == 200
            assert (await second).status == 409
        assert not first.done()
        assert (await client.post(cancel_path("first"))).status == 200


async def test_all_that_share_an_id_are_ended_and_no_other() -> None:
    async with endless() as (node, engine, client), AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(asked(node, client, request_id=x, swarm=SINGLE)) for x in "aab"]
        await engine.until(lambda engine: engine.running == 3)
        assert (await client.post(cancel_path("a"))).json == {"id": "a", "cancelled": 2}
        assert [(await task).status for task in tasks[:2]] == [409, 409]
        assert [entry["id"] for entry in await listed(client)] == ["b"]
        await client.post(cancel_path("b"))


@pytest.mark.parametrize("request_id", ["none", "x" * 300, "%0a%1b", "a b"])
async def test_what_is_not_there_is_named(request_id: str) -> None:
    async with endless() as (_, _engine, client):
        reply = await client.post(cancel_path(request_id))
        assert (reply.status, reply.error["code"]) == (404, "request_not_found")
        assert "it has ended, or is another node's" in reply.error["message"]
        assert len(reply.error["message"]) < 200


async def test_a_full_node_still_lets_requests_be_ended() -> None:
    async with endless(most_in_flight=1) as (node, engine, client), asked(node, client, swarm=SINGLE) as task:
        await engine.until(lambda engine: engine.running == 1)
        assert (await client.chat()).status == 503
        assert (await client.post(cancel_path("mine"))).status == 200
        assert (await task).status == 409


async def test_ended_where_it_was_asked_it_ends_on_the_peers() -> None:
    async with endless("study") as (study, engine, at_study):
        options = NodeOptions(peers=[study.address])
        async with RunningNode("kitchen", options=options) as kitchen, connect(kitchen.url) as client:
            async with asked(kitchen, client, swarm=SINGLE) as task:
                await engine.until(lambda engine: engine.running == 1)
                (entry,) = await listed(at_study)
                assert (entry["id"], entry["path"], entry["from"]) == ("mine", "/federation/v1/generate", "node")
                assert (await client.post(cancel_path("mine"))).status == 200
                assert (await task).status == 409
            await eventually(lambda: engine.running == 0)


async def test_a_client_of_another_machine_sees_and_ends_nothing() -> None:
    """It comes through a proxy here; `tests/trust/test_who_may_what.py` asks as everybody."""
    access = AccessRules(key_digests=(digest("client"),), admin_digests=(digest("admin"),))
    far = {"X_Forwarded_For": "192.168.1.9"}
    async with endless(access=access) as (node, engine, client):
        body = chat_body(swarm=SINGLE)
        task = asyncio.create_task(client.post(CHAT, body, X_Request_Id="mine", x_api_key="client", **far))
        await engine.until(lambda engine: engine.running == 1)
        for key, status in (("client", 403), ("wrong", 401)):
            assert (await client.get(REQUESTS, x_api_key=key, **far)).status == status
            assert (await client.post(cancel_path("mine"), x_api_key=key, **far)).status == status
        assert len(node.condition.in_progress) == 1
        assert (await client.post(cancel_path("mine"), x_api_key="admin", **far)).status == 200
        assert (await task).status == 409


async def test_neither_keys_nor_words_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    access = AccessRules(key_digests=(digest("sk-client-x"),), admin_digests=(digest("sk-admin-x"),))
    async with endless(access=access) as (_, engine, client):
        body = chat_body("a private question", swarm=SINGLE)
        task = asyncio.create_task(client.post(CHAT, body, X_Request_Id="mine", x_api_key="sk-client-x"))
        await engine.until(lambda engine: engine.running == 1)
        replies = [
            await client.get(path, x_api_key="sk-admin-x")
            for path in (REQUESTS, "/v1/federation/health", "/metrics", "/openapi.json", "/docs", "/made/up")
        ]
        replies.append(await client.post(cancel_path("other"), x_api_key="sk-admin-x"))
        replies.append(await client.post(cancel_path("mine"), x_api_key="sk-admin-x"))
        replies.append(await task)
        for text in (caplog.text, *(f"{reply.text} {dict(reply.headers)}" for reply in replies)):
            for secret in ("sk-client-x", "sk-admin-x", digest("sk-admin-x").hex(), "a private question"):
                assert secret not in text
