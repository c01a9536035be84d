"""`GET /v1/events` over real sockets: what is told first, who may read what, how many, and how streams end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from swarm.errors import Unavailable
from swarm.gateway.http.access import AccessRules, digest
from swarm.gateway.observing.board import BOARD, EventBoard
from swarm.gateway.observing.events import READERS, Readers
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

KEY = {"Authorization": "Bearer sk"}


@pytest.fixture
async def node() -> AsyncGenerator[RunningNode]:
    async with RunningNode("kitchen", ready(ScriptedEngine(saying("a word")))) as node:
        yield node


async def next_event(reply: aiohttp.ClientResponse) -> dict[str, str]:
    """The fields of the next event, comments passed over."""
    fields: dict[str, str] = {}
    while line := (await asyncio.wait_for(reply.content.readline(), 10)).decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    return fields


async def test_a_snapshot_then_changes_and_after_a_break_what_was_missed(node: RunningNode) -> None:
    board, url = node.app[BOARD], f"{node.url}/v1/events?parts=pull"
    board.put("pull", "a", {"n": 1})
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as reply:
            first = await next_event(reply)
            assert (first["event"], json.loads(first["data"])) == ("snapshot", {"pull": {"a": {"n": 1}}})
            board.put("pull", "b", {"n": 2})
            second = await next_event(reply)
            assert (second["event"], json.loads(second["data"])) == ("changes", {"pull": {"b": {"n": 2}}})
        board.drop("pull", "a")
        async with session.get(url, headers={"Last-Event-ID": second["id"]}) as reply:
            missed = await next_event(reply)
            assert (missed["event"], json.loads(missed["data"])) == ("changes", {"pull": {"a": None}})
        async with session.get(url, headers={"Last-Event-ID": "0000-1"}) as reply:
            assert (await next_event(reply))["event"] == "snapshot", "an id of an earlier start"


async def test_streams_end_when_the_node_stops(node: RunningNode) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/v1/events?parts=pull") as reply:
        await next_event(reply)
        node.app[READERS].end(node.app[BOARD])
        assert await asyncio.wait_for(reply.content.read(), 5) == b"", "its end, and nothing cut in the middle"
        async with session.get(f"{node.url}/v1/events") as late:
            assert (late.status, "shutting down" in await late.text()) == (503, True)
    await eventually(lambda: not node.app[READERS])


async def test_who_does_not_read_is_cut_and_forgotten(node: RunningNode) -> None:
    node.app[READERS].stalled_s = 0.05
    board = node.app[BOARD]
    for number in range(200):
        board.put("pull", str(number), {"text": "x" * 100_000})  # more than both sockets' buffers
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (node.address.host, node.address.port))
        asked = b"GET /v1/events?parts=pull HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(client, asked)
        await eventually(lambda: len(node.app[READERS]) == 1)
        await eventually(lambda: not node.app[READERS])
        assert not board.watched("pull")


async def test_one_address_has_so_many_streams_and_another_try_succeeds_once_one_has_gone(node: RunningNode) -> None:
    node.app[READERS].most_of_one = 1
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{node.url}/v1/events?parts=pull") as reply:
            await next_event(reply)
            async with session.get(f"{node.url}/v1/events?parts=pull") as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"] == "10"
                assert "close some" in (await refused.json())["error"]["message"]
        await eventually(lambda: not node.app[READERS])
        async with session.get(f"{node.url}/v1/events?parts=pull") as reply:
            assert reply.status == 200


def test_readers_are_bounded_in_all_and_of_each_name() -> None:
    readers = Readers(most=3, most_of_one=2)
    with readers.one(["address a", "key k"]), readers.one(["address b", "key k"]):
        with pytest.raises(Unavailable, match="your address or key"), readers.one(["address c", "key k"]):
            pass
        with readers.one(["address a"]), pytest.raises(Unavailable, match="3 programs"), readers.one(["address d"]):
            pass
    assert len(readers) == 0
    readers.end(EventBoard())
    with pytest.raises(Unavailable, match="shutting down"), readers.one(["address a"]):
        pass


async def test_events_want_the_key_and_managed_parts_more() -> None:
    options = NodeOptions(access=AccessRules(key_digests=(digest("sk"),)))
    proxied = {**KEY, "X-Forwarded-For": "192.0.2.7"}
    asked: list[tuple[str, dict[str, str], int]] = [
        ("finding", {}, 401), ("finding", {"Authorization": "Bearer no"}, 401), ("finding", KEY, 200),
        ("log", KEY, 200), ("log", proxied, 403), ("finding", proxied, 200), ("nothing", KEY, 400),
    ]  # fmt: skip
    async with (
        RunningNode("kitchen", ready(ScriptedEngine(saying("a word"))), options=options) as node,
        aiohttp.ClientSession() as session,
    ):
        for parts, headers, status in asked:
            async with session.get(f"{node.url}/v1/events?parts={parts}", headers=headers) as reply:
                assert reply.status == status, (parts, headers)
                if status == 403:
                    assert "admin key" in (await reply.json())["error"]["message"]
