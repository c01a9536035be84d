"""Requests over which engines end: they stop at the first victim, and nothing else is stopped by them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from federation.hostport import Address
from swarm.engines.upstream.address import UpstreamMode
from swarm.errors import EngineDied
from swarm.gateway.http.errors import error_line
from swarm.generation import GenerationRequest
from swarm.routing.poison_pills import REFUSED_S
from swarm.routing.router import FAILURES_TO_OPEN
from swarm.routing.rules import RoutingRules
from tests.doubles.clients import Client, Reply, chat_body, connect
from tests.doubles.fake_peer import CUT, FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step
from tests.doubles.upstream_house import house
from tests.doubles.upstream_server import UpstreamServer, ending, text
from tests.doubles.waiting import eventually

PILL = "a poison pill"
ENDED = EngineDied("the engine ended over this request: Server disconnected")
SINGLE = {"strategy": "single"}


def said(request: GenerationRequest) -> str:
    return json.dumps([request.messages, request.prompt])


def deadly(*before: Step) -> Callable[[GenerationRequest, int], Sequence[Step]]:
    """An engine that ends over the pill, after some steps, and answers everything else."""
    return lambda request, _: (*before, ENDED) if PILL in said(request) else ("fine",)


class Swarm:
    """Nodes started in order, each knowing those before it. Every engine ends over the pill."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._known: list[Address] = []
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}

    async def __aenter__(self) -> Swarm:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def add(self, name: str, *before: Step, model: str | None = "m", slots: int = 4, **options: Any) -> None:
        """A node; without a model it passes on what it is asked."""
        loaders = []
        if model is not None:
            self.engines[name] = ScriptedEngine(deadly(*before), model_id=model, slots=slots)
            loaders.append(ready(self.engines[name]))
        node = RunningNode(name, *loaders, options=NodeOptions(peers=tuple(self._known), **options))
        self.nodes[name] = await self._stack.enter_async_context(node)
        self._known.append(node.address)

    async def add_fake(self, peer: FakePeer) -> FakePeer:
        await self._stack.enter_async_context(peer)
        self._known.append(peer.address)
        return peer

    async def client(self, name: str) -> Client:
        return await self._stack.enter_async_context(connect(self.nodes[name].url))

    def seen_by(self) -> dict[str, int]:
        """How many requests each engine was given."""
        return {name: len(engine.requests) for name, engine in self.engines.items()}


@asynccontextmanager
async def four_nodes(study: str = "large") -> AsyncIterator[Swarm]:
    """The study has the strongest model, or the same as two others; the kitchen, which is asked, has none."""
    async with Swarm() as swarm:
        await swarm.add("study", model=study)
        await swarm.add("attic")
        await swarm.add("cellar")
        await swarm.add("kitchen", model=None)
        yield swarm


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {**chat_body(text), **fields}


@dataclass(frozen=True)
class Way:
    """One way to ask a node something. `fields` go with each body."""

    path: str
    body: Callable[[str], dict[str, Any]]
    fields: dict[str, Any]

    async def ask(self, client: Client, text: str) -> Reply:
        return await client.post(self.path, {**self.body(text), **self.fields})


def messages(text: str) -> dict[str, Any]:
    return {**chat_body(text), "max_tokens": 20}


SIZES = {"large": 7_000_000, "larger": 8_000_000, "largest": 9_000_000}  # as if in the catalogue: who is asked first

WAYS = {
    "chat": Way("/v1/chat/completions", chat, {"swarm": SINGLE}),
    "chat streamed": Way("/v1/chat/completions", chat, {"swarm": SINGLE, "stream": True}),
    "chat of two choices": Way("/v1/chat/completions", chat, {"n": 2}),
    "vote": Way("/v1/chat/completions", chat, {"swarm": {"votes": 1, "strategy": "majority"}}),
    "vote streamed": Way("/v1/chat/completions", chat, {"swarm": {"votes": 1, "strategy": "medoid"}, "stream": True}),
    "completion": Way("/v1/completions", lambda text: {"model": "swarm", "prompt": text}, {"swarm": SINGLE}),
    "messages": Way("/v1/messages", messages, {"swarm": SINGLE}),
    "messages streamed": Way("/v1/messages", messages, {"swarm": SINGLE, "stream": True}),
    "responses": Way("/v1/responses", lambda text: {"model": "swarm", "input": text}, {"swarm": SINGLE}),
    "responses streamed": Way(
        "/v1/responses", lambda text: {"model": "swarm", "input": text}, {"swarm": SINGLE, "stream": True}
    ),
}


def assert_refused(reply: Reply, anthropic: bool = False) -> None:
    """The whole of what a client is told."""
    assert (reply.status, reply.headers["x-should-retry"]) == (502, "false"), reply.text
    assert "Retry-After" not in reply.headers
    assert reply.error["died"] is True
    assert 1 <= reply.error["refused_for_s"] <= REFUSED_S
    if not anthropic:
        assert reply.error["code"] == "engine_failed"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_a_poison_pill_stops_at_the_first_victim(way: Way) -> None:
    async with four_nodes() as swarm:
        kitchen, study = await swarm.client("kitchen"), await swarm.client("study")
        is_anthropic = way.path == "/v1/messages"
        first = await way.ask(kitchen, PILL)
        assert_refused(first, is_anthropic)
        assert "study: the engine ended over this request" in first.error["message"]
        assert swarm.seen_by() == {"study": 1, "attic": 0, "cellar": 0}
        for asked in (kitchen, study, kitchen):
            again = await way.ask(asked, PILL)
            assert_refused(again, is_anthropic)
            assert "refused for another" in again.error["message"]
        assert swarm.seen_by() == {"study": 1, "attic": 0, "cellar": 0}, "no engine has seen it again"
        other = await way.ask(kitchen, "hello")
        assert other.status == 200
        assert "fine" in other.text


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_a_poison_pill_at_the_node_that_was_asked_goes_to_no_peer(way: Way) -> None:
    async with Swarm() as swarm:
        await swarm.add("study")
        await swarm.add("kitchen", params=9_000_000)
        kitchen = await swarm.client("kitchen")
        for _ in range(3):
            assert_refused(await way.ask(kitchen, PILL), way.path == "/v1/messages")
        assert swarm.seen_by() == {"study": 0, "kitchen": 1}
        assert (await way.ask(kitchen, "hello")).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("asked", ["kitchen", "study"])
async def test_after_the_first_word_the_stream_ends_with_the_error(path: str, asked: str) -> None:
    async with Swarm() as swarm:
        await swarm.add("attic")
        await swarm.add("study", "half an ", model="large", params=9_000_000)
        await swarm.add("kitchen", model=None)
        way = next(way for way in WAYS.values() if way.path == path and way.fields.get("stream"))
        client = await swarm.client(asked)
        reply = await way.ask(client, PILL)
        assert reply.status == 200
        assert "half an " in reply.text
        assert "the engine ended over this request" in reply.text
        assert "[DONE]" not in reply.text
        if path == "/v1/chat/completions":
            error = reply.chunks[-1]["error"]
            assert (error["code"], error["died"], error["refused_for_s"]) == ("engine_failed", True, REFUSED_S)
        assert_refused(await way.ask(client, PILL), path == "/v1/messages")
        assert swarm.seen_by() == {"attic": 0, "study": 1}


async def test_another_model_seed_or_temperature_makes_no_other_request_of_it() -> None:
    """Those are what voters differ in: else every voter of the next vote would be a new request."""
    async with four_nodes() as swarm:
        kitchen = await swarm.client("kitchen")
        assert_refused(await kitchen.chat(PILL, swarm=SINGLE, temperature=0.5, seed=1))
        for fields in ({"seed": 2}, {"temperature": 1.0}, {"model": "m"}, {"n": 3}, {"stream": True}):
            assert_refused(await kitchen.chat(PILL, **{"swarm": SINGLE, **fields} if "n" not in fields else fields))
        assert_refused(await kitchen.chat(PILL, swarm={"votes": 3}))
        assert swarm.seen_by() == {"study": 1, "attic": 0, "cellar": 0}


async def test_a_vote_asks_nobody_beyond_those_who_have_the_question_already() -> None:
    """Two of four nodes have a seat: the others are asked neither instead of one that died nor after both did."""
    async with Swarm() as swarm:
        for name in ("attic", "cellar", "study"):
            await swarm.add(name, slots=1)
        await swarm.add("kitchen", slots=1)
        reply = await (await swarm.client("kitchen")).chat(PILL, swarm={"votes": 2, "min_votes": 2})
        assert_refused(reply)
        seen = swarm.seen_by()
        assert sum(seen.values()) == 2
        assert max(seen.values()) == 1


async def test_a_vote_is_decided_by_those_who_finish() -> None:
    async with four_nodes(study="m") as swarm:
        swarm.engines["attic"].script = lambda *_: ["Answer: 1"]
        swarm.engines["cellar"].script = lambda *_: ["Answer: 1"]
        kitchen = await swarm.client("kitchen")
        options = {"votes": 3, "min_votes": 3, "strategy": "majority"}
        reply = await kitchen.chat(PILL, swarm=options)
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 1"
        lost = [candidate for candidate in reply.json["swarm"]["candidates"] if candidate["group"] is None]
        assert [candidate["voter"] for candidate in lost] == ["lost@study"]
        assert "the engine ended over this request" in lost[0]["abstained"]
        assert_refused(await kitchen.chat(PILL, swarm=options))
        assert swarm.seen_by() == {"study": 1, "attic": 1, "cellar": 1}


async def test_an_engine_that_ends_over_the_judges_question_counts_for_the_clients() -> None:
    """Who asks the same again would have a judge asked the same again. The vote itself stands."""
    async with four_nodes(study="m") as swarm:
        for name, answer in (("study", "one"), ("attic", "another"), ("cellar", "a third")):
            swarm.engines[name].script = lambda request, _, answer=answer: (
                [answer] if said(request).count("thing") == 1 and "another" not in said(request) else [ENDED]
            )
        kitchen = await swarm.client("kitchen")
        options = {"votes": 3, "min_votes": 3, "strategy": "judge"}
        assert (await kitchen.chat("a thing", swarm=options)).status == 200
        seen = swarm.seen_by()
        assert sum(seen.values()) == 4
        assert_refused(await kitchen.chat("a thing", swarm=options))
        assert swarm.seen_by() == seen


@pytest.mark.parametrize("mode", ["fallback", "voter"])
async def test_the_upstream_is_not_asked_what_ended_an_engine(mode: UpstreamMode) -> None:
    listing = {"object": "list", "data": [{"id": "m", "object": "model"}]}
    async with UpstreamServer([text("from above"), ending()], listing) as server, house(server, mode, ENDED) as at:
        await at.found()
        for model in ("m", "swarm", "m"):  # the upstream has the model, too
            assert_refused(await at.client.chat(PILL, model=model, swarm=SINGLE))
        assert not server.asked


@pytest.mark.parametrize("here", [True, False])
async def test_a_call_that_generates_nothing_stops_at_the_first_victim_too(here: bool) -> None:
    async with Swarm() as swarm:
        await swarm.add("attic")
        await swarm.add("study", params=9_000_000)
        if not here:
            await swarm.add("kitchen", model=None)
        client = await swarm.client("study" if here else "kitchen")
        for engine in swarm.engines.values():
            engine.utility_error = ENDED
        body = {"model": "m", "input": "deadly"}
        first = await client.post("/v1/embeddings", body)
        assert_refused(first)
        for engine in swarm.engines.values():
            engine.utility_error = None
        assert_refused(await client.post("/v1/embeddings", body))
        assert (await client.post("/v1/embeddings", {**body, "input": "harmless"})).status == 200
        assert (await client.post("/tokenize", {"model": "m", "content": "deadly"})).status == 200


@pytest.mark.parametrize("path", ["/federation/v1/generate", "/federation/v1/candidates"])
async def test_the_victim_refuses_it_to_peers_at_once_and_says_what_it_is(path: str) -> None:
    async with four_nodes() as swarm:
        assert_refused(await (await swarm.client("kitchen")).chat(PILL, swarm=SINGLE))
        request = chat(PILL, model="large", stream=True)
        body = request if path.endswith("generate") else {"request": request, "votes": 1}
        reply = await (await swarm.client("study")).post(path, body)
        error = json.loads(reply.text)["error"]
        assert (error["code"], error["died"]) == ("engine_failed", True)
        assert "refused for another" in error["message"]
        assert swarm.seen_by()["study"] == 1


async def test_an_older_peers_failure_is_asked_elsewhere_as_ever() -> None:
    async with Swarm() as swarm:
        old = await swarm.add_fake(
            FakePeer("old", b'{"error":{"message":"broke","code":"engine_failed"}}', model="large")
        )
        old.status = 500
        await swarm.add("kitchen")
        reply = await (await swarm.client("kitchen")).chat("hello", swarm=SINGLE)
        assert (reply.json["choices"][0]["message"]["content"], old.asked) == ("fine", ["/federation/v1/generate"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_liar_that_says_so_of_everything_is_soon_left_alone(stream: bool) -> None:
    """What it is asked fails, which is within its reach; it refuses nobody anything else, and not for long."""
    async with Swarm() as swarm:
        liar = await swarm.add_fake(FakePeer("liar", error_line(ENDED), model="large"))  # it is asked first
        liar.status = 502
        await swarm.add("study")
        await swarm.add("kitchen", model=None)
        kitchen = await swarm.client("kitchen")
        for number in range(FAILURES_TO_OPEN):
            assert_refused(await kitchen.chat(f"question {number}", swarm=SINGLE, stream=stream))
        assert len(liar.asked) == FAILURES_TO_OPEN
        for number in range(FAILURES_TO_OPEN, 3 * FAILURES_TO_OPEN):
            reply = await kitchen.chat(f"question {number}", swarm=SINGLE, stream=stream)
            if len(liar.asked) == FAILURES_TO_OPEN:  # a slow machine gives it the trial of its circuit
                assert reply.status == 200
        peer = swarm.nodes["kitchen"].membership.get("id-liar")
        assert peer is not None
        assert peer.state == "alive", "it answers"


async def test_a_liar_in_a_vote_is_a_voter_less() -> None:
    async with Swarm() as swarm:
        liar = await swarm.add_fake(FakePeer("liar", b"\n" + error_line(ENDED) + b"\n", slots=1))
        for name in ("attic", "study"):
            await swarm.add(name, slots=1)
        await swarm.add("kitchen", slots=1)
        reply = await (await swarm.client("kitchen")).chat("hello", swarm={"votes": 4, "min_votes": 4})
        assert reply.status == 200, "those who answered decide"
        assert reply.json["swarm"]["votes"] == 3
        assert liar.asked == ["/federation/v1/candidates"]


# Nodes that vanish


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("vote", [False, True])
async def test_the_second_node_that_vanishes_with_a_request_is_the_last(stream: bool, vote: bool) -> None:
    """Nodes whose engine runs in their own process end without a word. In a vote two seats are asked at once."""
    async with Swarm() as swarm:
        gone = [
            await swarm.add_fake(FakePeer(name, b"\n", CUT, model="large", slots=1)) for name in ("attic", "cellar")
        ]
        await swarm.add("study", slots=1)
        await swarm.add("kitchen", model=None)
        kitchen = await swarm.client("kitchen")
        options = {"votes": 2, "min_votes": 2, "strategy": "majority"} if vote else SINGLE
        first = await kitchen.chat(PILL, swarm=options, stream=stream)
        assert_refused(first)
        assert "second node that vanished with this request" in first.error["message"]
        assert_refused(await kitchen.chat(PILL, swarm=options, stream=stream))
        assert [len(peer.asked) for peer in gone] == [1, 1]
        assert swarm.seen_by() == {"study": 0}


async def test_one_node_that_vanishes_and_one_that_says_that_its_engine_ended_are_two() -> None:
    async with Swarm() as swarm:
        await swarm.add_fake(FakePeer("attic", b"\n", CUT, model="largest"))
        await swarm.add("study", model="larger")
        await swarm.add("cellar", model="large")
        await swarm.add("kitchen", model=None, sizes=SIZES)
        kitchen = await swarm.client("kitchen")
        for _ in range(2):
            assert_refused(await kitchen.chat(PILL, swarm=SINGLE))
        assert swarm.seen_by() == {"study": 1, "cellar": 0}


async def test_what_many_ask_is_no_pill_though_two_nodes_end_while_they_answer_it() -> None:
    """A health check asks the same each second. One node ends, it is answered elsewhere, another node ends."""
    async with Swarm() as swarm:
        gone = [await swarm.add_fake(FakePeer(node, b"\n", CUT, model=node)) for node in ("attic", "cellar")]
        await swarm.add("study", model="attic")
        await swarm.add("garage", model="cellar")
        await swarm.add("kitchen", model=None, rules=RoutingRules({"attic": 100.0, "cellar": 100.0}))
        kitchen = await swarm.client("kitchen")
        for model in ("attic", "cellar"):
            reply = await kitchen.chat("are you there?", model=model, swarm=SINGLE)
            assert reply.json["choices"][0]["message"]["content"] == "fine"
            assert reply.json["swarm"]["routed"]["tried"] == [model]
        assert [len(peer.asked) for peer in gone] == [1, 1]


async def hanging(swarm: Swarm, name: str, **options: Any) -> None:
    await swarm.add(name, **options)
    swarm.engines[name].script = lambda request, _: [asyncio.Event()] if PILL in said(request) else ["fine"]


async def test_a_node_that_says_goodbye_and_cuts_off_what_is_late_has_not_died() -> None:
    async with Swarm() as swarm:
        for name, model in (("study", "largest"), ("attic", "larger"), ("cellar", "large")):
            await hanging(swarm, name, model=model)
        swarm.engines["cellar"].script = lambda *_: ["fine"]
        await swarm.add("kitchen", model=None, sizes=SIZES)
        kitchen = await swarm.client("kitchen")
        asked = asyncio.create_task(kitchen.chat(PILL, swarm=SINGLE))
        for name in ("study", "attic"):
            node = swarm.nodes[name]
            await swarm.engines[name].until(lambda engine: engine.running == 1)
            await node.membership.say_goodbye()
            node.condition.draining = True
            await swarm.nodes["kitchen"].until(
                lambda gone=node: all(peer.id != gone.id for peer in swarm.nodes["kitchen"].membership.alive())
            )
            await node.stop()
        assert (await asked).json["choices"][0]["message"]["content"] == "fine"


# Who waited beside it


async def test_who_waited_for_the_engine_goes_elsewhere_and_is_no_pill() -> None:
    """Not even the same words: the request never reached an engine here, but it is known by then what it does."""
    async with Swarm() as swarm:
        await swarm.add("study")
        await swarm.add("kitchen", slots=1)
        engine, gate = swarm.engines["kitchen"], asyncio.Event()
        engine.script = lambda request, _: [gate, ENDED] if PILL in said(request) else [gate, "here"]
        workers = swarm.nodes["kitchen"].pool.get("m")
        assert workers is not None
        node = await swarm.client("kitchen")
        pill = asyncio.create_task(node.post("/federation/v1/generate", chat(PILL, model="m", stream=True)))
        await engine.until(lambda engine: engine.running == 1)
        # What a peer asks waits here and nowhere else; so does a vote.
        waits = [
            asyncio.create_task(node.post("/federation/v1/generate", chat(text, model="m", stream=True)))
            for text in (PILL, "innocent")
        ]
        await eventually(lambda: workers.waiting == 2)
        engine.script = lambda *_: ["here"]
        gate.set()
        first = json.loads((await pill).text)["error"]
        assert (first["code"], first["died"]) == ("engine_failed", True)
        same, innocent = [await wait for wait in waits]
        assert json.loads(same.text)["error"]["code"] == "engine_failed"
        assert innocent.said() == "here"


async def test_a_pill_is_told_as_one_while_its_engine_is_gone() -> None:
    """And not that nobody serves the model, nor that it will be back."""
    engines = [ScriptedEngine(deadly(), model_id="m")]

    async def load() -> ScriptedEngine:
        if not engines:
            await asyncio.Event().wait()
        return engines.pop()

    engine = engines[0]
    async with RunningNode("kitchen", load) as node, connect(node.url) as kitchen:
        assert_refused(await kitchen.chat(PILL, model="m"))
        engine.failed.set_result("the engine host ended")
        await eventually(lambda: node.pool.states()[0].problem is not None)
        for options in (SINGLE, {"votes": 2}):
            assert_refused(await kitchen.chat(PILL, model="m", swarm=options))
        body = {"request": chat(PILL, model="m"), "votes": 1}
        assert json.loads((await kitchen.post("/federation/v1/candidates", body)).text)["error"]["died"] is True


async def test_an_engine_that_ended_refuses_those_who_wait_as_busy() -> None:
    async with Swarm() as swarm:
        await swarm.add("study")
        await swarm.add("kitchen", slots=1)
        engine, gate = swarm.engines["kitchen"], asyncio.Event()
        engine.script = lambda request, _: [gate, ENDED]
        workers = swarm.nodes["kitchen"].pool.get("m")
        assert workers is not None
        kitchen = await swarm.client("kitchen")
        pill = asyncio.create_task(kitchen.post("/federation/v1/generate", chat(PILL, model="m", stream=True)))
        await engine.until(lambda engine: engine.running == 1)
        innocent = asyncio.create_task(
            kitchen.post("/federation/v1/generate", chat("innocent", model="m", stream=True))
        )
        await eventually(lambda: workers.waiting == 1)
        engine.failed.set_result("the engine host ended")
        reply = await innocent
        assert (reply.status, reply.error["code"]) == (503, "unavailable")
        assert "Retry-After" in reply.headers
        gate.set()
        await pill
