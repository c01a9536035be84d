"""Peers that lie, flood and vote twice beside honest ones: right with (n-1)/2 liars; no quorum is said, not guessed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.doubles.clients import Client, connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

TRUTH, LIE = "Answer: 42", "Answer: 13"


def vote(text: str, voter: str) -> bytes:
    return b'{"voter": "%s", "text": "%s", "finish_reason": "stop"}\n' % (voter.encode(), text.encode())


class Flooder(FakePeer):
    """Asked for one vote it sends a hundred: under one name, under many, under an honest node's."""

    def __init__(self, name: str, lie: str) -> None:
        votes = [
            vote(lie, voter) for turn in range(33) for voter in (f"Rex@{name}", f"V{turn}@{name}", "Zeus@honest-0")
        ]
        super().__init__(name, *votes, slots=1, params=2_000_000)


@asynccontextmanager
async def swarm_of(honest: int, liars: list[FakePeer]) -> AsyncIterator[Client]:
    """A client of the last of `honest` nodes, each with one voter, which knows the others and the liars."""
    async with AsyncExitStack() as stack:
        addresses = [(await stack.enter_async_context(liar)).address for liar in liars]
        for place in range(honest):
            engine = ScriptedEngine(saying(TRUTH), model_id="m", slots=1)
            is_asked = place == honest - 1
            options = NodeOptions(peers=addresses if is_asked else [])
            node = RunningNode(f"honest-{place}", ready(engine), options=options)
            await stack.enter_async_context(node)
            addresses.append(node.address)
        yield await stack.enter_async_context(connect(node.url))


def votes_by_node(account: dict[str, Any]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for candidate in account["candidates"]:
        node = candidate["voter"].split("@")[1]
        counted[node] = counted.get(node, 0) + 1
    return counted


@pytest.mark.parametrize("liars", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["auto", "majority"])
async def test_a_minority_of_liars_who_agree_and_flood_is_outvoted(liars: int, strategy: str) -> None:
    nodes = 2 * liars + 1
    async with swarm_of(liars + 1, [Flooder(f"liar-{place}", LIE) for place in range(liars)]) as client:
        reply = await client.chat(swarm={"votes": nodes, "min_votes": nodes, "strategy": strategy})
        account = reply.json["swarm"]
        assert reply.json["choices"][0]["message"]["content"] == TRUTH
        assert account["outcome"] == "consensus", account
        assert max(votes_by_node(account).values()) == 1, "one identity, one vote"


async def test_where_nobody_agrees_it_is_said_and_not_guessed() -> None:
    liars: list[FakePeer] = [Flooder(f"liar-{place}", f"Answer: {place}") for place in range(4)]
    async with swarm_of(1, liars) as client:
        swarm = {"votes": 5, "min_votes": 5, "strategy": "majority"}
        account = (await client.chat(swarm=swarm)).json["swarm"]
        assert account["agreement"] == 0.2, "one of five said what is returned"
        assert account["margin"] == 0.0, "and nobody leads"
        assert sorted(votes_by_node(account).values()) == [1] * 5


async def test_where_every_voter_sends_rubbish_a_weaker_node_answers() -> None:
    """The alias leaves weak models out while strong ones have voters enough; here they are all lost."""
    liars: list[FakePeer] = [FakePeer(f"liar-{place}", b"rubbish\n", slots=1) for place in range(4)]
    async with swarm_of(1, liars) as client:
        for stream in (False, True):
            reply = await client.chat(stream=stream, swarm={"votes": 5, "min_votes": 5})
            text = reply.said() if stream else reply.json["choices"][0]["message"]["content"]
            assert (reply.status, text) == (200, TRUTH), reply.text


async def test_too_few_answers_are_no_quorum_and_an_error_where_that_is_wanted() -> None:
    liars = [FakePeer(f"liar-{place}", b"rubbish\n", slots=1, params=2_000_000) for place in range(4)]
    async with swarm_of(1, liars) as client:
        swarm = {"votes": 5, "min_votes": 5}
        account = (await client.chat(swarm=swarm)).json["swarm"]
        assert (account["quorum"], account["outcome"]) == (False, "degraded"), account
        reply = await client.chat(swarm={**swarm, "on_no_quorum": "error"})
        assert (reply.status, reply.error["code"]) == (503, "no_consensus")
