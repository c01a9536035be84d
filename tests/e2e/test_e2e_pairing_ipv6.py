"""Pairing where there is no IPv4: over addresses of the network's own, and on a bare cable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.network import Machine, Network, run
from tests.e2e.swarm_of_nodes import federated
from tests.e2e.test_e2e_discovery import configure
from tests.e2e.test_e2e_paired import PAIRED_S, swarm_command
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.netns

OWN_S = 10.0  # duplicate address detection takes one or two


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    with Network(("kitchen", "study")) as network:
        kitchen, study = network.machines
        yield kitchen, study


async def addresses_are_its_own(machine: Machine) -> None:
    """Return once the machine may use its addresses: for a second it asks whether another has them."""

    async def tentative() -> str:
        return run(*machine.command("ip", "-6", "address", "show", "dev", "eth0", "tentative"))

    await eventually(tentative, OWN_S, f"{machine.name} may use its addresses", until=lambda listed: not listed)


@pytest.mark.parametrize("prefix", ["fd77::", "fe80::"])
async def test_two_machines_pair_over_ipv6(pair: tuple[Machine, Machine], tmp_path: Path, prefix: str) -> None:
    for number, machine in enumerate(pair, 1):
        configure(machine, "address", "flush", "dev", "eth0", "scope", "global")
        if prefix == "fd77::":
            configure(machine, "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
        await addresses_are_its_own(machine)
    with federated(pair, tmp_path, "--federation") as swarm:
        for node in swarm:
            await node.ready()
        kitchen, study = swarm.nodes
        invited = await swarm_command(kitchen, tmp_path, "invite")
        assert f"[{prefix}" in str(invited["addresses"])
        joined = await swarm_command(study, tmp_path, "join", str(invited["code"]))
        assert joined["inviter"] == "kitchen"

        async def alive() -> list[str]:
            nodes = [(await swarm_command(node, tmp_path, "peers"))["nodes"] for node in (kitchen, study)]
            return [peer["state"] for peers in nodes for peer in peers]  # type: ignore[attr-defined]

        await eventually(alive, PAIRED_S, "both see each other as members", until=["alive", "alive"].__eq__)
        for node in swarm:
            assert "Traceback" not in node.logs()
