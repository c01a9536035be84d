"""Whether a network that loses packets costs a swarm any of its living nodes: how often one drops another.

In each swarm every node loses the same share of what reaches it from the other nodes, probes, answers and mDNS alike.
Nobody dies, so every line by which a node says that a peer is gone is a false eviction. One client asks votes of all
meanwhile: real requests over the same links.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

from clients import asking
from measure import Figure, Target
from namespaces import Stage, endpoint, stage
from report import progress

from tests.e2e.network import OWN_HOST, Machine, run

NODES = ("kitchen", "study", "attic")
SWARM = {"model": "swarm"}
PAUSE_S = 0.5  # two votes a second: more would measure the machine
STEP_S = 30.0  # between two lines for whoever waits
PROMISED_PERCENT = 10  # the share of packets at which nobody may be dropped
NONE = Target("at most", 0.0)

_LEFT = re.compile(r"^- peer .*$", re.MULTILINE)


async def lossy(minutes: float, percents: Sequence[int]) -> list[Figure]:
    """One swarm for each share of lost packets, all at the same time."""
    found = await asyncio.gather(*(_one_swarm(minutes, percent) for percent in percents))
    return [figure for figures in found for figure in figures]


async def _one_swarm(minutes: float, percent: int) -> list[Figure]:
    async with stage(dict.fromkeys(NODES, ("--federation",))) as at:
        await at.whole()
        for machine in at.network.machines:
            lose(machine, percent)
        async with asking([endpoint(at.nodes["kitchen"])], [SWARM], PAUSE_S) as account:
            for _ in range(max(1, round(minutes * 60 / STEP_S))):
                await asyncio.sleep(min(STEP_S, minutes * 60))
                progress(f"{percent} % lost: {len(evictions(at))} evictions; {account.summary()}")
        left = evictions(at)
        for line in left:
            progress(f"{percent} % lost: {line}")
        lost, seen = (sum(counted(machine, name) for machine in at.network.machines) for name in ("lost", "seen"))
    target = NONE if percent <= PROMISED_PERCENT else None
    return [
        Figure(f"false evictions in {minutes:g} minutes at {percent} % loss", "", (float(len(left)),), target),
        Figure(f"packets really lost of {percent} %", "%", (100 * lost / max(1, seen),)),
        Figure(f"votes answered at {percent} % loss", "%", (account.percent,)),
    ]


def evictions(at: Stage) -> list[str]:
    """Every time that a node said of another that it is gone."""
    return [f"{node.name}: {line}" for node in at.nodes.values() for line in _LEFT.findall(node.output)]


def lose(machine: Machine, percent: int) -> None:
    """Drop that share of what reaches the machine from other nodes, but nothing of this process's questions."""
    own = f"{machine.ip.rsplit('.', 1)[0]}.{OWN_HOST}"
    rules = f"""
    table inet loss {{
        counter seen {{ }}
        counter lost {{ }}
        chain incoming {{
            type filter hook input priority 0
            ip saddr {own} accept
            iifname "eth0" counter name seen numgen random mod 100 < {percent} counter name lost drop
        }}
    }}
    """
    run(*machine.command("nft", "-f", "-"), stdin=rules)


def counted(machine: Machine, counter: str) -> int:
    """Packets that one of `lose`'s counters has seen."""
    listing = json.loads(run(*machine.command("nft", "-j", "list", "counter", "inet", "loss", counter)))
    return next(int(entry["counter"]["packets"]) for entry in listing["nftables"] if "counter" in entry)
