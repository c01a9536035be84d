"""Workers that are leased, and engines that break and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from federation.tasks import cancel_and_wait
from swarm.engines.engine import Engine
from swarm.errors import EngineFailed, Unavailable
from swarm.workers.ledger import Holding
from swarm.workers.model_workers import GaveWay, Loader, ModelWorkers
from swarm.workers.pool import WorkerPool
from swarm.workers.slots import QueueListener, Refusal, worker_names
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

SLOTS = 4
ENDS_S = 10.0  # far above what any condition here takes


def scripted(slots: int = SLOTS, model: str = "m") -> ScriptedEngine:
    return ScriptedEngine(saying("yes"), model_id=model, slots=slots)


def loading(*outcomes: Engine | Exception) -> Loader:
    """A loader that gives the first outcome, then the second, ..."""
    left = list(outcomes)

    async def load() -> Engine:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return load


def workers_of(
    *outcomes: Engine | Exception,
    clock: Callable[[], float] = lambda: 0.0,
    queue: int = 64,
    listeners: Sequence[QueueListener] = (),
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> ModelWorkers:
    """Who waits before it loads again does so no longer than a turn of the loop, or as `sleep` does."""
    at_once = sleep or (lambda _: asyncio.sleep(0))
    return ModelWorkers(loading(*outcomes), worker_names("node"), None, clock, queue, listeners, at_once, look_s=0.01)


@dataclass
class Heard:
    """What a listener is told."""

    waits: list[float] = field(default_factory=list[float])
    refusals: list[str] = field(default_factory=list[str])

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def refused(self, why: Refusal) -> None:
        self.refusals.append(why)


async def test_a_lease_holds_its_workers_and_gives_them_back() -> None:
    async with workers_of(scripted()) as workers:
        async with workers.lease(3) as lease:
            assert [worker.slot for worker in lease.workers] == [0, 1, 2]
            assert workers.state().slots_free == 1
        assert workers.state().slots_free == SLOTS


async def test_a_failure_inside_a_lease_gives_its_workers_back() -> None:
    async with workers_of(scripted()) as workers:
        with pytest.raises(EngineFailed):
            async with workers.lease(SLOTS):
                raise EngineFailed("broke")
        assert workers.state().slots_free == SLOTS


async def test_leases_wait_in_order_of_arrival() -> None:
    order: list[int] = []
    async with workers_of(scripted()) as workers:

        async def hold(number: int, count: int) -> None:
            async with workers.lease(count):
                order.append(number)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            for number, count in enumerate([3, 4, 1, 1, 4, 2]):
                tasks.create_task(hold(number, count))
    assert order == [0, 1, 2, 3, 4, 5]


async def test_a_full_queue_is_refused_with_when_to_come_back() -> None:
    async with workers_of(scripted(slots=1), queue=1) as workers, AsyncExitStack() as held:
        await held.enter_async_context(workers.lease(1))
        waiter = asyncio.create_task(held.enter_async_context(workers.lease(1)))
        await eventually(lambda: workers.waiting == 1)
        with pytest.raises(Unavailable, match="1 requests are already waiting for 'm'") as caught:
            await held.enter_async_context(workers.lease(1))
        assert caught.value.retry_after_s > 0
        await cancel_and_wait(waiter)


async def test_a_queue_behind_a_long_answer_is_not_taken_for_one_behind_the_short_ones_of_before() -> None:
    now = 0.0
    async with workers_of(scripted(slots=1), clock=lambda: now) as workers:
        async with workers.lease(1):
            now = 1.0
        async with workers.lease(1):
            assert workers.expected_wait_s() == 1.0
            now = 61.0
            assert workers.expected_wait_s() == 60.0
            assert workers.state().wait_s == 60.0
        assert workers.expected_wait_s() == 0.0


async def test_who_would_wait_beyond_its_deadline_is_refused_by_what_was_measured() -> None:
    now, heard = 0.0, Heard()
    async with workers_of(scripted(slots=1), clock=lambda: now, listeners=[heard]) as workers, AsyncExitStack() as held:
        async with workers.lease(1, deadline=0.0):
            assert workers.expected_wait_s() is None
            unmeasured = asyncio.create_task(held.enter_async_context(workers.lease(1, deadline=0.001)))
            await eventually(lambda: workers.waiting == 1)  # nobody knows how long it will be: it may wait
            now = 10.0
        await unmeasured
        assert workers.expected_wait_s() == 10.0
        with pytest.raises(Unavailable, match=r"about 10 s and the request's deadline is in 9 s") as caught:
            await held.enter_async_context(workers.lease(1, deadline=now + 9))
        assert caught.value.retry_after_s == 10
        in_time = asyncio.create_task(held.enter_async_context(workers.lease(1, deadline=now + 10)))
        await eventually(lambda: workers.waiting == 1)
        assert workers.expected_wait_s() == 20.0, "one more ahead"
        assert (heard.waits, heard.refusals) == ([0.0, 10.0], ["deadline"])
        await cancel_and_wait(in_time)


async def test_free_workers_are_given_whatever_the_deadline() -> None:
    now = 0.0
    async with workers_of(scripted(slots=2), clock=lambda: now) as workers:
        async with workers.lease(1):
            now = 50.0
        async with workers.lease(1), workers.lease(1, deadline=now + 0.1):
            assert workers.state().slots_free == 0
        async with workers.lease(1, deadline=now - 1):  # its own deadline ends it, not the queue
            pass


async def test_refusals_and_waits_are_told() -> None:
    heard = Heard()
    async with workers_of(scripted(slots=1), queue=0, listeners=[heard]) as workers:
        async with workers.lease(1):
            with pytest.raises(Unavailable):
                async with workers.lease(1):
                    pass
        assert (heard.waits, heard.refusals) == ([0.0], ["queue_full"])


async def test_a_waiter_that_is_cancelled_leaves_the_queue() -> None:
    async with workers_of(scripted(slots=2)) as workers:

        async def hold(count: int) -> None:
            async with workers.lease(count):
                pass

        async with workers.lease(1):
            large = asyncio.create_task(hold(2))
            small = asyncio.create_task(hold(1))
            await eventually(lambda: workers.waiting == 2)
            large.cancel()
            await small  # it was behind the large one only
        await cancel_and_wait(large)
        assert workers.state().slots_free == 2


async def test_a_waiter_cancelled_just_as_it_is_served_loses_no_worker() -> None:
    async with workers_of(scripted(slots=1)) as workers:

        async def hold() -> None:
            async with workers.lease(1):
                pass

        async with workers.lease(1):
            waiter = asyncio.create_task(hold())
            await eventually(lambda: workers.waiting == 1)
        await cancel_and_wait(waiter)  # granted by now, but it has not run since
        assert workers.state().slots_free == 1


async def test_an_engine_that_fails_is_loaded_again() -> None:
    first, second = scripted(), scripted()
    async with workers_of(first, second) as workers:
        first.failed.set_result("crashed")
        await eventually(lambda: workers.engine is second)
        assert first.closed
        assert workers.state().problem is None
        async with workers.lease(1) as lease:
            assert lease.engine is second


async def test_while_an_engine_is_reloaded_requests_are_refused_with_the_reason() -> None:
    first, gate = scripted(), asyncio.Event()
    second = scripted()

    async def load() -> Engine:
        if first.failed.done():
            await gate.wait()
            return second
        return first

    async with ModelWorkers(load, worker_names("node"), None, sleep=lambda _: asyncio.sleep(0)) as workers:
        first.failed.set_result("crashed")
        await eventually(lambda: workers.state().problem == "crashed")
        assert workers.state().slots_free == 0
        with pytest.raises(Unavailable, match="model 'm' is not running: crashed") as caught:
            async with workers.lease(1):
                pass
        assert caught.value.retry_after_s > 0
        gate.set()
        await eventually(lambda: workers.state().problem is None)
        assert workers.state().slots_free == SLOTS


async def test_those_who_wait_are_told_when_the_engine_breaks() -> None:
    first = scripted(slots=1)
    async with workers_of(first, scripted(slots=1)) as workers:

        async def hold() -> None:
            async with workers.lease(1):
                pass

        async with workers.lease(1):
            waiter = asyncio.create_task(hold())
            await eventually(lambda: workers.waiting == 1)
            first.failed.set_result("crashed")
            with pytest.raises(Unavailable, match="crashed"):
                await waiter
            await eventually(lambda: workers.engine is not first)
            assert workers.state().slots_free == 1, "the new engine's slots are its own"
        assert workers.state().slots_free == 1, "what the old lease gives back is not the new engine's"


@pytest.mark.parametrize("slots", [1, 2, 6])
async def test_a_reloaded_engine_may_have_other_slots(slots: int) -> None:
    first, second = scripted(), scripted(slots=slots)
    async with workers_of(first, second) as workers:
        before = [worker.name for worker in workers.workers]
        first.failed.set_result("crashed")
        await eventually(lambda: workers.engine is second)
        after = [worker.name for worker in workers.workers]
        assert len(set(after)) == slots
        assert after[: len(before)] == before[:slots], "who is still there keeps the name"
        async with workers.lease(9) as lease:
            assert len(lease.workers) == slots


async def test_loading_is_tried_again_when_it_fails() -> None:
    first, second = scripted(), scripted()
    async with workers_of(first, EngineFailed("too little memory"), OSError("no disk"), second) as workers:
        first.failed.set_result("crashed")
        await eventually(lambda: workers.engine is second)
        assert workers.state().problem is None


async def test_an_engine_that_breaks_again_and_again_is_loaded_ever_more_rarely_and_always_again() -> None:
    """H3: four deaths in a minute were the end of a model until somebody restarted the node."""
    waits: list[float] = []
    go_on = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await go_on.acquire()

    engines = [scripted() for _ in range(12)]
    async with workers_of(*engines, sleep=sleep) as workers:
        for number, (broken, following) in enumerate(pairwise(engines), 1):
            broken.failed.set_result("crashed")
            await eventually(lambda number=number: len(waits) == number)
            with pytest.raises(Unavailable, match=r"model 'm' is not running: crashed.*loaded again in") as caught:
                async with workers.lease(1):
                    pass
            assert caught.value.retry_after_s == waits[-1]
            assert ("suspect" in str(caught.value)) == (number >= 3), str(caught.value)
            go_on.release()
            await eventually(lambda following=following: workers.engine is following)
            assert workers.state().problem is None
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_a_file_that_cannot_be_loaded_any_more_is_tried_for_ever_and_is_suspect() -> None:
    first, last = scripted(), scripted()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with workers_of(first, *[EngineFailed("damaged")] * 5, last, sleep=sleep) as workers:
        first.failed.set_result("crashed")
        await eventually(lambda: workers.engine is last)
    assert waits == [1, 2, 4, 8, 16, 32]


async def test_the_time_to_the_next_attempt_is_what_clients_are_told() -> None:
    now, gate, waiting = 100.0, asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await gate.wait()

    first, second = scripted(), scripted()
    async with workers_of(first, second, clock=lambda: now, sleep=sleep) as workers:
        first.failed.set_result("crashed")
        await waiting.wait()
        now += 0.25
        refusal = workers.refusal
        assert refusal is not None
        assert (refusal.retry_after_s, "loaded again in 1 s" in str(refusal)) == (1, True)
        with pytest.raises(Unavailable, match="crashed"):
            _ = workers.running
        gate.set()
        await eventually(lambda: workers.engine is second)
        assert workers.refusal is None
        assert workers.running is second


async def test_a_stalled_engine_has_no_free_slot_until_it_goes_on() -> None:
    engine = scripted(slots=2)
    async with workers_of(engine) as workers:
        engine.stalled = "has made no step for 5 s"
        assert (workers.state().slots_free, workers.state().stalled) == (0, "has made no step for 5 s")
        assert workers.expected_wait_s() is None

        async def hold() -> None:
            async with workers.lease(1):
                pass

        waiters = [asyncio.create_task(hold()) for _ in range(3)]
        await eventually(lambda: workers.waiting == 3)
        engine.stalled = None
        async with asyncio.timeout(ENDS_S):
            await asyncio.gather(*waiters)
        assert workers.state().slots_free == 2


async def test_who_waits_for_a_stalled_engine_is_told_when_it_breaks() -> None:
    engine = scripted(slots=1)
    async with workers_of(engine, scripted()) as workers, AsyncExitStack() as held:
        engine.stalled = "has made no step for 5 s"
        waiter = asyncio.create_task(held.enter_async_context(workers.lease(1)))
        await eventually(lambda: workers.waiting == 1)
        engine.failed.set_result("it was ended")
        with pytest.raises(Unavailable, match="it was ended"):
            await waiter


async def test_an_engine_that_breaks_now_and_then_is_always_loaded_again() -> None:
    now = 0.0
    engines = [scripted() for _ in range(8)]
    async with workers_of(*engines, clock=lambda: now) as workers:
        for broken, following in pairwise(engines):
            broken.failed.set_result("crashed")
            await eventually(lambda following=following: workers.engine is following)
            now += 25


async def test_a_first_load_that_fails_is_the_callers_to_handle() -> None:
    with pytest.raises(EngineFailed, match="no such file"):
        async with workers_of(EngineFailed("no such file")):
            pass


async def test_leaving_closes_the_engine_and_refuses_who_waits() -> None:
    engine = scripted(slots=1)
    async with AsyncExitStack() as held:
        async with workers_of(engine) as workers:
            await held.enter_async_context(workers.lease(1))
            waiter = asyncio.create_task(held.enter_async_context(workers.lease(1)))
            await eventually(lambda: workers.waiting == 1)
        with pytest.raises(Unavailable, match="shutting down"):
            await waiter
        assert engine.closed


async def test_speed_is_a_moving_average_of_what_was_measured() -> None:
    async with workers_of(scripted()) as workers:
        assert workers.state().tokens_per_s is None
        workers.measured(100.0)
        assert workers.state().tokens_per_s == 100.0
        workers.measured(50.0)
        assert workers.state().tokens_per_s == pytest.approx(90.0)


async def test_workers_of_several_models_have_different_names() -> None:
    async with WorkerPool("node") as models:
        first = await models.serve(loading(scripted(model="a")), 5)
        second = await models.serve(loading(scripted(model="b")))
        names = [worker.name for workers in (first, second) for worker in workers.workers]
        assert len(set(names)) == 2 * SLOTS
        assert models.get("a") is first
        assert models.get("c") is None
        assert [(state.model_id, state.params) for state in models.states()] == [("a", 5), ("b", None)]
    assert models.states() == ()


async def test_a_lease_that_gives_way_is_interrupted_when_somebody_waits() -> None:
    async with workers_of(scripted(slots=2)) as workers, AsyncExitStack() as held:
        await held.enter_async_context(workers.lease(1))
        async with workers.lease(9, gives_way=True) as extra:
            assert len(extra.workers) == 1
            assert extra.recall is not None
            assert await extra.recall.until(asyncio.sleep(0, "a token")) == "a token"
            assert workers.state().slots_free == 0
            assert workers.expected_wait_s() == 0.0, "it gives way"
            waiting = asyncio.create_task(held.enter_async_context(workers.lease(1)))
            for _ in range(2):  # whatever it does by then, and whatever it begins
                with pytest.raises(GaveWay):
                    await extra.recall.until(asyncio.Event().wait())
            assert not waiting.done()
        assert len((await waiting).workers) == 1


async def test_a_lease_that_gives_way_never_waits() -> None:
    async with workers_of(scripted(slots=1)) as workers, workers.lease(1):
        with pytest.raises(GaveWay):
            async with workers.lease(1, gives_way=True):
                pass
        assert workers.waiting == 0


async def test_who_gave_way_says_nothing_of_how_long_others_take() -> None:
    now = 0.0
    async with workers_of(scripted(slots=1), clock=lambda: now) as workers, AsyncExitStack() as held:
        async with workers.lease(1):
            now = 8.0
        async with workers.lease(1, gives_way=True):
            waiting = asyncio.create_task(held.enter_async_context(workers.lease(1)))
            await eventually(lambda: workers.waiting == 1)
        await waiting
        assert workers.expected_wait_s() == 8.0


def test_lent_memory_is_not_what_models_hold() -> None:
    """Else it would count as room once all models are unloaded, which gives none of it back."""
    pool = WorkerPool("node")
    lent = Holding("lent", {"ram": 1}, idle=False, pinned=True, wanted_at=0.0, load_s=0.0, is_model=False)
    pool.held_beside = lambda: [lent]
    assert pool.held_bytes() == {}
