"""A model that nobody runs, asked of nodes that do not have it: it is loaded once, where every node would load it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from swarm.routing.loadables import OwnLoadables, worth_a_second
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.machine import QUICK, Machine
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

X, Y = "aa" * 32, "bb" * 32
ONCE = {"strategy": "single"}


class Swarm:
    """Nodes that know those before them, those with a machine first, and a client of each."""

    def __init__(self) -> None:
        self.nodes: dict[str, RunningNode] = {}
        self.clients: dict[str, Client] = {}
        self.machines: dict[str, Machine] = {}

    @property
    def loads(self) -> list[str]:
        """The node of each load, in no order that matters."""
        return [name for name, machine in self.machines.items() for _ in machine.loads]


@asynccontextmanager
async def swarm(
    machines: dict[str, Machine], *others: str, running: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Swarm]:
    """A node for each machine, which tells what it could load, and `others` that have nothing.

    Those in `running` run a model "m" of that content.
    """
    found = Swarm()
    found.machines = machines
    async with AsyncExitStack() as stack:
        for name in (*machines, *others):
            machine, loaders, contents = machines.get(name), [], {}
            if machine is None and name in running:
                loaders, contents = [ready(ScriptedEngine(saying("I am another"), model_id="m"))], {"m": running[name]}
            options = NodeOptions(
                peers=[node.address for node in found.nodes.values()],
                source=machine,
                memory=None if machine is None else machine.rules(),
                pool_pace=QUICK,
                contents=contents,
            )
            found.nodes[name] = await stack.enter_async_context(RunningNode(name, *loaders, options=options))
            found.clients[name] = await stack.enter_async_context(connect(found.nodes[name].url))
        models = sum(len(machine.models) for machine in machines.values())
        for name in others:
            node = found.nodes[name]
            await eventually(lambda node=node: len(node.dispatcher.loadable()) == models)
        yield found


def having(model: str = "m", **facts: Any) -> Machine:
    """A machine with a model on its disk, of the same content as others'."""
    machine = Machine()
    machine.models[model] = replace(machine.add(model, 100), fingerprint=X, **facts)
    return machine


def said(reply: Reply) -> str:
    assert reply.status == 200, reply.text
    return reply.json["choices"][0]["message"]["content"]


async def test_nodes_that_are_asked_at_once_have_one_of_them_load_it() -> None:
    async with swarm({"a": having(), "b": having("mm"), "c": having()}, "d", "e") as house:
        name = house.nodes["d"].dispatcher.loadable()[0].model
        replies = await asyncio.gather(
            *(house.clients[node].chat("hello", model=name, swarm=ONCE) for node in "dedede")
        )
        assert len(house.loads) == 1, house.loads
        assert len({said(reply) for reply in replies}) == 1
        assert {reply.json["swarm"]["routed"]["node"] for reply in replies} == set(house.loads)


async def test_it_goes_where_it_is_soonest_and_then_to_the_next() -> None:
    slow, quick = having(expected_load_s=60.0), having(expected_load_s=2.0)
    quick.failures["m"] = [OSError("the disk is broken")] * 9
    async with swarm({"slow": slow, "quick": quick}, "asked") as house:
        assert said(await house.clients["asked"].chat("hello", model="m", swarm=ONCE)) == "I am m"
        assert (set(quick.loads), slow.loads) == ({"m"}, ["m"])


async def test_a_node_that_goes_while_it_loads_is_followed_by_another() -> None:
    quick, slow = having(expected_load_s=2.0), having(expected_load_s=60.0)
    quick.gate.clear()
    async with swarm({"quick": quick, "slow": slow}, "asked") as house:
        asking = asyncio.create_task(house.clients["asked"].chat("hello", model="m", swarm=ONCE))
        await eventually(lambda: quick.loads == ["m"])
        await house.nodes["quick"].stop()
        assert said(await asking) == "I am m"
        assert slow.loads == ["m"]


async def test_where_it_does_not_fit_it_is_not_loaded() -> None:
    full, roomy = having(expected_load_s=1.0), having(expected_load_s=60.0)
    full.others = 950
    async with swarm({"full": full, "roomy": roomy}, "asked") as house:
        asked = house.nodes["asked"].dispatcher
        await eventually(
            lambda: {each.node: each.fits for each in asked.loadable("m")} == {"full": False, "roomy": True}
        )
        assert said(await house.clients["asked"].chat("hello", model="m", swarm=ONCE)) == "I am m"
        assert house.loads == ["roomy"]


async def test_another_content_of_that_name_does_not_answer_for_it_though_it_runs() -> None:
    async with swarm({"a": having(), "b": having()}, "other", "asked", running={"other": Y}) as house:
        asked = house.clients["asked"]
        assert said(await asked.chat("hello", model="m@bbbbbb", swarm=ONCE)) == "I am another"
        assert house.loads == []
        assert said(await asked.chat("hello", model="m", swarm=ONCE)) == "I am m"
        assert len(house.loads) == 1


async def test_a_second_node_loads_it_where_the_queue_is_longer_than_that_and_not_before() -> None:
    machines = {"a": having(expected_load_s=1.0), "b": having(expected_load_s=1.0)}
    async with swarm(machines, "asked") as house:
        asked = house.nodes["asked"].dispatcher
        assert said(await house.clients["asked"].chat("hello", model="m", swarm=ONCE)) == "I am m"
        (first,) = house.loads
        (second,) = {"a", "b"} - {first}
        assert said(await house.clients["asked"].chat("hello", model="m", swarm=ONCE)) == "I am m"
        assert house.loads == [first], "it has a free slot"
        await eventually(lambda: [each.node for each in asked.replicas()] == [first])
        (running,) = asked.replicas()
        waits = replace(running, slots_free=0, waiting=9, wait_s=100.0)
        found = worth_a_second([waits], asked.loadable("m"))
        assert found is not None
        assert found.node == second


async def test_what_a_node_lists_as_running_is_asked_there_before_it_is_told_that_it_is_served() -> None:
    """The list and what a node says of itself come one after the other: in between a model is nowhere else."""
    machine = having()
    told = OwnLoadables(lambda: [(model, "ready", True) for model in machine.all()])
    options = NodeOptions(source=machine, memory=machine.rules(), pool_pace=QUICK, loadables=told)
    async with RunningNode("kitchen", options=options) as kitchen:
        asked = NodeOptions(peers=[kitchen.address])
        async with RunningNode("study", options=asked) as study, connect(study.url) as client:
            await eventually(lambda: len(study.dispatcher.loadable()) == 1)
            reply = await client.chat("hello", model="m", swarm=ONCE)
    assert (reply.status, said(reply)) == (200, "I am m")
