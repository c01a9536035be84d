"""Checks of the network and of each peer: facts in, findings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import BaseModel

from federation.addresses import AddressKind, AnnouncedAddresses
from swarm.doctor.finding import Finding, fail, ok, troubled, unknown, warn
from swarm.doctor.firewall import Passage
from swarm.gateway.observing.findings import (
    key_and_peers_trouble,
    put_out_trouble,
    rejected_trouble,
    versions_trouble,
)
from swarm.node.listeners import another_port

CLOCK_WARN_S: Final = 30.0  # more than any round trip or header's rounding explains
CLOCK_FAIL_S: Final = 300.0  # half the life of an invitation

PortUse = Literal["free", "node", "other", "refused"]
MulticastResult = Literal["received", "not received", "not sent", "untried"]


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer as this machine reaches it. `node_says` is its state as the node that runs here sees it, if one runs.

    `sees_us`: whether it counts the node that runs here among its peers; None where that is unknown.
    `clock_ahead_s` is by how much its clock is ahead of this machine's. `remedy` goes with a particular `problem`.
    `is_absent`: a member of this swarm that does not answer where it was last; it may just be off.
    """

    address: str
    name: str | None = None
    problem: str | None = None
    version: str | None = None
    other_protocol: bool = False
    clock_ahead_s: float | None = None
    sees_us: bool | None = None
    node_says: str | None = None
    remedy: str | None = None
    is_absent: bool = False

    @property
    def label(self) -> str:
        return self.address if self.name is None else f"{self.name} ({self.address})"


class Rejected(BaseModel):
    """An address that the node that runs here does not take for a peer, as it reports it."""

    address: str
    source: str
    why: str
    reason: str


def check_port(port: int, use: PortUse, detail: str = "") -> Finding:
    match use:
        case "free":
            return ok("port", f"{port} is free")
        case "node":
            return ok("port", f"{port}: {detail or 'a node of the swarm runs here'}")
        case "other":
            return fail(
                "port",
                f"{port} is taken by another program{f' ({detail})' if detail else ''}",
                f"stop it, or use another: swarm --port {another_port(port)}",
            )
        case "refused":
            return fail(
                "port", f"{port} cannot be listened on: {detail}", f"use another: swarm --port {another_port(port)}"
            )


def check_interfaces(chosen: AnnouncedAddresses | None, problem: str = "") -> Finding:
    if chosen is None:
        return fail("interface", problem, "name an interface or address of this machine, or leave the option out")
    message = f"{', '.join(chosen.announce)} would be announced: {chosen.reason}"
    match chosen.kind:
        case AddressKind.LAN:
            return ok("interface", message)
        case AddressKind.LOOPBACK:
            return fail(
                "interface",
                message,
                "connect this machine to a network, or leave --host out: no other machine can reach this node now",
            )
        case AddressKind.CONTAINER:
            remedy = "inside a container publish the port, or run it with --network host"
            return warn("interface", message, remedy)
        case AddressKind.TUNNEL:
            return warn("interface", message, "only nodes in that VPN can reach it; join a local network for others")
        case AddressKind.LINK_LOCAL:
            return warn("interface", message, "no DHCP server answered: check the router, or set an address by hand")


def check_multicast(results: Mapping[str, MulticastResult]) -> Finding:
    """`results` by address: whether an mDNS packet sent from there came back to this machine."""
    remedy = "let UDP 5353 in and out of this machine's firewall, or name nodes with --peer HOST:PORT"
    if not results:
        return unknown("multicast", "there is no address to send from", "connect this machine to a network")
    not_sent = [address for address, how in results.items() if how == "not sent"]
    lost = [address for address, how in results.items() if how == "not received"]
    good = [address for address, how in results.items() if how == "received"]
    if good:
        message = f"sent and received on {', '.join(good)}"
        trouble = (*not_sent, *lost)
        return (
            warn("multicast", f"{message}; not on {', '.join(trouble)}", remedy)
            if trouble
            else ok("multicast", message)
        )
    if not_sent:
        return fail("multicast", f"cannot be sent from {', '.join(not_sent)}", remedy)
    if lost:
        return fail("multicast", f"sent from {', '.join(lost)} and not received on this machine", remedy)
    return unknown("multicast", "another program holds UDP port 5353 for itself", remedy)


def check_firewall(port: int, passages: Sequence[Passage]) -> Finding:
    """`passages` are what each firewall found here does to the node's ports and to mDNS."""
    for passage in passages:
        if blocked := passage.blocked(port):
            return fail("firewall", f"{passage.tool} blocks {' and '.join(blocked)}", passage.remedy(port))
    unclear = [passage for passage in passages if not passage.is_clear]
    if unclear:
        remedy = unclear[0].remedy(port)
        return unknown(
            "firewall", f"{unclear[0].tool}: {unclear[0].why or 'its rules are too involved to be read here'}", remedy
        )
    if not passages:
        return unknown("firewall", "no firewall whose rules can be read was found here")
    return ok("firewall", f"{', '.join(passage.tool for passage in passages)}: does not block the node")


def check_membership(members: int | None, problem: str | None) -> Finding:
    """`members` beside this node, None for an open one; `problem` where it was removed from its swarm."""
    if problem is not None:
        return troubled("trust", put_out_trouble(problem))
    if members is None:
        return ok("trust", "open: any node on this network may be a peer, until the first `swarm invite`")
    return ok("trust", f"paired with {members} other member{'' if members == 1 else 's'}")


def check_key_and_peers(with_key: bool, peers: str, runs: bool) -> Finding | None:
    """Whether an API key keeps other nodes out, too; None where there is nothing to report.

    `peers`: who may ask this node as nodes (AccessRules.peers). `runs`: a node that runs here says so.
    """
    trouble = key_and_peers_trouble(with_key, peers, runs)
    return None if trouble is None else troubled("access", trouble)


def check_peer(peer: PeerFacts) -> list[Finding]:
    """Whether it is reachable both ways, its clock, its version: one finding for each that could be checked."""
    check = f"peer {peer.label}"
    if peer.other_protocol:
        return [fail(check, peer.problem or "speaks another protocol", "run the same version of local-swarm on both")]
    if peer.problem is not None and peer.remedy is not None:
        return [fail(check, peer.problem, peer.remedy)]
    if peer.problem is not None and peer.is_absent:
        remedy = (
            "start its node, or let the port in through the firewall there; `swarm revoke` removes one that is gone"
        )
        return [warn(check, f"a member that does not answer: {peer.problem}", remedy)]
    if peer.problem is not None:
        if peer.node_says == "alive":
            return [ok(check, "the node that runs here reaches it, although this check could not")]
        remedy = "start a node there, check the address, and let the port in through the firewall there"
        return [fail(check, peer.problem, remedy)]
    findings = [_both_ways(check, peer)]
    if peer.clock_ahead_s is not None:
        findings.append(check_clock(peer.label, peer.clock_ahead_s))
    return findings


def check_rejected(rejected: Rejected) -> Finding | None:
    """What the node that runs here reports of an address that leads to no peer; None where that is as it should be."""
    trouble = rejected_trouble(rejected.why, rejected.source, rejected.reason)
    if trouble is None:
        return None
    return troubled(
        f"peer {rejected.address}", replace(trouble, what=f"no peer of the node that runs here: {trouble.what}")
    )


def check_unknown_peers(wants_key: bool, addressless: Sequence[str]) -> list[Finding]:
    """What could not be checked: the peers of a node that wants an API key, members without a known address."""
    findings: list[Finding] = []
    if wants_key:
        said = "the node that runs here wants an API key to list its peers"
        findings.append(unknown("peers", said, "give it: SWARM_API_KEY=KEY, or --config FILE as the node has it"))
    if addressless:
        said = f"members without a known address: {', '.join(addressless)}"
        remedy = "start their nodes, or name one with --peer HOST:PORT; `swarm revoke` removes one that is gone"
        findings.append(warn("peers", said, remedy))
    return findings


def _both_ways(check: str, peer: PeerFacts) -> Finding:
    match peer.sees_us:
        case True:
            return ok(check, f"reachable both ways (version {peer.version})")
        case False:
            remedy = "let the port in through this machine's firewall, and check what address this node announces"
            return fail(
                check, "answers, but does not have this node among its peers: it cannot reach this machine", remedy
            )
        case None:
            return unknown(
                check,
                "answers; whether it reaches this machine is checked while a node runs here",
                "start one and check again",
            )


def check_clock(label: str, ahead_s: float) -> Finding:
    message = f"{label} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine"
    remedy = "set both clocks by the network (timedatectl set-ntp true, or the system's date settings)"
    if abs(ahead_s) >= CLOCK_FAIL_S:
        return fail("clock", f"{message}: invitations would be out of date", remedy)
    if abs(ahead_s) >= CLOCK_WARN_S:
        return warn("clock", message, remedy)
    return ok("clock", f"{label} agrees to within {max(1.0, abs(ahead_s)):.0f} s")


def check_peer_versions(own: str, peers: Sequence[PeerFacts]) -> Finding:
    trouble = versions_trouble(own, [peer.version for peer in peers if peer.version is not None])
    return ok("peer versions", f"all run {own}") if trouble is None else troubled("peer versions", trouble)
