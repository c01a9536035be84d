"""Announcing this node and finding others by multicast DNS. The only file that knows zeroconf.

It only proposes: a name on the network becomes a peer only once a probe over HTTP answers. Where multicast does not
work, the node runs on with --peer, and tries again whenever its addresses are looked at.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import unicodedata
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from federation.advertisement import NodeDescription, NodeId
from federation.errors import AddressError
from federation.hostport import Address, make_address
from federation.interfaces import sendable
from federation.printable_text import printable
from federation.tasks import cancel_and_wait
from federation.timing import MAX_ADDRESSES_PER_PEER
from federation.wire import PROTOCOL_VERSION, SERVICE_TYPE

RECORD_TTL_S: Final = 120  # of all our records: what a vanished node left behind is gone in two minutes
RESOLVE_TIMEOUT_MS: Final = 3000  # asking for the address of a name; zeroconf repeats the question within it
REPROPOSE_S: Final = 10.0  # what is still announced is proposed again, for peers forgotten or refused meanwhile
MAX_SERVICES: Final = 256  # names remembered; anyone on the network can announce any number
MAX_RESOLVING: Final = 32  # names being resolved at once; as many as MAX_SERVICES wait for their turn
FALLBACK_LABEL: Final = "node"  # for names without a letter of ASCII; people read the name in the TXT record
_LABEL_BYTES: Final = 63  # longest DNS label (RFC 1035)
_ID_CHARS_IN_LABEL: Final = 12  # of the node id: keeps instance names apart, and short
_INSTANCE_CHARS_IN_HOST: Final = 6  # of this run's mark: keeps the host names of two nodes with one id apart
_UNFIT_IN_LABEL = re.compile(r"[^A-Za-z0-9_-]+")

Claim = tuple[str, tuple[Address, ...]]  # a node id, and where it says it answers
Proposed = Callable[[Address, str], None]
SaidGoodbye = Callable[[str], None]

_log = logging.getLogger(__name__)


class _LostWays(logging.Filter):
    """zeroconf prints a traceback where a packet cannot leave, as when an address is gone: that is no defect."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, OSError)


logging.getLogger("zeroconf").addFilter(_LostWays())
_node_id = TypeAdapter[str](NodeId)


class MdnsDiscovery:
    """Announces and browses from `__aenter__` to `__aexit__`, which says goodbye. Never raises for network reasons.

    Without `announce` it only browses.

    `addresses` are announced and listened on. Callbacks run on the event loop and must not block: `on_proposed` with an
    address to probe and the node id claimed there, repeated while it is announced; `on_goodbye` with a node id.
    """

    def __init__(
        self,
        node: NodeDescription,
        addresses: Sequence[str],
        port: int,
        *,
        on_proposed: Proposed,
        on_goodbye: SaidGoodbye,
        announce: bool = True,
        repropose_s: float = REPROPOSE_S,
    ) -> None:
        self._announces = announce
        self._repropose_s = repropose_s
        self._node = node
        self._addresses = tuple(addresses)
        self._port = port
        self._info = _service_info(node, self._addresses, port)
        self._on_proposed = on_proposed
        self._on_goodbye = on_goodbye
        self._problem: str | None = None
        self._usable: list[str] = []
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._found: dict[str, Claim] = {}  # by instance name
        self._waiting: dict[str, None] = {}  # names to be resolved, in order of arrival
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._unresolved: dict[str, None] = {}  # names that did not answer in time, and are asked for once more
        self._tasks: set[asyncio.Task[None]] = set()
        self._reopening = asyncio.Lock()

    @property
    def problem(self) -> str | None:
        """Why discovery does not work, for people to read; None while it does."""
        return self._problem

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._reopening:
            await self._close()

    async def follow(self, addresses: Sequence[str], *, anew: bool = False) -> None:
        """Announce `addresses` from now on. `anew`: the machine slept, so that no socket can be relied on.

        Call it now and then even if nothing changed: what could not multicast before may be able to now.
        """
        async with self._reopening:
            is_same = tuple(addresses) == self._addresses and not anew
            if is_same and (len(self._usable) == len(self._addresses) or sendable(self._addresses) == self._usable):
                return
            await self._close()
            self._addresses = tuple(addresses)
            await self._open()

    def announce(self, node: NodeDescription) -> None:
        """Announce what has changed of this node, such as its mode."""
        self._node = node
        if self._announces and self._zeroconf is not None and self._problem is None:
            self._start(self._update(self._zeroconf))

    async def _open(self) -> None:
        self._problem = None
        self._info = _service_info(self._node, self._addresses, self._port)
        self._usable = sendable(self._addresses)
        try:
            if not self._usable:
                raise OSError(f"no multicast on {', '.join(self._addresses) or 'any address'}")
            self._zeroconf = AsyncZeroconf(interfaces=self._usable)
            await self._zeroconf.zeroconf.async_wait_for_start()
        except (OSError, RuntimeError, ZeroconfError) as error:  # RuntimeError: an address that went meanwhile
            self._usable = []
            self._fail(error)
            return
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._on_change])
        if self._announces:
            self._start(self._register(self._zeroconf))
        self._start(self._repropose())

    async def _close(self) -> None:
        self._waiting.clear()  # first: whoever is cancelled would begin with the next
        self._unresolved.clear()
        tasks = tuple(self._tasks)
        await cancel_and_wait(*tasks)
        self._resolving.clear()
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()  # says goodbye for what is registered
        self._browser = self._zeroconf = None
        self._found.clear()  # nobody would report any more that they left; whoever is still there is found again

    def _fail(self, error: Exception) -> None:
        self._problem = f"{error}: name other nodes with --peer HOST:PORT"
        _log.info("mDNS discovery is off: %s", self._problem)  # whoever runs the node shows `problem`

    async def _update(self, zeroconf: AsyncZeroconf) -> None:
        name = self._info.name  # the one registered, which a conflict may have changed
        self._info = _service_info(self._node, self._addresses, self._port)
        self._info.name = name
        try:
            announced: Awaitable[object] = await zeroconf.async_update_service(self._info)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            await announced
        except (OSError, ZeroconfError) as error:
            _log.warning("mDNS goes on announcing what this node was: %s", error)

    async def _register(self, zeroconf: AsyncZeroconf) -> None:
        """Takes a second: the name is first checked against the network (RFC 6762, section 8.1)."""
        wanted = self._info.name
        try:
            # zeroconf types what it returns as a bare Awaitable.
            announced: Awaitable[object] = await zeroconf.async_register_service(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                self._info, allow_name_change=True
            )
            if self._info.name != wanted:
                _log.warning("mDNS name %s is taken: announcing as %s", wanted, self._info.name)
            await announced
        except (OSError, ZeroconfError) as error:
            self._fail(error)

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:  # zeroconf passes these by name
        if state_change is ServiceStateChange.Removed:
            if (gone := self._found.pop(name, None)) is not None:
                self._on_goodbye(gone[0])
            self._waiting.pop(name, None)
            self._unresolved.pop(name, None)
            if (resolving := self._resolving.pop(name, None)) is not None:
                resolving.cancel()
                self._resolve_next(zeroconf)
        elif name in self._waiting or len(self._waiting) < MAX_SERVICES:
            self._waiting[name] = None
            self._resolve_next(zeroconf)
        else:
            self._unresolve(name)

    def _resolve_next(self, zeroconf: Zeroconf) -> None:
        for name in [name for name in self._waiting if name not in self._resolving]:
            if len(self._resolving) >= MAX_RESOLVING:
                return
            del self._waiting[name]
            self._resolving[name] = self._start(self._resolve_in_turn(zeroconf, name))

    async def _resolve_in_turn(self, zeroconf: Zeroconf, name: str) -> None:
        self._unresolved.pop(name, None)
        try:
            await self._resolve(zeroconf, name)
        finally:
            if self._resolving.get(name) is asyncio.current_task():
                del self._resolving[name]
            self._resolve_next(zeroconf)

    def _unresolve(self, name: str) -> None:
        """Ask for it once more when there is time."""
        if len(self._unresolved) < MAX_SERVICES:
            self._unresolved[name] = None

    async def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            is_complete = await info.async_request(zeroconf, RESOLVE_TIMEOUT_MS)
        except ZeroconfError as error:
            _log.debug("mDNS name %s cannot be resolved: %s", printable(name), error)
            return
        if not is_complete:  # a packet was lost, or nobody is there
            self._unresolve(name)
            return
        claim = read_claim(info, allow_loopback=self._is_local, on_bare_cable=self._is_on_bare_cable)
        if claim is not None and claim[0] == self._node.id:
            claim = self._double(claim)
        if claim is None:
            return
        if name in self._found or len(self._found) < MAX_SERVICES:
            self._found[name] = claim
        self._propose(*claim)

    @property
    def _is_local(self) -> bool:
        return all(ipaddress.ip_address(address).is_loopback for address in self._addresses)

    @property
    def _is_on_bare_cable(self) -> bool:
        """Whether it gave itself an IPv4 address, as machines without a router do: then others may, too."""
        return any(ip.version == 4 and ip.is_link_local for ip in map(ipaddress.ip_address, self._addresses))

    def _double(self, claim: Claim) -> Claim | None:
        """What claims this node's id elsewhere, as a copied data directory does; None for this node's own words."""
        mine = {make_address(address, self._port) for address in self._addresses}
        elsewhere = tuple(held for held in claim[1] if Address(held.host.split("%")[0], held.port) not in mine)
        return (claim[0], elsewhere) if elsewhere else None

    async def _repropose(self) -> None:
        while True:
            await asyncio.sleep(self._repropose_s)
            for node_id, addresses in tuple(self._found.values()):
                self._propose(node_id, addresses)
            if not self._waiting and self._zeroconf is not None:  # newcomers come first
                self._waiting, self._unresolved = self._unresolved, {}
                self._resolve_next(self._zeroconf.zeroconf)

    def _propose(self, node_id: str, addresses: tuple[Address, ...]) -> None:
        for address in addresses:
            self._on_proposed(address, node_id)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def read_claim(info: AsyncServiceInfo, *, allow_loopback: bool, on_bare_cable: bool = False) -> Claim | None:
    """The node id and addresses that a resolved name claims; None if it is none of ours or malformed.

    Loopback counts only for a node that announces loopback itself: from elsewhere it would point back at this machine.
    So do self-given addresses, where clouds have their metadata service; IPv6 ones come with the interface they are on.
    """
    try:
        node_id = _node_id.validate_python(info.decoded_properties.get("id"))
    except ValidationError:
        return None
    addresses: list[Address] = []
    for host in info.parsed_scoped_addresses():
        try:
            address = make_address(host, info.port or 0)
        except AddressError:
            continue
        is_elsewhere = address.is_link_local and "%" not in address.host and not on_bare_cable
        if not is_elsewhere and (allow_loopback or not address.is_loopback):
            addresses.append(address)
    return (node_id, tuple(addresses[:MAX_ADDRESSES_PER_PEER])) if addresses else None


def _service_info(node: NodeDescription, addresses: Sequence[str], port: int) -> AsyncServiceInfo:
    short_id = node.id[:_ID_CHARS_IN_LABEL]
    run = (node.instance or "")[:_INSTANCE_CHARS_IN_HOST].strip("-")
    room_bytes = _LABEL_BYTES - len(short_id) - 1
    plain = unicodedata.normalize("NFKD", node.name).encode("ascii", "ignore").decode()  # accents go, letters stay
    label = f"{_UNFIT_IN_LABEL.sub('-', plain)[:room_bytes].strip('-') or FALLBACK_LABEL} {short_id}"
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{label}.{SERVICE_TYPE}",
        addresses=[ipaddress.ip_address(address).packed for address in addresses],
        port=port,
        properties={"id": node.id, "v": str(PROTOCOL_VERSION), "n": node.name, "p": node.mode},
        server=f"swarm-{'-'.join(filter(None, (short_id, run)))}.local.",
        host_ttl=RECORD_TTL_S,
        other_ttl=RECORD_TTL_S,
    )
