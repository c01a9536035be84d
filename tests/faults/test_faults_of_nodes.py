"""Nodes that are killed or frozen under load: who asks the others is answered, and no vote comes too late."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import aiohttp
import pytest

from tests.e2e.asking import ANSWER_TIMEOUT_S, QUESTION, SLOTS, metrics_of, rambling, slots_free
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually
from tests.faults.schedule import Fault
from tests.faults.trial import Trial

pytestmark = pytest.mark.netns

CLIENTS = 3  # of each node
KILLED_OUT_S = 2.0
FROZEN_OUT_S = 6.0
BACK_S = 5.0
BUSY_S = 60.0  # no promise: far above what it takes until every worker of a busy machine writes
VOTE_TOKENS = 1000  # many seconds of generation: long enough to be seen on all nodes at once, and frozen in

SURVIVORS = {"kitchen": ("kitchen", "study"), "study": ("kitchen", "study")}


async def test_a_node_killed_under_load_costs_only_what_ran_there(trial: Trial) -> None:
    calm = await trial.calm(CLIENTS)
    async with trial.under_load(CLIENTS):
        async with trial.director.disturbing(Fault.KILL, "attic"):
            out_s = await trial.seen(SURVIVORS, KILLED_OUT_S)
        back_s = await trial.agreed(BACK_S)
    trial.assert_kept(calm, f"kill -9: out after {out_s:.2f} s, back {back_s:.2f} s after it was ready")
    await trial.back_to(calm)


async def test_a_node_frozen_under_load_is_out_and_comes_back(trial: Trial) -> None:
    calm = await trial.calm(CLIENTS)
    async with trial.under_load(CLIENTS):
        async with trial.director.disturbing(Fault.FREEZE, "attic"):
            out_s = await trial.seen(SURVIVORS, FROZEN_OUT_S)
        back_s = await trial.agreed(BACK_S)
    trial.assert_kept(calm, f"SIGSTOP: out after {out_s:.2f} s; SIGCONT: back after {back_s:.2f} s")
    await trial.back_to(calm)


async def test_votes_of_a_node_that_was_frozen_come_too_late_to_count(trial: Trial) -> None:
    """It is frozen while it votes. The vote ends without it, and when it thaws nothing of that vote goes on."""
    kitchen, study, attic = trial.swarm.nodes
    asking = asyncio.create_task(long_vote(kitchen))
    await all_have(trial, 0, BUSY_S)
    attic.send(signal.SIGSTOP)
    try:
        account = await asking
        counted = await votes_counted(kitchen)
    finally:
        attic.send(signal.SIGCONT)
    voters = {one["voter"].rpartition("@")[2]: one["group"] is not None for one in account["candidates"]}
    assert voters == {"kitchen": True, "study": True} | ({"attic": False} if "attic" in voters else {})
    await trial.agreed(BACK_S)
    await all_have(trial, SLOTS, BUSY_S)
    assert await votes_counted(kitchen) == counted, "a vote was counted after the answer was given"
    assert "Traceback" not in kitchen.errors + study.errors + attic.errors


async def long_vote(node: NodeProcess) -> dict[str, Any]:
    """The account of a vote in which every worker of the swarm has a seat and much to say."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": QUESTION}],
        "swarm": {"strategy": "medoid", "votes": 3 * SLOTS},
        **await asyncio.to_thread(rambling),
        "max_tokens": VOTE_TOKENS,
    }
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{node.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return json.loads(await response.text())["swarm"]


async def votes_counted(node: NodeProcess) -> float:
    return (await metrics_of(node))["swarm_candidates_total"]


async def all_have(trial: Trial, wanted: int, timeout_s: float) -> None:
    """Return when exactly `wanted` workers are idle on every node."""

    async def idle() -> set[int | None]:
        return {await slots_free(node) for node in trial.swarm}

    await eventually(idle, timeout_s, f"{wanted} of {SLOTS} workers are idle on every node", until={wanted}.__eq__)
