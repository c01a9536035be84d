"""Listings as the tools print them."""

from __future__ import annotations

import pytest

from swarm.doctor.finding import Level
from swarm.doctor.firewall import (
    Passage,
    read_firewalld,
    read_iptables,
    read_macos,
    read_nft,
    read_ufw,
    read_windows,
)
from swarm.doctor.network_checks import check_firewall

PORT = 17615


def nft(policy: str, *rules: str, hook: str = "input") -> str:
    body = "\n".join(f"\t\t{rule}" for rule in rules)
    return (
        f"table inet filter {{\n\tchain x {{\n\t\ttype filter hook {hook} priority filter; policy {policy};\n"
        f"{body}\n\t}}\n}}\n"
    )


ESTABLISHED = "ct state established,related accept"
LOOPBACK = 'iif "lo" accept'


@pytest.mark.parametrize(
    ("listing", "node", "mdns"),
    [
        ("", "open", "open"),
        (nft("accept"), "open", "open"),
        (nft("drop"), "blocked", "blocked"),
        (nft("drop", ESTABLISHED, LOOPBACK), "blocked", "blocked"),
        (nft("drop", ESTABLISHED, "tcp dport 17615 accept", "udp dport 5353 accept"), "open", "open"),
        (nft("drop", "tcp dport { 22, 17600-17700 } accept", "udp dport mdns accept"), "open", "open"),
        (nft("drop", "tcp dport 22 accept"), "blocked", "blocked"),
        (nft("drop", 'iifname "eth0" accept'), "unknown", "unknown"),
        (nft("drop", "ip saddr 192.168.0.0/16 tcp dport 17615 accept"), "unknown", "blocked"),
        (nft("drop", "jump LOCAL"), "unknown", "unknown"),
        (nft("accept", "tcp dport 17615 counter packets 3 bytes 180 drop"), "blocked", "open"),
        (nft("accept", "udp dport 5353 counter name dropped drop"), "open", "blocked"),
        (nft("accept", "tcp dport 22 accept", "counter packets 0 bytes 0 reject"), "blocked", "blocked"),
        (nft("drop", hook="forward"), "open", "open"),
        (nft("accept") + nft("drop"), "blocked", "blocked"),
    ],
)
def test_nftables(listing: str, node: str, mdns: str) -> None:
    passage = read_nft(listing, PORT)
    assert (passage.tool, passage.node, passage.mdns) == ("nftables", node, mdns)


@pytest.mark.parametrize(
    ("listing", "node", "mdns"),
    [
        ("-P INPUT ACCEPT", "open", "open"),
        ("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT", "blocked", "blocked"),
        ("-P INPUT DROP\n-A INPUT -p tcp -m tcp --dport 17615 -j ACCEPT", "open", "blocked"),
        ("-P INPUT DROP\n-A INPUT -p udp -m multiport --dports 53,5353 -j ACCEPT", "blocked", "open"),
        ("-P INPUT DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT", "unknown", "unknown"),
        ("-P INPUT DROP\n-A INPUT -j ufw-before-input", "unknown", "unknown"),
        ("-P INPUT ACCEPT\n-A INPUT -p tcp -m tcp --dport 17000:18000 -j REJECT", "blocked", "open"),
        ("-P INPUT ACCEPT\n-A INPUT -m conntrack --ctstate RELATED -j ACCEPT\n-A INPUT -j DROP", "blocked", "blocked"),
    ],
)
def test_iptables(listing: str, node: str, mdns: str) -> None:
    passage = read_iptables(listing, PORT)
    assert (passage.tool, passage.node, passage.mdns) == ("iptables", node, mdns)


@pytest.mark.parametrize(
    ("status", "node"),
    [
        ("Status: inactive\n", "open"),
        ("Status: active\n\nTo   Action  From\n22/tcp   ALLOW  Anywhere\n", "blocked"),
        ("Status: active\n\n17615/tcp                  ALLOW       Anywhere\n", "open"),
        ("Status: active\n\n17615                  DENY       Anywhere\n", "blocked"),
        ("Status: active\n\nAnywhere    ALLOW       192.168.1.0/24\n", "unknown"),
        ("ERROR", "unknown"),
    ],
)
def test_ufw(status: str, node: str) -> None:
    assert read_ufw(status, PORT).node == node


@pytest.mark.parametrize(
    ("listing", "node", "mdns"),
    [
        ("public\n  target: default\n  services: ssh mdns\n  ports: 17615/tcp\n", "open", "open"),
        ("public\n  target: default\n  services: ssh\n  ports: 17600-17700/tcp 5353/udp\n", "open", "open"),
        ("public\n  target: default\n  services: ssh dhcpv6-client\n  ports: \n", "blocked", "blocked"),
        ("trusted\n  target: ACCEPT\n  services: \n  ports: \n", "open", "open"),
    ],
)
def test_firewalld(listing: str, node: str, mdns: str) -> None:
    passage = read_firewalld(listing, PORT)
    assert (passage.tool, passage.node, passage.mdns) == ("firewalld", node, mdns)


@pytest.mark.parametrize("tool", ["ufw", "firewalld", "nftables", "iptables", "Windows"])
def test_every_remedy_opens_the_one_port_and_mdns(tool: str) -> None:
    remedy = Passage(tool, "blocked", "blocked").remedy(PORT)
    assert "17615" in remedy
    assert "17616" not in remedy, "machines join at the node's own port"
    assert "mdns" in remedy or "5353" in remedy


OUTPUT_DROP = "-P INPUT ACCEPT\n-P OUTPUT DROP\n"


@pytest.mark.parametrize(
    ("passage", "node_out", "mdns_out"),
    [
        (read_nft(nft("accept", "udp dport 5353 drop", hook="output"), PORT), "open", "blocked"),
        (read_nft(nft("drop", ESTABLISHED, 'oif "lo" accept', hook="output"), PORT), "blocked", "blocked"),
        (read_nft(nft("drop", "tcp dport 17615 accept", "udp dport mdns accept", hook="output"), PORT), "open", "open"),
        (read_nft(nft("drop", "udp dport { 53, 5353 } accept", hook="output"), PORT), "blocked", "open"),
        (read_nft(nft("drop", "jump LOCAL", hook="output"), PORT), "unknown", "unknown"),
        (read_nft(nft("drop", 'oifname "eth0" accept', hook="output"), PORT), "unknown", "unknown"),
        (read_nft(nft("drop"), PORT), "open", "open"),
        (read_iptables(OUTPUT_DROP, PORT), "blocked", "blocked"),
        (read_iptables(f"{OUTPUT_DROP}-A OUTPUT -o lo -j ACCEPT", PORT), "blocked", "blocked"),
        (read_iptables(f"{OUTPUT_DROP}-A OUTPUT -p udp -m udp --dport 5353 -j ACCEPT", PORT), "blocked", "open"),
        (read_iptables("-P OUTPUT ACCEPT\n-A OUTPUT -p udp -m udp --dport 5353 -j DROP", PORT), "open", "blocked"),
        (read_iptables("-P OUTPUT ACCEPT\n-A INPUT -p udp --dport 5353 -j DROP", PORT), "open", "open"),
        (read_iptables(f"{OUTPUT_DROP}-A OUTPUT -j ufw-before-output", PORT), "unknown", "unknown"),
    ],
)
def test_what_goes_out_may_be_blocked_too(passage: Passage, node_out: str, mdns_out: str) -> None:
    assert (passage.node_out, passage.mdns_out) == (node_out, mdns_out)
    if passage.tool == "nftables" and "input" not in passage.remedy(PORT):
        assert passage.node == "open"


@pytest.mark.parametrize(
    ("passage", "chain", "other"),
    [
        (read_nft(nft("accept", "udp dport 5353 drop", hook="output"), PORT), "output", "input"),
        (read_nft(nft("accept", "udp dport 5353 drop"), PORT), "input", "output"),
        (read_iptables(OUTPUT_DROP, PORT), "OUTPUT", "INPUT"),
        (read_iptables("-P INPUT DROP", PORT), "INPUT", "OUTPUT"),
    ],
)
def test_the_chain_that_blocks_is_the_one_that_is_named(passage: Passage, chain: str, other: str) -> None:
    finding = check_firewall(PORT, [passage])
    assert finding.level is Level.FAIL
    assert ("on the way out" in finding.message) == (chain.lower() == "output")
    assert finding.remedy is not None
    assert chain in finding.remedy
    assert other not in finding.remedy


def test_what_asks_for_each_program_is_unknown_while_it_is_on() -> None:
    assert read_macos("Firewall is disabled. (State = 0)").node == "open"
    assert read_macos("Firewall is enabled. (State = 1)").node == "unknown"
    assert read_windows("Domain Profile Settings:\nState                                 OFF\n").node == "open"
    assert read_windows("State                                 ON\n").node == "unknown"
