"""Streamed answers whose node is lost: they go on elsewhere where they are the same, from what the client has."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import JsonValue

from federation.client import PeerClient
from federation.hostport import Address
from swarm.engines.engine import Computation, Engine, EngineSpec
from swarm.engines.registry import load_engine
from swarm.errors import BadRequest
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta, ToolCallDelta
from swarm.routing.router import FailureLimits
from swarm.routing.rules import RoutingRules
from swarm.workers.pool import Loader
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.fake_peer import CUT, FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, ending
from tests.doubles.waiting import eventually
from tests.e2e.asking import rambling

CHAT = "/v1/chat/completions"
CONTENT = {"m": "a" * 64}
ENGINE = "scripted 1 on the CPU"
GREEDY: dict[str, Any] = {"model": "m", "temperature": 0, "swarm": {"strategy": "single"}}
LAST = RoutingRules({"kitchen": 0.0})  # this node is asked where nobody else can answer
IN_TURN = RoutingRules({"attic": 100.0, "cellar": 10.0})
SHORT_S = 0.5  # how long a silent peer is waited for: on a busy machine, too, others speak before


class ImpatientClient(PeerClient):
    def open_generation(self, *args: Any, **options: Any) -> Any:
        return super().open_generation(*args, **{**options, "idle_s": SHORT_S})


class Swarm:
    """Nodes with a scripted engine each, started in order, each knowing those before it; the last one is asked."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self.fakes: list[Address] = []
        self.client: Client

    async def __aenter__(self) -> Swarm:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def add(
        self, name: str, *steps: Step, contents: dict[str, str] = CONTENT, version: str = "1", **options: Any
    ) -> RunningNode:
        """A node whose voters play `steps`; without steps it has no model. Its engine is of that `version`."""
        loaders: list[Loader] = []
        if steps:
            self.engines[name] = engine = ScriptedEngine(lambda _, __: steps, model_id="m")
            engine.computation = Computation("scripted", version)
            loaders.append(ready(engine))
        known: Sequence[Address] = [*(node.address for node in self.nodes.values()), *self.fakes]
        node = RunningNode(
            name, *loaders, options=NodeOptions(peers=known, sizes={"m": 2_000_000}, contents=contents, **options)
        )
        self.nodes[name] = await self._stack.enter_async_context(node)
        self.client = await self._stack.enter_async_context(connect(node.url))
        return node

    async def fake(self, name: str, *pieces: Any) -> FakePeer:
        peer = await self._stack.enter_async_context(FakePeer(name, *pieces, fingerprint=CONTENT["m"], engine=ENGINE))
        self.fakes.append(peer.address)
        return peer

    @property
    def asked(self) -> dict[str, int]:
        return {name: len(engine.requests) for name, engine in self.engines.items()}


class Stream:
    """A stream that is read as it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.chunks: list[dict[str, Any]] = []
        self.heard = b""

    async def until(self, words: bytes) -> None:
        while words not in self.heard:
            self.heard += await self.piece()

    async def piece(self) -> bytes:
        """The next event."""
        return await self._response.content.readuntil(b"\n\n")

    async def rest(self) -> Stream:
        self.heard += await self._response.content.read()
        for event in self.heard.split(b"\n\n"):
            if event.startswith(b"data: {"):
                self.chunks.append(json.loads(event.removeprefix(b"data: ")))
        return self

    @property
    def said(self) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def error(self) -> dict[str, Any] | None:
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)

    @property
    def account(self) -> dict[str, Any]:
        (account,) = (chunk["swarm"] for chunk in self.chunks if "swarm" in chunk)
        return account

    @property
    def ids(self) -> set[str]:
        return {chunk["id"] for chunk in self.chunks if "id" in chunk}


@asynccontextmanager
async def asking(client: Client, **fields: Any) -> AsyncGenerator[Stream]:
    async with client.open(CHAT, chat_body("hello", **(GREEDY | {"stream": True} | fields))) as response:
        assert response.status == 200
        yield Stream(response)


async def first_asked(swarm: Swarm) -> str:
    """The node that answers."""
    await eventually(lambda: any(engine.running for engine in swarm.engines.values()))
    (name,) = (name for name, engine in swarm.engines.items() if engine.running)
    return name


def sse(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


FINISH = (
    b"data: "
    + json.dumps(
        {
            "id": "x",
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 4},
        }
    ).encode()
    + b"\n\ndata: [DONE]\n\n"
)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.7, "seed": 7}], ids=["temperature 0", "a seed"])
async def test_a_stream_goes_on_where_it_is_the_same(fields: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swarm.routing.single")
    async with Swarm() as swarm:
        gate = asyncio.Event()
        for name in ("attic", "study"):
            await swarm.add(name, "one ", "two ", gate, "three ", "four")
        await swarm.add("kitchen")
        async with asking(swarm.client, stream_options={"include_usage": True}, **fields) as stream:
            await stream.until(b"two ")
            lost = await first_asked(swarm)
            await swarm.nodes[lost].stop()
            gate.set()
            await stream.rest()
        (other,) = {"attic", "study"} - {lost}
        assert stream.error is None
        assert stream.said == "one two three four"
        assert len(stream.ids) == 1
        assert stream.heard.endswith(b"data: [DONE]\n\n")
        told = stream.account["resumed"]
        assert told.pop("gap_ms") >= 0
        assert told == {"from": lost, "to": other, "at_chars": 8, "how": "replay"}
        assert stream.account["winner"] == other
        assert stream.account["routed"]["tried"] == [lost]
        assert stream.account["total_completion_tokens"] == 4, "of the answer, and not of what was made twice"
        assert stream.chunks[-1]["usage"]["completion_tokens"] == 4
        (there,) = swarm.engines[other].requests
        assert there.seed == fields.get("seed")
        assert f"{other} goes on with what {lost} had begun, from character 8" in caplog.text
        metrics = await swarm.client.get("/metrics")
        assert 'swarm_streams_resumed_total{went_on="yes"} 1.0' in metrics.text


async def test_this_node_goes_on_itself() -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()
        await swarm.fake("attic", sse(content="one "), sse(content="tw"), gate, CUT)
        await swarm.add("kitchen", "one ", "two ", "three", rules=LAST)
        async with asking(swarm.client) as stream:
            await stream.until(b'"tw"')
            gate.set()
            await stream.rest()
        assert stream.said == "one two three"
        assert stream.account["resumed"]["to"] == "kitchen"
        assert stream.account["winner"].endswith("@kitchen")


@pytest.mark.parametrize(
    "end",
    [
        asyncio.Event,  # it is silent, as a frozen one
        lambda: b'data: {"error": {"code": "unavailable", "message": "this node shut down"}}\n\n',
    ],
    ids=["silent", "left"],
)
async def test_who_is_silent_or_leaves_is_lost_too(end: Callable[[], Any]) -> None:
    async with Swarm() as swarm:
        await swarm.fake("attic", sse(content="one "), end())
        await swarm.add("kitchen", "one ", "two", rules=LAST, client=ImpatientClient)
        async with asking(swarm.client) as stream:
            await stream.rest()
        assert stream.said == "one two"
        assert stream.account["resumed"]["from"] == "attic"


CALL = [
    Delta(reasoning="I need "),
    Delta(reasoning="the weather."),
    Delta(tool_calls=(ToolCallDelta(0, "here-1", "weather", ""),)),
    Delta(tool_calls=(ToolCallDelta(0, None, None, '{"city": '),)),
    Delta(tool_calls=(ToolCallDelta(0, None, None, '"Oslo"}'),)),
]


def calling(**function: str) -> bytes:
    named = {"id": "there-1", "type": "function"} if "name" in function else {}
    return sse(tool_calls=[{"index": 0, **named, "function": function}])


async def test_half_a_call_is_finished_and_keeps_the_id_that_the_client_has() -> None:
    async with Swarm() as swarm:
        begun = [sse(reasoning_content="I need the weather."), calling(name="weather", arguments='{"ci')]
        await swarm.fake("attic", *begun, CUT)
        await swarm.add("kitchen", *CALL, ending("tool_calls"), rules=LAST)
        tools = [{"type": "function", "function": {"name": "weather"}}]
        async with asking(swarm.client, tools=tools) as stream:
            await stream.rest()
        deltas = [choice["delta"] for chunk in stream.chunks for choice in chunk["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert [call["id"] for call in calls if call.get("id")] == ["there-1"]
        assert "".join(call["function"].get("name") or "" for call in calls) == "weather"
        assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Oslo"}'
        assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "I need the weather."
        assert stream.account["resumed"]["at_chars"] == len("I need the weather." + "weather" + '{"ci')


async def test_log_probabilities_go_on_too() -> None:
    def token(text: str, logprob: float) -> Delta:
        content: JsonValue = [{"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []}]
        return Delta(text=text, logprobs={"content": content})

    async with Swarm() as swarm:
        gate = asyncio.Event()
        attic = await swarm.add("attic", token("one ", -0.1), token("two ", -0.2), gate)
        again = [token("one ", -0.1001), token("two ", -0.2), token("three", -0.3)]
        await swarm.add("kitchen", *again, rules=LAST)
        async with asking(swarm.client, logprobs=True) as stream:
            await stream.until(b"two ")
            await attic.stop()
            await stream.rest()
        given = [choice["logprobs"] for chunk in stream.chunks for choice in chunk["choices"] if choice.get("logprobs")]
        tokens = [(each["token"], each["logprob"]) for part in given for each in part["content"]]
        assert tokens == [("one ", -0.1), ("two ", -0.2), ("three", -0.3)]


PROMPT = {"model": "m", "stream": True, "temperature": 0}
TURNS = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", PROMPT | {"prompt": "hello"}),
        ("/v1/responses", PROMPT | {"input": "hello"}),
        ("/v1/messages", PROMPT | TURNS | {"max_tokens": 9}),
        ("/api/chat", {"model": "m", **TURNS, "options": {"temperature": 0}}),
        ("/api/generate", {"model": "m", "prompt": "hello", "options": {"temperature": 0}}),
        ("/completion", PROMPT | {"prompt": "hello"}),
    ],
)
async def test_it_goes_on_in_every_api(path: str, body: dict[str, Any]) -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()
        attic = await swarm.add("attic", "uno ", "due ", gate)
        await swarm.add("kitchen", "uno ", "due tre ", "quattro", rules=LAST)
        async with swarm.client.open(path, body) as response:
            assert response.status == 200
            heard = b""
            while b"due " not in heard:
                heard += await response.content.readany()
            await attic.stop()
            rest = await response.content.read()
        deltas = re.sub(rb"uno due tre quattro", b"", rest)  # what some APIs say once more at the end
        assert b"uno" not in deltas
        assert b"due" not in deltas
        assert deltas.count(b"tre ") == 1
        assert deltas.count(b"quattro") == 1
        assert b"error" not in rest.replace(b'"error":null', b"")


async def test_heartbeats_go_on_in_the_pause() -> None:
    async with Swarm() as swarm:
        gate, going_on = asyncio.Event(), asyncio.Event()
        attic = await swarm.add("attic", "one ", gate)
        await swarm.add("kitchen", going_on, "one ", "two", rules=LAST, pacing=Pacing(client_beat_s=0.01))
        async with asking(swarm.client) as stream:
            await stream.until(b"one ")
            await attic.stop()
            await swarm.engines["kitchen"].until(lambda engine: engine.running == 1)
            stream.heard = b""
            await stream.until(b"\n\n")
            assert stream.heard.startswith(b":"), "a comment"
            going_on.set()
            await stream.rest()
        assert stream.said == "two"


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({"temperature": 0.7}, {}),
        ({"swarm": {"strategy": "single", "resume": False}}, {}),
        ({"swarm": {"node": "attic"}}, {}),
        ({"model": "swarm"}, {"contents": {"m": "b" * 64}}),
        ({}, {"contents": {}}),
        ({}, {"version": "2"}),
    ],
    ids=["left to chance", "not wanted", "one node", "another content", "no known content", "computation"],
)
async def test_where_it_may_be_another_answer_it_ends_by_an_error(fields: dict[str, Any], other: Any) -> None:
    async with Swarm() as swarm:
        attic = await swarm.add("attic", "one ", asyncio.Event())
        await swarm.add("kitchen", "one ", "two", rules=LAST, **other)
        async with asking(swarm.client, **fields) as stream:
            await stream.until(b"one ")
            await attic.stop()
            await stream.rest()
        assert stream.said == "one "
        assert stream.error is not None
        assert stream.error["code"] == "peer_failed"
        assert b"[DONE]" not in stream.heard
        assert swarm.asked == {"attic": 1, "kitchen": 0}


async def test_several_choices_do_not_go_on() -> None:
    whole: dict[str, Any] = {"voter": "Rex@attic", "text": "one", "finish_reason": "stop", "usage": {}}
    async with Swarm() as swarm:
        await swarm.fake("attic", json.dumps(whole).encode() + b"\n", CUT)
        await swarm.add("kitchen", "one", rules=LAST)
        async with asking(swarm.client, n=2) as stream:
            await stream.rest()
        assert stream.error is not None
        assert swarm.asked == {"kitchen": 0}


async def test_of_another_answer_nothing_is_shown_and_the_next_node_is_tried() -> None:
    """A peer that claims the same model and computation, and says something else, is named and counted."""
    async with Swarm() as swarm:
        gate = asyncio.Event()
        attic = await swarm.add("attic", "one ", "two ", gate)
        await swarm.fake("cellar", sse(content="one "), sse(content="twelve "), FINISH)
        await swarm.add("kitchen", "one ", "two ", "three", rules=IN_TURN)
        async with asking(swarm.client) as stream:
            await stream.until(b"two ")
            await attic.stop()
            await stream.rest()
        assert stream.said == "one two three"
        assert stream.account["resumed"]["to"] == "kitchen"
        assert stream.account["routed"]["tried"] == ["attic", "cellar"]
        health = (await swarm.client.get("/v1/federation/health")).json
        (conduct,) = (peer["conduct"] for peer in health["peers"] if peer["name"] == "cellar")
        assert (conduct["replays"], conduct["differing"]) == (1, 1)


async def test_where_all_others_differ_the_error_names_them() -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()
        attic = await swarm.add("attic", "one ", "two ", gate)
        await swarm.fake("cellar", sse(content="one "), sse(content="twelve "), FINISH)
        await swarm.add("kitchen", rules=IN_TURN)
        async with asking(swarm.client) as stream:
            await stream.until(b"two ")
            await attic.stop()
            await stream.rest()
        assert stream.said == "one two "
        assert stream.error is not None
        assert stream.error["code"] == "peer_failed"
        assert stream.error["message"].startswith("peer attic: ")
        assert "it could not go on elsewhere: cellar answers otherwise after 6 characters" in stream.error["message"]
        metrics = await swarm.client.get("/metrics")
        assert 'swarm_streams_resumed_total{went_on="no"} 1.0' in metrics.text


@pytest.mark.parametrize("shown_again", [False, True], ids=["in the replay", "in what is new"])
async def test_a_second_node_that_vanishes_ends_it(shown_again: bool) -> None:
    """The request may be what ends them: nobody else is asked, and it is refused for a while."""
    async with Swarm() as swarm:
        pieces = [sse(content="one two "), sse(content="three ")] if shown_again else [sse(content="one ")]
        await swarm.fake("cellar", *pieces, CUT)
        await swarm.fake("attic", sse(content="one "), sse(content="two "), CUT)
        await swarm.add("kitchen", "one ", "two ", "three ", "four", rules=IN_TURN)
        async with asking(swarm.client) as stream:
            await stream.rest()
        assert stream.said == ("one two three " if shown_again else "one two ")
        assert stream.error is not None
        assert stream.error["code"] == "engine_failed"
        assert "second node that vanished" in stream.error["message"]
        assert swarm.asked == {"kitchen": 0}
        again = await swarm.client.chat(**GREEDY)
        assert (again.status, again.error["died"]) == (502, True)


async def test_a_second_loss_that_is_no_death_goes_on_once_more() -> None:
    async with Swarm() as swarm:
        await swarm.fake("cellar", sse(content="one two "), sse(content="three "), asyncio.Event())
        await swarm.fake("attic", sse(content="one "), sse(content="two "), CUT)
        await swarm.add("kitchen", "one ", "two ", "three ", "four", rules=IN_TURN, client=ImpatientClient)
        async with asking(swarm.client) as stream:
            await stream.rest()
        assert stream.said == "one two three four"
        told = stream.account["resumed"]
        assert (told["from"], told["to"], told["at_chars"]) == ("cellar", "kitchen", len("one two three "))


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (b'data: {"error": {"code": "engine_failed", "message": "it ended", "died": true}}\n\n', "engine_failed"),
        (b'data: {"error": {"code": "engine_failed", "message": "it is broken"}}\n\n', "peer_failed"),
        (b"data: rubbish\n\n", "peer_failed"),
        (b"data: [DONE]\n\n", "peer_failed"),
    ],
    ids=["an engine that died", "an engine that failed", "rubbish", "half an answer"],
)
async def test_what_is_no_loss_of_a_node_is_an_error_as_ever(end: bytes, code: str) -> None:
    async with Swarm() as swarm:
        await swarm.fake("attic", sse(content="one "), end)
        await swarm.add("kitchen", "one ", "two", rules=LAST)
        async with asking(swarm.client) as stream:
            await stream.rest()
        assert stream.error is not None
        assert stream.error["code"] == code
        assert swarm.asked == {"kitchen": 0}


async def test_a_connection_that_breaks_off_after_the_end_of_the_answer_is_no_loss() -> None:
    async with Swarm() as swarm:
        await swarm.fake("attic", sse(content="one "), FINISH.removesuffix(b"data: [DONE]\n\n"), CUT)
        await swarm.add("kitchen", "one ", "two", rules=LAST)
        async with asking(swarm.client) as stream:
            await stream.rest()
        assert stream.said == "one "
        assert stream.error is None
        assert "resumed" not in stream.account
        assert swarm.asked == {"kitchen": 0}


async def test_a_replay_that_takes_for_ever_is_left_for_the_next_node() -> None:
    """It says a word now and then, and heartbeats: only its pace shows that it will not get there."""
    async with Swarm() as swarm:
        gate = asyncio.Event()
        attic = await swarm.add("attic", "one ", "two ", gate)
        await swarm.fake("cellar", sse(content="one "), gate)
        limits = FailureLimits(replay_s=SHORT_S)
        await swarm.add("kitchen", "one ", "two ", "three", rules=IN_TURN, failure_limits=limits)
        async with asking(swarm.client) as stream:
            await stream.until(b"two ")
            await attic.stop()
            await stream.rest()
        assert stream.said == "one two three"
        assert stream.account["resumed"]["to"] == "kitchen"


async def test_no_more_is_asked_than_may_be_retried() -> None:
    async with Swarm() as swarm:
        attic = await swarm.add("attic", "one ", asyncio.Event())
        limits = FailureLimits(retry_share=0.0, retry_floor=0)
        await swarm.add("kitchen", "one ", "two", rules=LAST, failure_limits=limits)
        async with asking(swarm.client) as stream:
            await stream.until(b"one ")
            await attic.stop()
            await stream.rest()
        assert stream.error is not None
        assert "too many requests had to be retried" in stream.error["message"]
        assert swarm.asked == {"attic": 1, "kitchen": 0}


async def test_a_client_that_leaves_in_the_pause_stops_the_replay() -> None:
    async with Swarm() as swarm:
        attic = await swarm.add("attic", "one ", asyncio.Event())
        await swarm.add("kitchen", asyncio.Event(), rules=LAST)
        async with asking(swarm.client) as stream:
            await stream.until(b"one ")
            await attic.stop()
            await swarm.engines["kitchen"].until(lambda engine: engine.running == 1)
        await swarm.engines["kitchen"].until(lambda engine: engine.running == 0)
        assert swarm.engines["kitchen"].cancelled == 1


async def test_a_deadline_that_passes_in_the_pause_is_an_error() -> None:
    async with Swarm() as swarm:
        attic = await swarm.add("attic", "one ", asyncio.Event())
        await swarm.add("kitchen", asyncio.Event(), rules=LAST)
        async with asking(swarm.client, swarm={"strategy": "single", "deadline_s": 1}) as stream:
            await stream.until(b"one ")
            await attic.stop()
            await stream.rest()
        assert stream.error is not None
        assert stream.error["code"] == "deadline_exceeded"
        assert swarm.engines["kitchen"].cancelled == 1


async def test_who_goes_on_may_have_to_wait_for_a_worker() -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()
        attic = await swarm.add("attic", "one ", gate)
        kitchen = await swarm.add("kitchen", "one ", "two", rules=LAST)
        workers = kitchen.pool.get("m")
        assert workers is not None
        async with AsyncExitStack() as stack, asking(swarm.client) as stream:
            await stream.until(b"one ")
            lease = await stack.enter_async_context(workers.lease(4, time.monotonic() + 60))
            assert lease is not None
            await attic.stop()
            await eventually(lambda: workers.waiting == 1)
            await stack.aclose()
            await stream.rest()
        assert stream.said == "one two"
        assert swarm.asked == {"attic": 1, "kitchen": 1}


VOTE: dict[str, Any] = {"temperature": 0.7, "seed": 7, "swarm": {"votes": 2, "min_votes": 2, "stream": "leader"}}


async def test_the_leader_of_a_vote_goes_on_elsewhere() -> None:
    """A stream shows its answer while the vote runs; the voter in its place says it again, and has its vote."""
    async with Swarm() as swarm:
        gate = asyncio.Event()
        for name in ("attic", "cellar"):
            await swarm.add(name, "one ", "two ", gate, "three")
        await swarm.add("kitchen", rules=IN_TURN)
        async with asking(swarm.client, **VOTE) as stream:
            await stream.until(b"two ")
            await swarm.nodes["attic"].stop()
            gate.set()
            await stream.rest()
        assert stream.error is None
        assert stream.said == "one two three"
        told = stream.account["resumed"]
        assert told.pop("gap_ms") >= 0
        assert told == {"from": "attic", "to": "cellar", "at_chars": 8, "how": "replay"}
        assert (stream.account["votes"], stream.account["confirmed"]) == (2, True)
        assert len(stream.ids) == 1
        first, again = swarm.engines["attic"].requests[0], swarm.engines["cellar"].requests[-1]
        assert (first.seed, first.temperature) == (again.seed, again.temperature)


@pytest.mark.parametrize(
    ("fields", "again"),
    [({}, "twelve"), ({"seed": None}, "two "), ({"swarm": {**VOTE["swarm"], "resume": False}}, "two ")],
    ids=["other words", "no seed", "not wanted"],
)
async def test_where_the_leaders_answer_may_be_another_the_stream_ends(fields: dict[str, Any], again: str) -> None:
    async with Swarm() as swarm:
        gate = asyncio.Event()

        def script(_: Any, voter: int) -> Sequence[Step]:
            return ["one ", "two ", gate, "three"] if voter == 0 else ["one ", again, "three"]

        for name in ("attic", "cellar"):
            await swarm.add(name, "one ", "two ", gate, "three")
        swarm.engines["cellar"].script = script
        await swarm.add("kitchen", rules=IN_TURN)
        async with asking(swarm.client, **(VOTE | fields)) as stream:
            await stream.until(b"two ")
            await swarm.nodes["attic"].stop()
            gate.set()
            await stream.rest()
        assert stream.said == "one two "
        assert stream.error is not None
        assert stream.error["code"] == "peer_failed"
        assert b"[DONE]" not in stream.heard


LETTERS = ["o", "n", "e", " ", "t", "w", "o", ".", "t", "h", "r", "e", "e"]  # what the scripted engine has for tokens
AT_ONCE = FailureLimits(continued_s=0.0)


def continuing(*rest: str) -> Callable[[Any, int], Sequence[Step]]:
    """An engine that goes on with a turn that has begun: the last letters of the seam, then the `rest`."""

    def script(request: Any, _: int) -> Sequence[Step]:
        last = request.messages[-1]
        written = len(str(last["content"])) if last["role"] == "assistant" else 0
        return [*LETTERS[written:], *rest] if written else ["it was to go on"]

    return script


async def test_a_long_text_is_continued_near_its_end() -> None:
    async with Swarm() as swarm:
        attic = await swarm.add("attic", *LETTERS, asyncio.Event())
        await swarm.add("kitchen", "never", rules=LAST, failure_limits=AT_ONCE)
        swarm.engines["kitchen"].script = continuing(" four")
        async with asking(swarm.client, max_tokens=50, stream_options={"include_usage": True}) as stream:
            await read_all(stream, len(LETTERS))
            await attic.stop()
            await stream.rest()
        assert stream.said == "one two.three four"
        assert stream.account["resumed"]["how"] == "continued"
        assert stream.account["resumed"]["at_chars"] == len(LETTERS)
        (request,) = swarm.engines["kitchen"].requests
        assert request.messages is not None
        begun = str(request.messages[-1]["content"])
        assert "one two.three".startswith(begun)
        assert request.max_tokens == 50 - len(begun)
        assert stream.chunks[-1]["usage"]["completion_tokens"] == len(LETTERS) + 1


async def test_where_the_seam_does_not_hold_the_same_node_makes_it_anew() -> None:
    def script(request: Any, _: int) -> Sequence[Step]:
        return ["else"] if request.messages[-1]["role"] == "assistant" else [*LETTERS, " four"]

    async with Swarm() as swarm:
        attic = await swarm.add("attic", *LETTERS, asyncio.Event())
        await swarm.add("kitchen", "never", rules=LAST, failure_limits=AT_ONCE)
        swarm.engines["kitchen"].script = script
        async with asking(swarm.client) as stream:
            await read_all(stream, len(LETTERS))
            await attic.stop()
            await stream.rest()
        assert stream.said == "one two.three four"
        assert stream.account["resumed"]["how"] == "replay"
        assert swarm.asked == {"attic": 1, "kitchen": 3}, "at two seams, then from the beginning"


async def test_a_replay_that_differs_is_followed_by_a_continuation() -> None:
    """As that of a node whose numbers are rounded otherwise."""

    def script(request: Any, voter: int) -> Sequence[Step]:
        if request.messages[-1]["role"] == "assistant":
            return continuing(" four")(request, voter)
        return ["o", "n", "c", "e"]

    async with Swarm() as swarm:
        attic = await swarm.add("attic", *LETTERS, asyncio.Event())
        await swarm.add("kitchen", "never", rules=LAST)
        swarm.engines["kitchen"].script = script
        async with asking(swarm.client) as stream:
            await read_all(stream, len(LETTERS))
            await attic.stop()
            await stream.rest()
        assert stream.said == "one two.three four"
        assert stream.account["resumed"]["how"] == "continued"
        assert swarm.asked == {"attic": 1, "kitchen": 2}


async def test_what_is_read_in_other_tokens_than_it_was_written_in_is_made_anew() -> None:
    words = ["one ", "two ", *LETTERS]  # of several characters, which are a token each to the scripted engine
    async with Swarm() as swarm:
        attic = await swarm.add("attic", *words, asyncio.Event())
        await swarm.add("kitchen", *words, "!", rules=LAST, failure_limits=AT_ONCE)
        async with asking(swarm.client) as stream:
            await read_all(stream, len(words))
            await attic.stop()
            await stream.rest()
        assert stream.said == "".join(words) + "!"
        assert stream.account["resumed"]["how"] == "replay"
        assert swarm.asked == {"attic": 1, "kitchen": 1}


async def test_an_engine_that_cannot_cut_a_text_makes_it_anew() -> None:
    async with Swarm() as swarm:
        attic = await swarm.add("attic", *LETTERS, asyncio.Event())
        await swarm.add("kitchen", *LETTERS, "!", rules=LAST, failure_limits=AT_ONCE)
        swarm.engines["kitchen"].utility_error = BadRequest("it has no tokens")
        async with asking(swarm.client) as stream:
            await read_all(stream, len(LETTERS))
            await attic.stop()
            await stream.rest()
        assert stream.said == "".join(LETTERS) + "!"
        assert stream.account["resumed"]["how"] == "replay"


async def read_all(stream: Stream, steps: int) -> None:
    """Return when so many steps of the answer were read."""
    while stream.heard.count(b'"content":"') < steps:
        stream.heard += await stream.piece()


async def test_llama_cpp_continues_an_answer_in_the_same_words(demo_model: Path) -> None:
    """Real engines: the turn that has begun is read as the tokens that were written, and the seam comes again."""

    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("m", demo_model, context_tokens=2048, slots=2, threads=1))

    words = "Count from one to a thousand, one after the other."
    body = chat_body(words, **GREEDY, max_tokens=TOKENS, logprobs=True, logit_bias=await asyncio.to_thread(endless))
    async with AsyncExitStack() as stack:
        attic = await stack.enter_async_context(RunningNode("attic", load, options=NodeOptions(contents=CONTENT)))
        options = NodeOptions(peers=[attic.address], contents=CONTENT, rules=LAST, failure_limits=AT_ONCE)
        kitchen = await stack.enter_async_context(RunningNode("kitchen", load, options=options))
        client = await stack.enter_async_context(connect(kitchen.url))
        async with client.open(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}}) as response:
            stream = Stream(response)
            await read_all(stream, 40)
            await attic.stop()
            await stream.rest()
        assert stream.error is None
        told = stream.account["resumed"]
        assert (told["how"], told["from"], told["to"]) == ("continued", "attic", "kitchen")
        whole = (await client.post(CHAT, body)).json
        assert stream.said == whole["choices"][0]["message"]["content"]
        assert stream.chunks[-1]["usage"]["completion_tokens"] == TOKENS
        assert tokens_of(stream.chunks) == [entry["token"] for entry in whole["choices"][0]["logprobs"]["content"]]


TOKENS = 600


def endless() -> dict[str, float]:
    """A bias without the tokens that end the embedded model's turn."""
    bias: dict[str, float] = rambling()["logit_bias"]
    return bias


def tokens_of(chunks: Sequence[dict[str, Any]]) -> list[str]:
    given = (choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice.get("logprobs"))
    return [entry["token"] for each in given for entry in each["content"]]
