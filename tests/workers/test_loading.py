"""Models that are loaded when asked for, share one memory, and make room for each other."""

from __future__ import annotations

import asyncio
import math
import random
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from federation.tasks import cancel_and_wait
from swarm.errors import DeadlineExceeded, EngineFailed, Unavailable, UnknownModel
from swarm.registry.model_memory import MIB
from swarm.workers.held_model import PEER_TTL_S
from swarm.workers.life import LifeEvent
from swarm.workers.pool import NoRoomFor, WorkerPool
from tests.doubles.machine import QUICK, Machine
from tests.doubles.waiting import eventually


def phases(pool: WorkerPool) -> dict[str, str]:
    return {state.model_id: state.phase for state in pool.states()}


async def test_a_model_is_loaded_when_it_is_asked_for_and_stays() -> None:
    machine = Machine()
    machine.add("a", 100)
    async with machine.pool() as pool:
        assert pool.get("a") is None
        assert [model.model_id for model in pool.loadables()] == ["a"]
        async with pool.using("a") as workers, workers.lease(1) as lease:
            assert lease.engine.model_id == "a"
        assert phases(pool) == {"a": "ready"}
        assert pool.loadables() == ()
    assert all(engine.closed for engine in machine.engines)


async def test_all_who_wait_for_one_model_have_one_load() -> None:
    machine = Machine()
    machine.add("a", 100)
    machine.gate.clear()
    async with machine.pool() as pool:
        waiting = [asyncio.create_task(pool.ensure("a")) for _ in range(5)]
        await eventually(lambda: phases(pool) == {"a": "loading"})
        waiting[0].cancel()
        machine.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, *[type(None)] * 4]
        assert machine.loads == ["a"]


async def test_whoever_leaves_before_its_load_begins_causes_none() -> None:
    machine = Machine()
    machine.add("a", 100)
    machine.add("b", 950)
    machine.gate.clear()
    async with machine.pool() as pool:
        first = asyncio.create_task(pool.ensure("a"))
        await eventually(lambda: phases(pool) == {"a": "loading"})
        second = asyncio.create_task(pool.ensure("b"))
        await asyncio.sleep(0)
        await cancel_and_wait(second)
        machine.gate.set()
        await first
        assert machine.loads == ["a"]


async def test_the_idle_go_for_what_is_wanted_and_the_busy_finish_first() -> None:
    machine = Machine()
    for name in "abc":
        machine.add(name, 400)
    async with machine.pool() as pool, AsyncExitStack() as busy:
        await pool.ensure("a")
        await busy.enter_async_context(pool.using("b"))
        await pool.ensure("c")
        assert phases(pool) == {"b": "ready", "c": "ready"}
        await busy.enter_async_context(pool.using("c"))
        again = asyncio.create_task(pool.ensure("a"))
        await eventually(lambda: "draining" in phases(pool).values())
        assert not again.done()
        await busy.aclose()
        await again
        assert "a" in phases(pool)
    assert machine.most <= 800


async def test_what_drains_for_somebody_who_left_goes_on() -> None:
    machine = Machine()
    machine.add("a", 600)
    machine.add("b", 600)
    async with machine.pool() as pool, pool.using("a"):
        waiting = asyncio.create_task(pool.ensure("b"))
        await eventually(lambda: phases(pool) == {"a": "draining"})
        newcomer = asyncio.create_task(pool.ensure("a"))
        await asyncio.sleep(0)
        assert not newcomer.done()
        await cancel_and_wait(waiting)
        await newcomer
        assert phases(pool) == {"a": "ready"}
    assert machine.loads == ["a"]


async def test_a_pinned_model_never_goes_and_the_numbers_are_told() -> None:
    machine = Machine()
    machine.add("a", 600)
    machine.add("b", 600)
    async with machine.pool() as pool:
        pool.pin("a")
        await pool.ensure("a")
        with pytest.raises(NoRoomFor, match=r"b needs 600 MiB of RAM and at most 400 MiB could be free.*Unpin one"):
            await pool.ensure("b")
        pool.pin("a", False)
        await pool.ensure("b")
        assert phases(pool) == {"b": "ready"}


async def test_less_context_is_tried_once_where_the_first_load_fails() -> None:
    machine = Machine()
    machine.add("a", 500, 300, 100)
    machine.failures["a"] = [EngineFailed("no memory")]
    async with machine.pool() as pool:
        await pool.ensure("a")
        assert [state.taken_bytes for state in pool.states()] == [300 * MIB]
        assert machine.loads == ["a", "a"]


async def test_a_load_that_fails_is_told_to_all_and_tried_again_later() -> None:
    machine, now = Machine(), [0.0]
    machine.add("a", 100)
    machine.failures["a"] = [EngineFailed("it is damaged")]
    async with machine.pool(clock=lambda: now[0]) as pool:
        results = await asyncio.gather(pool.ensure("a"), pool.ensure("a"), return_exceptions=True)
        assert [str(error) for error in results] == ["it is damaged"] * 2
        with pytest.raises(Unavailable, match=r"could not be loaded: it is damaged; again in \d s"):
            await pool.ensure("a")
        now[0] += 3.0
        await pool.ensure("a")
        assert machine.loads == ["a", "a"]


async def test_a_model_whose_engine_broke_is_not_waited_for() -> None:
    machine = Machine()
    machine.add("a", 600)
    machine.add("b", 600)
    machine.failures["a"] = []
    async with machine.pool() as pool:
        await pool.ensure("a")
        machine.engines[0].failed.set_result("it broke")
        await eventually(lambda: phases(pool) == {"a": "failed"})
        machine.failures["a"] = [EngineFailed("it stays broken")] * 100
        await pool.ensure("b")
        assert phases(pool) == {"b": "ready"}
        assert machine.engines[0].closed


async def test_a_pinned_model_whose_engine_broke_keeps_its_room() -> None:
    machine = Machine()
    machine.add("a", 600)
    machine.add("b", 600)
    async with machine.pool() as pool:
        pool.pin("a")
        await pool.ensure("a")
        machine.engines[0].failed.set_result("it broke")
        await eventually(lambda: phases(pool) == {"a": "failed"})
        with pytest.raises(NoRoomFor, match=r"at most 400 MiB could be free.*Pinned: a \(600 MiB\)"):
            await pool.ensure("b")


async def test_an_unload_ends_where_the_engine_breaks_over_what_runs() -> None:
    machine = Machine()
    machine.add("a", 100)
    async with machine.pool() as pool, pool.using("a"):
        unloading = asyncio.create_task(pool.unload("a"))
        await eventually(lambda: phases(pool) == {"a": "draining"})
        machine.engines[0].failed.set_result("it broke")
        await unloading
        assert phases(pool) == {}


async def test_a_deadline_before_the_load_can_end_is_refused_at_once() -> None:
    machine = Machine()
    machine.add("a", 100, load_s=30.0)
    async with machine.pool(clock=lambda: 0.0) as pool:
        with pytest.raises(Unavailable, match="takes about 30 s to load") as caught:
            await pool.ensure("a", deadline=10.0)
        assert caught.value.retry_after_s == 30
        assert machine.loads == []


async def test_who_waits_for_a_load_waits_until_its_deadline() -> None:
    machine = Machine()
    machine.add("a", 100, load_s=None)
    machine.gate.clear()
    async with machine.pool() as pool:
        with pytest.raises(DeadlineExceeded, match="was not loaded by the request's deadline"):
            await pool.ensure("a", deadline=time.monotonic() + 0.05)
        assert phases(pool) == {"a": "loading"}, "for whoever comes next"
        machine.gate.set()
        await pool.ensure("a")
        assert machine.loads == ["a"]


async def test_peers_cause_one_load_a_minute() -> None:
    machine, now = Machine(), [0.0]
    for name in "abc":
        machine.add(name, 100)
    async with machine.pool(clock=lambda: now[0]) as pool:
        await pool.ensure("a", for_peer=True)
        with pytest.raises(Unavailable, match="again in 60 s"):
            await pool.ensure("b", for_peer=True)
        await pool.ensure("b")
        await pool.ensure("b", for_peer=True)
        now[0] += 61
        await pool.ensure("c", for_peer=True)


async def test_peers_may_be_allowed_several_loads_a_minute_all_at_once() -> None:
    machine, now = Machine(), [0.0]
    for name in "abcde":
        machine.add(name, 100)
    async with machine.pool(clock=lambda: now[0], pace=replace(QUICK, peer_loads=2)) as pool:
        for name, later in (("a", 10.0), ("b", 20.0)):
            await pool.ensure(name, for_peer=True)
            now[0] = later
        with pytest.raises(Unavailable, match="again in 40 s"):
            await pool.ensure("c", for_peer=True)
        now[0] = 60.0
        await pool.ensure("c", for_peer=True)
        with pytest.raises(Unavailable, match="again in 10 s"):
            await pool.ensure("d", for_peer=True)


async def test_what_finds_no_room_is_no_load_that_peers_have_caused() -> None:
    machine = Machine()
    machine.add("huge", 2000)
    machine.add("small", 100)
    async with machine.pool() as pool:
        for _ in range(2):
            with pytest.raises(NoRoomFor):
                await pool.ensure("huge", for_peer=True)
        await pool.ensure("small", for_peer=True)
        with pytest.raises(Unavailable, match="again in"):
            await pool.ensure("huge", for_peer=True)


async def test_what_nobody_knows_is_unknown() -> None:
    async with Machine().pool() as pool:
        with pytest.raises(UnknownModel):
            await pool.ensure("a")
        with pytest.raises(UnknownModel):
            await pool.unload("a")
        with pytest.raises(UnknownModel):
            pool.pin("a")


async def test_an_unload_waits_for_what_runs_and_newcomers_have_it_again() -> None:
    machine = Machine()
    machine.add("a", 100)
    async with machine.pool() as pool:
        async with pool.using("a"):
            unloading = asyncio.create_task(pool.unload("a"))
            await eventually(lambda: phases(pool) == {"a": "draining"})
        await unloading
        assert phases(pool) == {}
        assert machine.taken == 0
        await pool.ensure("a")


async def test_idle_models_go_after_their_time() -> None:
    machine, now = Machine(), [0.0]
    machine.add("a", 100, ttl_s=60.0)
    machine.add("b", 100)
    async with machine.pool(clock=lambda: now[0]) as pool:
        await pool.ensure("a")
        await pool.ensure("b")
        now[0] += 61
        await eventually(lambda: phases(pool) == {"b": "ready"})


async def test_how_long_one_stays_is_said_anew_for_each_load() -> None:
    machine, now = Machine(), [0.0]
    machine.add("a", 100, ttl_s=60.0)
    async with machine.pool(clock=lambda: now[0]) as pool:
        with pytest.raises(UnknownModel, match="not loaded"):
            pool.keep("a", 5.0)
        await pool.ensure("a")
        assert pool.states()[0].unloads_in_s == 60.0
        assert (pool.keep("a", math.inf), pool.keep("a", math.inf)) == (True, False)
        assert pool.states()[0].unloads_in_s is None
        now[0] += 1000
        await pool.ensure("a")
        assert machine.loads == ["a"]
        async with pool.using("a"):
            pool.keep("a", 10.0)
            now[0] += 1000
            assert pool.states()[0].unloads_in_s == 10.0, "it counts from the end of what it does"
        now[0] += 4
        assert pool.states()[0].unloads_in_s == 6.0
        now[0] += 6
        await eventually(lambda: phases(pool) == {})
        await pool.ensure("a")
        assert pool.states()[0].unloads_in_s == 60.0, "what was said was said of the load before"


async def test_one_that_is_not_to_stay_goes_as_soon_as_nobody_uses_it() -> None:
    machine = Machine()
    machine.add("a", 100)
    async with machine.pool(pace=replace(QUICK, tick_s=1000.0)) as pool:
        async with pool.using("a"):
            pool.keep("a", 0.0)
            async with pool.using("a"):
                pass
            assert phases(pool) == {"a": "ready"}
        await eventually(lambda: phases(pool) == {})
        assert machine.loads == ["a"]


async def test_a_pinned_one_stays_however_short_its_time() -> None:
    machine = Machine()
    machine.add("a", 100)
    async with machine.pool() as pool:
        await pool.ensure("a")
        pool.pin("a")
        pool.keep("a", 0.0)
        assert pool.states()[0].unloads_in_s is None
        pool.pin("a", False)
        await eventually(lambda: phases(pool) == {})


async def test_what_only_peers_wanted_goes_when_it_idles() -> None:
    machine, now = Machine(), [0.0]
    machine.add("a", 100)
    machine.add("b", 100)
    async with machine.pool(clock=lambda: now[0]) as pool:
        await pool.ensure("a", for_peer=True)
        await pool.ensure("b", for_peer=False)
        now[0] += 61
        await pool.ensure("a", for_peer=True)
        now[0] += PEER_TTL_S + 1
        await eventually(lambda: phases(pool) == {"b": "ready"})


async def test_what_a_client_of_this_node_wanted_too_stays() -> None:
    machine, now = Machine(), [0.0]
    machine.add("a", 100)
    async with machine.pool(clock=lambda: now[0]) as pool:
        await pool.ensure("a", for_peer=True)
        await pool.ensure("a")
        now[0] += PEER_TTL_S + 1
        machine.add("b", 100)
        await pool.ensure("b")
        assert phases(pool) == {"a": "ready", "b": "ready"}


async def test_idle_models_go_when_other_programs_need_the_memory() -> None:
    machine = Machine()
    machine.add("a", 300)
    async with machine.pool(reserve=100) as pool:
        await pool.ensure("a")
        machine.others = 670
        await eventually(lambda: phases(pool) == {})


async def test_nobody_waits_for_memory_that_never_counted_as_taken() -> None:
    """Weights that an engine maps from their file are free memory to the system while it runs."""
    machine = Machine()
    machine.add("a", 600)
    machine.add("b", 600)
    looks: list[str] = []

    async def free() -> dict[str, int]:
        looks.extend(state.phase for state in pool.states() if state.model_id == "a")
        return {"ram": 1000 * MIB}

    rules = replace(machine.rules(), free=free, limit={"ram": 1000 * MIB})
    async with WorkerPool("node", source=machine, memory=rules, pace=QUICK) as pool:
        await pool.ensure("a")
        await pool.ensure("b")
    assert looks.count("unloading") <= 2


async def test_every_change_is_told() -> None:
    machine = Machine()
    machine.add("a", 100)
    heard: list[LifeEvent] = []
    async with machine.pool() as pool:
        pool.subscribe(heard.append)
        await pool.ensure("a")
        await pool.unload("a")
    assert [event.after for event in heard] == ["loading", "ready", "draining", "unloading", "available"]


async def test_a_file_that_is_gone_is_no_model_any_more() -> None:
    machine = Machine()
    machine.add("a", 100)
    async with machine.pool() as pool:
        await pool.ensure("a")
        del machine.models["a"]
        await pool.ensure("a")  # what is loaded needs no file
        await pool.unload("a")
        with pytest.raises(UnknownModel):
            await pool.ensure("a")


async def test_an_engine_that_broke_is_not_waited_for_where_its_file_is_gone() -> None:
    machine = Machine()
    machine.add("a", 600)
    machine.add("b", 100)
    async with machine.pool() as pool:
        pool.pin("b")
        for name in "ab":
            await pool.ensure(name)
            machine.failures[name] = [EngineFailed("no model file")] * 100
            del machine.models[name]
        for engine in machine.engines:
            engine.failed.set_result("it broke")
        await eventually(lambda: phases(pool) == {"b": "failed"})  # whoever pinned it wants it back with its file
        with pytest.raises(UnknownModel):
            await pool.ensure("a")
        machine.add("c", 850)
        await pool.ensure("c")


async def test_an_end_in_mid_load_leaves_nothing_behind() -> None:
    machine = Machine()
    machine.add("a", 100)
    machine.gate.clear()
    async with machine.pool() as pool:
        waiting = asyncio.create_task(pool.ensure("a"))
        await eventually(lambda: machine.loads == ["a"])
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting
    assert machine.taken == 0


@pytest.mark.parametrize("seed", range(6))
async def test_many_clients_of_many_models_all_get_their_own(seed: int) -> None:
    """Five models in the memory of three: whoever asks is answered by the model it named, and nobody starves."""
    machine, chance = Machine(total=1000), random.Random(seed)
    for name in "abcde":
        machine.add(name, chance.choice((300, 330)), 250)
    async with machine.pool() as pool:

        async def client(number: int) -> None:
            own = random.Random(f"{seed} {number}")
            for _ in range(25):
                name = own.choice("abcde")
                async with pool.using(name) as workers, workers.lease(own.choice((1, 1, 2))) as lease:
                    assert lease.engine.model_id == name
                    for _ in range(own.choice((1, 2, 9))):
                        await asyncio.sleep(0)

        async with asyncio.timeout(60), asyncio.TaskGroup() as clients:
            for number in range(8):
                clients.create_task(client(number))
    assert machine.taken == 0
    assert machine.most <= 1000


async def test_whether_a_model_could_be_had_is_told_by_memory_without_what_is_pinned() -> None:
    machine = Machine(total=1000)
    small, large, huge = machine.add("small", 300), machine.add("large", 800), machine.add("huge", 1100)
    async with machine.pool() as pool:
        assert pool.fits(huge), "nobody has looked yet"
        await eventually(lambda: not pool.fits(huge))
        assert pool.fits(large)
        async with pool.using("small"):
            await eventually(lambda: pool.fits(large))  # it would be unloaded
            pool.pin("small")
            await eventually(lambda: not pool.fits(large))
            assert pool.fits(small)
        machine.others = 300
        pool.pin("small", False)
        await eventually(lambda: not pool.fits(large))
        weights = replace(large, size_bytes=600 * MIB)
        assert pool.fits(weights), "with less context"
