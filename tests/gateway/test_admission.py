"""More requests than workers: who waits, who is told to come back, who is sent elsewhere, and who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from federation.tasks import cancel_and_wait
from swarm.gateway.answers.answer_form import Pacing
from swarm.routing.utilities import COUNTED_BYTES
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.waiting import eventually

CHAT = "/v1/chat/completions"
SINGLE = {"strategy": "single"}
VOTE = {"votes": 2, "strategy": "majority"}
HEARTBEAT = b": still working\n\n"
PACING = Pacing(client_beat_s=0.02, peer_beat_s=0.02)


class Busy:
    """A node with one worker, which plays until `gate` opens, and a client that asks it."""

    def __init__(self, engine: ScriptedEngine, node: RunningNode, client: Client, gate: asyncio.Event) -> None:
        self.engine = engine
        self.node = node
        self.client = client
        self.gate = gate

    @property
    def waiting(self) -> int:
        return self.node.pool.states()[0].waiting

    async def counted(self, name: str) -> float:
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@asynccontextmanager
async def busy_node(queue: int = 64, service_s: float | None = None, **options: Any) -> AsyncGenerator[Busy]:
    """`service_s` is what one answer took so far."""
    gate = asyncio.Event()
    engine = ScriptedEngine(lambda _, __: [gate, "yes"], slots=1)
    async with AsyncExitStack() as stack:
        node = RunningNode("kitchen", ready(engine), options=NodeOptions(pacing=PACING, queue=queue, **options))
        await stack.enter_async_context(node)
        client = await stack.enter_async_context(connect(node.url))
        workers = node.pool.get("scripted")
        assert workers is not None
        if service_s is not None:
            now = 0.0
            clock, workers._clock = workers._clock, lambda: now  # pyright: ignore[reportPrivateUsage]
            async with workers.lease(1):
                now = service_s
            workers._clock = clock  # pyright: ignore[reportPrivateUsage]
        first = asyncio.create_task(client.chat(swarm=SINGLE))
        await engine.until(lambda engine: engine.running == 1)
        try:
            yield Busy(engine, node, client, gate)
        finally:
            gate.set()
            assert (await first).status == 200


@pytest.mark.parametrize("swarm", [SINGLE, VOTE, {}], ids=["single", "vote", "default"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_a_503_before_any_200(stream: bool, swarm: dict[str, Any]) -> None:
    async with busy_node(queue=0) as busy:
        reply = await busy.client.chat(stream=stream, swarm=swarm)
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "2"
        assert set(reply.error) == {"message", "type", "code", "param", "retry_after_s"}
        assert (reply.error["code"], reply.error["retry_after_s"]) == ("unavailable", 2)
        assert "already waiting" in reply.error["message"]
        assert await busy.counted('swarm_refused_total{reason="queue_full"}') == 1
        assert len(busy.engine.requests) == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_a_full_queue_is_a_503_at_the_other_endpoints_too(path: str) -> None:
    async with busy_node(queue=0) as busy:
        reply = await busy.client.post(path, {"model": "swarm", "prompt": "x", "input": "x"})
        assert (reply.status, reply.error["code"]) == (503, "unavailable")


@pytest.mark.parametrize("swarm", [SINGLE, VOTE], ids=["single", "vote"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_beyond_the_deadline_is_a_503_with_the_wait(stream: bool, swarm: dict[str, Any]) -> None:
    async with busy_node(service_s=30.0) as busy:
        reply = await busy.client.chat(stream=stream, swarm={**swarm, "deadline_s": 20})
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "30"
        assert "the wait for 'scripted' is about 30 s" in reply.error["message"]
        assert await busy.counted('swarm_refused_total{reason="deadline"}') == 1
        assert busy.waiting == 0


async def test_a_wait_within_the_deadline_is_taken_up() -> None:
    async with busy_node(service_s=30.0) as busy:
        second = asyncio.create_task(busy.client.chat(swarm={**SINGLE, "deadline_s": 40}))
        await eventually(lambda: busy.waiting == 1)
        assert await busy.counted("swarm_queue_length") == 1
        assert await busy.counted("swarm_requests_in_flight") == 2
        third = await busy.client.chat(swarm={**SINGLE, "deadline_s": 40})
        assert (third.status, third.headers["Retry-After"]) == (503, "60"), "there is one more ahead of it"
        busy.gate.set()
        assert (await second).status == 200
        assert await busy.counted("swarm_queue_wait_seconds_count") == 3
        assert await busy.counted("swarm_requests_in_flight") == 0


@pytest.mark.parametrize("swarm", [SINGLE, VOTE], ids=["single", "vote"])
async def test_a_queued_stream_has_heartbeats(swarm: dict[str, Any]) -> None:
    async with busy_node() as busy, busy.client.open(CHAT, chat_body(stream=True, swarm=swarm)) as response:
        assert response.status == 200
        assert [await response.content.readuntil(b"\n\n") for _ in range(3)] == [HEARTBEAT] * 3
        assert busy.waiting == 1
        busy.gate.set()
        assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


async def test_a_stream_queued_at_a_peer_has_heartbeats() -> None:
    async with busy_node() as busy:
        hall = RunningNode("hall", options=NodeOptions(pacing=PACING, peers=[busy.node.address]))
        async with hall, connect(hall.url) as client:
            async with client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
                assert [await response.content.readuntil(b"\n\n") for _ in range(3)] == [HEARTBEAT] * 3
                assert busy.waiting == 1
            await eventually(lambda: busy.waiting == 0)


@pytest.mark.parametrize("swarm", [SINGLE, VOTE], ids=["single", "vote"])
@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_it_waits_leaves_the_queue_at_once(stream: bool, swarm: dict[str, Any]) -> None:
    async with busy_node() as busy:
        second = asyncio.create_task(busy.client.chat(stream=stream, swarm=swarm))
        await eventually(lambda: busy.waiting == 1)
        second.cancel()
        await eventually(lambda: busy.waiting == 0)  # while the first one still runs
        await cancel_and_wait(second)
        assert busy.engine.running == 1
        assert await busy.counted("swarm_requests_in_flight") == 1
        assert len(busy.engine.requests) == 1


@pytest.mark.parametrize("swarm", [SINGLE, VOTE], ids=["single", "vote"])
async def test_a_deadline_holds_while_queued(swarm: dict[str, Any]) -> None:
    async with busy_node() as busy:
        reply = await busy.client.chat(swarm={**swarm, "deadline_s": 0.05})
        assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
        assert reply.headers["x-should-retry"] == "false"
        assert busy.waiting == 0


async def test_a_deadline_of_a_queued_stream_ends_it_aloud() -> None:
    async with busy_node() as busy:
        reply = await busy.client.chat(stream=True, swarm={**SINGLE, "deadline_s": 0.1})
        assert reply.comments
        assert reply.chunks[-1]["error"]["message"] == "the request's deadline passed while it waited for a worker"
        assert not reply.done
        assert busy.waiting == 0


@pytest.mark.parametrize("queue", [0, 64])
async def test_a_busy_node_sends_requests_where_workers_are_free(queue: int) -> None:
    study = ScriptedEngine(lambda _, __: ["from the study"], slots=1)
    async with RunningNode("study", ready(study)) as peer, busy_node(queue=queue, peers=[peer.address]) as busy:
        reply = await busy.client.chat(swarm=SINGLE)
        assert reply.json["choices"][0]["message"]["content"] == "from the study"
        assert busy.waiting == 0


async def test_a_peers_own_wait_is_passed_on_to_the_client() -> None:
    async with busy_node(service_s=30.0) as busy:
        hall = RunningNode("hall", options=NodeOptions(peers=[busy.node.address]))
        async with hall, connect(hall.url) as client:
            for swarm in (SINGLE, VOTE):
                reply = await client.chat(swarm={**swarm, "deadline_s": 20})
                assert (reply.status, reply.headers["Retry-After"]) == (503, "30")
                assert "kitchen: the wait for 'scripted' is about 30 s" in reply.error["message"]


async def test_a_node_takes_only_so_many_requests_and_still_reports() -> None:
    async with busy_node(service_s=5.0, most_in_flight=2) as busy:
        second = asyncio.create_task(busy.client.chat(swarm=SINGLE))
        await eventually(lambda: busy.waiting == 1)
        for path, body in ((CHAT, chat_body(stream=True)), ("/v1/embeddings", {"model": "swarm", "input": "x"})):
            reply = await busy.client.post(path, body)
            assert (reply.status, reply.headers["Retry-After"]) == (503, "10")
            assert "has 2 requests in progress" in reply.error["message"]
        assert (await busy.client.get("/readyz")).status == 200
        assert (await busy.client.post("/federation/v1/goodbye", {"id": "x"})).status == 200
        assert await busy.counted('swarm_refused_total{reason="node_full"}') == 2
        busy.gate.set()
        assert (await second).status == 200
        assert (await busy.client.chat(swarm=SINGLE)).status == 200


# A prompt that cannot fit is told so at once: counting needs no worker, and no place in the queue.

TOO_LONG = "word " * 300  # may be more tokens than the context holds, and may be fewer: it must be counted
SAID = [{"role": "user", "content": TOO_LONG}]
APIS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAID},
    "/v1/completions": {"prompt": TOO_LONG},
    "/v1/messages": {"messages": SAID, "max_tokens": 5},
    "/v1/responses": {"input": TOO_LONG},
}
CONTEXT = 1024


def counting(engine: ScriptedEngine) -> None:
    """From now on it counts prompts, and finds them too long."""
    engine.has["longest_token_bytes"] = 16
    engine.prompt_tokens = CONTEXT


@pytest.mark.parametrize("queue", [0, 64])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", APIS)
async def test_a_prompt_that_cannot_fit_is_refused_at_once_while_all_workers_are_busy(
    path: str, stream: bool, queue: int
) -> None:
    async with busy_node(queue=queue) as busy:
        counting(busy.engine)
        reply = await busy.client.post(path, {"model": "swarm", "stream": stream, **APIS[path]})
        assert reply.status == 400
        assert f"{CONTEXT} tokens" in reply.error["message"]
        assert (busy.waiting, len(busy.engine.requests)) == (0, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vote_on_a_prompt_that_cannot_fit_is_refused_at_once_too(stream: bool) -> None:
    async with busy_node() as busy:
        counting(busy.engine)
        reply = await busy.client.chat(TOO_LONG, stream=stream, swarm=VOTE)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert busy.waiting == 0


@pytest.mark.parametrize("swarm", [SINGLE, VOTE], ids=["single", "vote"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_busy_peer_refuses_a_prompt_that_cannot_fit_at_once(stream: bool, swarm: dict[str, Any]) -> None:
    async with busy_node() as busy, AsyncExitStack() as stack:
        counting(busy.engine)
        known = NodeOptions(peers=[busy.node.address])
        asked = await stack.enter_async_context(RunningNode("study", options=known))
        client = await stack.enter_async_context(connect(asked.url))
        reply = await client.chat(TOO_LONG, stream=stream, swarm=swarm)
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert busy.waiting == 0


async def test_a_prompt_that_surely_fits_is_not_counted_and_one_that_does_fit_waits() -> None:
    async with busy_node() as busy:
        counting(busy.engine)
        short = asyncio.create_task(busy.client.chat(swarm=SINGLE))
        await eventually(lambda: busy.waiting == 1)
        assert busy.engine.counted == 0
        busy.engine.prompt_tokens = CONTEXT - 1
        fits = asyncio.create_task(busy.client.chat(TOO_LONG, swarm=SINGLE))
        await eventually(lambda: busy.waiting == 2)
        assert busy.engine.counted == 1
        busy.gate.set()
        assert [(await task).status for task in (short, fits)] == [200, 200]


async def test_where_too_much_is_being_counted_a_prompt_waits_uncounted() -> None:
    async with busy_node() as busy:
        counting(busy.engine)
        async with busy.node.dispatcher.utilities.turn(COUNTED_BYTES):
            waits = asyncio.create_task(busy.client.chat(TOO_LONG, swarm=SINGLE))
            await eventually(lambda: busy.waiting == 1)
        assert busy.engine.counted == 0
        await cancel_and_wait(waits)
