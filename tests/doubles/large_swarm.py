"""A swarm as large as a house has: a real node, and nineteen peers that tell it of two hundred models each."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiohttp import web

from swarm.gateway.observing.node_states import NodeHardware, NodeReport, PoolMemory, SeenPeer
from swarm.gateway.observing.view import ComputationEntry, LoadEntry, OwnModel
from tests.doubles.fake_peer import FakePeer
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

PEERS: Final = 19
MODELS: Final = 200
GIB: Final = 1 << 30
FAMILIES: Final = ("qwen3", "gemma3", "llama3.3", "mistral-small", "phi4", "deepseek-r1-distill-qwen", "granite4")
STATES: Final = ("loading", "unloading", "draining", "failed")


def large_model(number: int, dice: random.Random) -> OwnModel:
    """The first few run, as on a machine with much memory; of the others one is in each state."""
    state = STATES[number] if number < len(STATES) else "ready"
    name = f"{FAMILIES[number % len(FAMILIES)]}:{number + 1}b-instruct-q4_k_m"
    slots = dice.choice((1, 2, 4, 8))
    size = dice.randrange(GIB // 2, 40 * GIB)
    return OwnModel(
        id=name, engine="xllamacpp", slots=slots, slots_free=dice.randrange(slots + 1), waiting=dice.randrange(3),
        problem="its file on the disk is damaged: pull it again" if state == "failed" else None,
        state=state, pinned=number % 9 == 0, size_bytes=size, taken_bytes=round(size * 1.2),
        loading=LoadEntry(share=dice.random(), left_s=dice.random() * 60) if state == "loading" else None,
        computation=ComputationEntry(
            name="xllamacpp", version="2026.10", devices=("CUDA0",), gpu_layers=32, layers=32,
            words="32 of 32 layers on CUDA0",
        ),
    )  # fmt: skip


def large_report(number: int, names: list[str], dice: random.Random) -> NodeReport:
    """What one of them tells; other figures each time."""
    pools = [
        PoolMemory(
            pool=pool, total_bytes=total * GIB, free_bytes=dice.randrange(total * GIB // 4),
            weights_bytes=total * GIB // 2, kv_bytes=total * GIB // 8,
        )
        for pool, total in (("ram", 128), ("vram0", 24), ("vram1", 24))
    ]  # fmt: skip
    return NodeReport(
        status="ok",
        hardware=NodeHardware(
            cpu="AMD Ryzen Threadripper PRO 7975WX 32-Cores", cores=32, ram_bytes=128 * GIB,
            gpu="NVIDIA GeForce RTX 4090", vram_bytes=48 * GIB,
        ),
        memory=tuple(pools[: 1 + number % 3]),
        models=tuple(large_model(at, dice) for at in range(MODELS)),
        loadable=number, tokens_per_s=dice.random() * 200, running=dice.randrange(8), waiting=dice.randrange(4),
        peers=tuple(
            SeenPeer(id=f"id-{name}", name=name, state="alive", rtt_ms=dice.random() * 3)
            for name in ["kitchen", *names]
        ),
    )  # fmt: skip


@asynccontextmanager
async def large_swarm() -> AsyncGenerator[RunningNode]:
    """The node that knows the others. What they tell differs from time to time, and from seed to seed not."""
    dice = random.Random(20)
    names = [f"machine-{number:02}-in-the-{room}" for number, room in enumerate(["cellar", "attic", "study"] * 7)][
        :PEERS
    ]
    async with AsyncExitStack() as stack:
        peers: list[FakePeer] = []
        for number, name in enumerate(names):

            async def state(_: web.Request, number: int = number) -> web.Response:
                report = large_report(number, names, dice)
                return web.Response(text=report.model_dump_json(), content_type="application/json")

            peers.append(await stack.enter_async_context(FakePeer(name, state=state)))
        engine = ScriptedEngine(saying("Answer: 42"), model_id="qwen3:4b")
        options = NodeOptions(peers=[peer.address for peer in peers])
        yield await stack.enter_async_context(RunningNode("kitchen", ready(engine), options=options))
