"""Streams that are slow, break, stall or are left: heartbeats, errors after the status, and workers set free."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest

from federation.tasks import cancel_and_wait
from swarm.errors import BadRequest, EngineFailed, Unavailable
from swarm.gateway.answers import answer_form
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta, ToolCallDelta
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, ending
from tests.doubles.waiting import eventually

CHAT = "/v1/chat/completions"
SINGLE = {"strategy": "single"}
BEAT_S = 0.02
SOON_S = 10.0  # far above what anything here takes; only a defect reaches it


class Stage:
    """A node with one scripted engine, and a client. `steps` are every answer's."""

    def __init__(self, engine: ScriptedEngine, node: RunningNode, client: Client) -> None:
        self.engine = engine
        self.node = node
        self.client = client

    def plays(self, *steps: Step) -> None:
        self.engine.script = lambda _, __: steps

    @property
    def free(self) -> int:
        return self.node.pool.states()[0].slots_free


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    engine = ScriptedEngine(lambda _, __: ["yes"])
    options = NodeOptions(pacing=Pacing(client_beat_s=BEAT_S, peer_beat_s=BEAT_S, stalled_s=2 * BEAT_S))
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        yield Stage(engine, node, client)


async def test_heartbeats_flow_while_nothing_else_does(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "done")
    async with stage.client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
        async with asyncio.timeout(SOON_S):
            beats = [await response.content.readuntil(b"\n\n") for _ in range(3)]
        gate.set()
        rest = await response.content.read()
    assert beats == [b": still working\n\n"] * 3
    assert b'"content":"done"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_the_end_mark_and_the_end_leave_as_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is killed has sent both or neither: no client sees [DONE] and then a broken connection."""
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    packets: list[bytes] = []
    send = transport.write

    def write(self: object, data: bytes) -> None:
        packets.append(bytes(data))
        send(self, data)

    monkeypatch.setattr(transport, "write", write)
    stage.plays("done")
    async with stage.client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
        assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
    (last,) = (packet for packet in packets if b"[DONE]" in packet)
    assert last.endswith(b"[DONE]\n\n\r\n0\r\n\r\n")


async def test_a_busy_stream_has_no_heartbeats() -> None:
    beat_s = 0.15  # long enough that no stall of a busy machine passes for silence
    gates = [asyncio.Event() for _ in range(20_000)]
    engine = ScriptedEngine(lambda _, __: [step for gate in gates for step in ("word", gate)])
    options = NodeOptions(pacing=Pacing(client_beat_s=beat_s))
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        async with client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
            until = time.monotonic() + 2.2 * beat_s
            for gate in gates:
                assert (await response.content.readuntil(b"\n\n")).startswith(b"data: ")
                gate.set()
                if time.monotonic() > until:
                    break
        assert gate is not gates[-1], "two beats went by"


async def test_heartbeats_flow_while_a_request_waits_for_a_worker(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "done")
    first = asyncio.create_task(stage.client.chat(n=4))
    await stage.engine.until(lambda engine: engine.running == 4)
    async with stage.client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as second:
        assert await second.content.readuntil(b"\n\n") == b": still working\n\n"
        gate.set()
        assert (await second.content.read()).endswith(b"[DONE]\n\n")
    assert (await first).status == 200


@pytest.mark.parametrize("swarm", [SINGLE, {"votes": 1, "strategy": "auto"}, {}], ids=["single", "one", "vote"])
async def test_a_failure_after_the_first_word_ends_the_stream_without_done(stage: Stage, swarm: dict[str, str]) -> None:
    stage.plays("half an ", EngineFailed("out of memory"))
    reply = await stage.client.chat(stream=True, swarm=swarm)
    assert reply.status == 200
    assert reply.said() == "half an "
    assert not reply.done
    assert reply.chunks[-1]["error"]["code"] == "engine_failed"
    assert reply.chunks[-1]["error"]["message"] == "out of memory"
    assert all(choice["finish_reason"] is None for chunk in reply.chunks[:-1] for choice in chunk["choices"])
    assert 'status="broken"' in (await stage.client.get("/metrics")).text


async def test_a_defect_after_the_first_word_is_not_quoted_to_the_client(stage: Stage) -> None:
    stage.plays("half an ", ZeroDivisionError("secret"))
    reply = await stage.client.chat(stream=True, swarm=SINGLE)
    assert not reply.done
    assert reply.chunks[-1]["error"] == {
        "message": "this node made an error; see its log",
        "type": "server_error",
        "code": "engine_failed",
        "param": None,
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (BadRequest("no"), 400, {}),
        (EngineFailed("broken"), 500, {"x-should-retry": "false"}),
        (Unavailable("full", retry_after_s=3), 503, {"Retry-After": "3"}),
        (ZeroDivisionError("secret"), 500, {"x-should-retry": "false"}),
    ],
    ids=["bad request", "engine", "unavailable", "defect"],
)
async def test_a_failure_before_the_first_byte_is_a_status(
    stage: Stage, stream: bool, error: Exception, status: int, headers: dict[str, str]
) -> None:
    stage.plays(error)
    reply = await stage.client.chat(stream=stream, swarm=SINGLE)
    assert reply.status == status
    assert headers.items() <= dict(reply.headers).items()
    assert "secret" not in reply.text


@pytest.mark.parametrize("swarm", [SINGLE, {"votes": 4}], ids=["single", "vote"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_every_worker(stage: Stage, stream: bool, swarm: dict[str, object]) -> None:
    stage.plays("a word", asyncio.Event())
    asked = asyncio.create_task(stage.client.chat(stream=stream, swarm=swarm))
    await stage.engine.until(lambda engine: engine.running > 0)
    asked.cancel()
    await stage.engine.until(lambda engine: engine.running == 0)
    assert stage.engine.cancelled == (1 if swarm == SINGLE else 4)
    await cancel_and_wait(asked)
    reply = await stage.client.get("/metrics")
    assert 'swarm_requests_total{endpoint="/v1/chat/completions",status="499"} 1.0' in reply.text
    assert stage.free == 4


async def test_a_client_that_leaves_while_it_waits_leaves_the_queue(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "done")
    first = asyncio.create_task(stage.client.chat(n=4))
    await stage.engine.until(lambda engine: engine.running == 4)
    async with stage.client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as second:
        await second.content.readuntil(b"\n\n")  # it waits, and beats
        assert stage.node.pool.states()[0].waiting == 1
    await eventually(lambda: stage.node.pool.states()[0].waiting == 0)
    gate.set()
    assert (await first).status == 200
    assert (await stage.client.chat(n=4)).status == 200
    assert len(stage.engine.requests) == 2, "nothing was generated for the one who left"


async def test_a_client_that_does_not_read_is_cut_off(stage: Stage) -> None:
    """It must not hold a worker for ever: what it leaves unread fills the buffers, and then the stream is cut."""
    stage.plays(*(["x" * 65_536] * 1000))
    reader, writer = await asyncio.open_connection(*stage.node.address)
    body = b'{"model":"swarm","stream":true,"messages":[{"role":"user","content":"x"}],"swarm":{"strategy":"single"}}'
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    await stage.engine.until(lambda engine: engine.running == 1)
    await stage.engine.until(lambda engine: engine.running == 0)
    assert stage.engine.cancelled == 1
    received = await rest_of(reader)
    assert len(received) < 2**24, "what was buffered, not all of it"
    assert not received.endswith(b"0\r\n\r\n"), "no proper end"
    writer.close()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What can still be read of a connection that was cut."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(2**20):
            received += piece
    return received


async def test_each_event_is_one_small_write_as_it_comes(stage: Stage) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    stage.plays("a", gates[0], "b", gates[1], "c", gates[2])
    async with stage.client.open(CHAT, chat_body(stream=True, swarm=SINGLE)) as response:
        for letter, gate in zip("abc", gates, strict=True):
            while f'"content":"{letter}"'.encode() not in await response.content.readuntil(b"\n\n"):
                pass
            gate.set()
        assert (await response.content.read()).endswith(b"[DONE]\n\n")


async def test_reasoning_streams_in_its_own_field(stage: Stage) -> None:
    stage.plays(Delta(reasoning="hm"), Delta(reasoning="m"), "yes")
    reply = await stage.client.chat(stream=True, swarm=SINGLE)
    deltas = [choice["delta"] for chunk in reply.chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hmm"
    assert reply.said() == "yes"
    whole = await stage.client.chat(swarm=SINGLE)
    message = whole.json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("yes", "hmm")


def called(*deltas: tuple[int, str | None, str | None, str]) -> Delta:
    return Delta(tool_calls=tuple(ToolCallDelta(*delta) for delta in deltas))


@pytest.mark.parametrize(
    "steps",
    [
        [called((0, "a", "f", "{")), called((0, None, None, "}")), called((1, "b", "g", "{}"))],
        [called((3, "a", "f", "{")), called((3, None, None, "}")), called((7, "b", "g", "{}"))],
        [called((0, "a", "f", "{"), (1, "a", "g", "{}")), called((0, None, None, "}"))],
        [called((0, "", "f", "{"), (1, None, "g", "{}")), called((0, "", "f", "}"))],
        [called((0, "a", "f", "{"), (1, "b", "g", "{}")), called((0, "a", "f", "}"))],
    ],
    ids=["proper", "gaps", "same id twice", "blank ids", "opened twice"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_calls_are_put_in_order_whatever_the_engine_sends(stage: Stage, steps: list[Step], stream: bool) -> None:
    stage.plays(*steps)  # ... and its finish reason is "stop"
    reply = await stage.client.chat(stream=stream, swarm=SINGLE)
    if not stream:
        choice = reply.json["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert [(c["type"], c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
            ("function", "f", "{}"),
            ("function", "g", "{}"),
        ]
        assert len({call["id"] for call in calls} - {""}) == 2
        return
    deltas = [d for chunk in reply.chunks for c in chunk["choices"] for d in c["delta"].get("tool_calls", ())]
    opened = [delta for delta in deltas if "id" in delta]
    assert [(delta["index"], delta["type"], delta["function"]["name"]) for delta in opened] == [
        (0, "function", "f"),
        (1, "function", "g"),
    ]
    assert len({delta["id"] for delta in opened} - {""}) == 2
    assert all(set(delta) == {"index", "function"} for delta in deltas if "id" not in delta)
    for index in (0, 1):
        assert "".join(d["function"]["arguments"] for d in deltas if d["index"] == index) == "{}"
    assert reply.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_finish_reason_tool_calls_needs_a_call(stage: Stage, stream: bool) -> None:
    stage.plays("no call", ending("tool_calls"))
    reply = await stage.client.chat(stream=stream, swarm=SINGLE)
    last = reply.chunks[-1] if stream else reply.json
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_a_single_answer(stream: bool) -> None:
    """Before the first heartbeat, which would have sent the status."""
    engine = ScriptedEngine(lambda _, __: [asyncio.Event()])
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = await client.chat(stream=stream, swarm={**SINGLE, "deadline_s": BEAT_S / 2})
        assert node.pool.states()[0].slots_free == 4
    assert reply.status == 504
    assert reply.error["code"] == "deadline_exceeded"
    assert reply.headers["x-should-retry"] == "false"


async def test_a_deadline_in_mid_stream_is_an_error_in_the_stream(stage: Stage) -> None:
    stage.plays("half", asyncio.Event())
    reply = await stage.client.chat(stream=True, swarm={**SINGLE, "deadline_s": BEAT_S / 2})
    assert reply.said() == "half"
    assert reply.chunks[-1]["error"]["code"] == "deadline_exceeded"
    assert not reply.done


async def test_an_unknown_model_may_be_the_one_that_is_still_loading(stage: Stage) -> None:
    stage.node.condition.loading = True
    reply = await stage.client.post(CHAT, {**chat_body(), "model": "later"})
    assert reply.status == 503
    assert "still loading" in reply.error["message"]
    assert int(reply.headers["Retry-After"]) > 0
    assert (await stage.client.chat()).status == 200, "what is served already is served"
    stage.node.condition.loading = False
    assert (await stage.client.post(CHAT, {**chat_body(), "model": "later"})).status == 404


async def test_a_node_that_shuts_down_takes_no_more_work(stage: Stage) -> None:
    stage.node.condition.draining = True
    reply = await stage.client.chat()
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) > 0
    assert (await stage.client.get("/readyz")).json == {"status": "unavailable", "reason": "draining"}
    assert (await stage.client.get("/livez")).status == 200


@pytest.mark.parametrize("swarm", [SINGLE, {"votes": 4}], ids=["single", "vote"])
async def test_a_client_that_closes_with_the_last_byte_has_had_all_of_it(
    stage: Stage, swarm: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tidy_up_until_the_client_has_gone(*tasks: asyncio.Task[None]) -> None:
        await cancel_and_wait(*tasks)
        await asyncio.Event().wait()

    monkeypatch.setattr(answer_form, "cancel_and_wait", tidy_up_until_the_client_has_gone)
    body = json.dumps(chat_body(model="scripted", stream=True, swarm=swarm))
    address = stage.node.address
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.transport.abort()
    async with asyncio.timeout(10):
        while 'endpoint="/v1/chat/completions",status="' not in (text := (await stage.client.get("/metrics")).text):
            pass
    assert 'swarm_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0' in text
