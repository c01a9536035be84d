"""Who holds which slot: a first-come queue over named slots. Synchronous decisions; the pool does the waiting."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Worker:
    """A named voter: one sequence slot of one engine."""

    name: str
    slot: int


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue for `count` workers at once; `granted` is empty until they are all free."""

    count: int
    granted: tuple[Worker, ...] = ()


@dataclass(slots=True)
class SlotTable:
    """Free workers and who waits for them, in order of arrival: nobody overtakes, so nobody starves.

    Whoever can be served at once is never refused; at most `max_waiting` wait.
    """

    workers: tuple[Worker, ...]
    max_waiting: int
    _free: list[Worker] = field(init=False)
    _queue: deque[Ticket] = field(init=False, default_factory=deque[Ticket])

    def __post_init__(self) -> None:
        self._free = list(self.workers)

    @property
    def idle(self) -> int:
        """Workers that a newcomer would get at once."""
        return 0 if self._queue else len(self._free)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def queued(self) -> int:
        """Workers that those who wait want together."""
        return sum(ticket.count for ticket in self._queue)

    def ask(self, count: int) -> Ticket | None:
        """A place in the queue for `count` workers (at most all there are); None if it would wait and may not."""
        ticket = Ticket(min(count, len(self.workers)))
        if ticket.count > self.idle and len(self._queue) >= self.max_waiting:
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
            served.append(ticket)
        return served

    def give_back(self, ticket: Ticket) -> None:
        """Free what the ticket holds, or leave the queue if it holds nothing yet."""
        if ticket.granted:
            self._free = sorted((*self._free, *ticket.granted), key=lambda worker: worker.slot)
            ticket.granted = ()
        elif ticket in self._queue:
            self._queue.remove(ticket)
