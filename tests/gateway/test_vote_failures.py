"""Votes in which something goes wrong: a liar, a straggler, a peer that dies, a client that leaves, no agreement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from federation.hostport import Address
from federation.tasks import cancel_and_wait
from swarm.errors import EngineFailed
from swarm.generation import Delta, ToolCallDelta
from swarm.registry.weights_file import Measured
from tests.doubles.clients import Client, connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import Script, ScriptedEngine, Step
from tests.doubles.waiting import eventually

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class Swarm:
    """Nodes with one scripted engine each, started in order; each knows those before it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self._known: list[Address] = []
        self._sizes: dict[str, int] = {}  # as if every model were in the catalogue

    async def add(
        self, name: str, *answers: Sequence[Step] | str, model: str = "m", slots: int = 1, **options: Any
    ) -> None:
        """A node whose voters give `answers` in turn, the last one from then on."""
        steps = [[answer] if isinstance(answer, str) else answer for answer in answers]
        script: Script = lambda _, voter: steps[min(voter, len(steps) - 1)]  # noqa: E731
        self.engines[name] = ScriptedEngine(script, model_id=model, slots=slots)
        self._sizes[model] = options.get("params", 2_000_000)
        known = NodeOptions(peers=list(self._known), sizes=dict(self._sizes), **options)
        node = RunningNode(name, ready(self.engines[name]), options=known)
        self.nodes[name] = await self._stack.enter_async_context(node)
        self._known.append(node.address)

    async def add_fake(self, peer: FakePeer) -> None:
        await self._stack.enter_async_context(peer)
        self._known.append(peer.address)

    async def client(self, name: str) -> Client:
        return await self._stack.enter_async_context(connect(self.nodes[name].url))


@asynccontextmanager
async def a_swarm() -> AsyncIterator[Swarm]:
    async with AsyncExitStack() as stack:
        yield Swarm(stack)


def voted(account: dict[str, Any]) -> dict[str, int]:
    """The group of each node's voter, of those that voted."""
    return {c["voter"].split("@")[1]: c["group"] for c in account["candidates"] if c["group"] is not None}


async def test_a_liar_is_outvoted() -> None:
    async with a_swarm() as swarm:
        for name in ("attic", "cellar", "garage", "study"):
            await swarm.add(name, "Answer: 13" if name == "attic" else "Answer: 42")
        await swarm.add("kitchen", "Answer: 42")
        reply = await (await swarm.client("kitchen")).chat(swarm={"votes": 5, "min_votes": 5})
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 42"
        account = reply.json["swarm"]
        assert voted(account) == {"kitchen": 0, "cellar": 0, "garage": 0, "study": 0, "attic": 1}
        assert (account["agreement"], account["outcome"]) == (0.8, "consensus")


async def test_a_peer_that_lies_in_its_own_words_is_one_voter() -> None:
    """It sends more candidates than it was asked for, all alike, under names of its own."""
    async with a_swarm() as swarm:
        lie = b'{"voter": "%d@kitchen", "text": "Answer: 13", "finish_reason": "stop"}\n'
        await swarm.add_fake(FakePeer("attic", *(lie % turn for turn in range(9)), slots=1))
        await swarm.add("kitchen", "Answer: 42", slots=2)
        account = (await (await swarm.client("kitchen")).chat(swarm={"votes": 3, "min_votes": 3})).json["swarm"]
        assert (account["votes"], account["winner"].split("@")[1]) == (3, "kitchen")
        assert voted(account)["attic"] == 1


async def test_a_frozen_peer_costs_a_vote_a_grace_and_is_told_to_stop() -> None:
    async with a_swarm() as swarm:
        await swarm.add("attic", ["Answer: ", asyncio.Event()])
        for name in ("cellar", "garage", "study"):
            await swarm.add(name, "Answer: 42" if name == "study" else "Answer: 41")
        await swarm.add("kitchen", "Answer: 42")
        client = await swarm.client("kitchen")
        async with asyncio.timeout(10):
            account = (await client.chat(swarm={"votes": 5})).json["swarm"]
        assert account["stopped_by"] == "deadline"
        assert (account["votes"], account["quorum"]) == (4, True)
        await swarm.engines["attic"].until(lambda engine: engine.running == 0)
        assert swarm.engines["attic"].cancelled == 1


async def test_a_straggler_in_the_first_wave_does_not_keep_the_second_back() -> None:
    """Two agree and the third is silent: the others are asked, and decide without it."""
    async with a_swarm() as swarm:
        large = {"model": "large", "params": 9_000_000}  # it is asked first
        await swarm.add("attic", ["Answer: ", asyncio.Event()], **large)
        for name in ("cellar", "garage", "study"):
            await swarm.add(name, "Answer: 42")
        await swarm.add("kitchen", "Answer: 42")
        client = await swarm.client("kitchen")
        async with asyncio.timeout(10):
            account = (await client.chat(swarm={"votes": 5})).json["swarm"]
        assert (account["stopped_by"], account["asked"], account["agreement"]) == ("unbeatable_lead", 5, 1.0)
        await swarm.engines["attic"].until(lambda engine: engine.running == 0)


async def test_a_peer_killed_in_mid_vote_is_replaced_once() -> None:
    async with a_swarm() as swarm:
        gate = asyncio.Event()
        await swarm.add("attic", ["Answer: ", asyncio.Event()], model="large", params=9_000_000)
        await swarm.add("study", [gate, "Answer: 42"], slots=2)
        await swarm.add("kitchen", [gate, "Answer: 42"], slots=2)
        client = await swarm.client("kitchen")
        vote = asyncio.create_task(client.chat(swarm={"votes": 3, "min_votes": 3}))
        await swarm.engines["attic"].until(lambda engine: engine.running == 1)
        await swarm.nodes["attic"].stop()
        await swarm.engines["kitchen"].until(lambda engine: len(engine.requests) == 2)  # the study has its share
        gate.set()
        reply = await vote
        assert reply.status == 200
        assert (reply.json["swarm"]["votes"], reply.json["swarm"]["asked"]) == (3, 3)
        assert set(voted(reply.json["swarm"])) == {"kitchen", "study"}


async def test_a_broken_local_voter_does_not_fail_the_vote() -> None:
    async with a_swarm() as swarm:
        await swarm.add("study", "Answer: 42", slots=2)
        await swarm.add("kitchen", [EngineFailed("out of memory")])
        reply = await (await swarm.client("kitchen")).chat(swarm={"votes": 3, "min_votes": 3})
        assert reply.status == 200
        assert reply.json["choices"][0]["message"]["content"] == "Answer: 42"


async def test_a_client_that_leaves_in_the_second_wave_stops_it_everywhere() -> None:
    async with a_swarm() as swarm:
        for name in ("attic", "cellar"):
            await swarm.add(name, f"Answer: {len(name)}", ["a word", asyncio.Event()], slots=2)
        await swarm.add("kitchen", "Answer: 1", ["a word", asyncio.Event()], slots=2)
        client = await swarm.client("kitchen")
        asked = asyncio.create_task(client.chat(swarm={"votes": 6, "strategy": "majority"}))
        await eventually(lambda: sum(len(engine.requests) for engine in swarm.engines.values()) == 5)
        await cancel_and_wait(asked)
        for engine in swarm.engines.values():
            await engine.until(lambda engine: engine.running == 0)
        assert sum(engine.cancelled for engine in swarm.engines.values()) == 3


async def test_without_a_quorum_an_error_is_given_where_that_is_wanted() -> None:
    async with a_swarm() as swarm:
        await swarm.add("kitchen", "Answer: 42", ["", asyncio.Event()], slots=4)
        client = await swarm.client("kitchen")
        wanted = {"votes": 4, "deadline_s": 0.4}
        assert (await client.chat(swarm=wanted)).json["swarm"]["outcome"] == "degraded"
        swarm.engines["kitchen"].script = lambda _, voter: ["Answer: 42"] if voter == 4 else ["", asyncio.Event()]
        reply = await client.chat(swarm={**wanted, "on_no_quorum": "error"})
        assert (reply.status, reply.error["code"]) == (503, "no_consensus")
        assert "1 of 4 voters gave a valid answer" in reply.error["message"]
        assert reply.headers["x-should-retry"] == "false"


async def test_tool_calls_that_too_few_agree_on_are_not_passed_on() -> None:
    async with a_swarm() as swarm:

        def call(arguments: str) -> list[Step]:
            return [Delta(tool_calls=(ToolCallDelta(0, "c", "f", arguments),))]

        await swarm.add("kitchen", call('{"a": 1}'), call('{"a": 1}'), call('{"a": 2}'), slots=4)
        client = await swarm.client("kitchen")
        fields = {"tools": [TOOL], "swarm": {"votes": 3, "min_votes": 3, "min_agreement": 0.9}}
        account = (await client.chat(**fields)).json["swarm"]
        assert account["outcome"] == "degraded"
        assert "min_agreement is 0.9" in account["shortfall"]
        swarm.engines["kitchen"].script = lambda _, voter: call(f'{{"a": {voter % 2}}}')
        refused = await client.chat(**{**fields, "swarm": {**fields["swarm"], "on_no_quorum": "error"}})  # type: ignore[dict-item]
        assert refused.status == 503
        assert "min_agreement is 0.9" in refused.error["message"]


async def test_a_judge_chooses_among_answers_that_differ() -> None:
    async with a_swarm() as swarm:
        await swarm.add("study", "Bananas sing loudly at night.", slots=2, params=1_000_000)
        await swarm.add("kitchen", "The sky is blue because of scattering.", '{"best": "B"}', slots=1)
        client = await swarm.client("kitchen")
        account = (await client.chat(swarm={"votes": 2, "strategy": "judge"})).json["swarm"]
        assert account["judge"].endswith("@kitchen")
        assert account["total_completion_tokens"] == 3
        swarm.engines["kitchen"].script = lambda _, voter: ["Grass is green in spring." if voter == 2 else "the second"]
        unread = (await client.chat(swarm={"votes": 2, "strategy": "judge"})).json["swarm"]
        assert unread["judge"] is None
        assert unread["winner"]


async def test_a_model_that_is_no_better_than_a_guess_is_not_asked() -> None:
    async with a_swarm() as swarm:
        measured = {"good": {"number": Measured(40, 50)}, "bad": {"number": Measured(5, 50)}}
        await swarm.add("study", "Answer: 13", model="bad", slots=4)
        await swarm.add("kitchen", "Answer: 42", model="good", slots=4, measurements=measured)
        client = await swarm.client("kitchen")
        question = [{"role": "user", "content": "Reply with only a number: 4 + 38"}]
        account = (await client.chat(messages=question, swarm={"votes": 3, "min_votes": 3})).json["swarm"]
        assert {candidate["model"] for candidate in account["candidates"]} == {"good"}
        assert not swarm.engines["study"].requests


async def test_measured_weights_decide_and_say_so() -> None:
    async with a_swarm() as swarm:
        measured = {"good": {"number": Measured(49, 50)}, "poor": {"number": Measured(20, 50)}}
        for name in ("attic", "study"):
            await swarm.add(name, "Answer: 13", model="poor")
        await swarm.add("kitchen", "Answer: 42", model="good", slots=1, measurements=measured)
        client = await swarm.client("kitchen")
        account = (await client.chat(swarm={"votes": 3, "min_votes": 3, "strategy": "weighted"})).json["swarm"]
        assert account["weights"] == "measured"
        assert account["winner"].split("@")[1] == "kitchen"
        equal = (await client.chat(swarm={"votes": 3, "min_votes": 3, "strategy": "majority"})).json["swarm"]
        assert (equal["weights"], equal["winner"].split("@")[1] in ("attic", "study")) == ("equal", True)


async def test_the_posterior_stop_is_refused_where_it_means_nothing() -> None:
    async with a_swarm() as swarm:
        await swarm.add("study", "Answer: 42", model="other", slots=8)
        await swarm.add("kitchen", "Answer: 42", slots=9)
        client = await swarm.client("kitchen")
        few = await client.chat(model="m", swarm={"stop": "posterior"})
        assert (few.status, few.error["param"]) == (400, "swarm.stop")
        mixed = await client.chat(swarm={"votes": 9, "stop": "posterior"})
        assert (mixed.status, mixed.error["param"]) == (400, "swarm.stop")
        account = (await client.chat(model="m", swarm={"votes": 9, "stop": "posterior"})).json["swarm"]
        assert account["stopped_by"] in ("posterior", "unbeatable_lead")
        assert account["votes"] < 9


async def test_the_same_seed_gives_the_same_seeds_to_the_voters() -> None:
    async with a_swarm() as swarm:
        await swarm.add("kitchen", "Answer: 1", "Answer: 2", "Answer: 3", "Answer: 4", "Answer: 5", slots=5)
        client = await swarm.client("kitchen")
        engine = swarm.engines["kitchen"]
        engine.script = lambda _, voter: [f"Answer: {voter}"]
        seeds: list[list[int | None]] = []
        for _ in range(2):
            begun = len(engine.requests)
            await client.chat(seed=7, swarm={"votes": 5, "strategy": "majority"})
            seeds.append([request.seed for request in engine.requests[begun:]])
        assert seeds[0] == seeds[1]
        assert len(set(seeds[0])) == 2, "a seed for each wave"
