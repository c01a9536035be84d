"""A model that does not fit here is another node's, where one has it and room for it: that node is named."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.advertisement import LendOffer, LoadableModel, NodeDescription, ServedModel
from federation.hostport import Address
from federation.lending import LendRequest
from federation.peer import Peer, PeerState, Source
from federation.tasks import cancel_and_wait
from swarm.engines.engine import EngineBuild
from swarm.node.lenders import LendingPeer, holding
from swarm.node.pooling import NodePooling, PooledFile, PoolRules
from swarm.registry.gguf_header import read_gguf
from swarm.registry.model_memory import MIB, AskedLoad, Load
from swarm.registry.pooled_fit import PooledPlan, PooledShare
from tests.doubles.lending_peers import LocalSwarm

BIG = "qwen3:32b:q4_k_m"


def peer(
    name: str, served: tuple[ServedModel, ...] = (), loadable: tuple[LoadableModel, ...] = (),
    lends: LendOffer | None = None,
) -> Peer:  # fmt: skip
    said = NodeDescription(
        id=f"id-{name}", name=name, version="1", url="http://x:1", models=served, mode="paired", lends=lends
    )
    address = Address(f"{name}.local", 17615)
    return Peer(said.id, name, PeerState.ALIVE, said, address, (address,), Source.MDNS, 1.0, 0.0, 0.0, loadable)


def test_who_runs_it_comes_before_who_has_it_and_who_has_no_room_is_left_out() -> None:
    has = peer("attic", loadable=(LoadableModel(id=BIG),))
    full = peer("hall", loadable=(LoadableModel(id=BIG, fits=False),))
    runs = peer("den", served=(ServedModel(id=BIG, slots=2),))
    loads = peer("loft", served=(ServedModel(id=BIG, state="loading"),))
    other = peer("study", served=(ServedModel(id="demo"),), loadable=(LoadableModel(id="qwen3:4b:q4_k_m"),))
    assert [one.name for one in holding([has, full, loads, other, runs], BIG)] == ["den", "attic"]
    many = [peer(f"node-{number}", loadable=(LoadableModel(id=BIG),)) for number in range(9)]
    assert len(holding(many, BIG)) == 3


async def test_one_machine_that_holds_it_is_said_before_several_that_would(demo_model: Path) -> None:
    """The same model, over the same lender: but for the node that has it."""
    facts = read_gguf(demo_model)
    offer = LendOffer(bytes_free=900 * MIB, bytes_total=900 * MIB, build="b11434", rpc="7.0.0", bytes_per_s=20e9)
    lender = peer("hall", lends=offer)
    holder = peer("attic", loadable=(LoadableModel(id="demo"),))
    build = EngineBuild("llama-server", "b11434", program=demo_model)
    file = PooledFile("demo", demo_model, facts, AskedLoad(1024))
    seen: tuple[Peer, ...] = (lender,)
    pooling = NodePooling("here", lambda: seen, LocalSwarm(), build, PoolRules(), 20e9, lambda: True)
    free_bytes = 532 * MIB  # for some of its layers, and not for all
    over = pooling.hint(file, free_bytes)
    assert over.startswith("It would fit over here + hall (about ")
    assert over.endswith(" tokens/s): start this node with --pool to have it loaded there.")
    seen = (lender, holder)
    assert pooling.hint(file, free_bytes) == "It fits on attic: ask there (http://attic.local:17615)."
    seen = (replace(holder, loadable=()),)
    assert pooling.hint(file, free_bytes) == ""


OFFER = LendOffer(bytes_free=900 * MIB, bytes_total=900 * MIB, build="b11434", rpc="7.0.0", bytes_per_s=20e9)


def test_in_an_open_swarm_nobody_is_asked_for_memory(demo_model: Path) -> None:
    """Anybody there may say that he lends, and would be sent what prompts say."""
    build, paired = EngineBuild("llama-server", "b11434", program=demo_model), False
    seen = [peer("hall", lends=OFFER)]
    pooling = NodePooling("here", lambda: seen, LocalSwarm(), build, PoolRules(True), 20e9, lambda: paired)
    assert pooling.lenders().usable == ()
    assert "swarm invite" in pooling.unused()["hall"]
    paired = True
    assert [one.name for one in pooling.lenders().usable] == ["hall"]


class Granted:
    """A lease, of which it is known whether it was given back."""

    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


class OneAnswers(LocalSwarm):
    """Of two lenders the first grants, and the second says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.granted: list[Granted] = []
        self.waits = asyncio.Event()

    async def borrow(self, url: str, request: LendRequest) -> Any:
        if "attic" in url:
            self.granted.append(Granted())
            return self.granted[-1]
        self.waits.set()
        return await asyncio.get_running_loop().create_future()


async def test_what_one_lender_has_granted_is_given_back_when_the_load_is_given_up_before_the_other_has(
    demo_model: Path,
) -> None:
    build, link = EngineBuild("llama-server", "b11434", program=demo_model), OneAnswers()
    seen = [peer("attic", lends=OFFER), peer("hall", lends=OFFER)]
    pooling = NodePooling("here", lambda: seen, link, build, PoolRules(True), 20e9, lambda: True)
    shares = (PooledShare("here", None, 1, MIB), *(PooledShare(one.name, one.id, 1, MIB) for one in seen))

    def ask(lender: LendingPeer, size_bytes: int, context_tokens: int) -> LendRequest:
        return LendRequest(model="m", bytes=size_bytes, build="b11434", rpc="7.0.0", context_tokens=context_tokens)

    plan = PooledPlan(shares, None, None)
    asking = asyncio.create_task(pooling.borrow(plan, pooling.lenders(), Load(1024, 1), ask))
    await link.waits.wait()
    await cancel_and_wait(asking)
    assert [one.closed for one in link.granted] == [True]
