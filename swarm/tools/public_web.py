"""The public web, and nothing nearer: fetching what others name, without being led into the network of this machine.

A name is resolved here, and a socket is made only for what it was found to be, where that is an address of the
internet: however an address is written, and whatever a name server says the second time, it does not lead to this
machine, its neighbours, or what a cloud tells its machines. Each redirection is a new address, and looked at as the
first. Images of requests come this way, and what the tool `webfetch` is asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from federation.hostport import unmapped

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
READ_BYTES: Final = 64 * 1024
# Names that mean something only near by, however they are resolved. RFC 6761, 6762, 8375, 9476; ICANN's of 2024.
_NEAR: Final = ("localhost", ".localhost", ".local", ".internal", ".home.arpa", ".lan", ".alt", ".onion")


class NotPublicError(OSError):
    """A name that leads to no public address."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet: not of this machine or its networks, however that is written."""
    try:
        found = unmapped(ipaddress.ip_address(address))
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.is_site_local:  # which Python takes for global
            return False
        if found.sixtofour is not None:
            return is_public(str(found.sixtofour))
    return found.is_global and not (found.is_multicast or found.is_reserved)


def is_near(name: str) -> bool:
    """Whether a host's name says by itself that it is none of the internet."""
    bare = name.lower().rstrip(".")
    return "." not in bare or any(bare.endswith(ending) for ending in _NEAR)


class PublicResolver(AbstractResolver):
    """Resolves names to those of their addresses that are public, which are then connected to."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        public = [
            ResolveResult(
                hostname=host,
                host=str(where[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, where in found
            if self._is_allowed(str(where[0]))
        ]
        if not public:
            raise NotPublicError(f"{host} is not in the internet")
        return public

    async def close(self) -> None:
        pass


def public_session(is_allowed: Callable[[str], bool], headers: dict[str, str], total_s: float) -> aiohttp.ClientSession:
    """A session that connects to addresses that are allowed, and has no cookies. Bodies come as they were sent.

    What is packed may become a thousand times as large: whoever unpacks it counts.
    """

    def allowed_socket(address: tuple[Any, ...]) -> socket.socket:
        """A socket for what is about to be connected to, whoever resolved it. Raises NotPublicError."""
        family, kind, protocol, _, where = address
        if not is_allowed(str(where[0])):
            raise NotPublicError(f"{where[0]} is not in the internet")
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(is_allowed), use_dns_cache=False, socket_factory=allowed_socket
    )
    return _session(connector, headers, total_s)


def session_by_proxy(headers: dict[str, str], total_s: float) -> aiohttp.ClientSession:
    """The same for what is asked through a proxy, which may be anywhere: it is the proxy that resolves and connects.

    Refuse what is near (`refuse_near`) before each request.
    """
    return _session(aiohttp.TCPConnector(use_dns_cache=False), headers, total_s)


def _session(connector: aiohttp.TCPConnector, headers: dict[str, str], total_s: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=total_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers=headers,
    )


async def refuse_near(host: str, is_allowed: Callable[[str], bool]) -> None:
    """Raises NotPublicError for a name that leads near by, as far as this machine can tell: a proxy is not to go there.

    A name that only the proxy can resolve is up to the proxy.
    """
    if is_near(host):
        raise NotPublicError(f"{host} is not in the internet")
    try:
        await PublicResolver(is_allowed).resolve(host)
    except NotPublicError:
        raise
    except OSError:  # this machine has no name server of the internet: that is what some proxies are for
        return


def web_address(base: str, url: str, is_allowed: Callable[[str], bool]) -> URL:
    """`url`, as it stands at `base`, as the client reads it: digits of other scripts, say, are digits to it.

    Raises ValueError for what is no web address, and for a numeric one that is not allowed: it is not resolved.
    """
    try:
        parts = URL(urljoin(base, url))
        host = parts.raw_host
    except ValueError:
        parts, host = URL(), None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("cannot be fetched: its address is no http:// or https:// address")
    if is_numeric(host) and not is_allowed(host):
        raise ValueError(f"cannot be fetched: {host} is not in the internet")
    return parts


def is_numeric(host: str) -> bool:
    """Whether a host is an address itself, with or without a zone."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
