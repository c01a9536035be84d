"""What `host:port` is: the address of a node, as typed, announced or learned."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from federation.errors import AddressError

DEFAULT_PORT = 17615  # the port every node listens on unless told otherwise
MAX_HOST_CHARS = 253  # longest legal DNS name (RFC 1035)
MAX_PORT = 65535

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # at most 63 characters (RFC 1035), underscores as found in homes
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as a last label: systems read 0x7f.1 and 2130706433 as IPv4 addresses
_ZONE = re.compile(r"[A-Za-z0-9._:-]{1,32}")  # an interface's name or number: 15 characters on Linux
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")  # of usual hosts files

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 addresses that stand for an IPv4 address in their last 32 bits, to the system itself or to a router on the way.
_IPV4_INSIDE = tuple(
    ipaddress.IPv6Network(prefix)
    for prefix in (
        "::ffff:0:0/96",  # mapped
        "::/96",  # compatible, of old
        "::ffff:0:0:0/96",  # translated (SIIT)
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of one network; its prefix is 96 bits long in practice
    )
)
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_6TO4 = ipaddress.IPv6Network("2002::/16")


class Address(NamedTuple):
    """Where a node answers HTTP. `host` is a canonical IP literal without brackets, or a lower-case host name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://{self}"

    @property
    def is_name(self) -> bool:
        """Whether the host has to be looked up, and may stand for several addresses."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def is_loopback(self) -> bool:
        """Whether only processes on the same machine can mean the same thing by it, in whatever form it is written."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            name = self.host.rstrip(".")
            return name in _LOCAL_NAMES or name.endswith(".localhost")
        return ip.is_loopback or ipv4_inside(ip).is_loopback

    @property
    def is_link_local(self) -> bool:
        """Whether it means a machine on one cable, or a cloud's metadata service, and elsewhere another."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return ip.is_link_local or ipv4_inside(ip).is_link_local


def worth_a_probe(hinted: Address, hinted_by: Address) -> bool:
    """Whether a third node's address that the peer at `hinted_by` names may be asked who answers there.

    Only an IP address that means the same machine here and there: else a peer could have this node ask services that
    only this machine or its cable reaches. Nodes report no host names: what one stands for is up to who resolves it.
    """
    if hinted.is_name or hinted.is_link_local:
        return False
    return hinted_by.is_loopback or not hinted.is_loopback


def ipv4_inside(ip: Ip) -> Ip:
    """The IPv4 address that an IPv6 address stands for; the address itself where it stands for none."""
    if isinstance(ip, ipaddress.IPv4Address) or int(ip) <= 1:
        return ip
    if any(ip in network for network in _IPV4_INSIDE):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip in _6TO4:
        return ipaddress.IPv4Address(int(ip) >> 80 & 0xFFFFFFFF)
    return ip


def neighbourhood(addresses: Iterable[Address]) -> str | None:
    """Whom a node that answers at `addresses`, the oldest first, is taken for where nothing but these tells it apart.

    Its oldest IPv4 address; where it has none, the /64 network of its oldest, all of which one machine can use. None
    for loopback, where only this machine's own processes are.
    """
    return _neighbourhood(tuple(addresses))


@lru_cache(maxsize=1024)  # asked for each peer and request; a peer table holds 128 nodes
def _neighbourhood(addresses: tuple[Address, ...]) -> str | None:
    found = [unmapped(ipaddress.ip_address(address.host)) for address in addresses if not address.is_name]
    if not found or any(ip.is_loopback for ip in found):
        return None
    return _network(next((ip for ip in found if ip.version == 4), found[0]))


def network_of(host: str) -> str:
    """Whom a caller from `host`, an IP address, is taken for where callers are limited: IPv4 as it is, IPv6 by its /64.

    All addresses of a /64 network can be one machine's.
    """
    try:
        return _network(unmapped(ipaddress.ip_address(host.partition("%")[0])))
    except ValueError:
        return host


def _network(ip: IPAddress) -> str:
    return str(ip) if ip.version == 4 else str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def same_host(host: str) -> str:
    """The host in one form, however a listener for both families or a link-local scope writes it."""
    try:
        return str(unmapped(ipaddress.ip_address(host.partition("%")[0])))
    except ValueError:
        return host


def unmapped(ip: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one stands for (`::ffff:10.0.0.1`); any other as it is."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def make_address(host: str, port: int) -> Address:
    """The address in canonical form; raises AddressError if no node could ever answer there."""
    if not 1 <= port <= MAX_PORT:
        raise AddressError(f"port {port} is not between 1 and {MAX_PORT}")
    if len(host) > MAX_HOST_CHARS:
        raise AddressError(f"host name {host[:40]!r}... is longer than {MAX_HOST_CHARS} characters")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower()
        if not _HOST_NAME.fullmatch(name) or _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
            raise AddressError(f"{host!r} is neither a host name nor an IP address") from None
        return Address(name, port)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None and not _ZONE.fullmatch(ip.scope_id):
            raise AddressError(f"{host!r} names no interface of a machine after the %")
        ip = ip.ipv4_mapped or ip  # one machine, one way to write it
    inside = ipv4_inside(ip)
    if any(one.is_unspecified or one.is_multicast or one == _BROADCAST for one in (ip, inside)):
        raise AddressError(f"{host} is not the address of one machine: give the node's own address")
    return Address(str(ip), port)


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 literal, with or without `http://`; raises AddressError."""
    bare = text.strip().removeprefix("http://").rstrip("/")
    host, port_text = _split(bare)
    if port_text is None:
        if not host:
            raise AddressError(f"{text!r} names no host: give host or host:port, such as 192.168.1.20:{default_port}")
        return make_address(host, default_port)
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= len(str(MAX_PORT))):
        raise AddressError(f"{text!r} is not host:port: {port_text!r} is not a port number")
    port = int(port_text)
    if not host or not 1 <= port <= MAX_PORT:
        raise AddressError(f"{text!r} is not host:port: it takes a host and a port between 1 and {MAX_PORT}")
    return make_address(host, port)


def _split(bare: str) -> tuple[str, str | None]:
    """The host and the text of the port, None where none is given."""
    if bare.startswith("["):
        host, bracket, rest = bare[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise AddressError(f"{bare!r} is not [IPv6 address]:port")
        return host, rest[1:] if rest else None
    if bare.count(":") > 1:
        return bare, None
    host, colon, port_text = bare.partition(":")
    return host, port_text if colon else None
