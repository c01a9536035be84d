"""Whoever answered is seen to have answered, however early its reader leaves; and nothing is noted before."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import pytest

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import tally
from swarm.errors import EngineFailed, PeerFailed
from swarm.generation import Candidate, Finish, GenerationRequest, JsonObject
from swarm.routing.ballot import judgement
from swarm.routing.prefix import prefixes_of
from swarm.routing.replica_client import ReplicaClient
from swarm.routing.replicas import Replica
from swarm.routing.router import Router
from tests.doubles.clients import connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, saying

HELLO = GenerationRequest(model="m", messages=({"role": "user", "content": "hello"},))
SWARM_HELLO = HELLO.model_copy(update={"model": "swarm"})


def inside(node: RunningNode) -> tuple[ReplicaClient, Router]:
    """What a node asks others with, and where it counts."""
    return node.dispatcher._client, node.dispatcher._router  # pyright: ignore[reportPrivateUsage]


@asynccontextmanager
async def two_nodes(*attic_says: Step) -> AsyncGenerator[tuple[RunningNode, Replica, ScriptedEngine]]:
    """The kitchen, which is asked and says "here"; where the attic is, and its engine."""
    async with AsyncExitStack() as stack:
        engine = ScriptedEngine(lambda _, __: list(attic_says), model_id="m", slots=2)
        attic = await stack.enter_async_context(RunningNode("attic", ready(engine)))
        own = ScriptedEngine(saying("here"), model_id="m", slots=1)
        options = NodeOptions(peers=[attic.address])
        kitchen = await stack.enter_async_context(RunningNode("kitchen", ready(own), options=options))
        await kitchen.until(lambda: len(kitchen.dispatcher.replicas()) == 2)
        (place,) = [replica for replica in kitchen.dispatcher.replicas() if not replica.local]
        yield kitchen, place, engine


def deadline() -> float:
    return time.monotonic() + 30


async def as_a_judge(client: ReplicaClient, peer: Replica) -> None:
    said = [Candidate(voter=voter, text=text) for voter, text in (("a", "Bananas sing."), ("b", "Grass is green."))]
    groups = tally(Question(Strategy.JUDGE), said).groups
    verdict = await judgement(client, peer, HELLO, groups, deadline())
    assert verdict.error is None


async def only_the_first_of_two(client: ReplicaClient, peer: Replica) -> None:
    async with aclosing(client.candidates(peer, HELLO, 2, deadline())) as answers:
        assert (await anext(answers)).error is None


async def a_stream_until_its_end(client: ReplicaClient, peer: Replica) -> None:
    events = client.events(peer, HELLO, 1, deadline(), lambda _: None)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                return


@pytest.mark.parametrize("leave", [as_a_judge, only_the_first_of_two, a_stream_until_its_end])
async def test_a_whole_answer_is_booked_before_it_is_given(
    leave: Callable[[ReplicaClient, Replica], Awaitable[None]],
) -> None:
    async with two_nodes("there") as (kitchen, peer, _):
        client, router = inside(kitchen)
        with suppress(PeerFailed), router.asking(peer, deadline()):
            raise PeerFailed("attic", "once")
        assert router.circuits() == {peer.node_id: "closed"}, "a failure is remembered"
        await leave(client, peer)
        assert router.circuits() == {}, "an answer makes it forgotten"


async def test_half_an_answer_is_none() -> None:
    async with two_nodes("there", EngineFailed("broke")) as (kitchen, peer, _):
        client, router = inside(kitchen)
        with suppress(PeerFailed, EngineFailed):
            await a_stream_until_its_end(client, peer)
        assert router.circuits() == {peer.node_id: "closed"}


async def place_after(kitchen: RunningNode, **swarm: object) -> tuple[str, str] | None:
    """Where the kitchen takes the conversation to have been answered, after it was asked."""
    async with connect(kitchen.url) as client:
        messages: list[JsonObject] = [{"role": "user", "content": "hello"}]
        reply = await client.post("/v1/chat/completions", {"model": "swarm", "messages": messages, "swarm": swarm})
        assert reply.status == 200, reply.text
    _, router = inside(kitchen)
    next_turn = (*messages, {"role": "assistant", "content": "x"}, {"role": "user", "content": "and now?"})
    later = SWARM_HELLO.model_copy(update={"messages": next_turn})
    return router.affinity.place_of(prefixes_of(later))


@pytest.mark.parametrize("swarm", [{"votes": 2, "min_votes": 1}, {"strategy": "single"}], ids=["vote", "single"])
async def test_a_conversation_is_where_it_was_answered_and_not_where_it_was_asked(swarm: dict[str, object]) -> None:
    async with two_nodes(EngineFailed("broke")) as (kitchen, peer, engine):
        assert await place_after(kitchen, **swarm) == (kitchen.id, "m")
        del peer, engine


async def test_a_conversation_of_which_nothing_was_answered_is_nowhere() -> None:
    async with two_nodes(EngineFailed("broke")) as (kitchen, _, __):
        workers = kitchen.pool.get("m")
        assert workers is not None
        workers.engine.script = lambda *_: [EngineFailed("broke, too")]  # type: ignore[attr-defined]
        async with connect(kitchen.url) as client:
            reply = await client.chat("hello", swarm={"votes": 2})
            assert reply.status >= 500
        _, router = inside(kitchen)
        turns = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "x"})
        assert router.affinity.place_of(prefixes_of(SWARM_HELLO.model_copy(update={"messages": turns}))) is None
