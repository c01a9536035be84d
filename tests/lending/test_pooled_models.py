"""Models that are too large for this node, over lenders: real engines and RPC servers; only TLS is left out.

Skipped where no llama.cpp was built (SWARM_TEST_ENGINES).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import psutil
import pytest

from federation.errors import PeerTimedOut
from federation.lending import MEMORY_ENDED, LendNews
from hardware.snapshot import Cpu, HardwareSnapshot, Memory
from swarm.engines.engine import EngineBuild
from swarm.errors import LenderLost
from swarm.gateway.observing.findings import model_trouble
from swarm.gateway.observing.view import own_model
from swarm.generation import Delta, GenerationRequest
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import model_store
from swarm.node.models import NodeModels
from swarm.node.pooling import NodePooling, PoolRules, pooling_build
from swarm.node.settings import Settings
from swarm.registry.model_memory import MIB
from swarm.workers.model_workers import ModelState
from swarm.workers.pool import NoRoomFor, WorkerPool
from tests.doubles.lending_peers import LocalLender, LocalSwarm
from tests.doubles.made_engines import made_engine
from tests.doubles.waiting import eventually

SEEN_S = 60.0
QUESTION = "What is the capital of France?"
SNAPSHOT = HardwareSnapshot(Cpu(usable_cores=2), Memory(total_bytes=16 << 30, free_bytes=8 << 30))
KNOWN = "la Marseillaise"  # what it says to QUESTION, wherever it is computed
MODEL = "smollm2:135m:q4_1"
HERE_MIB = 620  # it takes 765 with this context, of which 512 are kept for what llama.cpp takes beside it
LENT_MIB = 300  # enough for the layers that do not fit here
LITTLE_MIB = 250  # enough for most of them


class Host:
    """A node's models over lenders, as the node has them."""

    def __init__(self, models: NodeModels, pooling: NodePooling, swarm: LocalSwarm) -> None:
        self.models = models
        self.pooling = pooling
        self.swarm = swarm
        self.pool = WorkerPool("node")
        models.pooling, models.held = pooling, self.pool.held_bytes
        self.pool.load_from(models, models.memory, models)

    def lenders_changed(self) -> None:
        for state in self.pool.states():
            self.pool.try_again(state.model_id)

    @property
    def state(self) -> ModelState:
        (state,) = self.pool.states()
        return state

    def lender(self, name: str) -> LocalLender:
        return next(lender for lender in self.swarm.lenders if lender.name == name)

    async def says(self, text: str = QUESTION, tokens: int = 32) -> str:
        async with asyncio.timeout(SEEN_S):
            return "".join([event.text async for event in self.events(text, tokens) if isinstance(event, Delta)])

    async def events(self, text: str, tokens: int) -> AsyncGenerator[object]:
        request = GenerationRequest.model_validate(
            {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0.0, "max_tokens": tokens}
        )
        async with (
            self.pool.using(MODEL) as workers,
            workers.lease(1) as lease,
            aclosing(lease.engine.candidates(request, 1)) as events,
        ):
            async for event in events:
                yield event


@pytest.fixture
def build() -> EngineBuild:
    found = made_engine("llama-server")
    if pooling_build([found]) is None:
        pytest.skip(f"{found.program} has no ggml-rpc-server beside it")
    return found


@asynccontextmanager
async def host(
    folder: Path, model: Path, build: EngineBuild, *lent: tuple[str, int], on: bool = True, here_mib: int = HERE_MIB
) -> AsyncGenerator[Host]:
    """A node with the model, and so much memory for it, among lenders."""
    assert build.program is not None
    program = build.program.with_name("ggml-rpc-server")
    swarm = LocalSwarm(*(LocalLender(name, program, build.version, mib) for name, mib in lent))
    settings = Settings(
        data_dir=folder, engine="llama-server", engines_dir=Path(os.environ["SWARM_TEST_ENGINES"]), context=1024,
        workers=2, memory=here_mib * MIB, pool=on, federation=True,
    )  # fmt: skip
    engines = await asyncio.to_thread(NodeEngines.look, settings, SNAPSHOT)
    store = await asyncio.to_thread(model_store, settings)
    models = await asyncio.to_thread(NodeModels, store, settings, engines)
    pooling = NodePooling("me", swarm.peers, swarm, pooling_build(engines.builds), PoolRules(on), 1e10, lambda: True)
    made = Host(models, pooling, swarm)
    await asyncio.to_thread(models.take, model)
    async with pooling.watching(made.lenders_changed), made.pool:
        yield made
    assert not any(lender.leases for lender in swarm.lenders), "all that was borrowed is given back"
    assert not psutil.Process().children(), "no engine and no server is left"


async def test_one_lender_has_what_does_not_fit_and_says_what_one_machine_says(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path / "pooled", smollm2, build, ("attic", LENT_MIB)) as pooled:
        answer = await pooled.says()
        state = pooled.state
        assert (state.phase, state.nodes) == ("ready", ("me", "attic"))
        assert str(state.computation) == f"llama-server {build.version} over me + attic (11 of 31 layers on me)"
        assert (state.slots, state.context_tokens) == (2, 1024)
        (asked,) = pooled.lender("attic").asked
        assert (asked.model, asked.build, asked.context_tokens) == (MODEL, build.version, 1024)
        assert asked.fingerprint == state.fingerprint
    async with host(tmp_path / "alone", smollm2, build, here_mib=1000) as alone:
        assert await alone.says() == answer
        assert alone.state.nodes == ()


async def test_two_lenders_have_it_where_one_does_not_suffice(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LITTLE_MIB), ("hall", LITTLE_MIB)) as pooled:
        assert KNOWN in await pooled.says()
        assert len(pooled.state.nodes) == 3


async def test_what_fits_here_is_loaded_here(tmp_path: Path, smollm2: Path, build: EngineBuild) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), here_mib=1000) as alone:
        await alone.says()
        assert alone.state.nodes == ()
        assert not alone.lender("attic").asked


async def test_without_pool_nothing_is_borrowed_and_the_refusal_says_over_whom_it_would_fit(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), on=False) as pooled:
        with pytest.raises(NoRoomFor, match=r"It would fit over me \+ attic \(about .* tokens/s\): start .* --pool"):
            await pooled.says()
        assert not pooled.lender("attic").asked
        pooled.lender("attic").build = "b9000"
        assert pooled.pooling.unused() == {}, "which is nobody's trouble"


@pytest.mark.parametrize("how", ["killed", pytest.param("silent", marks=pytest.mark.slow), "memory"])
async def test_a_lost_lender_ends_the_answer_with_its_name_and_the_model_comes_back_over_the_other(
    tmp_path: Path, smollm2: Path, build: EngineBuild, how: str
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), ("hall", LENT_MIB)) as pooled:
        assert KNOWN in await pooled.says()
        (first,) = [lender for lender in pooled.swarm.lenders if lender.leases]
        (lease,) = first.leases
        async with aclosing(pooled.events("Tell a story. " * 60, 900)) as events:
            await anext(events)
            if how == "killed":
                pooled.swarm.gone.add(first.name)
                lease.server.process.kill()
            elif how == "silent":
                first.silent = True
                lease.server.process.send_signal(19)  # as a frozen machine: it stays, and does nothing
                lease.say(PeerTimedOut(f"{first.name} says nothing"))
            else:
                lease.say(LendNews(ended="it took more than was lent", code=MEMORY_ENDED))
            with pytest.raises(LenderLost, match=f"waiting for {first.name}") as caught:
                _ = [event async for event in events]
        assert caught.value.lender == first.name
        await eventually(lambda: pooled.state.phase == "failed")
        assert pooled.state.reason.startswith(f"waiting for {first.name}")
        await eventually(lambda: pooled.state.phase == "ready")
        (other,) = [lender for lender in pooled.swarm.lenders if lender is not first]
        assert pooled.state.nodes == ("me", other.name)
        assert KNOWN in await pooled.says()


async def test_a_model_waits_for_its_lenders_and_comes_when_they_do(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB)) as pooled:
        pooled.swarm.gone.add("attic")
        pooled.pool.pin(MODEL)
        with pytest.raises(LenderLost, match=r"waiting for lenders: it needs .* no node lends memory"):
            await pooled.pool.ensure(MODEL)
        assert (pooled.state.phase, pooled.state.reason[:19]) == ("failed", "waiting for lenders")
        pooled.swarm.gone.clear()
        await eventually(lambda: pooled.state.phase == "ready")
        assert KNOWN in await pooled.says()


async def test_a_lender_of_another_build_is_refused_with_both_numbers(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB)) as pooled:
        pooled.lender("attic").build = "b9000"
        with pytest.raises(
            LenderLost, match=rf"waiting for attic: .*attic: its llama.cpp is b9000 .* and this node's {build.version}"
        ):
            await pooled.pool.ensure(MODEL)
        assert not pooled.lender("attic").asked
        assert pooled.pooling.unused().keys() == {"attic"}
        assert "b9000" in pooled.pooling.unused()["attic"]
        (trouble,) = filter(None, [model_trouble(own_model(pooled.state))])
        assert trouble.what.startswith(f"model {MODEL} is not there: waiting for attic")
        assert "swarm --lend" in trouble.remedy


async def test_a_lender_that_refuses_is_left_out_and_the_next_is_asked(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), ("hall", LENT_MIB - 1)) as pooled:
        pooled.lender("attic").refuses = "not_lending"
        assert KNOWN in await pooled.says()
        assert pooled.lender("attic").asked
        assert pooled.state.nodes == ("me", "hall")


async def test_a_lender_that_takes_its_memory_back_lets_answers_end_first(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), ("hall", LENT_MIB)) as pooled:
        await pooled.says()
        (first,) = [lender for lender in pooled.swarm.lenders if lender.leases]
        answering = asyncio.create_task(pooled.says("Tell a story.", 48))
        await eventually(lambda: pooled.state.slots_free < 2)
        first.draining = True
        first.leases[0].say(LendNews(draining="its owner wants it", left_s=30.0))
        assert await answering, "what ran has ended well"
        await eventually(lambda: pooled.state.phase == "ready" and pooled.state.nodes[1:] != (first.name,))
        assert KNOWN in await pooled.says()


async def test_nobody_but_this_nodes_engine_reaches_a_lender_through_its_port(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    """Another program of this machine finds the port, and is cut off before a byte of it goes on."""
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB)) as pooled:
        await pooled.says()
        own = {
            connection.laddr.port
            for connection in psutil.Process().net_connections("tcp4")
            if connection.status == psutil.CONN_LISTEN
        }
        (port,) = own
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x0e" + bytes(64))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await asyncio.wait_for(reader.readexactly(1), SEEN_S)
        writer.close()
        assert KNOWN in await pooled.says(), "and nothing has happened to the model"


async def test_a_model_that_breaks_here_alone_waits_as_long_as_any_other(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    """Its lenders come and go meanwhile, which is nothing to it."""
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), here_mib=1000) as alone:
        model = alone.models.find(MODEL)
        assert model is not None
        resting = asyncio.create_task(model.rest(3600.0))
        alone.swarm.gone.add("attic")
        done, _ = await asyncio.wait({resting}, timeout=2.0)
        assert not done
        resting.cancel()
        await asyncio.wait({resting})
