"""Probes of the network from this machine: the port, multicast, firewalls. Each blocks; none changes anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from federation.interfaces import hears_itself, read_interfaces, why_not_sendable
from swarm.doctor.firewall import (
    Passage,
    read_firewalld,
    read_iptables,
    read_macos,
    read_nft,
    read_ufw,
    read_windows,
)
from swarm.doctor.network_checks import MulticastResult
from swarm.errors import SetupError
from swarm.node.listeners import open_listeners

MULTICAST_TIMEOUT_S: Final = 1.0  # the packet does not leave the machine: it takes microseconds
COMMAND_TIMEOUT_S: Final = 10.0
NOT_SEEN: Final = "only the administrator can read its rules"
REMEDY_SEEN: Final = "sudo swarm doctor"


def why_not_free(bind_hosts: Sequence[str], port: int) -> str | None:
    """What the system says to a node that wants this port; None if it is free."""
    try:
        listeners = open_listeners(bind_hosts, port)
    except SetupError as error:
        return str(error)
    for listener in listeners:
        listener.close()
    return None


def probe_multicast(addresses: Sequence[str]) -> dict[str, MulticastResult]:
    """Send one empty mDNS packet from each address and listen for it."""
    interfaces = read_interfaces()

    def send(address: str) -> MulticastResult:
        if why_not_sendable(address, interfaces) is not None:
            return "not sent"
        match hears_itself(address, interfaces, MULTICAST_TIMEOUT_S):
            case True:
                return "received"
            case False:
                return "not received"
            case None:
                return "untried"

    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as threads:
        return dict(zip(addresses, threads.map(send, addresses), strict=True))


def probe_firewalls(port: int) -> list[Passage]:
    """What each firewall that is found here does; by their own listings, read only."""
    if sys.platform == "darwin":
        state = _output("/usr/libexec/ApplicationFirewall/socketfilterfw", "--getglobalstate")
        return [] if state is None else [read_macos(state)]
    if sys.platform == "win32":
        state = _output("netsh", "advfirewall", "show", "currentprofile", "state")
        return [] if state is None else [read_windows(state)]
    return _linux_firewalls(port)


def _linux_firewalls(port: int) -> list[Passage]:
    """Those that write the others' rules come first: what they say is theirs to judge."""
    ufw = _output("ufw", "status")
    if ufw is not None and "Status: active" in ufw:
        return [read_ufw(ufw, port)]
    if (_output("firewall-cmd", "--state") or "").strip() == "running":
        listing = _output("firewall-cmd", "--list-all")
        return [_read("firewalld", listing, lambda text: read_firewalld(text, port))]
    found: list[Passage] = []
    if shutil.which("nft"):
        found.append(_read("nftables", _output("nft", "list", "ruleset"), lambda text: read_nft(text, port)))
    if shutil.which("iptables"):
        found.append(_read("iptables", _output("iptables", "-S"), lambda text: read_iptables(text, port)))
    return found


def _read(tool: str, listing: str | None, read: Callable[[str], Passage]) -> Passage:
    return Passage(tool, "unknown", "unknown", f"{NOT_SEEN} ({REMEDY_SEEN})") if listing is None else read(listing)


def _output(*command: str) -> str | None:
    """What it prints; None if it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
