"""Anthropic's streams where engines, peers and clients misbehave, through votes and through peers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest

from federation.hostport import Address
from federation.tasks import cancel_and_wait
from swarm.errors import BadRequest, EngineFailed, Unavailable
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta, ToolCallDelta
from tests.doubles.anthropic_events import parsed, streamed
from tests.doubles.clients import Client, anthropic_client, connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import PROMPT_TOKENS, ScriptedEngine, Step, ending

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
SINGLE = {"strategy": "single"}
BEAT_S = 0.02
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def body(**fields: Any) -> dict[str, Any]:
    return {
        "model": "claude-x",
        "max_tokens": 99,
        "stream": True,
        "messages": [{"role": "user", "content": "hello"}],
        "swarm": SINGLE,
        **fields,
    }


def called(*deltas: tuple[int, str | None, str | None, str]) -> Delta:
    return Delta(tool_calls=tuple(ToolCallDelta(*delta) for delta in deltas))


class Stage:
    """A node with one scripted engine, and a client. `steps` are every answer's."""

    def __init__(self, engine: ScriptedEngine, node: RunningNode, client: Client) -> None:
        self.engine = engine
        self.node = node
        self.client = client

    def plays(self, *steps: Step) -> None:
        self.engine.script = lambda _, __: steps


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    engine = ScriptedEngine(lambda _, __: ["yes"])
    options = NodeOptions(pacing=Pacing(client_beat_s=BEAT_S, peer_beat_s=BEAT_S))
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        yield Stage(engine, node, client)


async def test_thinking_text_and_calls_are_blocks_of_their_own(stage: Stage) -> None:
    stage.plays(
        Delta(reasoning="h"),
        Delta(reasoning="m"),
        "I ",
        "look.",
        called((0, "a", "f", "")),
        called((0, None, None, '{"a":')),
        called((0, None, None, " 1}")),
        called((1, "b", "g", "{}")),
    )
    reply = streamed((await stage.client.post(MESSAGES, body())).text)
    thinking, text, first, second = reply.blocks
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "hm")
    assert (text["type"], text["text"]) == ("text", "I look.")
    assert [(b["type"], b["name"], b["input"], b["json"]) for b in (first, second)] == [
        ("tool_use", "f", {}, '{"a": 1}'),
        ("tool_use", "g", {}, "{}"),
    ]
    assert first["id"] != second["id"]
    assert reply.stop_reason == "tool_use"
    assert reply.start.usage.input_tokens == PROMPT_TOKENS
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (PROMPT_TOKENS, 8)
    whole = (await stage.client.post(MESSAGES, body(stream=False))).json
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][2]["input"] == {"a": 1}
    assert whole["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "steps",
    [
        [called((3, "a", "f", "{")), called((3, None, None, "}")), called((7, "b", "g", "{}"))],
        [called((0, "a", "f", "{"), (1, "a", "g", "{}")), called((0, None, None, "}"))],
        [called((0, "", "f", "{"), (1, None, "g", "{}")), called((0, "", "f", "}"))],
        [called((0, "a", "f", "{"), (1, "b", "g", "{")), called((0, "a", "f", "}")), called((1, None, None, "}"))],
    ],
    ids=["gaps", "same id twice", "blank ids", "interleaved"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_calls_are_put_in_order_whatever_the_engine_sends(stage: Stage, steps: list[Step], stream: bool) -> None:
    stage.plays(*steps)
    reply = await stage.client.post(MESSAGES, body(stream=stream))
    if stream:
        blocks = streamed(reply.text).blocks
        inputs = [json.loads(block["json"]) for block in blocks]
    else:
        blocks = reply.json["content"]
        inputs = [block["input"] for block in blocks]
    assert [block["name"] for block in blocks] == ["f", "g"]
    assert inputs == [{}, {}]
    assert len({block["id"] for block in blocks}) == 2


@pytest.mark.parametrize(
    ("steps", "reason", "content"),
    [
        (["no call", ending("tool_calls")], "end_turn", "no call"),
        (["cut", ending("length")], "max_tokens", "cut"),
        (["", ending("content_filter")], "refusal", ""),
        ([], "end_turn", ""),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_how_an_answer_ended(stage: Stage, steps: list[Step], reason: str, content: str, stream: bool) -> None:
    stage.plays(*steps)
    reply = await stage.client.post(MESSAGES, body(stream=stream))
    blocks = streamed(reply.text).blocks if stream else reply.json["content"]
    assert (streamed(reply.text).stop_reason if stream else reply.json["stop_reason"]) == reason
    assert [(block["type"], block["text"]) for block in blocks] == [("text", content)]


@pytest.mark.parametrize(
    ("steps", "reason", "word"),
    [
        (["a", ending("stop", "###")], "stop_sequence", "###"),
        (["a", ending("stop", "not asked for")], "end_turn", None),
        ([called((0, "a", "f", "{}")), ending("tool_calls", "###")], "tool_use", None),
        (["a", ending("length")], "max_tokens", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_sequence_is_told_only_if_it_ended_the_answer(
    stage: Stage, steps: list[Step], reason: str, word: str | None, stream: bool
) -> None:
    stage.plays(*steps)
    reply = await stage.client.post(MESSAGES, body(stream=stream, stop_sequences=["x", "###"]))
    assert ended(reply.text if stream else reply.json) == (reason, word)


@pytest.mark.parametrize("votes", [SINGLE, {"votes": 2, "strategy": "majority"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_sequence_that_a_peer_hit_is_told(stream: bool, votes: dict[str, object]) -> None:
    engine = ScriptedEngine(lambda _, __: ["12", ending("stop", "###")], model_id="m")
    async with RunningNode("study", ready(engine)) as study:
        options = NodeOptions(peers=[study.address])
        async with RunningNode("kitchen", options=options) as kitchen, connect(kitchen.url) as client:
            reply = await client.post(MESSAGES, body(stream=stream, stop_sequences=["###"], swarm=votes))
            assert ended(reply.text if stream else reply.json) == ("stop_sequence", "###")


def ended(message: Any) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence` of a whole message, or of the text of a stream."""
    if isinstance(message, str):
        message = next(data["delta"] for name, data in parsed(message) if name == "message_delta")
    return message["stop_reason"], message["stop_sequence"]


async def test_malformed_arguments_are_still_an_object(stage: Stage) -> None:
    stage.plays(called((0, "a", "f", '{"city": ')))
    (call,) = (await stage.client.post(MESSAGES, body(stream=False))).json["content"]
    assert call["input"] == {"arguments": '{"city": '}


async def test_pings_flow_while_nothing_else_does(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "done")
    async with stage.client.open(MESSAGES, body()) as response:
        beats = [await response.content.readuntil(b"\n\n") for _ in range(3)]
        gate.set()
        rest = await response.content.read()
    assert beats == [PING] * 3
    assert streamed(rest.decode()).blocks[0]["text"] == "done"


EMPTY = {"type": "text", "text": ""}
PATIENT = Pacing(client_beat_s=1 / 64, patience_s=4 / 64)  # silence is counted in beats: no clock decides


@pytest.mark.parametrize(
    ("steps", "blocks"),
    [
        (["done"], [{"type": "text", "text": "done"}]),
        ([Delta(reasoning="hm"), "done"], [EMPTY, {"type": "thinking", "thinking": "hm"}, {**EMPTY, "text": "done"}]),
        ([called((0, "a", "f", "{}"))], [EMPTY, {"type": "tool_use", "name": "f", "json": "{}"}]),
        ([], [EMPTY]),
    ],
)
async def test_a_long_silence_is_filled_with_empty_deltas(steps: list[Step], blocks: list[dict[str, str]]) -> None:
    gate = asyncio.Event()
    async with patient(gate, *steps) as client, client.open(MESSAGES, body()) as response:
        pings = [await response.content.readuntil(b"\n\n") for _ in range(3)]
        begun = [await response.content.readuntil(b"\n\n") for _ in range(5)]
        gate.set()
        rest = await response.content.read()
    assert pings == [PING] * 3
    kinds = ["message_start", "content_block_start", *["content_block_delta"] * 3]
    assert [data["type"] for _, data in parsed(b"".join(begun).decode())] == kinds
    reply = streamed(b"".join([*begun, rest]).decode())
    seen = [{key: block[key] for key in wanted} for block, wanted in zip(reply.blocks, blocks, strict=True)]
    assert seen == blocks


@pytest.mark.parametrize(
    ("step", "grows"),
    [
        (Delta(reasoning="hm"), "thinking_delta"),
        (Delta(text="a"), "text_delta"),
        (called((0, "a", "f", '{"a":')), "input_json_delta"),
    ],
)
async def test_a_silence_in_mid_answer_is_filled_in_the_block_that_is_open(step: Delta, grows: str) -> None:
    gate = asyncio.Event()
    async with patient(step, gate) as client, client.open(MESSAGES, body()) as response:
        seen = b""
        while seen.count(f'"type":"{grows}"'.encode()) < 4:
            seen += await response.content.readuntil(b"\n\n")
        gate.set()
        seen += await response.content.read()
    reply = streamed(seen.decode())
    assert len(reply.blocks) == 1
    assert reply.pings >= 3


@asynccontextmanager
async def patient(*steps: Step) -> AsyncIterator[Client]:
    """A client of a node that shows a sign of life in its events from the fourth heartbeat on."""
    engine, options = ScriptedEngine(lambda _, __: steps), NodeOptions(pacing=PATIENT)
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        yield client


async def test_what_filled_a_silence_is_taken_back_as_history(stage: Stage) -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [EMPTY, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]},
        {"role": "assistant", "content": [EMPTY]},
        {"role": "user", "content": "and now?"},
    ]
    assert (await stage.client.post(MESSAGES, body(stream=False, messages=turns))).status == 200


async def test_the_package_takes_pings_before_the_start(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "done")
    async with anthropic_client(stage.node.url, max_retries=0) as claude:
        kept = {key: value for key, value in body().items() if key not in ("stream", "swarm")}
        async with claude.messages.stream(**kept, extra_body={"swarm": SINGLE}) as stream:
            gate.set()
            assert await stream.get_final_text() == "done"


async def test_a_failure_after_the_first_word_is_an_error_event(stage: Stage) -> None:
    stage.plays("half an ", EngineFailed("out of memory"))
    reply = await stage.client.post(MESSAGES, body())
    assert reply.status == 200
    *_, (name, last) = parsed(reply.text)
    assert name == "error"
    assert last["error"] == {"type": "api_error", "message": "out of memory"}
    assert last["request_id"] == reply.headers["request-id"]
    assert "message_stop" not in reply.text
    async with anthropic_client(stage.node.url, max_retries=0) as claude:
        kept = {key: value for key, value in body().items() if key not in ("stream", "swarm")}
        with pytest.raises(anthropic.APIStatusError, match="out of memory"):
            async with claude.messages.stream(**kept, extra_body={"swarm": SINGLE}) as stream:
                await stream.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BadRequest("no"), 400, "invalid_request_error"),
        (EngineFailed("broken"), 500, "api_error"),
        (Unavailable("full", retry_after_s=3), 503, "overloaded_error"),
        (ZeroDivisionError("secret"), 500, "api_error"),
    ],
    ids=["bad request", "engine", "unavailable", "defect"],
)
async def test_a_failure_before_the_first_byte_is_a_status(
    stage: Stage, stream: bool, error: Exception, status: int, kind: str
) -> None:
    stage.plays(error)
    reply = await stage.client.post(MESSAGES, body(stream=stream))
    assert (reply.status, reply.json["type"], reply.json["error"]["type"]) == (status, "error", kind)
    assert "secret" not in reply.text
    assert status < 500 or {"Retry-After", "x-should-retry"} & set(reply.headers)


@pytest.mark.parametrize("swarm", [SINGLE, {"votes": 4}], ids=["single", "vote"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_every_worker(stage: Stage, stream: bool, swarm: dict[str, object]) -> None:
    stage.plays("a word", asyncio.Event())
    asked = asyncio.create_task(stage.client.post(MESSAGES, body(stream=stream, swarm=swarm)))
    await stage.engine.until(lambda engine: engine.running > 0)
    asked.cancel()
    await stage.engine.until(lambda engine: engine.running == 0)
    await cancel_and_wait(asked)
    assert stage.node.pool.states()[0].slots_free == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vote_gives_the_winner_and_its_account(stage: Stage, stream: bool) -> None:
    answers = ["Answer: 16", "Answer: 16", "Answer: 18", "Answer: 16"]
    stage.engine.script = lambda _, voter: [answers[voter]]
    reply = await stage.client.post(MESSAGES, body(stream=stream, swarm={"votes": 4, "strategy": "majority"}))
    if stream:
        whole = streamed(reply.text)
        text, account = whole.blocks[0]["text"], whole.swarm
    else:
        text, account = reply.json["content"][0]["text"], reply.json["swarm"]
        assert reply.headers["X-Swarm-Votes"] == "4"
    assert text == "Answer: 16"
    assert account is not None
    assert (account["votes"], account["agreement"]) == (4, 0.75)


@asynccontextmanager
async def client_beside(*known: Address) -> AsyncIterator[Client]:
    """A client of "kitchen", which has no model and knows these nodes."""
    async with RunningNode("kitchen", options=NodeOptions(peers=known)) as kitchen, connect(kitchen.url) as client:
        yield client


def study() -> RunningNode:
    return RunningNode("study", ready(ScriptedEngine(lambda _, __: ["one ", "two"], model_id="big")))


@pytest.mark.parametrize(("model", "said"), [("big", "big"), ("claude-x", "swarm")])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_comes_from_a_peer(model: str, said: str, stream: bool) -> None:
    async with study() as peer, client_beside(peer.address) as client:
        reply = await client.post(MESSAGES, body(stream=stream, model=model))
    if stream:
        whole = streamed(reply.text)
        assert whole.blocks[0]["text"] == "one two"
        assert (whole.start.model, whole.start.usage.input_tokens) == (said, PROMPT_TOKENS)
        assert whole.usage.output_tokens == 2
    else:
        assert reply.json["content"][0]["text"] == "one two"
        assert reply.json["model"] == said
        assert reply.json["usage"]["output_tokens"] == 2


async def test_tokens_are_counted_by_a_peer() -> None:
    async with study() as peer, client_beside(peer.address) as client:
        assert (await client.post(COUNT, body(model="big"))).json == {"input_tokens": PROMPT_TOKENS}


@pytest.mark.parametrize(
    "counted", [b"", b"{}", b"[]", b'{"prompt_tokens": -1}', b'{"prompt_tokens": "7"}', b'{"prompt_tokens": 1e99}']
)
async def test_a_peers_rubbish_is_no_count(counted: bytes) -> None:
    async with FakePeer("study", counted) as peer, client_beside(peer.address) as client:
        reply = await client.post(COUNT, body())
        assert (reply.status, reply.json["error"]["type"]) == (502, "api_error")
        assert "study" in reply.json["error"]["message"]


async def test_a_stream_begins_without_a_count_that_fails() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}]}
    usage = {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    pieces = b"data: " + json.dumps({**chunk, **usage}).encode() + b"\n\ndata: [DONE]\n\n"
    async with FakePeer("study", pieces) as peer, client_beside(peer.address) as client:
        whole = streamed((await client.post(MESSAGES, body())).text)
    assert (whole.start.usage.input_tokens, whole.usage.input_tokens) == (0, 5)
