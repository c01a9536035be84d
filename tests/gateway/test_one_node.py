"""`swarm.node` asks one node alone, or is refused; and what was measured of a node decides. Over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from swarm.registry.weights_file import Measured
from tests.doubles.clients import Client, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.upstream_house import house as with_upstream
from tests.doubles.upstream_server import UpstreamServer

SUM = "What is 40 + 2? Reply with only a number."
SAYS = {"attic": "Answer: 13", "study": "Answer: 42", "kitchen": "Answer: 42", "cellar": "Answer: 13"}
MODELS = {"cellar": "other"}
CONTENT = "aa" * 32
PROVEN = {"number": Measured(0, 50)}
GOOD = {"number": Measured(40, 50)}


class House:
    """`kitchen` is asked, by `client`."""

    def __init__(self) -> None:
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self.client: Client

    def asked(self) -> dict[str, int]:
        return {name: len(engine.requests) for name, engine in self.engines.items() if engine.requests}

    async def ask(self, *, model: str = "swarm", stream: bool = False, **swarm: Any) -> Any:
        reply = await self.client.chat(SUM, model=model, stream=stream, swarm=swarm)
        assert reply.status == 200, reply.text
        return reply.chunks[-1]["swarm"] if stream else reply.json["swarm"]


@asynccontextmanager
async def house(*others: str, contents: Mapping[str, str] = {}, **options: Any) -> AsyncIterator[House]:
    found = House()
    async with AsyncExitStack() as stack:
        for name in (*others, "kitchen"):
            model = MODELS.get(name, "m")
            engine = found.engines[name] = ScriptedEngine(saying(SAYS[name]), model_id=model, slots=2)
            known = NodeOptions(
                peers=[node.address for node in found.nodes.values()],
                contents={model: contents[name]} if name in contents else {},
                **(options if name == "kitchen" else {}),
            )
            node = RunningNode(name, ready(engine), options=known)
            found.nodes[name] = await stack.enter_async_context(node)
        kitchen = found.nodes["kitchen"]
        await kitchen.until(lambda: len(kitchen.membership.alive()) == len(others))
        found.client = await stack.enter_async_context(connect(kitchen.url))
        yield found


@pytest.mark.parametrize("stream", [False, True])
async def test_one_answer_and_its_stream_come_from_that_node(stream: bool) -> None:
    async with house("attic", "study") as swarm:
        for name in ("attic", "id-attic", "study", "kitchen"):
            told = await swarm.ask(stream=stream, node=name, strategy="single")
            where = name.removeprefix("id-")
            assert (told["routed"]["node"], told["routed"]["node_id"]) == (where, f"id-{where}")
            assert told["routed"]["content"] == "name:m", "nothing is told of the content"
        assert swarm.asked() == {"attic": 2, "study": 1, "kitchen": 1}


async def test_a_vote_has_its_seats_there_alone() -> None:
    async with house("attic", "study") as swarm:
        told = await swarm.ask(node="attic", votes=5)
        assert {candidate["voter"].split("@")[1] for candidate in told["candidates"]} == {"attic"}
        assert told["outcome"] == "single", "one peer agrees with nobody"
        told = await swarm.ask(node="kitchen", votes=5, strategy="majority")
        assert {candidate["voter"].split("@")[1] for candidate in told["candidates"]} == {"kitchen"}
        assert swarm.asked().keys() == {"attic", "kitchen"}


@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/v1/responses", "/v1/messages"])
async def test_every_api_obeys(path: str) -> None:
    async with house("study") as swarm:
        asked = {
            "/v1/completions": {"prompt": SUM},
            "/completion": {"prompt": SUM},
            "/v1/responses": {"input": SUM},
            "/v1/messages": {"messages": [{"role": "user", "content": SUM}], "max_tokens": 9},
        }[path]
        reply = await swarm.client.post(path, {"model": "m", **asked, "swarm": {"node": "study"}})
        assert reply.status == 200, reply.text
        assert swarm.asked() == {"study": 1} or path in ("/v1/responses", "/v1/messages")
        assert "kitchen" not in swarm.asked()


@pytest.mark.parametrize(
    ("node", "model", "status", "told"),
    [
        ("nobody", "swarm", 400, "no node is called 'nobody' (a name, or an id); there are: attic, cellar, kitchen"),
        ("", "swarm", 400, "use the name or the id of one node"),
        ("x" * 129, "swarm", 400, "use the name or the id of one node"),
        (7, "swarm", 400, "use the name or the id of one node"),
        ("cellar", "m", 404, "model 'm' is not served here (by cellar, the only node"),
        ("attic", "other", 404, "available: m"),
    ],
)
async def test_what_cannot_be_obeyed_is_refused_with_what_there_is(
    node: Any, model: str, status: int, told: str
) -> None:
    async with house("attic", "cellar") as swarm:
        reply = await swarm.client.chat(SUM, model=model, swarm={"node": node})
        assert (reply.status, told in reply.error["message"]) == (status, True), reply.text
        assert reply.error["param"] == ("swarm.node" if status == 400 else "model")
        assert not swarm.asked()


async def test_a_name_that_two_nodes_have_is_refused_and_their_ids_are_not() -> None:
    async with house("attic", "study") as swarm:
        swarm.nodes["study"].name = "attic"
        kitchen = swarm.nodes["kitchen"]
        await kitchen.until(lambda: all(peer.name == "attic" for peer in kitchen.membership.alive()))
        reply = await swarm.client.chat(SUM, swarm={"node": "attic"})
        assert (reply.status, reply.error["param"]) == (400, "swarm.node")
        assert reply.error["message"] == "2 nodes are called 'attic': use an id (id-attic, id-study)"
        assert (await swarm.ask(node="id-study", strategy="single"))["routed"]["node_id"] == "id-study"


async def test_a_request_for_one_node_never_leaves_for_an_upstream() -> None:
    async with UpstreamServer() as server, with_upstream(server, "only", "Answer: 42") as kitchen:
        await kitchen.found()
        there = len(server.asked)
        reply = await kitchen.client.chat(SUM, model="m", swarm={"node": "kitchen", "strategy": "single"})
        assert (reply.status, reply.json["swarm"]["routed"]["node"]) == (200, "kitchen")
        assert len(server.asked) == there


# What was measured of a node


@pytest.mark.parametrize("votes", [{"votes": 3, "min_votes": 3}, {"votes": 3, "min_votes": 3, "strategy": "majority"}])
async def test_a_proven_liar_has_no_seat_and_the_others_keep_theirs(votes: dict[str, Any]) -> None:
    contents = {"attic": CONTENT, "study": CONTENT, "kitchen": CONTENT}
    measured = {"id-attic": {CONTENT: PROVEN}}
    async with house("attic", "study", contents=contents, nodes_measured=measured) as swarm:
        told = await swarm.ask(model="m", **votes)
        assert {candidate["voter"].split("@")[1] for candidate in told["candidates"]} == {"study", "kitchen"}
        assert len(told["candidates"]) == 3
        assert told["left_out"] == [{"model": "m", "nodes": ["attic"], "why": "measured to be no better than a guess"}]
        assert "attic" not in swarm.asked()


async def test_a_proven_liar_gives_no_answer_alone_and_no_replacement_while_others_can() -> None:
    measured = {"id-attic": {CONTENT: PROVEN}}
    async with house("attic", contents={"attic": CONTENT}, nodes_measured=measured) as swarm:
        for _ in range(3):
            assert (await swarm.ask(strategy="single"))["routed"]["node"] == "kitchen"
        assert (await swarm.ask(node="attic", strategy="single"))["routed"]["node"] == "attic", "it was asked for"


@pytest.mark.parametrize(
    ("says", "seated"),
    [
        ({"attic": CONTENT}, False),  # what it said when it was measured
        ({"attic": "bb" * 32}, True),  # another content: as one that was never measured
        ({}, True),
    ],
)
async def test_whoever_calls_its_model_something_else_is_as_one_not_measured(
    says: dict[str, str], seated: bool
) -> None:
    measured = {"id-attic": {CONTENT: PROVEN}, "id-kitchen": {"name:m": GOOD}}
    async with house("attic", "study", contents=says, nodes_measured=measured) as swarm:
        told = await swarm.ask(votes=5, strategy="weighted")
        weights = {part["voter"].split("@")[1]: part["weight"] for part in told["candidates"]}
        assert ("attic" in weights) is seated
        if seated:
            assert weights["attic"] <= weights["kitchen"]
