"""Which of this machine's addresses to announce, and noticing that they changed or that the machine slept.

`choose_addresses` decides over what `interfaces.py` has read, `AddressWatch` repeats that. Kinds of addresses are
ranked, not excluded: a network namespace has nothing but a veth, a laptop on a train nothing but loopback, and both
must come up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from federation.errors import AddressError
from federation.interfaces import Interface

ANY_IPV4 = "0.0.0.0"
ANY_IPV6 = "::"
ANY = {4: ANY_IPV4, 6: ANY_IPV6}
MAX_ANNOUNCED = 4  # wired and wireless, IPv4 and IPv6; every peer probes each of them
LOOK_EVERY_S: Final = 2.0  # reading the interfaces takes under a millisecond; peers find a new address soon enough
SLEPT_S: Final = 15.0  # more than a busy machine holds a task up, less than any nap of a laptop

_CONTAINER_PREFIXES = (
    *("docker", "br-", "veth", "virbr", "vnet", "cni", "flannel", "cali", "kube", "nerdctl", "podman", "lxc", "lxd"),
    *("vmnet", "vmware", "vboxnet", "virtualbox", "vethernet", "hyper-v", "bridge1", "dummy", "ifb"),
)
_TUNNEL_PREFIXES = (
    *("tun", "tap", "wg", "utun", "tailscale", "zt", "ppp", "ipsec", "nordlynx", "proton", "wireguard", "openvpn"),
    *("gpd", "cscotun", "ham", "sit", "gre", "awdl", "llw"),
)

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_log = logging.getLogger(__name__)


class AddressKind(IntEnum):
    """What an address belongs to, best first."""

    LAN = 0
    CONTAINER = 1
    TUNNEL = 2
    LINK_LOCAL = 3
    LOOPBACK = 4


_KIND_WORDS = {
    AddressKind.LAN: "network interface",
    AddressKind.CONTAINER: "container or virtual machine bridge",
    AddressKind.TUNNEL: "VPN tunnel",
    AddressKind.LINK_LOCAL: "link-local address",
    AddressKind.LOOPBACK: "loopback: only this machine can reach it",
}


@dataclass(frozen=True, slots=True)
class AnnouncedAddresses:
    """What to listen on and what to tell others. `announce[0]` is on `interface`; `reason` is for people to read.

    `kind` is that of `announce[0]`. The node must listen on `bind_hosts[0]`; on the others where the system has them.
    """

    bind_hosts: tuple[str, ...]
    announce: tuple[str, ...]
    interface: str
    reason: str
    kind: AddressKind

    @property
    def bind_host(self) -> str:
        return self.bind_hosts[0]

    @property
    def is_everywhere(self) -> bool:
        """Whether it listens on every address of its family, so that a change of address needs no new listener."""
        return self.bind_host in ANY.values()


@dataclass(frozen=True, slots=True)
class _Option:
    interface: str
    ip: _Ip
    kind: AddressKind
    default_route: bool

    @property
    def rank(self) -> tuple[int, int, bool, bool]:
        """Lower is better: kind, then IPv4 (what home networks route), then private, then the default route."""
        return self.kind, self.ip.version, not self.ip.is_private, not self.default_route


def choose_addresses(
    interfaces: Sequence[Interface],
    host_setting: str | None = None,
    default_route: Sequence[str] = (),
    only: Sequence[str] = (),
) -> AnnouncedAddresses:
    """What to bind and announce. `host_setting` is --host, `default_route` the local addresses on it.

    `only` are the interfaces of --interface: nothing else is announced, and a VPN among them counts like any network.
    Raises AddressError when --host is no address of this machine or of --interface, or no --interface has one.
    """
    options = [
        _Option(interface.name, ip, classify(interface.name, ip), str(ip) in default_route)
        for interface in interfaces
        for ip in map(ipaddress.ip_address, interface.ips)
    ]
    options.sort(key=lambda option: option.rank)  # stable: ties stay in the system's order
    if host_setting is not None:
        asked = _parse_host(host_setting, options)
        if not asked.is_unspecified:
            chosen = _exactly(asked, options)
            if only and chosen.interface not in only:
                raise AddressError(
                    f"--host {asked} is on {chosen.interface}, not on --interface {', '.join(only)}: leave one out"
                )
            return chosen
        family = [option for option in options if option.ip.version == asked.version]
        return _announce(_only(family, only), (asked.version,))
    best_version = options[0].ip.version if options else 4
    return _announce(_only(options, only), (best_version, 10 - best_version))


def classify(interface_name: str, ip: _Ip) -> AddressKind:
    """The kind of an address, by its range first and the interface's name second."""
    name = interface_name.lower()
    if ip.is_loopback:
        return AddressKind.LOOPBACK
    if ip.is_link_local:
        return AddressKind.LINK_LOCAL
    if name.startswith(_TUNNEL_PREFIXES):
        return AddressKind.TUNNEL
    if name.startswith(_CONTAINER_PREFIXES):
        return AddressKind.CONTAINER
    return AddressKind.LAN


def _parse_host(host_setting: str, options: Sequence[_Option]) -> _Ip:
    try:
        return ipaddress.ip_address("127.0.0.1" if host_setting == "localhost" else host_setting.strip("[]"))
    except ValueError:
        raise AddressError(f"--host {host_setting} is not an IP address; {_available(options)}") from None


def _only(options: Sequence[_Option], names: Sequence[str]) -> list[_Option]:
    """The options on interfaces of these names, taken for ordinary networks; all options where none is named."""
    if not names:
        return list(options)
    asked = [
        option
        if option.kind in (AddressKind.LINK_LOCAL, AddressKind.LOOPBACK)
        else replace(option, kind=AddressKind.LAN)
        for option in options
        if option.interface in names
    ]
    if not asked:
        raise AddressError(f"--interface {', '.join(names)} has no address now; {_available(options, '--interface')}")
    return sorted(asked, key=lambda option: option.rank)


def _announce(options: Sequence[_Option], versions: tuple[int, ...]) -> AnnouncedAddresses:
    """The best address and the other ordinary networks; loopback if all fails. Listens on every `versions`."""
    if not options:
        loopback = ipaddress.ip_address("127.0.0.1" if versions[0] == 4 else "::1")
        options = [_Option("loopback", loopback, AddressKind.LOOPBACK, default_route=False)]
    best = options[0]
    same = [option for option in options if option.kind is best.kind]
    return AnnouncedAddresses(
        bind_hosts=tuple(ANY[version] for version in versions),
        announce=_one_ipv6_each(same)[:MAX_ANNOUNCED] if best.kind is AddressKind.LAN else (str(best.ip),),
        interface=best.interface,
        reason=_reason(best, options),
        kind=best.kind,
    )


def _one_ipv6_each(options: Sequence[_Option]) -> tuple[str, ...]:
    """All IPv4 addresses and the best IPv6 address of each interface: there are many, and privacy ones come and go."""
    seen: set[str] = set()
    chosen: list[str] = []
    for option in options:
        if option.ip.version == 6:
            if option.interface in seen:
                continue
            seen.add(option.interface)
        chosen.append(str(option.ip))
    return tuple(dict.fromkeys(chosen))


def _exactly(asked: _Ip, options: Sequence[_Option]) -> AnnouncedAddresses:
    for option in options:
        if option.ip == asked:
            return _just(asked, option.interface, option.kind)
    if asked.is_loopback:  # all of 127/8 is this machine, listed or not
        return _just(asked, "loopback", AddressKind.LOOPBACK)
    raise AddressError(f"--host {asked} is not an address of this machine; {_available(options)}")


def _just(asked: _Ip, interface: str, kind: AddressKind) -> AnnouncedAddresses:
    return AnnouncedAddresses((str(asked),), (str(asked),), interface, f"{interface}: as --host asks", kind)


def _reason(best: _Option, options: Sequence[_Option]) -> str:
    words = "default route" if best.default_route and best.kind is AddressKind.LAN else _KIND_WORDS[best.kind]
    passed_over = {
        option.interface: _KIND_WORDS[option.kind]
        for option in options
        if option.kind not in (best.kind, AddressKind.LOOPBACK, AddressKind.LINK_LOCAL)
        and option.interface != best.interface
    }
    others = ", ".join(f"{name} ({kind})" for name, kind in passed_over.items())
    return f"{best.interface}: {words}" + (f"; passed over {others}" if others else "")


def _available(options: Sequence[_Option], setting: str = "--host") -> str:
    """What there is instead, and how to do without: an end of the message on `setting`."""
    if not options:
        return "this machine has no network address now"
    if setting == "--interface":
        interfaces = dict.fromkeys(option.interface for option in options)
        listing = ", ".join(
            f"{name} ({', '.join(str(option.ip) for option in options if option.interface == name)})"
            for name in interfaces
        )
    else:
        listing = ", ".join(f"{option.ip} ({option.interface})" for option in options)
    return f"this machine has {listing}; or leave {setting} out"


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The same instant on both clocks. During sleep the wall clock goes on and, on most systems, the other stops."""

    wall_s: float
    steady_s: float

    @classmethod
    def now(cls) -> ClockReading:
        return cls(time.time(), time.monotonic())


def has_slept(before: ClockReading, after: ClockReading, expected_s: float = LOOK_EVERY_S) -> bool:
    """Whether so much time passed between two looks that this machine, or this process, must have been stopped.

    A clock that is set forward looks the same: what follows costs little and harms nobody.
    """
    passed_s = max(after.wall_s - before.wall_s, after.steady_s - before.steady_s)
    return passed_s > expected_s + SLEPT_S


class AddressWatch:
    """Looks every `every_s` seconds, as long as `run` runs.

    `choose` reads the interfaces and decides; `seen` is called after every look with what to announce, and whether the
    machine slept before it. An address that was asked for and is gone changes nothing until something else can be
    announced.
    """

    def __init__(
        self,
        choose: Callable[[], AnnouncedAddresses],
        seen: Callable[[AnnouncedAddresses, bool], Awaitable[None]],
        every_s: float = LOOK_EVERY_S,
        now: Callable[[], ClockReading] = ClockReading.now,
    ) -> None:
        self._choose = choose
        self._seen = seen
        self._every_s = every_s
        self._now = now

    async def run(self) -> None:
        """Until cancelled."""
        before, slept = self._now(), False
        while True:
            await asyncio.sleep(self._every_s)
            after = self._now()
            slept, before = slept or has_slept(before, after, self._every_s), after
            try:
                chosen = self._choose()
            except (AddressError, OSError) as error:
                _log.debug("no new address to announce: %s", error)
                continue
            await self._seen(chosen, slept)
            slept = False
