"""`swarm doctor` in network namespaces: one healthy swarm, and networks and disks that are really broken."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.network import Machine, Network, run
from tests.e2e.node_process import PROGRAM, environment
from tests.e2e.swarm_of_nodes import federated

pytestmark = pytest.mark.netns

DOCTOR_S = 60.0
CLOSED = """
table inet closed {
    chain incoming {
        type filter hook input priority 0;
        tcp dport 17615 drop
    }
}
"""


@dataclass(frozen=True, slots=True)
class Visit:
    """What the doctor found: check -> level, and the failures' remedies."""

    exit_code: int
    levels: dict[str, str]
    remedies: dict[str, str]


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    with Network(("kitchen", "study")) as network:
        kitchen, study = network.machines
        yield kitchen, study


def visit(machine: Machine, folder: Path, *arguments: str) -> Visit:
    command = machine.command(*PROGRAM, "doctor", "--json", "--data-dir", str(folder / "data"), *arguments)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DOCTOR_S, check=False, env=environment(folder)
    )
    assert "Traceback" not in done.stderr, done.stderr
    findings = json.loads(done.stdout)["findings"]
    return Visit(
        done.returncode,
        {finding["check"]: finding["level"] for finding in findings},
        {finding["check"]: finding["remedy"] for finding in findings if finding["level"] == "fail"},
    )


def test_a_machine_alone_is_well(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    found = visit(pair[0], tmp_path)
    assert found.remedies == {}
    assert found.exit_code == 0
    assert (found.levels["port"], found.levels["interface"], found.levels["multicast"]) == ("ok", "ok", "ok")


async def test_a_healthy_swarm_is_reachable_both_ways_until_a_filter_closes_the_way_back(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    kitchen, study = pair
    with federated(pair, tmp_path, "--federation") as swarm:
        await swarm.whole()
        found = await asyncio.to_thread(visit, kitchen, tmp_path / "kitchen")
        assert found.exit_code == 0, found
        assert found.levels[f"peer study ({study.ip}:17615)"] == "ok"
        assert found.levels["clock"] == "ok"
        run(*kitchen.command("nft", "-f", "-"), stdin=CLOSED)
        try:
            again = await asyncio.to_thread(visit, kitchen, tmp_path / "kitchen")
            assert again.exit_code == 1
            assert "tcp dport 17615 accept" in again.remedies["firewall"]
        finally:
            run(*kitchen.command("nft", "delete", "table", "inet", "closed"))


def test_blocked_multicast_is_named_twice(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    pair[0].block_multicast()
    found = visit(pair[0], tmp_path)
    assert found.exit_code == 1
    assert "UDP 5353" in found.remedies["multicast"]
    assert "udp dport 5353 accept" in found.remedies["firewall"]


def test_a_machine_that_is_unplugged_is_told_so(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    run("ip", "-n", pair[0].namespace, "link", "set", "eth0", "down")
    found = visit(pair[0], tmp_path)
    assert "connect this machine" in found.remedies["interface"]


def test_a_full_disk_is_named(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    disk = tmp_path / "data"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    try:
        (disk / "rubbish").write_bytes(bytes(1_000_000))
        found = visit(pair[0], tmp_path)
    finally:
        run("umount", str(disk))
    assert "--data-dir" in found.remedies["disk"]


def test_a_peer_behind_a_filter_is_named(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    kitchen, study = pair
    run(*study.command("nft", "-f", "-"), stdin=CLOSED)
    found = visit(kitchen, tmp_path, "--peer", study.ip)
    assert "through the firewall there" in found.remedies[f"peer {study.ip}:17615"]
