"""The promises, on a simulated network with the production timing: out in 6 s, back in 5 s, no false evictions."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.advertisement import NodeDescription
from federation.hostport import Address
from federation.peer import Change, PeerJoined, PeerLeft, Source
from federation.peer_table import PeerTable
from federation.timing import Timing

TIMING = Timing()
HOME = Address("10.0.0.2", 17615)
NODE = NodeDescription(id="kitchen", name="kitchen", version="0", url="http://x:1")

# What becomes of a probe that starts at `t`: seconds until the answer, "refused", or "silence".
Fate = float | str
World = Callable[[float], Fate]


def simulate(world: World, until: float, seed: int = 0) -> list[tuple[float, Change]]:
    """Every change with its time. Probes take as long as they would: the refused 1 ms, the unanswered the timeout."""
    table = PeerTable("here", random=random.Random(seed).random)
    table.proposed(HOME, Source.MDNS, 0.0)
    pending: list[tuple[float, float, Fate]] = []
    seen: list[tuple[float, Change]] = []
    now = 0.0
    while now < until:
        for _ in table.due_probes(now):
            fate = world(now)
            took = {"refused": 0.001, "silence": TIMING.probe_timeout_s}.get(fate, fate)
            if took > TIMING.probe_timeout_s:
                took, fate = TIMING.probe_timeout_s, "silence"
            heapq.heappush(pending, (now + took, took, fate))
        due = table.next_due()
        if due is not None and (not pending or due <= pending[0][0]):
            now = max(now, due)
            continue
        now, took, fate = heapq.heappop(pending)
        if isinstance(fate, float):
            changes = table.probe_answered(HOME, NODE, took * 1000, now)
        else:
            changes = table.probe_failed(HOME, fate, fate == "refused", now)
        seen += [(now, change) for change in (*changes, *table.tick(now))]
    return seen


def first(kind: type, seen: list[tuple[float, Change]], after: float) -> float:
    return next(at for at, change in seen if isinstance(change, kind) and at >= after)


phases = st.floats(5.0, 7.5)
seeds = st.integers(0, 2**32)


@given(phases, seeds)
def test_a_frozen_or_unplugged_peer_is_out_within_6_s(at: float, seed: int) -> None:
    seen = simulate(lambda t: 0.001 if t < at else "silence", at + 10, seed)
    assert first(PeerLeft, seen, at) - at <= 5.7


@given(phases, seeds)
def test_a_killed_peer_is_out_within_2_s(at: float, seed: int) -> None:
    seen = simulate(lambda t: 0.001 if t < at else "refused", at + 10, seed)
    assert first(PeerLeft, seen, at) - at <= 1.5


@given(st.floats(8.0, 300.0), st.sampled_from(["silence", "refused"]), seeds)
@settings(max_examples=50)
def test_a_lost_peer_is_back_within_5_s_of_answering(down_s: float, how: str, seed: int) -> None:
    back = 5.0 + down_s
    seen = simulate(lambda t: 0.001 if not 5.0 <= t < back else how, back + 10, seed)
    assert first(PeerLeft, seen, 5.0) < back
    assert first(PeerJoined, seen, back) - back <= 4.5


class LossyTcp:
    """How long a probe takes over TCP.

    The kept connection repeats a lost packet after 0.2 s plus the round trip, then after twice that and so on; after a
    timeout the connection is new, and its SYN is repeated after 1 s, 2 s and so on.
    """

    def __init__(self, seed: int, loss: float, round_trip_s: float) -> None:
        self._random = random.Random(seed)
        self._gets_through = (1 - loss) ** 2
        self._round_trip_s = round_trip_s
        self._is_connected = False

    def __call__(self, _: float) -> float:
        took = 0.0 if self._is_connected else self._exchange(first_repeat_s=1.0)
        took += self._exchange(first_repeat_s=0.2 + self._round_trip_s)
        self._is_connected = took <= TIMING.probe_timeout_s
        return took

    def _exchange(self, first_repeat_s: float) -> float:
        took, repeat_s = self._round_trip_s, first_repeat_s
        while self._random.random() > self._gets_through:
            took, repeat_s = took + repeat_s, repeat_s * 2
        return took


@pytest.mark.parametrize(("loss", "round_trip_s"), [(0.1, 0.001), (0.0, 0.2), (0.0, 0.4), (0.02, 0.2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_an_hour_of_loss_or_delay_evicts_nobody(loss: float, round_trip_s: float, seed: int) -> None:
    seen = simulate(LossyTcp(seed, loss, round_trip_s), until=3600.0, seed=seed)
    assert [type(change) for _, change in seen if isinstance(change, PeerJoined)] == [PeerJoined]
    assert not [change for _, change in seen if isinstance(change, PeerLeft)]
