"""Who holds which slot: a first-come queue over named slots, and how long a newcomer waits. Decisions only; no waiting.

Workers have names that people can tell apart when a vote lists who said what.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1, 60  # SDKs obey no more than a minute, and a queue is another one by then
LONG_HELD = 2.0  # times the average: of answers of chance lengths, one in eight takes longer
LEAST_SERVICE_S = 1e-3
UNMEASURED_RETRY_AFTER_S = 2  # about one short answer, while nothing has been measured

Refusal = Literal["queue_full", "deadline", "node_full"]
NAMES = (
    "Zeus", "Nebula", "Atlas", "Luna", "Orion", "Vega", "Apollo", "Iris", "Titan", "Nova", "Hermes", "Lyra", "Juno",
    "Comet", "Hera", "Quasar", "Ares", "Aurora", "Rhea", "Pulsar", "Thor", "Selene", "Odin", "Gaia", "Helios", "Eos",
    "Kepler", "Freya", "Cosmo", "Athena", "Sirius", "Maia", "Janus", "Carina", "Triton", "Electra", "Castor", "Dione",
    "Pollux", "Phoebe", "Altair", "Calypso", "Rigel", "Astra", "Mimas", "Cassiopeia", "Draco", "Andromeda", "Ceres",
    "Hyperion", "Leda", "Pandora", "Proteus", "Thalia", "Umbriel", "Miranda", "Oberon", "Ariel", "Callisto", "Europa",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Worker:
    """A named voter: one sequence slot of one engine."""

    name: str
    slot: int


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue for `count` workers at once; `granted` is empty until they are all free.

    One that `gives_way` never waits, and is `called_back` when somebody does.
    """

    count: int
    granted: tuple[Worker, ...] = ()
    gives_way: bool = False
    called_back: bool = False


@dataclass(slots=True)
class SlotTable:
    """Free workers and who waits for them, in order of arrival: nobody overtakes, so nobody starves.

    Whoever can be served at once is never refused; at most `max_waiting` wait. Workers that were taken by who gives
    way are as good as free for everybody else.
    """

    workers: tuple[Worker, ...]
    max_waiting: int
    _free: list[Worker] = field(init=False)
    _queue: deque[Ticket] = field(init=False, default_factory=deque[Ticket])
    _giving_way: list[Ticket] = field(init=False, default_factory=list[Ticket])  # with workers, oldest first

    def __post_init__(self) -> None:
        self._free = list(self.workers)

    @property
    def idle(self) -> int:
        """Workers that a newcomer would get at once."""
        return 0 if self._queue else len(self._free)

    @property
    def obtainable(self) -> int:
        """Workers that a newcomer gets at once, or as soon as others have given way."""
        return max(0, len(self._free) + sum(len(ticket.granted) for ticket in self._giving_way) - self.queued)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def queued(self) -> int:
        """Workers that those who wait want together."""
        return sum(ticket.count for ticket in self._queue)

    def ask(self, count: int, gives_way: bool = False) -> Ticket | None:
        """A place in the queue for `count` workers (at most all there are); None if it would wait and may not.

        Who gives way gets as many as are idle, and None where none is.
        """
        if gives_way:
            count = min(count, self.idle)
            if not count:
                return None
        ticket = Ticket(min(count, len(self.workers)), gives_way=gives_way)
        if ticket.count > self.obtainable and len(self._queue) >= self.max_waiting:
            return None
        self._queue.append(ticket)
        return ticket

    def grants(self) -> list[Ticket]:
        """Tickets that can be served now, served. Call after `ask` and after `give_back`."""
        served: list[Ticket] = []
        while self._queue and self._queue[0].count <= len(self._free):
            ticket = self._queue.popleft()
            ticket.granted = tuple(self._free[: ticket.count])
            del self._free[: ticket.count]
            if ticket.gives_way:
                self._giving_way.append(ticket)
            served.append(ticket)
        return served

    def call_back(self) -> list[Ticket]:
        """Tickets that are to give way now, the youngest first: as many as those who wait need."""
        coming = sum(len(ticket.granted) for ticket in self._giving_way if ticket.called_back)
        lacking = self.queued - len(self._free) - coming
        called: list[Ticket] = []
        for ticket in reversed(self._giving_way):
            if lacking <= 0:
                break
            if not ticket.called_back:
                ticket.called_back = True
                lacking -= len(ticket.granted)
                called.append(ticket)
        return called

    def give_back(self, ticket: Ticket) -> None:
        """Free what the ticket holds, or leave the queue if it holds nothing yet."""
        if ticket in self._giving_way:
            self._giving_way.remove(ticket)
        if ticket.granted:
            self._free = sorted((*self._free, *ticket.granted), key=lambda worker: worker.slot)
            ticket.granted = ()
        elif ticket in self._queue:
            self._queue.remove(ticket)


def worker_names(node_id: str) -> Iterator[str]:
    """Different names without end; the same node gets the same ones, other nodes mostly others."""
    shuffled = list(NAMES)
    random.Random(node_id).shuffle(shuffled)
    for lap in itertools.count(1):
        for name in shuffled:
            yield name if lap == 1 else f"{name}-{lap}"


class QueueListener(Protocol):
    """Who wants to know what happens to requests that need workers."""

    def waited(self, seconds: float) -> None:
        """A request got its workers after so long."""
        ...

    def refused(self, why: Refusal) -> None:
        """A request was turned away before it waited."""
        ...


def expected_wait_s(
    wanted: int, idle: int, queued: int, slots: int, service_s: float | None, held_s: Sequence[float] = ()
) -> float | None:
    """Seconds until `wanted` of `slots` workers are free for a newcomer; None while nothing is measured.

    `idle` are free at once, `queued` are wanted by those before it, and a request holds its workers for `service_s`
    on average: the mean time in which a queue moves up, not a promise. Workers that are held have been for `held_s`
    each: who holds one for over LONG_HELD times the average is no average request, and goes on for as long again, as
    far as anybody can tell. So a queue behind long answers is not taken for one behind the short ones of before.
    """
    if wanted <= idle:
        return 0.0
    if service_s is None:
        return None
    long_held = [each for each in held_s[:slots] if each > LONG_HELD * service_s]
    if not long_held:
        return (queued + wanted) * service_s / slots
    freed_per_s = sum(1 / each for each in long_held)
    if len(long_held) < slots:
        freed_per_s += (slots - len(long_held)) / max(service_s, LEAST_SERVICE_S)
    return (queued + wanted) / freed_per_s


def retry_after_s(wait_s: float | None) -> int:
    """What to tell one who is refused: the expected wait in whole seconds, within reason."""
    if wait_s is None:
        return UNMEASURED_RETRY_AFTER_S
    return math.ceil(min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S))
