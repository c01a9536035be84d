"""This machine's network interfaces: their addresses, the default route, and whether multicast gets out and back in."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import ifaddr
import psutil

MDNS_PORT: Final = 5353
GROUP_IPV4: Final = "224.0.0.251"
GROUP_IPV6: Final = "ff02::fb"

# Documentation addresses (RFC 5737, RFC 3849): never local, so the system picks its default route. Nothing is sent.
_ROUTE_TARGETS = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1"))
_DISCARD_PORT = 9
_EMPTY_QUERY: Final = bytes(12)  # a DNS header that asks nothing (RFC 1035): whoever receives it drops it
_MAX_PACKET_BYTES: Final = 9000  # longest mDNS packet (RFC 6762, section 17)


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface: the name people know and its addresses as canonical IP literals without a scope.

    `index` is the system's number for it, which IPv6 needs to say where a multicast goes; None where there is none.
    """

    name: str
    ips: tuple[str, ...]
    index: int | None = None


def read_interfaces() -> tuple[Interface, ...]:
    """The interfaces as the system lists them, without those that are down, unplugged, or have no address.

    Takes about a millisecond.
    """
    states = psutil.net_if_stats()
    return tuple(
        Interface(adapter.nice_name, tuple(_canonical(ip) for ip in adapter.ips), adapter.index)
        for adapter in ifaddr.get_adapters()
        if adapter.ips and (adapter.nice_name not in states or states[adapter.nice_name].isup)
    )


def default_route_addresses() -> tuple[str, ...]:
    """The local addresses that connections to the wider network would leave from; empty without a default route."""
    found: list[str] = []
    for family, target in _ROUTE_TARGETS:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, _DISCARD_PORT))
                found.append(str(probe.getsockname()[0]))
        except OSError:  # no route of that family, or the family is switched off
            continue
    return tuple(found)


def _canonical(ip: ifaddr.IP) -> str:
    text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
    return str(ipaddress.ip_address(text.split("%")[0]))


def sendable(addresses: Sequence[str]) -> list[str]:
    """The addresses from which an mDNS packet can be sent now. Sends an empty one from each; takes no time."""
    interfaces = read_interfaces()
    return [address for address in addresses if why_not_sendable(address, interfaces) is None]


def why_not_sendable(address: str, interfaces: Sequence[Interface]) -> str | None:
    """What the system says to a multicast from this address; None if it lets it out.

    zeroconf would leave the socket open where it fails, and print a traceback for every packet refused.
    """
    try:
        with _sender(address, interfaces) as sender:
            sender.sendto(_EMPTY_QUERY, _destination(address, interfaces))
    except OSError as error:
        return error.strerror or str(error)
    return None


def hears_itself(address: str, interfaces: Sequence[Interface], timeout_s: float) -> bool | None:
    """Whether an mDNS packet sent from this address arrives on this machine; None where that cannot be tried. Blocks.

    Looped packets pass the local packet filter both ways, so a filter that drops mDNS shows.
    """
    marker = secrets.token_bytes(2)  # the header's id, which mDNS leaves to the sender
    try:
        with _listener(address, interfaces) as listener, _sender(address, interfaces) as sender:
            sender.sendto(marker + _EMPTY_QUERY[2:], _destination(address, interfaces))
            deadline = time.monotonic() + timeout_s
            while (left_s := deadline - time.monotonic()) > 0:
                listener.settimeout(left_s)
                if listener.recv(_MAX_PACKET_BYTES)[:2] == marker:
                    return True
    except TimeoutError:
        return False
    except OSError:
        return None
    return False


def interface_index(address: str, interfaces: Sequence[Interface]) -> int:
    """The number of the interface that holds the address; 0, the system's choice, if none does."""
    return next((held.index or 0 for held in interfaces if address in held.ips), 0)


def _sender(address: str, interfaces: Sequence[Interface]) -> socket.socket:
    ip = ipaddress.ip_address(address)
    sender = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if ip.version == 6:
            index = interface_index(address, interfaces)
            sender.bind((address, 0, 0, index if ip.is_link_local else 0))
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _membership(address, interfaces))
        else:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip.packed)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, _membership(address, interfaces))
    except BaseException:
        sender.close()
        raise
    return sender


def _listener(address: str, interfaces: Sequence[Interface]) -> socket.socket:
    is_ipv6 = ":" in address
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "win32":  # beside a node, or the system's own responder
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::" if is_ipv6 else "", MDNS_PORT))
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP) if is_ipv6 else (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP)
        )
        listener.setsockopt(level, option, _membership(address, interfaces))
    except BaseException:
        listener.close()
        raise
    return listener


def _membership(address: str, interfaces: Sequence[Interface]) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, GROUP_IPV6) + struct.pack("@I", interface_index(address, interfaces))
    return socket.inet_aton(GROUP_IPV4) + socket.inet_aton(address)


def _destination(address: str, interfaces: Sequence[Interface]) -> tuple[str, int] | tuple[str, int, int, int]:
    if ":" in address:
        return GROUP_IPV6, MDNS_PORT, 0, interface_index(address, interfaces)
    return GROUP_IPV4, MDNS_PORT
