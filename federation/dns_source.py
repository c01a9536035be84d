"""Host names as sources of addresses: every A and AAAA record is a candidate, so a Kubernetes
headless Service works.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from federation.errors import AddressError
from federation.hostport import Address, make_address
from federation.timing import MAX_STATIC

LOOKUP_TIMEOUT_S: Final = 10.0  # the system's resolver gives up by itself in five to thirty seconds
MAX_ADDRESSES_PER_NAME: Final = 64  # as many as may wait for their first answer in the peer table

Lookup = Callable[[str], Awaitable[Sequence[str]]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTiming:
    """Intervals in seconds."""

    refresh_s: float = 15.0  # half the time to live that cluster DNS gives a headless Service's records
    retry_s: float = 2.0  # first repetition of a failed look-up; doubles
    retry_cap_s: float = (
        30.0  # a name that is not there yet is asked for at the pace of an address that does not answer
    )

    def next_s(self, failures: int) -> float:
        """Seconds until the next look-up after so many failed ones in a row."""
        return self.refresh_s if failures == 0 else min(self.retry_s * 2.0 ** min(failures - 1, 10), self.retry_cap_s)


@dataclass(frozen=True, slots=True)
class ResolvedName:
    """A name and what it stood for when last asked; `problem` says why the last look-up failed."""

    name: Address
    addresses: tuple[Address, ...] = ()
    problem: str | None = None


async def system_lookup(host: str) -> Sequence[str]:
    """All addresses that this system knows for the name, by hosts file, DNS or mDNS. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def candidates(name: Address, hosts: Iterable[str]) -> tuple[Address, ...]:
    """The addresses of a look-up, each once, with the name's port."""
    found: list[Address] = []
    for host in hosts:
        try:
            found.append(make_address(host, name.port))
        except AddressError:  # a record such as 0.0.0.0, which blocking resolvers give
            continue
    return tuple(dict.fromkeys(found))[:MAX_ADDRESSES_PER_NAME]


class DnsSource:
    """Looks names up as long as `run` runs, and proposes what they stand for each time. For one event loop."""

    def __init__(
        self,
        propose: Callable[[Address], None],
        lookup: Lookup = system_lookup,
        timing: LookupTiming | None = None,
    ) -> None:
        self._propose = propose
        self._lookup = lookup
        self._timing = timing or LookupTiming()
        self._held: dict[Address, ResolvedName] = {}
        self._failures: dict[Address, int] = {}
        self._due: dict[Address, float] = {}
        self._added = asyncio.Event()

    @property
    def names(self) -> tuple[Address, ...]:
        return tuple(self._held)

    def view(self) -> tuple[ResolvedName, ...]:
        """What each name stood for when last asked."""
        return tuple(self._held.values())

    def add(self, name: Address) -> None:
        """Look this name up from now on; beyond the bound of what can be given it is ignored."""
        if name not in self._held and len(self._held) < MAX_STATIC:
            self._held[name] = ResolvedName(name)
            self._failures[name] = 0
            self._due[name] = 0.0
            self._added.set()

    def remove(self, name: Address) -> None:
        """Look it up no more."""
        for held in (self._held, self._failures, self._due):
            held.pop(name, None)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._added.clear()
            due = [name for name, at in self._due.items() if at <= loop.time()]
            await asyncio.gather(*map(self._look_up, due))
            left_s = min(self._due.values(), default=loop.time() + self._timing.refresh_s) - loop.time()
            try:
                async with asyncio.timeout(max(left_s, 0.0)):
                    await self._added.wait()
            except TimeoutError:
                continue

    async def _look_up(self, name: Address) -> None:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                addresses, problem = candidates(name, await self._lookup(name.host)), None
        except TimeoutError:
            addresses, problem = (), "the name service does not answer"
        except (OSError, UnicodeError) as error:  # UnicodeError: what the system takes for no name at all
            addresses, problem = (), getattr(error, "strerror", None) or str(error)
        if name not in self._held:
            return
        if problem is None and not addresses:
            problem = "it stands for no usable address"
        self._note(name, addresses, problem)
        for address in addresses:
            self._propose(address)

    def _note(self, name: Address, addresses: tuple[Address, ...], problem: str | None) -> None:
        was = self._held[name]
        self._failures[name] = 0 if problem is None else self._failures[name] + 1
        self._due[name] = asyncio.get_running_loop().time() + self._timing.next_s(self._failures[name])
        self._held[name] = ResolvedName(name, addresses or was.addresses, problem)
        if problem is not None and was.problem != problem:
            _log.warning("no peer at %s (static): cannot look up %s: %s", name, name.host, problem)
        elif problem is None and was.problem is not None:
            _log.info("%s can be looked up again", name.host)
