"""Where a node looks for others, and how it follows its own addresses: the sources wired to the membership."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

from federation.addresses import AddressWatch, AnnouncedAddresses, choose_addresses
from federation.advertisement import NodeDescription
from federation.errors import AddressError
from federation.interfaces import default_route_addresses, read_interfaces
from federation.mdns import MdnsDiscovery
from federation.membership import Membership
from federation.static_peers import StaticList
from federation.tasks import cancel_and_wait, report_crash
from swarm.node.settings import Settings


def chosen_addresses(settings: Settings) -> AnnouncedAddresses:
    """What to listen on and announce now. Raises AddressError."""
    if settings.interface and not settings.federated and settings.host is None:
        raise AddressError(
            f"--interface {', '.join(settings.interface)} is for a node that others find, and this one takes part in "
            "no federation: add --federation, or --host with the address to listen on"
        )
    host = settings.host or (None if settings.federated else "127.0.0.1")
    return choose_addresses(read_interfaces(), host, default_route_addresses(), settings.interface)


log = logging.getLogger(__name__)


NOBODY_S: Final = 15.0  # without any other node: the first ones take two seconds to be found


def nobody_line(by_mdns: bool, given: Sequence[str], paired: bool) -> str:
    """What is said once to somebody whose node has found no other; `given` are the addresses of --peer."""
    who = "no other member of this swarm" if paired else "no other node"
    if by_mdns:
        where = f" (none answers at {', '.join(given)} either)" if given else ""
        remedy = (
            "start one with `swarm --federation` on another machine of this network. Where one runs already, "
            "`swarm doctor` says what is in the way, and --peer HOST:PORT needs no mDNS"
        )
        return f"! {who} was found yet{where}: {remedy}"
    at = ", ".join(given) or "the addresses in --peer-file"
    return f"! {who} answers yet at {at}: start it there; `swarm doctor` checks the address and the way there"


async def say_if_alone(
    found: Callable[[], object],
    line: Callable[[], str],
    say: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """After NOBODY_S, once: `line`, unless anybody was `found`."""
    await sleep(NOBODY_S)
    if not found():
        say(line())


class Discovery:
    """From `__aenter__` to `__aexit__`. `moved` is called with other addresses, before anybody else learns of them.

    `say` tells the person in front of the node.
    """

    def __init__(
        self,
        settings: Settings,
        membership: Membership,
        describe: Callable[[], NodeDescription],
        moved: Callable[[AnnouncedAddresses], None],
        port: int,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._settings = settings
        self._membership = membership
        self._describe = describe
        self._moved = moved
        self._port = port
        self._addresses = chosen_addresses(settings)
        self._mdns: MdnsDiscovery | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._settings.federation:
            self._mdns = await self._stack.enter_async_context(
                MdnsDiscovery(
                    self._describe(),
                    self._addresses.announce,
                    self._port,
                    on_proposed=self._membership.mdns_proposed,
                    on_goodbye=self._membership.mdns_goodbye,
                )
            )
            self._note_mdns()
        self._run(AddressWatch(lambda: chosen_addresses(self._settings), self._seen).run(), "address watch")
        self._run(say_if_alone(self._membership.peers, self._nobody_line, self._say), "look for others")
        if self._settings.peer_file is not None:
            self._run(StaticList(self._settings.peer_file, self._membership.listed).run(), "peer file")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Announce no more and look no more, from now on."""
        self._mdns = None
        await self._stack.aclose()

    @property
    def problem(self) -> str | None:
        """Why mDNS does not work; None while it does, or is not asked for."""
        return None if self._mdns is None else self._mdns.problem

    def announce(self) -> None:
        """Announce what has changed of this node, such as its mode."""
        if self._mdns is not None:
            self._mdns.announce(self._describe())

    async def _seen(self, addresses: AnnouncedAddresses, slept: bool) -> None:
        """The watch looked: follow what changed."""
        changed = addresses.announce != self._addresses.announce
        self._addresses = addresses
        if changed:
            self._moved(addresses)
        if self._mdns is not None:
            await self._mdns.follow(addresses.announce, anew=slept)
            self._note_mdns()
        if changed or slept:
            self._membership.woke()

    def _nobody_line(self) -> str:
        return nobody_line(self._settings.federation, self._settings.peer, self._describe().mode == "paired")

    def _note_mdns(self) -> None:
        self._membership.sources["mdns"] = self.problem

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        report_crash(task, log, f"the {name} ended")  # the node goes on without following this source
        self._stack.push_async_callback(cancel_and_wait, task)
