"""What becomes of requests to an engine whose parts are on other machines, when it or one of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import pytest

from swarm.engines.engine import OverLenders
from swarm.engines.pooled_engine import PooledEngine
from swarm.errors import BadRequest, EngineDied, LenderLost, SwarmError, Unavailable
from swarm.generation import Delta, GenerationRequest, JsonObject
from tests.doubles.scripted_engine import ScriptedEngine

ASKED = GenerationRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}]})
RUBBISH = "its last words: rubbish came from a lender"
LOST = LenderLost("attic", "waiting for attic: it is silent", 7)


class Ended(ScriptedEngine):
    """One that `end` ends: over its requests, by what its script raises."""

    ended = False

    async def end(self) -> None:
        self.ended = True
        if not self.failed.done():
            self.failed.set_result("the engine host ended with -9")

    async def slot_states(self) -> Sequence[JsonObject]:
        return ()


class FakeParts:
    def __init__(self) -> None:
        self.lost: asyncio.Future[LenderLost] = asyncio.get_running_loop().create_future()
        self.unsure: str | None = None
        self.closed = 0
        self.is_idle: Callable[[], bool] = lambda: False

    def judge(self, text: str) -> LenderLost | None:
        if text == RUBBISH:
            self.lost.set_result(LOST)
            return LOST
        return None

    def idle(self, is_idle: Callable[[], bool]) -> None:
        self.is_idle = is_idle

    async def aclose(self) -> None:
        self.closed += 1


def breaking(error: SwarmError) -> tuple[PooledEngine, FakeParts, Ended, asyncio.Event]:
    """An engine that says a word, waits at the gate, and breaks."""
    gate, parts = asyncio.Event(), FakeParts()
    engine = Ended(lambda request, voter: ["Once", gate, error], model_id="m")
    return PooledEngine(engine, parts), parts, engine, gate


async def read_to_the_end(pooled: PooledEngine, gate: asyncio.Event, then: Callable[[], None]) -> None:
    async with aclosing(pooled.candidates(ASKED, 1)) as events:
        assert isinstance(await anext(events), Delta)
        then()
        gate.set()
        _ = [event async for event in events]


@pytest.mark.parametrize("error", [EngineDied("over it"), Unavailable("it is closed")])
async def test_a_request_that_loses_a_lender_did_not_end_the_engine(error: SwarmError) -> None:
    pooled, parts, engine, gate = breaking(error)
    async with aclosing(pooled):
        with pytest.raises(LenderLost, match="waiting for attic: it is silent") as caught:
            await read_to_the_end(pooled, gate, lambda: parts.lost.set_result(LOST))
        assert (caught.value.lender, caught.value.retry_after_s) == ("attic", 7)
        assert await pooled.failed == "waiting for attic: it is silent", (
            "said of the model, too, and not how it was ended"
        )
        assert engine.ended, "whatever it does without its part"
        assert pooled.lost is LOST
    assert (engine.closed, parts.closed) == (True, 1)


async def test_a_request_that_ends_the_engine_is_no_lost_lender() -> None:
    pooled, _, engine, gate = breaking(EngineDied("over it"))
    async with aclosing(pooled):
        with pytest.raises(EngineDied, match="over it"):
            await read_to_the_end(pooled, gate, lambda: None)
        engine.failed.set_result("it ended")
        assert await pooled.failed == "it ended"
        assert pooled.lost is None
        assert isinstance(pooled, OverLenders)


async def test_what_is_wrong_with_a_request_stays_so_while_a_lender_is_lost() -> None:
    pooled, parts, _, gate = breaking(BadRequest("no"))
    async with aclosing(pooled):
        with pytest.raises(BadRequest):
            await read_to_the_end(pooled, gate, lambda: parts.lost.set_result(LOST))


async def test_calls_that_generate_nothing_are_told_the_same() -> None:
    pooled, parts, engine, _ = breaking(EngineDied("x"))
    async with aclosing(pooled):
        engine.utility_error = EngineDied("over it")
        parts.lost.set_result(LOST)
        for asked in (pooled.embed(["a"]), pooled.tokenize("a", add_special=True, parse_special=True)):
            with pytest.raises(LenderLost):
                await asked


async def test_nobody_is_sent_to_one_whose_lender_drains_and_it_says_whether_something_runs() -> None:
    pooled, parts, engine, gate = breaking(EngineDied("x"))
    async with aclosing(pooled):
        assert pooled.stalled is None
        parts.unsure = "attic takes its memory back"
        assert pooled.stalled == "attic takes its memory back"
        assert parts.is_idle()
        async with aclosing(pooled.candidates(ASKED, 1)) as events:
            await anext(events)
            assert not parts.is_idle()
        assert parts.is_idle()
        gate.set()
        parts.unsure, engine.stalled = None, "it makes no steps"
        assert pooled.stalled == "it makes no steps"


async def test_an_engine_that_a_lender_brought_down_is_no_fault_of_the_request() -> None:
    """Its connection breaks before anybody has read its last words, which are waited for."""
    pooled, _, engine, gate = breaking(EngineDied("the engine ended over this request"))
    asyncio.get_running_loop().call_later(0.05, engine.failed.set_result, RUBBISH)
    with pytest.raises(LenderLost, match="waiting for attic"):
        await read_to_the_end(pooled, gate, lambda: None)
    await pooled.aclose()
