"""At what temperatures the seats of a vote answer, here and on peers, and what the answer says of it."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.errors import EngineFailed
from tests.doubles.clients import Reply
from tests.gateway.test_federated_answers import Swarm

SUM = "What is 9 + 7?"
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "f"}}]}
THREE = {"votes": 3, "min_votes": 3}


def asked_at(swarm: Swarm, node: str) -> list[float | None]:
    return [request.temperature for request in swarm.engines[node].requests]


def told(reply: Reply) -> dict[str, list[float | None]]:
    """What the answer says of each node's voters, the lowest temperature first."""
    found: dict[str, list[float | None]] = {}
    for part in reply.json["swarm"]["candidates"]:
        found.setdefault(part["voter"].split("@")[1], []).append(part.get("temperature"))
    return {node: sorted(each, key=lambda t: -1 if t is None else t) for node, each in found.items()}


@pytest.mark.parametrize(
    ("fields", "own", "peers"),
    [
        ({}, 0.0, 0.5),
        (TOOLS, 0.0, 0.5),
        ({"response_format": {"type": "json_object"}}, 0.0, None),
        ({"temperature": 0}, 0.0, 0.5),
        ({"temperature": 0.3}, 0.3, 0.3),
        ({"top_p": 0.5}, None, None),
    ],
)
async def test_of_one_model_on_three_nodes_one_answers_greedily(
    fields: dict[str, Any], own: float | None, peers: float | None
) -> None:
    async with Swarm() as swarm:
        for name in ("study", "attic", "kitchen"):
            await swarm.add(name, '{"answer": 16}' if "response_format" in fields else "Answer: 16", slots=1)
        reply = await (await swarm.client("kitchen")).chat(SUM, swarm=THREE, **fields)
        assert asked_at(swarm, "kitchen") == [own]
        assert asked_at(swarm, "study") == asked_at(swarm, "attic") == [peers], "one voter each, as the request says"
        assert told(reply) == {"kitchen": [own], "study": [peers], "attic": [peers]}


async def test_each_model_answers_greedily_once_whichever_node_it_is_on() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "Answer: 16", model="large", slots=2, params=9_000_000)
        await swarm.add("attic", "Answer: 16", model="small", slots=2)
        await swarm.add("kitchen", "Answer: 16", model="small", slots=2)
        reply = await (await swarm.client("kitchen")).chat(SUM, swarm={"votes": 6, "min_votes": 6})
        greedy = {node: each.count(0.0) for node, each in told(reply).items()}
        assert greedy == {"study": 1, "attic": 0, "kitchen": 1}


async def test_a_peers_model_that_thinks_is_sampled_as_it_likes() -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "Answer: 16", model="thinker", slots=2)
        swarm.engines["study"].can = {"reasoning": True}
        await swarm.add("kitchen")
        client = await swarm.client("kitchen")
        await swarm.nodes["kitchen"].until(
            lambda: any(each.capabilities.reasoning for each in swarm.nodes["kitchen"].dispatcher.replicas())
        )
        await client.chat(SUM, swarm={"votes": 2, "min_votes": 2})
        assert asked_at(swarm, "study") == [None], "both together"
        await client.chat(SUM, swarm={"votes": 2, "min_votes": 2}, chat_template_kwargs={"enable_thinking": False})
        assert asked_at(swarm, "study")[1:] == [0.0, 0.5], "where it is not to think it is like any other"


@pytest.mark.parametrize(("lost", "again"), [("attic", [0.5]), ("kitchen", [0.0])])
async def test_who_takes_the_seat_of_a_lost_voter_is_greedy_where_nobody_else_of_that_model_is(
    lost: str, again: list[float]
) -> None:
    async with Swarm() as swarm:
        await swarm.add("study", "Answer: 16", slots=3)
        for name in ("attic", "kitchen"):
            await swarm.add(name, EngineFailed("broken") if name == lost else "Answer: 16", slots=1)
        await (await swarm.client("kitchen")).chat(SUM, swarm={"votes": 5, "min_votes": 3})
        assert asked_at(swarm, "study") == [0.5, *again]


@pytest.mark.parametrize("fields", [{"swarm": {"strategy": "first", "votes": 3}}, {"n": 3}, {"swarm": {"votes": 1}}])
async def test_what_is_no_count_is_sampled_as_the_client_says(fields: dict[str, Any]) -> None:
    async with Swarm() as swarm:
        await swarm.add("kitchen", "Answer: 16")
        await (await swarm.client("kitchen")).chat(SUM, **fields)
        assert set(asked_at(swarm, "kitchen")) == {None}
