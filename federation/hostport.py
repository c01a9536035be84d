"""What `host:port` is: the address of a node, as typed, announced or learned."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from federation.errors import AddressError

DEFAULT_PORT = 17615  # the port every node listens on unless told otherwise
MAX_HOST_CHARS = 253  # longest legal DNS name (RFC 1035)
MAX_PORT = 65535

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # at most 63 characters (RFC 1035), underscores as found in homes
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def pairing_port(port: int) -> int:
    """Where a node that listens on `port` takes joiners while an invitation is live, unless that one is taken."""
    return port % MAX_PORT + 1


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
        """Whether only processes on the same machine can mean the same thing by it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def neighbourhood(addresses: Iterable[Address]) -> str | None:
    """Whom a node that answers at `addresses`, the oldest first, is taken for where nothing but these tells it apart.

    Its oldest IPv4 address; where it has none, the /64 network of its oldest, all of which one machine can use. None
    for loopback, where only this machine's own processes are.
    """
    found = [unmapped(ipaddress.ip_address(address.host)) for address in addresses if not address.is_name]
    if not found or any(ip.is_loopback for ip in found):
        return None
    first = next((ip for ip in found if ip.version == 4), found[0])
    return str(first) if first.version == 4 else str(ipaddress.IPv6Network((int(first) >> 64 << 64, 64)))


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
        if not _HOST_NAME.fullmatch(name):
            raise AddressError(f"{host!r} is neither a host name nor an IP address") from None
        return Address(name, port)
    if ip.is_unspecified or ip.is_multicast:
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
