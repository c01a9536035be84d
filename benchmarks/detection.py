"""How soon a swarm notices what happens to a node: it comes, is killed, frozen, thawed, cut off, reached again.

Times are what a client would see: until the last of the other nodes, each asked every 15 ms, routes so. Random pauses
keep the trials out of step with the probes.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time
from dataclasses import dataclass, replace

from clients import asking
from load import Json
from measure import Figure, Target
from namespaces import Stage, endpoint, ready_at, stage
from report import progress

from tests.e2e.node_process import NodeProcess

FEDERATED = ("--federation",)
RESIDENTS = ("kitchen", "study", "attic")
LONGEST_S = 30.0  # far beyond every promise: a trial that takes longer is an error, not a figure
STEP_S = 3.0  # pauses are drawn from up to this: longer than the interval of every probe
SETTLE_S = 1.5  # after a change: the probes that were under way are over
FIRST_GUEST_HOST = 10  # of the subnet; the residents count up from 1

READY_TARGET = Target("at most", 1.5)
KILLED_TARGET = Target("at most", 2.0)
ANSWERED_TARGET = Target("at least", 100.0)
FROZEN_TARGET = Target("at most", 6.0)
THAWED_TARGET = Target("at most", 5.0)
HEALED_TARGET = Target("at most", 10.0)


async def joining(trials: int) -> list[Figure]:
    """A newcomer, never seen before and at an address of its own, in each trial; nobody is told any address."""
    cold: list[float] = []
    usable: list[float] = []
    async with stage(dict.fromkeys(RESIDENTS, FEDERATED), spare=("guest",)) as at:
        await at.whole()
        for trial in range(trials):
            start_s, join_s = await _one_joins(at, trial)
            cold.append(start_s)
            usable.append(join_s)
            progress(f"join {trial + 1}/{trials}: ready after {start_s:.2f} s, usable {join_s:.2f} s later")
    return [
        Figure("cold start: command to `ready`", "s", tuple(cold)),
        Figure("`ready` to usable by three others over mDNS", "s", tuple(usable), READY_TARGET),
    ]


async def _one_joins(at: Stage, trial: int) -> tuple[float, float]:
    """Seconds from the command to `ready`, and from there until all residents route to the newcomer."""
    name = f"guest{trial}"
    machine = at.machine("guest")
    moved = replace(machine, ip=f"{machine.ip.rsplit('.', 1)[0]}.{FIRST_GUEST_HOST + trial}")
    at.give_address(machine, moved.ip)
    node = at.node(name, moved, FEDERATED)
    residents = tuple(at.nodes.values())
    begun = time.perf_counter()
    with node:
        joined = asyncio.create_task(at.instant(residents, lambda seen: name in seen, LONGEST_S, f"{name} has joined"))
        ready = await ready_at(node)
        usable = await joined
        await at.found_by_mdns(node, residents)
        node.send(signal.SIGTERM)
        await node.ended(LONGEST_S)
    shutil.rmtree(at.folder / name)
    await at.instant(residents, lambda seen: name not in seen, LONGEST_S, f"{name} has left")
    return ready - begun, usable - ready


async def killing(trials: int) -> list[Figure]:
    """`kill -9` of one node of four while clients of the others ask: for votes of all, and for a model of its own kind.

    Two nodes serve `demo:b`; who asks the other two for it is answered by either, and by the survivor after the kill.
    """
    dice, out = random.Random(1), list[float]()
    shares: list[float] = []
    other_model = ("--federation", "--model", "demo:b")
    members = {"kitchen": FEDERATED, "study": FEDERATED, "attic": other_model, "cellar": other_model}
    kinds: list[Json] = [{"model": "swarm"}, {"model": "demo-b", "swarm": {"strategy": "single"}}]
    async with stage(members) as at:
        await at.whole()
        *survivors, victim = at.nodes.values()
        kinds[1]["model"] = await at.model_of(victim)
        for trial in range(trials):
            async with asking([endpoint(node) for node in survivors], kinds) as account:
                await asyncio.sleep(dice.uniform(1, STEP_S))
                killed = time.perf_counter()
                victim.kill()
                noticed = await at.instant(survivors, lambda seen: "cellar" not in seen, LONGEST_S, "cellar is out")
                await asyncio.sleep(SETTLE_S)
            out.append(noticed - killed)
            shares.append(account.percent)
            progress(f"kill {trial + 1}/{trials}: out after {out[-1]:.2f} s; {account.summary()}")
            victim.start()
            await ready_at(victim)
            await at.whole()
    return [
        Figure("`kill -9` to out of routing", "s", tuple(out), KILLED_TARGET),
        Figure("requests to the survivors answered meanwhile", "%", tuple(shares), ANSWERED_TARGET),
    ]


@dataclass(frozen=True, slots=True)
class Freezes:
    """What one victim's trials came to."""

    out: list[float]
    back: list[float]


async def freezing(trials: int) -> list[Figure]:
    """SIGSTOP and SIGCONT. Two nodes of five are each frozen on their own, which halves the time of the run."""
    found = Freezes([], [])
    async with stage(dict.fromkeys((*RESIDENTS, "cellar", "garage"), FEDERATED)) as at:
        await at.whole()
        watching = [at.nodes[name] for name in RESIDENTS]
        async with asyncio.TaskGroup() as tasks:
            for victim, count in (("cellar", (trials + 1) // 2), ("garage", trials // 2)):
                tasks.create_task(_freeze(at, watching, at.nodes[victim], count, found))
    return [
        Figure("SIGSTOP to out of routing", "s", tuple(found.out), FROZEN_TARGET),
        Figure("SIGCONT to routed to again", "s", tuple(found.back), THAWED_TARGET),
    ]


async def _freeze(at: Stage, watching: list[NodeProcess], victim: NodeProcess, count: int, found: Freezes) -> None:
    dice, name = random.Random(victim.name), victim.name
    for _ in range(count):
        await asyncio.sleep(dice.uniform(0, STEP_S))
        frozen = time.perf_counter()
        victim.send(signal.SIGSTOP)
        try:
            noticed = await at.instant(watching, lambda seen: name not in seen, LONGEST_S, f"{name} is out")
            await asyncio.sleep(dice.uniform(0, STEP_S))
        finally:
            thawed = time.perf_counter()
            victim.send(signal.SIGCONT)
        back = await at.instant(watching, lambda seen: name in seen, LONGEST_S, f"{name} is back")
        await asyncio.sleep(SETTLE_S)
        found.out.append(noticed - frozen)
        found.back.append(back - thawed)
        progress(f"freeze {name}: out after {noticed - frozen:.2f} s, back after {back - thawed:.2f} s")


async def parting(trials: int) -> list[Figure]:
    """Two nodes of five are cut off from the other three until both sides have noticed, then reached again."""
    dice, apart, healed = random.Random(3), list[float](), list[float]()
    here, there = ("cellar", "garage"), RESIDENTS
    async with stage(dict.fromkeys((*there, *here), FEDERATED)) as at:
        await at.whole()
        for trial in range(trials):
            await asyncio.sleep(dice.uniform(SETTLE_S, STEP_S))
            begun = time.perf_counter()
            at.cut(here)
            try:
                both_noticed = await asyncio.gather(
                    *(
                        at.instant([at.nodes[name] for name in side], frozenset(side).__eq__, LONGEST_S, "apart")
                        for side in (here, there)
                    )
                )
                await asyncio.sleep(dice.uniform(0, STEP_S))
            finally:
                at.heal()
            mended = time.perf_counter()
            healed.append(await at.whole() - mended)
            apart.append(max(both_noticed) - begun)
            progress(f"partition {trial + 1}/{trials}: apart {apart[-1]:.2f} s, one again {healed[-1]:.2f} s")
    return [
        Figure("partition to both sides routing among themselves only", "s", tuple(apart)),
        Figure("partition healed to the same view everywhere", "s", tuple(healed), HEALED_TARGET),
    ]
