"""One peer table against one simulated peer, with the production timing: probes overlap and packets get lost."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

from federation.advertisement import NodeDescription
from federation.hostport import Address
from federation.peer import Change, Source
from federation.probing import ProbeAnswer
from federation.timing import Timing
from tests.doubles.peer_tables import CheckedTable

TIMING = Timing()
HOME = Address("10.0.0.2", 17615)
NODE = NodeDescription(id="kitchen", name="kitchen", version="0", url="http://x:1")

# What becomes of a probe that starts at `t`, on a connection that is kept or fresh: seconds, "refused" or "silence".
Fate = float | str
World = Callable[[float, bool], Fate]


def simulate(world: World, until: float, seed: int = 0) -> list[tuple[float, Change]]:
    """Every change with its time. Probes take as long as they would: the refused 1 ms, the unanswered their timeout."""
    table = CheckedTable("here", random=random.Random(seed).random)
    table.proposed(HOME, Source.MDNS, 0.0)
    under_way: list[tuple[float, int, float, Fate]] = []
    numbers, seen = count(), []
    now, is_kept = 0.0, False
    while now < until:
        seen += [(now, change) for change in table.tick(now)]
        for address in table.due_probes(now):
            fate = world(now, not (is_kept and not under_way))
            timeout_s = table.question(address, now).timeout_s
            took = {"refused": 0.001, "silence": timeout_s}.get(fate, fate)
            if took > timeout_s:
                took, fate = timeout_s, "silence"
            heapq.heappush(under_way, (now + took, next(numbers), took, fate))
        due = table.next_due()
        looks = min(now + 1.0, until + 1.0 if due is None else max(due, now))
        if not under_way or looks <= under_way[0][0]:
            now = looks
            continue
        now, _, took, fate = heapq.heappop(under_way)
        if isinstance(fate, float):
            under_way.clear()  # given up, as the membership does
            is_kept = True
            changes = table.probe_answered(HOME, ProbeAnswer(NODE), took * 1000, now)
        else:
            is_kept = False
            changes = table.probe_failed(HOME, fate, fate == "refused", now)
        seen += [(now, change) for change in changes]
    return seen


class LossyTcp:
    """How long a probe takes over TCP.

    A connection repeats a lost packet after 0.2 s plus the round trip, then after twice that and so on; a fresh one
    begins with a SYN, which is repeated after 1 s, 2 s and so on.
    """

    def __init__(self, seed: int, loss: float, round_trip_s: float) -> None:
        self._random = random.Random(seed)
        self._gets_through = (1 - loss) ** 2
        self._round_trip_s = round_trip_s

    def __call__(self, _: float, is_fresh: bool) -> float:
        took = self._exchange(first_repeat_s=1.0) if is_fresh else 0.0
        return took + self._exchange(first_repeat_s=0.2 + self._round_trip_s)

    def _exchange(self, first_repeat_s: float) -> float:
        took, repeat_s = self._round_trip_s, first_repeat_s
        while self._random.random() > self._gets_through:
            took, repeat_s = took + repeat_s, repeat_s * 2
        return took
