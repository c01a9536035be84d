"""Lenders that lie to a host with a real llama.cpp: it names them, goes on without them, and blames no request."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from federation.errors import PeerTimedOut
from federation.lending import SERVER_ENDED, LendNews
from swarm.engines.engine import EngineBuild
from swarm.errors import LenderLost
from swarm.node.pooling import MOST_LOST
from tests.doubles.waiting import eventually
from tests.lending.test_pooled_models import KNOWN, LENT_MIB, MODEL, build, host

__all__ = ["build"]  # a fixture


async def test_one_that_grants_less_than_it_was_asked_for_is_left_out(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), ("hall", LENT_MIB - 1)) as pooled:
        liar = pooled.lender("attic")
        liar.grants = 0.5
        assert KNOWN in await pooled.says()
        assert pooled.state.nodes == ("me", "hall")
        assert not liar.leases
        assert "attic: it could not hold what it had granted (it granted" in pooled.pooling.lenders().refusals


async def test_one_that_ends_what_it_grants_is_asked_three_times(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB)) as pooled:
        liar = pooled.lender("attic")
        liar.ends_with = SERVER_ENDED
        for _ in range(MOST_LOST + 1):
            with pytest.raises(LenderLost, match="waiting for attic"):
                await pooled.pool.ensure(MODEL)
            pooled.lenders_changed()
        assert "models were lost over it at once, 3 times" in pooled.state.reason
        assert len(liar.asked) == MOST_LOST
        assert pooled.state.reason.startswith("waiting for attic")


async def test_rubbish_from_a_lender_is_its_fault_and_not_the_requests(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), ("hall", LENT_MIB)) as pooled:
        for lender in pooled.swarm.lenders:
            lender.relays = True
        assert KNOWN in await pooled.says()
        (liar,) = [lender for lender in pooled.swarm.lenders if lender.leases]
        async with aclosing(pooled.events("Tell a story. " * 60, 900)) as events:
            await anext(events)
            liar.spoils = "rubbish"
            with pytest.raises(LenderLost, match=f"waiting for {liar.name}: what came from there was no answer"):
                _ = [event async for event in events]
        await eventually(lambda: pooled.state.phase == "ready" and pooled.state.nodes[1:] != (liar.name,))
        assert KNOWN in await pooled.says()
        assert f"{liar.name}: it could not hold what it had granted" in pooled.pooling.lenders().refusals


async def test_rubbish_while_a_model_is_loaded_names_the_lender(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB)) as pooled:
        pooled.lender("attic").relays, pooled.lender("attic").spoils = True, "rubbish"
        with pytest.raises(LenderLost, match="waiting for attic"):
            await pooled.pool.ensure(MODEL)
        assert pooled.state.phase == "failed"
        assert "attic: it could not hold what it had granted" in pooled.pooling.lenders().refusals


async def test_one_that_is_silent_after_it_said_that_it_drains_is_lost_at_once(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB), ("hall", LENT_MIB)) as pooled:
        await pooled.says()
        (liar,) = [lender for lender in pooled.swarm.lenders if lender.leases]
        async with aclosing(pooled.events("Tell a story. " * 60, 900)) as events:
            await anext(events)
            liar.leases[0].say(LendNews(draining="its owner wants it", left_s=3600.0))
            liar.leases[0].say(PeerTimedOut(f"{liar.name} says nothing"))
            with pytest.raises(LenderLost, match=f"{liar.name} says nothing"):
                _ = [event async for event in events]
        await eventually(lambda: pooled.state.phase == "ready" and pooled.state.nodes[1:] != (liar.name,))


async def test_one_that_was_too_far_away_is_taken_when_it_is_near(
    tmp_path: Path, smollm2: Path, build: EngineBuild
) -> None:
    """Also a busy machine's answers come late, and nothing else of what it offers changes then."""
    async with host(tmp_path, smollm2, build, ("attic", LENT_MIB)) as pooled:
        pooled.lender("attic").rtt_ms = 40.0
        pooled.pool.pin(MODEL)
        with pytest.raises(LenderLost, match="is 40 ms away, more than 30 ms"):
            await pooled.pool.ensure(MODEL)
        pooled.lender("attic").rtt_ms = 4.0
        await eventually(lambda: pooled.state.phase == "ready")
