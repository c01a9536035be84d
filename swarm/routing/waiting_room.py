"""Requests that wait for this node's own workers, and leave as soon as a peer would be done with them sooner.

Who answers is decided when a request comes, by what is known then. It may turn out otherwise: readers that do not read
keep this node's workers, or a peer that was full is idle. Nothing is lost by leaving: nobody has worked on it yet.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from swarm.routing.replicas import Replica, ReplicaKey

LOOK_S: Final = 0.25  # between two looks around; peers report their loads once a second
MOST_AT_A_LOOK: Final = 8  # a choice among a hundred peers takes three milliseconds; the next look is at the next eight

Elsewhere = Callable[[int], Replica | None]  # who would be asked instead now, of a request with so many before it


class SoonerElsewhere(Exception):
    """`peer` has an idle slot for a request that still waits here."""

    def __init__(self, peer: Replica) -> None:
        super().__init__(peer.node)
        self.peer = peer


@dataclass(slots=True, eq=False)
class _Waiter:
    model: str
    choices: int
    elsewhere: Elsewhere
    patience: asyncio.Timeout
    peer: Replica | None = None


class WaitingRoom:
    """All requests that wait, oldest first. For one event loop. `peers_idle` says whether looking is any use."""

    def __init__(self, peers_idle: Callable[[], bool], look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._peers_idle = peers_idle
        self._waiters: dict[_Waiter, None] = {}
        self._looked_at = 0  # of those that wait now, so many at the last looks
        self._next_look: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def waits(self, model: str, choices: int, elsewhere: Elsewhere) -> AsyncGenerator[None]:
        """A request waits within the block, for `choices` slots of `model`. Raises SoonerElsewhere from there."""
        patience = asyncio.timeout(None)
        waiter = _Waiter(model, choices, elsewhere, patience)
        try:
            async with patience:
                self._waiters[waiter] = None
                self._look_later()
                try:
                    yield
                finally:
                    self._waiters.pop(waiter, None)
                    self._close_if_empty()
        except TimeoutError:
            if waiter.peer is not None and patience.expired():
                raise SoonerElsewhere(waiter.peer) from None
            raise

    def _look_later(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(self._look_s, self._look)

    def _close_if_empty(self) -> None:
        if not self._waiters and self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self) -> None:
        """Call out whom a peer could answer at once, each idle slot once; the next look begins where this one ended."""
        self._next_look = None
        self._look_later()
        if not self._peers_idle():
            return
        now = asyncio.get_running_loop().time()
        begin = self._looked_at if self._looked_at < len(self._waiters) else 0
        ahead, taken = Counter[str](), Counter[ReplicaKey]()
        for number, waiter in enumerate(tuple(self._waiters)[: begin + MOST_AT_A_LOOK]):
            if number >= begin:
                peer = waiter.elsewhere(ahead[waiter.model])
                if peer is not None and peer.slots_free - taken[peer.key] >= waiter.choices:
                    taken[peer.key] += waiter.choices
                    waiter.peer = peer
                    waiter.patience.reschedule(now)
                    del self._waiters[waiter]
                    continue
            ahead[waiter.model] += 1
        self._looked_at = ahead.total()
        self._close_if_empty()
