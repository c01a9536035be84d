"""Where requests go among real nodes: spread, followed, pinned, retried, left alone; and what the client is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from federation.hostport import Address
from federation.wire import DEADLINE_HEADER, HOPS_HEADER, REQUEST_ID_HEADER
from swarm.errors import EngineFailed
from swarm.routing.router import FAILURES_TO_OPEN, FailureLimits
from swarm.routing.rules import RoutingRules
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.fake_peer import FakePeer, Piece
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step
from tests.doubles.waiting import eventually

SINGLE = {"strategy": "single"}


class Swarm:
    """Nodes that play `steps`, started in order; each knows those before it. The last is asked."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self._known: list[Address] = []

    async def add(self, name: str, *steps: Step, slots: int = 2, **options: Any) -> RunningNode:
        loaders = []
        if steps:
            self.engines[name] = ScriptedEngine(lambda _, __: steps, model_id="m", slots=slots)
            loaders.append(ready(self.engines[name]))
        node = RunningNode(name, *loaders, options=NodeOptions(peers=list(self._known), **options))
        self.nodes[name] = await self._stack.enter_async_context(node)
        self._known.append(node.address)
        return node

    async def add_gated(self) -> dict[str, asyncio.Event]:
        """Two nodes of one slot, whose answers say where they are made, each once its gate is open."""
        gates = {"attic": asyncio.Event(), "kitchen": asyncio.Event()}
        await self.add("attic", gates["attic"], "there", slots=1)
        await self.add("kitchen", gates["kitchen"], "here", slots=1)
        return gates

    async def add_fake(self, name: str, *pieces: Piece, **facts: Any) -> FakePeer:
        peer = await self._stack.enter_async_context(FakePeer(name, *pieces, **{"params": 2_000_000, **facts}))
        self._known.append(peer.address)
        return peer

    async def client(self) -> Client:
        return await self._stack.enter_async_context(connect(list(self.nodes.values())[-1].url))


@asynccontextmanager
async def a_swarm() -> AsyncIterator[Swarm]:
    async with AsyncExitStack() as stack:
        yield Swarm(stack)


def routed(reply: Reply) -> Any:
    return reply.json["swarm"]["routed"]


def failed_peers_answer() -> bytes:
    """A stream that ends before it is complete."""
    return b'data: {"choices": []}\n\n'


async def samples(client: Client, name: str) -> float:
    for line in (await client.get("/metrics")).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise AssertionError(name)


async def test_a_burst_at_one_node_is_spread_evenly_over_all() -> None:
    """Twenty-four requests within one turn: nobody has told anything new since the first."""
    async with a_swarm() as swarm:
        gate = asyncio.Event()
        for name in ("attic", "study", "kitchen"):
            await swarm.add(name, gate, "a word", slots=2)
        client = await swarm.client()
        asked = [asyncio.create_task(client.chat(model="m", swarm=SINGLE)) for _ in range(24)]
        await eventually(
            lambda: sum(len(e.requests) + _waiting(swarm, name) for name, e in swarm.engines.items()) == 24
        )
        shares = {name: len(e.requests) + _waiting(swarm, name) for name, e in swarm.engines.items()}
        gate.set()
        assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
        assert all(7 <= share <= 9 for share in shares.values()), shares


def _waiting(swarm: Swarm, name: str) -> int:
    workers = swarm.nodes[name].pool.get("m")
    assert workers is not None
    return workers.waiting


async def test_an_idle_node_answers_itself_and_says_so() -> None:
    async with a_swarm() as swarm:
        await swarm.add("attic", "a word")
        await swarm.add("kitchen", "a word")
        client = await swarm.client()
        assert routed(await client.chat(swarm=SINGLE)) == {"node": "kitchen", "reason": "here", "tried": []}


async def test_a_busy_node_passes_on_to_a_free_slot() -> None:
    async with a_swarm() as swarm:
        gate = asyncio.Event()
        await swarm.add("attic", "a word", slots=1)
        await swarm.add("kitchen", gate, "a word", slots=1)
        client = await swarm.client()
        first = asyncio.create_task(client.chat(swarm=SINGLE))
        await swarm.engines["kitchen"].until(lambda engine: engine.running == 1)
        assert routed(await client.chat(swarm=SINGLE)) == {"node": "attic", "reason": "free slot", "tried": []}
        gate.set()
        assert (await first).status == 200


async def test_who_waits_here_leaves_for_a_peer_that_is_idle_by_then() -> None:
    """Both are busy when it comes, and this node, which seems sooner, stays so."""
    async with a_swarm() as swarm:
        gates = await swarm.add_gated()
        client = await swarm.client()
        busy = [asyncio.create_task((await _client_of(swarm, name)).chat(swarm=SINGLE)) for name in gates]
        for name in gates:
            await swarm.engines[name].until(lambda engine: engine.running == 1)
        await eventually(lambda: swarm.nodes["kitchen"].dispatcher.replicas()[1].slots_free == 0)
        waits = asyncio.create_task(client.chat(swarm=SINGLE))
        await eventually(lambda: _waiting(swarm, "kitchen") == 1)
        gates["attic"].set()
        reply = await waits
        assert routed(reply) == {"node": "attic", "reason": "free slot", "tried": []}
        assert await samples(client, "swarm_requests_moved_total") == 1
        assert _waiting(swarm, "kitchen") == 0
        gates["kitchen"].set()
        assert {reply.status for reply in await asyncio.gather(*busy)} == {200}


async def test_a_conversation_goes_on_where_it_was_answered_unless_that_node_is_busy() -> None:
    async with a_swarm() as swarm:
        gates = await swarm.add_gated()
        client = await swarm.client()
        blocking = asyncio.create_task(client.chat("first of all", swarm=SINGLE))
        await swarm.engines["kitchen"].until(lambda engine: engine.running == 1)
        gates["attic"].set()
        turn = [{"role": "user", "content": "hello"}]
        first = await client.post("/v1/chat/completions", {"model": "swarm", "messages": turn, "swarm": SINGLE})
        assert routed(first)["node"] == "attic"
        gates["kitchen"].set()
        await blocking
        turn += [{"role": "assistant", "content": "there"}, {"role": "user", "content": "and now?"}]
        body = {"model": "swarm", "messages": turn, "swarm": SINGLE}
        second = await client.post("/v1/chat/completions", body)
        assert routed(second) == {"node": "attic", "reason": "warm prefix", "tried": []}
        assert await samples(client, "swarm_prefixes_followed_total") == 1
        gates["attic"].clear()
        other = asyncio.create_task((await _client_of(swarm, "attic")).chat(swarm={"votes": 1}))
        await swarm.engines["attic"].until(lambda engine: engine.running == 1)
        await eventually(lambda: swarm.nodes["kitchen"].dispatcher.replicas()[1].slots_free == 0)
        turn += [{"role": "assistant", "content": "there"}, {"role": "user", "content": "and then?"}]
        third = await client.post("/v1/chat/completions", body)
        assert routed(third)["node"] == "kitchen"
        gates["attic"].set()
        await other


async def _client_of(swarm: Swarm, name: str) -> Client:
    return await swarm._stack.enter_async_context(connect(swarm.nodes[name].url))  # pyright: ignore[reportPrivateUsage]


async def test_a_pin_is_kept_by_answers_and_by_voters_while_its_node_is_there() -> None:
    async with a_swarm() as swarm:
        await swarm.add("attic", "a word")
        await swarm.add("kitchen", "a word", rules=RoutingRules(pins={"m": ("attic",)}))
        client = await swarm.client()
        assert routed(await client.chat(swarm=SINGLE))["reason"] == "pinned"
        vote = (await client.chat(swarm={"votes": 4})).json["swarm"]
        assert {candidate["voter"].split("@")[1] for candidate in vote["candidates"]} == {"attic"}
        await swarm.nodes["attic"].stop()
        assert routed(await client.chat(swarm=SINGLE))["node"] == "kitchen"


async def test_a_weight_of_nothing_is_for_when_nobody_else_can() -> None:
    async with a_swarm() as swarm:
        await swarm.add("attic", "a word")
        await swarm.add("kitchen", "a word", rules=RoutingRules(weights={"kitchen": 0.0}))
        client = await swarm.client()
        assert routed(await client.chat(swarm=SINGLE)) == {"node": "attic", "reason": "weight", "tried": []}
        vote = (await client.chat(swarm={"votes": 3})).json["swarm"]
        assert {candidate["voter"].split("@")[1] for candidate in vote["candidates"]} == {"attic"}
        await swarm.nodes["attic"].stop()
        assert (await client.chat(swarm=SINGLE)).status == 200


async def test_a_failure_before_the_first_byte_is_told_with_who_was_tried(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="swarm.routing")
    async with a_swarm() as swarm:
        await swarm.add("attic", "a word")
        await swarm.add("kitchen", EngineFailed("out of memory"))
        client = await swarm.client()
        reply = await client.chat(swarm=SINGLE)
        assert routed(reply) == {"node": "attic", "reason": "next best", "tried": ["kitchen"]}
        assert await samples(client, "swarm_failovers_total") == 1
    assert "attic answers with m: next best, after kitchen" in caplog.text


async def test_a_peer_whose_answers_break_off_is_left_alone_and_stays_the_last_resort() -> None:
    async with a_swarm() as swarm:
        attic = await swarm.add_fake("attic", failed_peers_answer(), model="large")
        await swarm.add("kitchen", "a word")
        client = await swarm.client()
        dispatcher, membership = swarm.nodes["kitchen"].dispatcher, swarm.nodes["kitchen"].membership
        for _ in range(FAILURES_TO_OPEN):
            await eventually(lambda: not dispatcher.replicas()[1].suspect)
            assert (await client.chat(swarm=SINGLE)).status == 200
        assert dispatcher.circuits() == {"id-attic": "open"}
        seen = (await client.get("/v1/federation/health")).json["peers"]
        assert [peer["circuit"] for peer in seen] == ["open"]
        assert await samples(client, "swarm_circuits_opened_total") == 1
        asked = len(attic.asked)
        await eventually(lambda: all(peer.state == "alive" for peer in membership.alive()))
        assert (await client.chat(swarm=SINGLE)).json["swarm"]["routed"]["tried"] == []
        assert len(attic.asked) == asked, "not asked while anybody else can answer"
        swarm.engines["kitchen"].script = lambda _, __: [EngineFailed("broken")]
        await client.chat(swarm=SINGLE)
        assert len(attic.asked) == asked + 1, "but rather than nobody"


async def test_retries_have_a_budget_and_first_attempts_have_none() -> None:
    stingy = FailureLimits(retry_floor=1, floor_per_s=0.0)
    async with a_swarm() as swarm:
        await swarm.add("attic", "a word")
        await swarm.add("kitchen", EngineFailed("out of memory"), params=9_000_000, failure_limits=stingy)
        client = await swarm.client()
        replies = [await client.chat(swarm=SINGLE) for _ in range(6)]
        refused = [reply for reply in replies if reply.status != 200]
        assert len(refused) == 4, "one from the floor, and one for every five requests"
        assert {reply.status for reply in refused} == {503}
        assert "out of memory; it was not asked elsewhere, because too many requests" in refused[0].error["message"]
        assert int(refused[0].headers["Retry-After"]) > 0
        assert await samples(client, "swarm_retries_refused_total") == 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "swarm": SINGLE}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "swarm": {"votes": 2}}),
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/tokenize", {"content": "x"}),
    ],
    ids=["generate", "candidates", "embeddings", "tokenize"],
)
async def test_what_is_left_of_the_time_the_hops_and_the_id_travel_with_every_call(
    path: str, body: dict[str, Any]
) -> None:
    async with a_swarm() as swarm:
        attic = await swarm.add_fake("attic", b"\n", slots=2)
        await swarm.add("kitchen")
        client = await swarm.client()
        if "swarm" in body:
            body = {**body, "swarm": {**body["swarm"], "deadline_s": 50}}
        await client.post(path, {"model": "m", **body}, X_Request_Id="req-1")
        assert attic.headers
        for headers in attic.headers:
            assert headers[HOPS_HEADER] == "1"
            assert headers[REQUEST_ID_HEADER] == "req-1"
            assert 0 < int(headers[DEADLINE_HEADER]) <= (50_000 if "swarm" in body else 120_000)


async def test_a_second_attempt_has_only_what_is_left_of_the_time() -> None:
    async with a_swarm() as swarm:
        gate = asyncio.Event()
        slow = await swarm.add_fake("attic", gate, tokens_per_s=9000.0)
        other = await swarm.add_fake("study", failed_peers_answer(), tokens_per_s=1.0)
        await swarm.add("kitchen")
        client = await swarm.client()
        asked = asyncio.create_task(client.chat(model="m", swarm={**SINGLE, "deadline_s": 50}))
        await eventually(lambda: bool(slow.asked))
        gate.set()
        await asked
        first, second = (int(peer.headers[0][DEADLINE_HEADER]) for peer in (slow, other))
        assert second <= first


@pytest.mark.parametrize("path", ["candidates", "generate", "utilities/embeddings"])
async def test_a_request_at_the_limit_of_hops_is_refused(path: str) -> None:
    async with a_swarm() as swarm:
        await swarm.add("kitchen", "a word")
        client = await swarm.client()
        reply = await client.post(f"/federation/v1/{path}", {"model": "m"}, X_Swarm_Hops="2")
        assert reply.status == 400
        assert "passed on at most 1 time" in reply.error["message"]
