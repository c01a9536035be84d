"""Nodes find each other over whatever network there is, follow it when it changes, and tell a copy of one apart."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.asking import federation_view, peer_seen
from tests.e2e.network import Machine, Network, run
from tests.e2e.node_process import NodeProcess
from tests.e2e.swarm_of_nodes import JOIN_S, Swarm, all_see, federated
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.netns

MOVED_S = 12.0  # two seconds until it is noticed, one and a half to announce it; the old address has to be given up
TOLD_S = 10.0


def configure(machine: Machine, *words: str) -> None:
    """`ip` in the machine's namespace."""
    run("ip", "-n", machine.namespace, *words)


@pytest.fixture
def pair() -> Iterator[tuple[Machine, Machine]]:
    """Two machines of their own: these tests change their addresses."""
    with Network(("kitchen", "study")) as network:
        kitchen, study = network.machines
        yield kitchen, study


async def addresses_seen(node: NodeProcess, name: str) -> str | None:
    peer = await peer_seen(node, name)
    return None if peer is None or peer["state"] != "alive" else peer["url"]


def local(node: NodeProcess) -> str:
    """The tests stand outside networks that have no IPv4, so these ask through the namespace."""
    assert node.machine is not None
    return run(*node.machine.command("curl", "-gsS", "http://[::1]:17615/v1/federation/health"))


async def test_nodes_find_each_other_where_there_is_only_ipv6(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    for number, machine in enumerate(pair, 1):
        configure(machine, "address", "flush", "dev", "eth0", "scope", "global")
        configure(machine, "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
    with federated(pair, tmp_path, "--federation") as swarm:
        for node in swarm:
            await node.ready()
        kitchen, study = swarm.nodes
        assert kitchen.url == "http://[fd77::1]:17615"

        async def both_joined() -> bool:
            return "+ peer study at [fd77::2]" in kitchen.output and "+ peer kitchen at [fd77::1]" in study.output

        await eventually(both_joined, JOIN_S, "both joined over IPv6")
        assert '"source":"mdns"' in local(kitchen).replace(" ", "")


async def test_a_new_address_is_noticed_announced_and_used(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    study_machine = pair[1]
    moved = study_machine.ip.rsplit(".", 1)[0] + ".77"
    with federated(pair, tmp_path, "--federation") as swarm:
        await swarm.whole()
        kitchen, study = swarm.nodes
        configure(study_machine, "address", "del", f"{study_machine.ip}/24", "dev", "eth0")
        configure(study_machine, "address", "add", f"{moved}/24", "dev", "eth0")

        async def url() -> str | None:
            return await addresses_seen(kitchen, "study")

        await eventually(
            url, MOVED_S, "the kitchen uses the new address", until=lambda seen: seen == f"http://{moved}:17615"
        )
        await study.says(rf"\* this node is now at {moved}")
        view = await federation_view(kitchen)
        assert view is not None
        assert len(view["peers"]) == 1, "it is the same node, not another"
    assert "Traceback" not in study.errors + kitchen.errors


async def test_a_node_started_without_a_network_joins_when_there_is_one(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    _, late = pair
    configure(late, "link", "set", "eth0", "down")
    with federated(pair, tmp_path, "--federation") as swarm:
        for node in swarm:
            await node.ready()
        kitchen, study = swarm.nodes
        assert "loopback" in study.output
        configure(late, "link", "set", "eth0", "up")

        async def joined() -> bool:
            return "+ peer study at" in kitchen.output and "+ peer kitchen at" in study.output

        await eventually(joined, MOVED_S, "the late one is found")


async def test_a_node_on_two_networks_is_one_peer_of_two_addresses(
    pair: tuple[Machine, Machine], tmp_path: Path
) -> None:
    for number, machine in enumerate(pair, 1):
        configure(machine, "link", "add", "wlan0", "link", "eth0", "type", "macvlan", "mode", "bridge")
        configure(machine, "address", "add", f"10.99.0.{number}/24", "dev", "wlan0")
        configure(machine, "link", "set", "wlan0", "up")
        configure(machine, "link", "add", "docker0", "type", "bridge")
        configure(machine, "address", "add", "172.17.0.1/16", "dev", "docker0")
        configure(machine, "link", "set", "docker0", "up")
    with federated(pair, tmp_path, "--federation") as swarm:
        await swarm.whole()
        kitchen, study = swarm.nodes
        assert "passed over docker0 (container or virtual machine bridge)" in kitchen.output
        assert study.machine is not None
        configure(study.machine, "address", "del", f"{study.machine.ip}/24", "dev", "eth0")

        async def url() -> str | None:
            return await addresses_seen(kitchen, "study")

        await eventually(url, MOVED_S, "the other network is used", until=lambda seen: seen == "http://10.99.0.2:17615")
        view = await federation_view(kitchen)
        assert view is not None
        assert not [entry for entry in view["rejected"] if entry["address"].startswith("172.17.")]


@pytest.fixture
def silent() -> Iterator[Network]:
    """Three machines without multicast."""
    with Network(("kitchen", "study", "attic")) as network:
        for machine in network.machines:
            machine.block_multicast()
        yield network


async def test_every_address_of_a_name_is_a_candidate(silent: Network, tmp_path: Path) -> None:
    """As a headless Service names all pods, the asking one included: from a hosts file, without multicast."""
    network = silent
    hosts = "".join(f"{machine.ip} swarm.example\n" for machine in network.machines)
    folder = Path("/etc/netns")
    files = [folder / machine.namespace / "hosts" for machine in network.machines]
    try:
        for file in files:  # `ip netns exec` puts these over /etc/hosts
            file.parent.mkdir(parents=True)
            file.write_text(hosts)
        with federated(network.machines, tmp_path, "--peer", "swarm.example") as swarm:
            await swarm.whole()
            for node in swarm:
                view = await federation_view(node)
                assert view is not None
                assert {peer["source"] for peer in view["peers"]} == {"dns"}
                (name,) = view["names"]
                assert sorted(name["addresses"]) == sorted(f"{machine.ip}:17615" for machine in network.machines)
                assert [entry["why"] for entry in view["rejected"]] == ["itself"]
                assert node.errors == "", "its own address among the name's is nothing to warn of"
    finally:
        for file in files:
            shutil.rmtree(file.parent, ignore_errors=True)


async def test_a_copied_data_directory_is_refused_with_its_name(network: Network, tmp_path: Path) -> None:
    kitchen_machine, study_machine, attic_machine = network.machines
    kitchen = NodeProcess("kitchen", tmp_path / "kitchen", kitchen_machine, ["--federation"])
    study = NodeProcess("study", tmp_path / "study", study_machine, ["--federation"])
    with Swarm([kitchen, study]) as swarm:
        await swarm.whole()
        shutil.copytree(tmp_path / "study" / "data", tmp_path / "attic" / "data")
        with NodeProcess("attic", tmp_path / "attic", attic_machine, ["--federation"]) as copy:
            await copy.ready()

            async def all_told() -> bool:
                return (
                    "(attic) uses this node's id" in study.output
                    and "(study) uses this node's id" in copy.output
                    and f"! {attic_machine.ip}:17615 uses the id of study" in kitchen.output
                )

            await eventually(all_told, TOLD_S, "everybody is told which two share an id, and where")
            peer = await peer_seen(kitchen, "study")
            assert peer is not None
            assert (peer["state"], peer["url"]) == ("alive", study.url)
        assert "- peer study" not in kitchen.output, "the original is unharmed, also by the copy's end"
        await all_see((kitchen, study), (kitchen, study), JOIN_S)


async def test_peers_that_are_none_are_called_by_their_name(network: Network, tmp_path: Path) -> None:
    machine = network.machines[0]
    with closing(socket.create_server(("0.0.0.0", 0))) as mute:
        outside = machine.ip.rsplit(".", 1)[0] + ".254"
        useless = (f"{machine.ip}:17615", f"{machine.ip}:1", f"{outside}:{mute.getsockname()[1]}", "nobody.invalid")
        arguments = [word for peer in useless for word in ("--peer", peer)]
        with NodeProcess("brave", tmp_path / "brave", machine, arguments) as node:
            await node.ready()

            async def why() -> dict[str, str]:
                view = await federation_view(node)
                assert view is not None
                return {entry["address"]: entry["why"] for entry in view["rejected"]}

            wanted = {useless[1]: "down", useless[2]: "down"}
            await eventually(why, TOLD_S, "each has its word", until=lambda seen: wanted.items() <= seen.items())
            view = await federation_view(node)
            assert view is not None
            assert [name["name"] for name in view["names"] if name["problem"]] == ["nobody.invalid:17615"]
            await node.says(f"! --peer {useless[0]} is this node's own address: it is dropped")
            for peer in useless[1:]:
                await node.says(f"no peer at {peer}")


async def test_a_list_of_peers_is_read_again_when_it_changes(silent: Network, tmp_path: Path) -> None:
    kitchen_machine, study_machine, _ = silent.machines
    peers = tmp_path / "peers.txt"
    peers.write_text("# nobody yet\n")
    kitchen = NodeProcess("kitchen", tmp_path / "kitchen", kitchen_machine, ["--peer-file", str(peers)])
    study = NodeProcess("study", tmp_path / "study", study_machine, ["--federation"])
    with Swarm([kitchen, study]) as swarm:
        for node in swarm:
            await node.ready()
        peers.write_text(f"{study_machine.ip}  # the study\n")
        await all_see((kitchen, study), (kitchen, study), TOLD_S)
        peer = await peer_seen(kitchen, "study")
        assert peer is not None
        assert peer["source"] == "static"


async def test_two_machines_on_a_bare_cable_find_each_other(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    """No router, no DHCP: each has nothing but the IPv6 address that it gave itself."""
    for machine in pair:
        configure(machine, "address", "flush", "dev", "eth0", "scope", "global")
    with federated(pair, tmp_path, "--federation") as swarm:
        for node in swarm:
            await node.ready()
        kitchen, study = swarm.nodes

        async def both_joined() -> bool:
            return "+ peer study at [fe80::" in kitchen.output and "+ peer kitchen at [fe80::" in study.output

        await eventually(both_joined, JOIN_S, "both joined over link-local addresses")
