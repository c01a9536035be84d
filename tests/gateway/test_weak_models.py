"""A strong node beside two weak ones: the swarm never answers worse than the strong one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from swarm.registry.weights_file import Measured, Measurements
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

STRONG, WEAK = "smollm2-135m", "demo"
SIZES = {STRONG: 134_515_008, WEAK: 2_166_720}
RIGHT, WRONG = "Answer: 42", "Answer: 43"
PROSE, SUM = "Tell me about the sea.", "What is 40 + 2?"
NODES = ("attic", "study", "kitchen")


class House:
    """A node for each of NODES; "kitchen" is the strong one, with two workers, the others have four."""

    client: Client  # of the node that is asked

    def __init__(self) -> None:
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}


@asynccontextmanager
async def house(
    asked: str, sizes: dict[str, int] | None = None, measured: Measurements | None = None
) -> AsyncGenerator[House]:
    """`asked` is the one that knows the others; `sizes` are those that it knows of others' models."""
    built = House()
    async with AsyncExitStack() as stack:
        for name in sorted(NODES, key=lambda name: name == asked):
            strong = name == "kitchen"
            model = STRONG if strong else WEAK
            engine = ScriptedEngine(saying(RIGHT if strong else WRONG), model_id=model, slots=2 if strong else 4)
            options = NodeOptions(
                peers=[node.address for node in built.nodes.values()],
                params=SIZES[model],
                sizes=SIZES if sizes is None else sizes,
                measurements=measured or {},
            )
            node = await stack.enter_async_context(RunningNode(name, ready(engine), options=options))
            built.nodes[name], built.engines[name] = node, engine
        node = built.nodes[asked]
        await node.until(lambda: len(node.membership.alive()) == 2)
        built.client = await stack.enter_async_context(connect(node.url))
        yield built


def said(reply: Reply) -> str:
    return str(reply.json["choices"][0]["message"]["content"])


def voters(reply: Reply) -> set[str]:
    return {part["voter"].split("@")[1] for part in reply.json["swarm"]["candidates"]}


@pytest.mark.parametrize("asked", NODES)
@pytest.mark.parametrize("stream", [False, True])
async def test_prose_is_the_strong_nodes_whoever_is_asked(asked: str, stream: bool) -> None:
    async with house(asked) as built:
        for _ in range(3):
            reply = await built.client.chat(PROSE, stream=stream)
            account = (
                [chunk["swarm"] for chunk in reply.chunks if "swarm" in chunk][-1] if stream else reply.json["swarm"]
            )
            assert (account["outcome"], account["why"]) == ("single", "prose")
            assert account["routed"] == {"node": "kitchen", "reason": "strongest model", "tried": []}
            assert account["total_completion_tokens"] == 1, "as much as one answer"


@pytest.mark.parametrize("asked", NODES)
async def test_unasked_votes_are_among_the_strong_whoever_is_asked(asked: str) -> None:
    async with house(asked) as built:
        reply = await built.client.chat(SUM)
        account = reply.json["swarm"]
        assert (said(reply), voters(reply), account["asked"]) == (RIGHT, {"kitchen"}, 2)
        (left,) = account["left_out"]
        assert (left["model"], left["nodes"]) == (WEAK, ["attic", "study"])
        assert left["why"] == f"2.2M parameters, less than a quarter of {STRONG}'s 134.5M"
        assert account["outcome"] == ("consensus" if asked == "kitchen" else "single"), "one peer agrees with nobody"


@pytest.mark.parametrize("text", [PROSE, SUM])
@pytest.mark.parametrize("wanted", [{"votes": 5}, {"votes": 5, "strategy": "majority"}, {"votes": 5, "min_votes": 2}])
async def test_a_vote_that_is_asked_of_the_strong_node_has_its_own_seats_alone(
    text: str, wanted: dict[str, Any]
) -> None:
    async with house("kitchen") as built:
        reply = await built.client.chat(text, swarm=wanted)
        assert (said(reply), voters(reply)) == (RIGHT, {"kitchen"})
        assert (reply.json["swarm"]["asked"], reply.json["swarm"]["wanted"]) == (2, 5)


async def test_a_name_puts_nobody_out_of_a_vote_that_is_asked_for_at_a_weak_node() -> None:
    """What is strong there is a peer's word: docs/trust.md."""
    async with house("attic") as built:
        reply = await built.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
        assert voters(reply) == set(NODES)


async def test_prose_waits_for_the_strong_node() -> None:
    async with house("kitchen") as built:
        gate = asyncio.Event()
        built.engines["kitchen"].script = lambda *_: [gate, RIGHT]
        replies = [asyncio.create_task(built.client.chat(PROSE)) for _ in range(3)]
        workers = built.nodes["kitchen"].pool.get(STRONG)
        assert workers is not None
        await built.engines["kitchen"].until(lambda engine: engine.running == 2)
        gate.set()
        assert [said(reply) for reply in await asyncio.gather(*replies)] == [RIGHT] * 3
        assert not built.engines["attic"].requests


async def test_where_the_strong_node_is_gone_a_weak_one_answers_and_it_is_told() -> None:
    async with house("attic") as built:
        await built.nodes["kitchen"].stop()
        reply = await built.client.chat(PROSE)
        assert (reply.status, said(reply)) == (200, WRONG)


async def test_a_model_of_unknown_size_answers_by_its_name_and_the_account_says_so() -> None:
    async with house("attic", sizes={WEAK: SIZES[WEAK]}) as built:
        client = built.client
        reply = await client.chat(SUM)
        assert voters(reply) <= {"attic", "study"}
        (left,) = reply.json["swarm"]["left_out"]
        assert (left["model"], left["why"]) == (STRONG, "its size is not known here: ask for it by its name")
        assert said(await client.chat(PROSE, model=STRONG)) == RIGHT


async def test_measured_weights_decide_where_every_model_has_them() -> None:
    good, bad = Measured(45, 50), Measured(12, 50)
    async with house("kitchen", measured={STRONG: {"number": bad}, WEAK: {"number": good}}) as built:
        reply = await built.client.chat(SUM, swarm={"votes": 5, "min_votes": 5})
        assert (said(reply), voters(reply)) == (WRONG, set(NODES)), "the small ones were found to be right"
        assert reply.json["swarm"]["weights"] == "measured"
        assert said(await built.client.chat(PROSE)) == RIGHT, "nobody was measured at prose: size decides"
