"""Keeping the peer table true, and a log of what changes in it: probing, asking peers whom they know, saying goodbye.

Every decision is the table's (`peer_table.py`); here its probes are sent, and its changes are logged and passed on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from federation import wire
from federation.advertisement import NodeDescription, PeerHint
from federation.client import PeerClient
from federation.dns_source import DnsSource, ResolvedName
from federation.errors import AddressError, PeerError
from federation.hostport import Address, make_address, parse_address, worth_a_probe
from federation.peer import (
    AddressRejected,
    Change,
    Peer,
    PeerChanged,
    PeerJoined,
    PeerLeft,
    PeerState,
    Source,
    Why,
    why_of,
)
from federation.peer_table import Changes, PeerTable
from federation.probing import ProbeQuestion, ProbeReply, Sight, parse_news, reply_to
from federation.static_peers import load_peers, save_peers
from federation.tasks import cancel_and_wait, report_crash, tell_each
from federation.timing import MAX_STATIC, SMALL_SWARM_PEERS, Timing

MAX_CHANGES: Final = 64  # kept in the log: an eventful day of a home swarm, a few seconds of a switch that is restarted
REPEAT_S: Final = 60.0  # the same change of the same peer within this is one entry, counted, and one line

SHOWN: Final = frozenset({Why.COPY, Why.UNTRUSTED})  # whoever runs the node reads these on its console
EXCHANGE_FANOUT: Final = 3  # peers asked per round: all know a newcomer after a few rounds
LARGE_FANOUT: Final = 1  # in a large swarm, whose lists are long and whose news travel with the probes
ASKED_AT_ONCE: Final = 2  # newcomers: when a hundred come together, two know them all
_MAX_IDLE_S: Final = 1.0  # longest sleep of the probe loop: forgetting needs no better
_PROXY_HEADERS: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")  # added on the way; nodes send none
Subscriber = Callable[[Change], None]

_log = logging.getLogger(__name__)


class Membership:
    """Probes from `__aenter__` to `__aexit__`, which says goodbye and leaves no task behind.

    For the event loop's thread only. Subscribers are called on it, after the change, and must not block; what one
    raises is logged. Without `data_dir` the addresses given with --peer are not kept. `is_open`: whether peers are
    told apart by their addresses only, or by their certificates.
    """

    def __init__(
        self,
        node: NodeDescription,
        client: PeerClient,
        *,
        static_peers: Sequence[Address] = (),
        data_dir: Path | None = None,
        timing: Timing | None = None,
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        self._self_id = node.id
        self._client = client
        self._given = tuple(static_peers)
        self._data_dir = data_dir
        self._timing = timing or Timing()
        self._table = PeerTable(
            node.id, self_name=node.name, self_instance=node.instance, timing=self._timing, is_open=is_open
        )
        self._instance = node.instance
        self._names = DnsSource(lambda address: self._propose(address, Source.DNS))
        self._sources: dict[str, str | None] = {}
        self._listed: set[Address] = set()
        self._kept: tuple[Address, ...] = ()
        self._acquaintance = PeerExchange(
            node.id,
            self._table,
            client,
            self._timing,
            propose=lambda address: self._propose(address, Source.EXCHANGE),
            charge=lambda node_id: self.report_traffic(node_id, ok=False),
        )
        self._log = ChangeLog()
        self._probing: dict[Address, set[asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._subscribers: list[Subscriber] = []
        self._root: asyncio.Task[None] | None = None
        self._tasks = asyncio.TaskGroup()
        self._said_goodbye = False

    async def __aenter__(self) -> Self:
        static = await self._static_addresses()
        for address in static:
            self._give(address)
        started = asyncio.Event()
        self._root = asyncio.create_task(self._run(started), name="membership")
        report_crash(self._root, _log, "peers are not watched any more")  # the node goes on with what it knows of them
        await started.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = self._root
        if root is None:
            return
        errors = await cancel_and_wait(root)
        await self.say_goodbye()
        for error in errors:
            raise error

    async def say_goodbye(self) -> None:
        """Tell every living peer that this node leaves, once; the watch over them goes on."""
        if not self._said_goodbye:
            self._said_goodbye = True
            await self._acquaintance.say_goodbye(self._instance)

    # What others report

    def mdns_proposed(self, address: Address, node_id: str) -> None:
        """mDNS says that `node_id` may answer at `address`: its own id, too, for another node may use a copy of it."""
        self._propose(address, Source.MDNS, node_id)

    def mdns_goodbye(self, node_id: str) -> None:
        """mDNS says that `node_id` left, or lost sight of it."""
        self._apply(self._table.doubted(node_id, time.monotonic()))

    def endpoint_reported(self, host: str, port: int) -> None:
        """A node that called here says it can be probed there, an IP address; nonsense is ignored."""
        try:
            address = make_address(host, port)
        except AddressError as error:
            _log.debug("ignoring where a caller says it is: %s", error)
            return
        if not address.is_name:  # what a name stands for is up to whoever resolves it: nodes report none
            self._propose(address, Source.EXCHANGE)

    def reply_to_probe(
        self,
        node: NodeDescription,
        remote: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        certified: bool = False,
    ) -> ProbeReply:
        """The answer to GET node from `remote`, with what that call says of the caller taken up; `node` is this one.

        `certified`: a certificate has proved who calls. Else what it says counts only from where that peer answers.

        A probe says where its own node listens, so that one --peer makes both know each other: the port it claims, at
        the address it came from, so that nobody can point probes at a third machine. What came through a proxy came
        from the proxy's address: nobody's claim to be there counts.
        """
        table, now = self._table, time.monotonic()
        caller, news = headers.get(wire.FROM_HEADER, ""), parse_news(headers.get(wire.NEWS_HEADER))
        sight, whence = table.sight_of(caller), None if certified else remote
        if news or sight is not Sight.HERE:
            self._apply(table.called(caller, now, whence))
            self._apply(table.news_received(news, caller, now, whence))
            self._wake.set()
        if wire.FROM_PARAM in query and not any(name in headers for name in _PROXY_HEADERS):
            try:
                self.endpoint_reported(remote, parse_address(query[wire.FROM_PARAM]).port)
            except AddressError as error:
                _log.debug("a probe from %s names no address: %s", remote, error)
        return reply_to(node, table.view(), sight, table.news(now, caller), headers.get("If-None-Match"))

    def goodbye_received(self, node_id: str, instance: str | None = None, remote: str | None = None) -> None:
        """`node_id` called from `remote` (None: proved by its certificate) to say that its run `instance` leaves."""
        self._apply(self._table.goodbye(node_id, time.monotonic(), instance, remote))
        self._wake.set()

    def woke(self) -> None:
        """This machine slept, or its addresses changed: probe everything at once."""
        self._apply(self._table.woke(time.monotonic()))
        self._wake.set()

    def report_traffic(self, node_id: str, ok: bool) -> None:
        """A real request to `node_id` was answered, or failed for a reason that lies with the peer or the way to it."""
        report = self._table.traffic_ok if ok else self._table.traffic_failed
        self._apply(report(node_id, time.monotonic()))

    def expel(self, is_stranger: Callable[[str], bool], reason: str) -> None:
        """Forget every peer whose id is a stranger's, at once: it is asked for nothing any more."""
        for peer in self._table.peers():
            if is_stranger(peer.id):
                self._apply(self._table.expelled(peer.id, reason, time.monotonic()))

    def listed(self, addresses: Sequence[Address]) -> None:
        """What --peer-file lists now: as if given with --peer, but not kept, and forgotten when no longer listed."""
        for address in self._listed - set(addresses) - set(self._kept):
            self._names.remove(address)
            self._apply(self._table.withdrawn(address))
        for address in addresses:
            self._give(address)
        self._listed = set(addresses)

    # What others ask

    def alive(self) -> tuple[Peer, ...]:
        """The peers that may be routed to: alive ones first, then suspects; never a dead one."""
        return self._table.alive()

    def peers(self) -> tuple[Peer, ...]:
        """Every node that has answered, dead ones included until forgotten."""
        return self._table.peers()

    def get(self, node_id: str) -> Peer | None:
        """One peer by id, dead or alive."""
        return self._table.get(node_id)

    def hints(self) -> tuple[PeerHint, ...]:
        """What GET peers answers."""
        return self._table.hints()

    @property
    def sources(self) -> dict[str, str | None]:
        """Where peers are looked for beside --peer, and why that does not work, as its owner last noted it."""
        return self._sources

    def rejected(self) -> tuple[AddressRejected, ...]:
        """The addresses proposed that lead to no peer, and why."""
        return self._table.rejected()

    def names(self) -> tuple[ResolvedName, ...]:
        """The host names given, and what they stand for."""
        return self._names.view()

    def changes(self) -> tuple[RecentChange, ...]:
        """What has changed of late, and why; the oldest first."""
        return self._log.recent()

    def change_counts(self) -> Mapping[PeerState, int]:
        """How often a peer went to each state since the start."""
        return self._log.counts

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back with every change from now on; the returned function ends it."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    # Effects

    async def _run(self, started: asyncio.Event) -> None:
        async with self._tasks:
            started.set()
            self._tasks.create_task(self._acquaintance.exchange_now_and_then(self._tasks))
            self._tasks.create_task(self._names.run())
            while True:
                now = time.monotonic()
                self._wake.clear()
                self._apply(self._table.tick(now))
                for address in self._table.due_probes(now):
                    self._start_probe(address, now)
                for peer in self._table.due_lists(now):
                    self._tasks.create_task(self._acquaintance.learn_loadable(peer))
                await self._sleep_until(self._table.next_due())

    async def _sleep_until(self, due_at: float | None) -> None:
        left_s = _MAX_IDLE_S if due_at is None else min(max(due_at - time.monotonic(), 0.0), _MAX_IDLE_S)
        try:
            async with asyncio.timeout(left_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _start_probe(self, address: Address, now: float) -> None:
        task = self._tasks.create_task(self._probe(address, self._table.question(address, now)))
        running = self._probing.setdefault(address, set())
        running.add(task)
        task.add_done_callback(lambda done: self._ended(address, done))

    def _ended(self, address: Address, task: asyncio.Task[None]) -> None:
        running = self._probing[address]
        running.remove(task)
        if not running:
            del self._probing[address]

    async def _probe(self, address: Address, question: ProbeQuestion) -> None:
        began = time.monotonic()
        try:
            answer = await self._client.probe(address, question)
        except PeerError as error:
            why, refused = why_of(error.kind), error.kind == "refused"
            changes = self._table.probe_failed(address, str(error), refused, time.monotonic(), why)
        else:
            now = time.monotonic()
            changes = self._table.probe_answered(address, answer, (now - began) * 1000, now)
            changes += self._table.news_received(answer.news, answer.description.id, now)
            for other in self._probing[address] - {asyncio.current_task()}:
                other.cancel()  # late, on a connection that may have lost much: the one that answered is used again
        self._apply(changes)
        self._wake.set()

    def _propose(self, address: Address, source: Source, node_id: str | None = None) -> None:
        self._apply(self._table.proposed(address, source, time.monotonic(), node_id))
        self._wake.set()

    def _give(self, address: Address) -> None:
        """Somebody wants this address probed for ever; a name, the addresses that it stands for."""
        if address.is_name:
            self._names.add(address)
        else:
            self._propose(address, Source.STATIC)

    def _apply(self, changes: Changes) -> None:
        """Log each change once, call the subscribers, and ask a newcomer whom it knows."""
        for change in map(self._without_itself, changes):
            self._log.note(change, time.monotonic())
            tell_each(self._subscribers, change)
            if isinstance(change, PeerJoined):  # only a probe brings one, so the tasks are running
                self._tasks.create_task(self._acquaintance.meet(change.peer))
        if changes:
            self._wake.set()

    def _without_itself(self, change: Change) -> Change:
        """What is said of this node's own address where it was given with --peer, and drop that."""
        if not isinstance(change, AddressRejected) or change.why is not Why.ITSELF or change.address not in self._kept:
            return change
        self._kept = tuple(address for address in self._kept if address != change.address)
        if change.address not in self._listed:
            self._table.withdrawn(change.address)
        self._tasks.create_task(self._keep(self._kept))  # only a probe tells, so the tasks are running
        return replace(change, reason="is this node's own address: --peer is for another's", dropped=True)

    async def _static_addresses(self) -> tuple[Address, ...]:
        """Those given now and those kept from earlier starts; what is new is kept."""
        stored = () if self._data_dir is None else await asyncio.to_thread(load_peers, self._data_dir)
        static = tuple(dict.fromkeys((*stored, *self._given)))[:MAX_STATIC]
        if static != stored:
            await self._keep(static)
        self._kept = static
        return static

    async def _keep(self, static: Iterable[Address]) -> None:
        self._kept = tuple(static)[:MAX_STATIC]
        if self._data_dir is not None:
            await asyncio.to_thread(save_peers, self._data_dir, self._kept)


class PeerExchange:
    """`propose` takes what is learned; `charge` whom an answer was not to be had of."""

    def __init__(
        self,
        self_id: str,
        table: PeerTable,
        client: PeerClient,
        timing: Timing,
        propose: Callable[[Address], None],
        charge: Callable[[str], None],
    ) -> None:
        self._self_id = self_id
        self._table = table
        self._client = client
        self._timing = timing
        self._propose = propose
        self._charge = charge
        self._asking = 0

    async def exchange_now_and_then(self, tasks: asyncio.TaskGroup) -> None:
        """Ask a few of those that find others here than this node does, for ever."""
        while True:
            await asyncio.sleep(self._timing.exchange_interval_s)
            healthy = [peer for peer in self._table.alive() if peer.state is PeerState.ALIVE]
            fanout = EXCHANGE_FANOUT if len(healthy) <= SMALL_SWARM_PEERS else LARGE_FANOUT
            differing = [peer for peer in healthy if self._table.sees_otherwise(peer.id)]
            for peer in random.sample(differing, min(fanout, len(differing))):
                tasks.create_task(self._learn_from(peer))

    async def meet(self, peer: Peer) -> None:
        """Ask a newcomer whom it knows, unless that is nobody new or others are being asked already."""
        if self._asking < ASKED_AT_ONCE and self._table.sees_otherwise(peer.id):
            await self._learn_from(peer)

    async def learn_loadable(self, peer: Peer) -> None:
        """Ask a peer which models it could load. A failure is not held against it: probes say whether it is well."""
        found = None
        try:
            found = await self._client.loadable(peer.address, self._timing.list_timeout_s)
        except PeerError as error:
            _log.debug("%s does not say what it could load: %s", peer.label, error)
        finally:
            self._table.list_received(peer.id, found, time.monotonic())

    async def say_goodbye(self, instance: str | None) -> None:
        """Tell every living peer, all at once; those that do not take note in time will find out by probing."""
        try:
            async with asyncio.timeout(self._timing.goodbye_timeout_s), asyncio.TaskGroup() as tasks:
                for peer in self._table.alive():
                    tasks.create_task(self._tell_goodbye(peer, instance))
        except TimeoutError:
            _log.debug("not every peer took note of the goodbye")

    async def _learn_from(self, peer: Peer) -> None:
        self._asking += 1
        try:
            hints = await self._client.peers(peer.address, self._timing.probe_timeout_s)
        except PeerError as error:
            _log.debug("%s does not list its peers: %s", peer.label, error)
            self._charge(peer.id)
            return
        finally:
            self._asking -= 1
        for address in useful_hints(hints, sender=peer.address, self_id=self._self_id):
            self._propose(address)

    async def _tell_goodbye(self, peer: Peer, instance: str | None) -> None:
        try:
            await self._client.goodbye(peer.address, self._self_id, self._timing.goodbye_timeout_s, instance)
        except PeerError as error:
            _log.debug("%s did not take note of the goodbye: %s", peer.label, error)


def useful_hints(hints: Iterable[PeerHint], sender: Address, self_id: str) -> tuple[Address, ...]:
    """The hinted addresses worth a probe."""
    return tuple(hint.address for hint in hints if hint.id != self_id and worth_a_probe(hint.address, sender))


@dataclass(frozen=True, slots=True)
class RecentChange:
    """One change of one peer, or the same one `times` within a minute: `at` is the last time, `reason` that of then."""

    at: datetime
    peer: str
    id: str
    state: PeerState
    reason: str
    times: int = 1


class ChangeLog:
    """The latest changes, the oldest first, and how often a peer went to each state."""

    def __init__(self) -> None:
        self._recent: deque[RecentChange] = deque(maxlen=MAX_CHANGES)
        self._first_at: dict[tuple[str, PeerState, str], float] = {}
        self.counts: Counter[PeerState] = Counter(dict.fromkeys(PeerState, 0))

    def note(self, change: Change, now: float) -> None:
        """Keep it and write it down. `now` is monotonic seconds."""
        kind = _kind_of(change)
        if kind is None:
            log_change(change)
            return
        peer, reason, is_other_state = kind
        self.counts[peer.state] += is_other_state
        key = (peer.id, peer.state, type(change).__name__)
        if now - self._first_at.get(key, now - REPEAT_S) < REPEAT_S:
            self._count(peer, reason)
            return
        self._first_at = {held: at for held, at in self._first_at.items() if now - at < REPEAT_S}  # bounded by a minute
        self._first_at[key] = now
        self._recent.append(RecentChange(datetime.now(UTC), peer.label, peer.id, peer.state, reason))
        log_change(change)

    def recent(self) -> tuple[RecentChange, ...]:
        """The oldest first."""
        return tuple(self._recent)

    def _count(self, peer: Peer, reason: str) -> None:
        """Once more what was just noted; written once, when it is plain that it goes on."""
        for index in range(len(self._recent) - 1, -1, -1):
            held = self._recent[index]
            if (held.id, held.state) == (peer.id, peer.state):
                del self._recent[index]
                self._recent.append(replace(held, at=datetime.now(UTC), reason=reason, times=held.times + 1))
                if held.times == 1:
                    _log.info("%s is %s again within a minute (%s): further ones are only counted", peer.label,
                              peer.state, reason)  # fmt: skip
                return


def _kind_of(change: Change) -> tuple[Peer, str, bool] | None:
    """Whose change it is, why, and whether it is one of state."""
    match change:
        case PeerJoined(peer, returned):
            return peer, f"{'is back' if returned else 'joined'} at {peer.address} ({peer.source.word})", True
        case PeerChanged(peer, was, reason):
            return peer, reason, was is not peer.state
        case PeerLeft(peer, reason):
            return peer, reason, True
        case AddressRejected():
            return None


def log_change(change: Change) -> None:
    """One line. Passing suspicions are for debugging: lossy Wi-Fi has many."""
    match change:
        case PeerJoined(peer, returned):
            word = "is back" if returned else "joined"
            _log.info("%s %s at %s (%s)", peer.label, word, peer.address, peer.source.word)
        case PeerChanged(peer, was, reason):
            level = logging.INFO if was is peer.state else logging.DEBUG
            _log.log(level, "%s is %s: %s", peer.label, peer.state, reason)
        case PeerLeft(peer, reason):
            _log.info("%s left: %s", peer.label, reason)
        case AddressRejected(address, source, reason, why):
            matters = source is Source.STATIC and why not in SHOWN and not change.dropped  # the console says that
            level = logging.WARNING if matters else logging.INFO
            _log.log(level, "no peer at %s (%s): %s", address, source.word, reason)
