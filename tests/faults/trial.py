"""One swarm under observation: what is done to it, what its clients get, and the verdict."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.e2e.swarm_of_nodes import Swarm
from tests.e2e.waiting import eventually
from tests.faults.checker import (
    Broken,
    broken_promises,
    late_agreement,
    of_survivors,
    outgrown,
    p99_s,
    slow_pulse,
)
from tests.faults.clients import Clients, reference_answers
from tests.faults.director import Director
from tests.faults.history import Footprint, Ping, Question
from tests.faults.schedule import Event
from tests.faults.switch import FaultySwitch
from tests.faults.watch import Watch, footprints, view_of

AGREED_S: Final = 10.0  # after everything is healed
BASELINE_S: Final = 30.0
CALM_PINGS: Final = 15  # of each node: a few seconds
VIEWS_AFTER: Final = 3
CALM_TIMEOUT_S: Final = 60.0
PORT: Final = 17615
LOOK_S: Final = 0.5  # beyond each promise: until it shows from outside, on a machine that is busy with clients


@dataclass(frozen=True, slots=True)
class Calm:
    """How things are while nothing is wrong."""

    answers: dict[Question, str]
    pings: list[Ping]
    footprints: dict[str, Footprint]


class Trial:
    """Everything a test needs to disturb `swarm` and to judge it."""

    def __init__(self, swarm: Swarm, switch: FaultySwitch) -> None:
        urls = {node.name: f"http://{node.machine.ip}:{PORT}" for node in swarm if node.machine is not None}
        self.swarm = swarm
        self.names = tuple(urls)
        self.switch = switch
        self.clients = Clients(urls)
        self.watch = Watch(urls)
        self.director = Director(swarm.nodes, switch)
        self._urls = urls
        self._loaded_at = 0.0

    async def calm(self, each: int) -> Calm:
        """The reference: answers, then what the same load is like, and what the nodes hold after it."""
        answers = await reference_answers(self.clients, self.names[0])
        async with self.watch.watching(), self.clients.asking(self.names, each):

            async def pings() -> int:
                return len(self.watch.pings)

            wanted = CALM_PINGS * len(self.names)
            await eventually(pings, CALM_TIMEOUT_S, f"{wanted} pings", until=lambda count: count >= wanted)
        calm = Calm(answers, list(self.watch.pings), footprints(self.swarm.nodes))
        self.watch.pings.clear()
        self.watch.views.clear()
        return calm

    @asynccontextmanager
    async def under_load(self, each: int) -> AsyncGenerator[None]:
        """Clients ask every node, and the nodes are watched, while the block runs and until all of them agree.

        And a little longer: what they agree on must last.
        """
        self._loaded_at = time.monotonic()
        async with self.watch.watching(), self.clients.asking(self.names, each):
            yield
            await self.agreed(AGREED_S)
            await self._looked_at(VIEWS_AFTER)

    async def _looked_at(self, times: int) -> None:
        """Return when every node has been looked at so many times from now on."""
        before = len(self.watch.views)

        async def least() -> int:
            seen = Counter(view.node for view in self.watch.views[before:])
            return min(seen[name] for name in self.names)

        await eventually(least, AGREED_S, "every node was looked at", until=lambda count: count >= times)

    async def agreed(self, within_s: float) -> float:
        """How long it took from now until every node would ask every node; fails after `within_s`."""
        return await self.seen(dict.fromkeys(self.names, self.names), within_s)

    async def seen(self, wanted: Mapping[str, Collection[str]], within_s: float) -> float:
        """How long it took from now until each node in `wanted` would ask exactly those; fails if over `within_s`."""
        began = time.monotonic()

        async def views() -> dict[str, list[str]]:
            seen = await asyncio.gather(*(view_of(node, self._urls[node]) for node in wanted))
            return {view.node: sorted(view.names or ()) for view in seen}

        names = {node: sorted(others) for node, others in wanted.items()}
        await eventually(views, within_s + LOOK_S, f"the nodes would ask {names}", until=names.__eq__)
        return time.monotonic() - began

    async def survives(self, schedule: Sequence[Event], each: int, name: str) -> None:
        """Play the schedule on the loaded swarm; fails where a promise is broken. `name` says how to play it again."""
        sys.stdout.write("\n".join((name, *map(str, schedule), "")))
        calm = await self.calm(each)
        async with self.under_load(each):
            await self.director.play(schedule)
        self.assert_kept(calm, name)
        await self.back_to(calm)

    def evictions(self) -> int:
        """How often a node has put out another, by what the nodes say."""
        return sum(node.output.count("\n- peer ") for node in self.swarm)

    def assert_kept(self, calm: Calm, figure: str) -> None:
        """Fails where a promise was broken; `figure` and what else was measured are shown with -s, and then."""
        sys.stdout.write(f"{figure}; {self.figures(calm)}\n")
        broken = self.broken(calm)
        assert not broken, "\n".join(map(str, broken))

    def broken(self, calm: Calm) -> list[Broken]:
        """Every promise broken up to now, except those about what is held in the end."""
        disturbances = self.director.disturbances
        broken = broken_promises(self.clients.history, calm.answers, disturbances)
        broken += slow_pulse(of_survivors(self.watch.pings, disturbances), calm.pings)
        healed_at = max((disturbance.healed_at for disturbance in disturbances), default=self._loaded_at)
        return broken + late_agreement(self.watch.views, self.names, healed_at, AGREED_S)

    def figures(self, calm: Calm) -> str:
        """What was measured, for the table of outcomes."""
        history = self.clients.history
        ends = ", ".join(f"{count} {end}" for end, count in Counter(account.end for account in history).items())
        elsewhere = sum(account.winner not in (None, account.node) for account in history)
        pings = of_survivors(self.watch.pings, self.director.disturbances)
        return (
            f"{len(history)} requests ({ends}), {elsewhere} answered by a peer; "
            f"/livez p99 {p99_s(calm.pings) * 1e3:.0f} ms in calm, {p99_s(pings) * 1e3:.0f} ms of survivors"
        )

    async def back_to(self, calm: Calm) -> None:
        """Return when every node, those started anew included, holds no more than before; fails after BASELINE_S."""

        async def more() -> list[Broken]:
            now = footprints(self.swarm.nodes)
            return [broken for name in now for broken in outgrown(name, calm.footprints[name], now[name])]

        await eventually(more, BASELINE_S, "every node is back to its baseline", until=lambda broken: not broken)
