"""What a firewall's own listing says of the node's ports and of mDNS. Pure: text in, the state of each port out.

A listing is judged only as far as that is safe: rules that name the ports, the default, and whether anything else could
let a packet in. Whatever is more involved is "unknown", never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

PortVerdict = Literal["open", "blocked", "unknown"]
MDNS_PORT: Final = 5353
_NAMES = {"mdns": MDNS_PORT}

_CHAIN = re.compile(r"^\s*chain \S+ \{")
_HOOK = re.compile(r"hook (?P<hook>\w+) .*?(?:policy (?P<policy>\w+))?;?\s*$")
_NFT_PORTS = re.compile(r"\b(?P<protocol>tcp|udp|th) dport (?P<ports>\{[^}]*\}|\S+)")
_TABLES_PORTS = re.compile(r"--dports? (?P<ports>\S+)")
_UFW_TO = re.compile(r"^(?P<ports>Anywhere|\d[\d,:]*)(?:/tcp)?(?= )")
_VERDICT = re.compile(r"\b(?P<verdict>accept|drop|reject)\b")
_HARMLESS = (
    *("ct state", "icmp", "conntrack", "--state", "meta l4proto"),
    *("iif lo", 'iif "lo"', 'iifname "lo"', "-i lo", "oif lo", 'oif "lo"', 'oifname "lo"', "-o lo"),
)


@dataclass(frozen=True, slots=True)
class Passage:
    """What the firewall `tool` does to the node's TCP port and to mDNS on the way in; `why` where that is unknown.

    `node_out` and `mdns_out`: the same on the way out, to the port of other nodes.
    """

    tool: str
    node: PortVerdict
    mdns: PortVerdict
    why: str = ""
    node_out: PortVerdict = "open"
    mdns_out: PortVerdict = "open"

    def blocked(self, port: int) -> list[str]:
        """What does not pass, in words."""
        judged = (
            (f"TCP {port}", self.node),
            ("UDP 5353 (mDNS)", self.mdns),
            (f"TCP {port} on the way out, to other nodes", self.node_out),
            ("UDP 5353 (mDNS) on the way out", self.mdns_out),
        )
        return [what for what, verdict in judged if verdict == "blocked"]

    @property
    def is_clear(self) -> bool:
        """Whether everything could be judged."""
        return "unknown" not in (self.node, self.mdns, self.node_out, self.mdns_out)

    def remedy(self, port: int) -> str:
        """The commands that open what does not pass, or may not."""
        ways = [self._remedy_in(port)] if {"blocked", "unknown"} & {self.node, self.mdns} else []
        ways += [self._remedy_out(port)] if {"blocked", "unknown"} & {self.node_out, self.mdns_out} else []
        return "; ".join(ways)

    def _remedy_in(self, port: int) -> str:
        match self.tool:
            case "ufw":
                return f"sudo ufw allow {port}/tcp && sudo ufw allow {MDNS_PORT}/udp"
            case "firewalld":
                ports = f"--add-port={port}/tcp --add-service=mdns"
                return f"sudo firewall-cmd {ports} (again with --permanent)"
            case "nftables":
                return f"let them in in the input chain: tcp dport {port} accept; udp dport {MDNS_PORT} accept"
            case "iptables":
                return (
                    f"sudo iptables -I INPUT -p tcp --dport {port} -j ACCEPT; "
                    f"sudo iptables -I INPUT -p udp --dport {MDNS_PORT} -j ACCEPT"
                )
            case "macOS":
                return "System Settings, Network, Firewall, Options: allow incoming connections for python"
            case _:
                return f"allow python, or TCP {port} and UDP {MDNS_PORT}, on private networks"

    def _remedy_out(self, port: int) -> str:
        """Of the tools whose rules for what goes out are read."""
        if self.tool == "nftables":
            return f"let them out in the output chain: tcp dport {port} accept; udp dport {MDNS_PORT} accept"
        return (
            f"sudo iptables -I OUTPUT -p tcp --dport {port} -j ACCEPT; "
            f"sudo iptables -I OUTPUT -p udp --dport {MDNS_PORT} -j ACCEPT"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as far as it matters here. `ports` None: it names none. `sure`: it has no further condition."""

    verdict: str
    protocol: str | None
    ports: tuple[tuple[int, int], ...] | None
    sure: bool

    def names(self, protocol: str, port: int) -> bool:
        if self.ports is None or self.protocol not in (protocol, "th"):
            return False
        return _in_ranges(port, self.ports)


def judge(rules: Sequence[Rule], drops_by_default: bool, protocol: str, port: int) -> PortVerdict:
    """The state of a port under these rules: the first rule that names it decides, then the default."""
    for rule in rules:
        if rule.names(protocol, port):
            if not rule.sure:
                return "unknown"
            return "open" if rule.verdict == "accept" else "blocked"
        if rule.ports is None and rule.protocol in (None, protocol) and rule.sure:
            return "open" if rule.verdict == "accept" else "blocked"
    if not drops_by_default:
        return "open"
    perhaps = any(rule.verdict == "accept" and rule.ports is None for rule in rules)
    return "unknown" if perhaps else "blocked"


def read_nft(listing: str, port: int) -> Passage:
    """`nft list ruleset`: its chains on the way in and out, each of which may drop."""
    verdicts: dict[str, list[PortVerdict]] = {name: ["open"] for name in ("node", "mdns", "node_out", "mdns_out")}
    for hook, policy, lines in _nft_chains(listing):
        if hook not in ("input", "output"):
            continue
        rules = [rule for rule in map(_nft_rule, lines) if rule is not None]
        jumps = any(" jump " in f" {line} " or " goto " in f" {line} " for line in lines)
        way = "" if hook == "input" else "_out"
        for name, protocol, wanted in (("node", "tcp", port), ("mdns", "udp", MDNS_PORT)):
            verdicts[name + way].append(_unless(jumps, judge(rules, policy == "drop", protocol, wanted)))
    worst: dict[str, PortVerdict] = {name: _worst(found) for name, found in verdicts.items()}
    return Passage("nftables", worst["node"], worst["mdns"], "", worst["node_out"], worst["mdns_out"])


def read_iptables(listing: str, port: int) -> Passage:
    """`iptables -S`."""
    node, mdns = _iptables_chain(listing, "INPUT", port)
    node_out, mdns_out = _iptables_chain(listing, "OUTPUT", port)
    return Passage("iptables", node, mdns, "", node_out, mdns_out)


def _iptables_chain(listing: str, chain: str, port: int) -> tuple[PortVerdict, PortVerdict]:
    """What a chain does to the node's port, and to mDNS."""
    lines = [line for line in listing.splitlines() if re.match(rf"-[PA] {chain}\b", line)]
    default_drop = any(re.match(rf"-P {chain} (DROP|REJECT)", line) for line in lines)
    rules = [rule for rule in map(_iptables_rule, lines) if rule is not None]
    jumps = any(line.startswith("-A") and not _target(line) for line in lines)
    node = _unless(jumps, judge(rules, default_drop, "tcp", port))
    return node, _unless(jumps, judge(rules, default_drop, "udp", MDNS_PORT))


def read_ufw(status: str, port: int) -> Passage:
    """`ufw status`: everything is refused that no line allows; it lets mDNS in by itself."""
    if "Status: inactive" in status:
        return Passage("ufw", "open", "open")
    if "Status: active" not in status:
        return Passage("ufw", "unknown", "unknown", "does not say whether it is active")
    return Passage("ufw", _ufw_verdict(status, port), "open")


def read_firewalld(listing: str, port: int) -> Passage:
    """`firewall-cmd --list-all` of a firewalld that runs."""
    fields = dict(re.findall(r"^\s+(target|ports|services): ?(.*)$", listing, re.MULTILINE))
    if fields.get("target") == "ACCEPT":
        return Passage("firewalld", "open", "open")
    ports = [(_range(text.split("/")[0]), text.split("/")[-1]) for text in fields.get("ports", "").split()]

    def verdict(protocol: str, wanted: int, by_service: bool) -> PortVerdict:
        listed = any(kind == protocol and low <= wanted <= high for (low, high), kind in ports)
        return "open" if listed or by_service else "blocked"

    is_mdns = "mdns" in fields.get("services", "").split()
    return Passage("firewalld", verdict("tcp", port, by_service=False), verdict("udp", MDNS_PORT, is_mdns))


def read_macos(state: str) -> Passage:
    """`socketfilterfw --getglobalstate`."""
    if "State = 0" in state or "disabled" in state:
        return Passage("macOS", "open", "open")
    return Passage("macOS", "unknown", "unknown", "the firewall is on and asks for each program")


def read_windows(state: str) -> Passage:
    """`netsh advfirewall show currentprofile state`, in whatever language: only OFF is written alike."""
    if re.search(r"\b(OFF|AUS)\b", state):
        return Passage("Windows", "open", "open")
    return Passage("Windows", "unknown", "unknown", "the firewall is on and has rules for each program")


def _ufw_verdict(status: str, port: int) -> PortVerdict:
    """What the first line that names the TCP port does to it."""
    for line in status.splitlines():
        to = _UFW_TO.match(line)
        if to is None or not (to["ports"] == "Anywhere" or _in_ranges(port, _ports(to["ports"].replace(":", "-")))):
            continue
        if re.search(r"\b(ALLOW|LIMIT)\b", line):
            return "open" if line.rstrip().endswith(("Anywhere", "(v6)")) else "unknown"
        if re.search(r"\b(DENY|REJECT)\b", line):
            return "blocked"
    return "blocked"


def _nft_chains(listing: str) -> list[tuple[str, str, list[str]]]:
    """Hook, policy and rules of each base chain that filters."""
    chains: list[tuple[str, str, list[str]]] = []
    current: tuple[str, str, list[str]] | None = None
    for line in listing.splitlines():
        if _CHAIN.match(line) or line.strip() == "}":
            current = None
        elif (hook := _HOOK.search(line)) and "type filter" in line:
            current = (hook["hook"], hook["policy"] or "accept", [])
            chains.append(current)
        elif current is not None:
            current[2].append(line.strip())
    return chains


def _nft_rule(line: str) -> Rule | None:
    verdict = _VERDICT.search(line)
    if verdict is None or (verdict["verdict"] == "accept" and any(words in line for words in _HARMLESS)):
        return None
    named = _NFT_PORTS.search(line)
    rest = re.sub(r"counter( name \S+| packets \d+ bytes \d+)?|comment \"[^\"]*\"|log( prefix \"[^\"]*\")?", "", line)
    if named is None:
        sure = rest.strip().split(" ")[0] in ("accept", "drop", "reject")
        return Rule(verdict["verdict"], None, None, sure)
    sure = rest.strip().startswith(named[0])
    return Rule(verdict["verdict"], named["protocol"], _ports(named["ports"]), sure)


def _iptables_rule(line: str) -> Rule | None:
    target = _target(line)
    if not line.startswith("-A ") or not target:
        return None
    if target == "accept" and any(words in line for words in _HARMLESS):
        return None
    protocol = re.search(r"-p (\w+)", line)
    named = _TABLES_PORTS.search(line)
    ports = None if named is None else _ports(named["ports"].replace(":", "-"))
    sure = not re.search(r" (-s|-i|-o|-d|--src-range|--limit|!) ", line)
    return Rule(target, None if protocol is None else protocol[1], ports, sure)


def _target(line: str) -> str:
    target = re.search(r"-j (ACCEPT|DROP|REJECT)\b", line)
    return "" if target is None else target[1].lower()


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(_range(part.strip()) for part in text.strip("{} ").split(",") if part.strip())


def _in_ranges(port: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(low <= port <= high for low, high in ranges)


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    first = _NAMES.get(low, int(low) if low.isdecimal() else -1)
    return first, _NAMES.get(high, int(high) if high.isdecimal() else first)


def _unless(jumps: bool, verdict: PortVerdict) -> PortVerdict:
    """`unknown` instead of `blocked` where rules jump to other chains: these are not read, and may let packets in."""
    return "unknown" if jumps and verdict == "blocked" else verdict


def _worst(verdicts: Sequence[PortVerdict]) -> PortVerdict:
    return max(verdicts, key=("open", "unknown", "blocked").index)
