"""Lines that are cut, one-way, lossy or slow, under load: every node goes on answering, and all agree afterwards."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping

import pytest

from tests.e2e.asking import peer_seen
from tests.e2e.waiting import eventually
from tests.faults.checker import answered_share, flaps
from tests.faults.schedule import Fault
from tests.faults.trial import AGREED_S, PORT, Trial

pytestmark = pytest.mark.netns

CLIENTS = 3  # of each node
APART_S = 8.0  # a silent peer is out after 6 s, and the rest is this machine's business
SAME_VIEW_S = 15.0
LASTS_S = 12.0  # of loss and delay
LASTS_LONG_S = 120.0
A_MINUTE_S = 60.0
ANSWERED = 0.99
FAR_MS = 150.0  # of the 200 that the line takes
LOCAL_TIMEOUT_S = 20.0

SPLIT: Mapping[str, tuple[str, ...]] = {
    "kitchen": ("kitchen", "study"),
    "study": ("kitchen", "study"),
    "attic": ("attic",),
}


async def test_both_sides_of_a_partition_answer_everything_and_agree_when_it_heals(line_trial: Trial) -> None:
    trial = line_trial
    calm = await trial.calm(CLIENTS)
    async with trial.under_load(CLIENTS):
        async with trial.director.disturbing(Fault.CUT, "attic"):
            apart_s = await trial.seen(SPLIT, APART_S)
            assert trial.switch.lost_frames() > 0
        agreed_s = await trial.agreed(AGREED_S)
    trial.assert_kept(calm, f"partition: apart after {apart_s:.1f} s, one view {agreed_s:.1f} s after healing")


@pytest.mark.parametrize(
    ("fault", "watched_s"),
    [
        (Fault.DEAF, LASTS_S),
        (Fault.MUTE, LASTS_S),
        pytest.param(Fault.DEAF, A_MINUTE_S, marks=pytest.mark.slow),
        pytest.param(Fault.MUTE, A_MINUTE_S, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", f"{value}"),
)
async def test_a_one_way_line_is_none(line_trial: Trial, fault: Fault, watched_s: float) -> None:
    """Whoever hears nothing, or is not heard, is out on both sides, and stays so."""
    trial = line_trial
    calm = await trial.calm(CLIENTS)
    async with trial.under_load(CLIENTS):
        began = time.monotonic()
        async with trial.director.disturbing(fault, "attic"):
            apart_s = await trial.seen(SPLIT, SAME_VIEW_S)
            await watched_until(trial, began + watched_s)
            during = [view for view in trial.watch.views if view.at >= began]
        agreed_s = await trial.agreed(AGREED_S)
    trial.assert_kept(calm, f"{fault.name}: one view after {apart_s:.1f} s, healed {agreed_s:.1f} s after")
    for one, other in (("kitchen", "attic"), ("study", "attic"), ("attic", "kitchen"), ("attic", "study")):
        assert flaps(during, one, other) == 1, f"{one} did not just put {other} out"


@pytest.mark.parametrize(
    ("percent", "lasts_s"),
    [
        (10, LASTS_S),
        (30, LASTS_S),
        pytest.param(10, LASTS_LONG_S, marks=pytest.mark.slow),
        pytest.param(30, LASTS_LONG_S, marks=pytest.mark.slow),
    ],
)
async def test_lost_packets_cost_no_answers(line_trial: Trial, percent: int, lasts_s: float) -> None:
    trial = line_trial
    calm = await trial.calm(CLIENTS)
    before = trial.evictions()
    async with trial.under_load(CLIENTS):
        began = time.monotonic()
        async with trial.director.disturbing(Fault.LOSS, percent=percent):
            await watched_until(trial, began + lasts_s)
            lost = trial.switch.lost_frames()
    evictions = trial.evictions() - before
    share = answered_share(trial.clients.history)
    trial.assert_kept(calm, f"{percent} % loss: {lost} lost, {evictions} evictions, {share:.1%} answered")
    assert share >= ANSWERED
    assert evictions == 0 or percent > 10


async def test_a_peer_far_away_stays_a_peer(line_trial: Trial) -> None:
    trial = line_trial
    calm = await trial.calm(CLIENTS)
    before = trial.evictions()
    kitchen = trial.swarm.nodes[0]
    async with trial.under_load(CLIENTS):
        began = time.monotonic()
        async with trial.director.disturbing(Fault.DELAY, "attic"):

            async def rtt_ms() -> float:
                peer = await peer_seen(kitchen, "attic")
                return 0.0 if peer is None else peer["rtt_ms"]

            await eventually(rtt_ms, LASTS_S, "the delay shows", until=lambda seen: seen > FAR_MS)
            await watched_until(trial, began + LASTS_S)
    evictions = trial.evictions() - before
    trial.assert_kept(calm, f"200 ms: {evictions} evictions")
    assert evictions == 0


@pytest.mark.slow
async def test_a_machine_whose_cable_is_pulled_answers_itself_and_comes_back(line_trial: Trial) -> None:
    """It sees that its link is down, which a partition further away does not show."""
    trial = line_trial
    attic = trial.swarm.nodes[-1].machine
    assert attic is not None
    trial.switch.unplug("attic")
    try:
        await trial.seen({"kitchen": SPLIT["kitchen"], "study": SPLIT["study"]}, APART_S)
        body = {"model": "demo", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
        asking = attic.command(
            *("curl", "-sS", "--fail", "-H", "Content-Type: application/json", "-d", json.dumps(body)),
            f"http://127.0.0.1:{PORT}/v1/chat/completions",
        )
        done = await asyncio.to_thread(
            subprocess.run, asking, capture_output=True, text=True, timeout=LOCAL_TIMEOUT_S, check=True
        )
        assert "Paris" in done.stdout
    finally:
        trial.switch.plug_in("attic")
    await trial.agreed(AGREED_S)


async def watched_until(trial: Trial, instant: float) -> None:
    """Return when the watch has gone on until `instant`."""

    async def latest() -> float:
        return trial.watch.views[-1].at if trial.watch.views else 0.0

    await eventually(latest, instant - time.monotonic() + APART_S, "it was watched", until=lambda at: at >= instant)
