"""Requests that wait for this node's own workers, and leave as soon as a peer has an idle slot for them.

Who answers is decided when a request comes, by what is known then. It may turn out otherwise: readers that do not read
keep this node's workers, or a peer that was full is idle. Nothing is lost by leaving: nobody has worked on it yet.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from swarm.routing.replicas import Place, Replica

LOOK_S: Final = 0.25  # between looks around; peers tell their loads once a second, own answers there end in between
MOST_AT_A_LOOK: Final = 32  # the oldest: a look at the replicas for each of a thousand would hold up all else

Elsewhere = Callable[[], Replica | None]  # who would be asked instead at this moment, with its idle slots


class SoonerElsewhere(Exception):
    """A peer has an idle slot for a request that still waits here."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    choices: int
    elsewhere: Elsewhere
    patience: asyncio.Timeout


class WaitingRoom:
    """All requests that wait, oldest first. For one event loop."""

    def __init__(self) -> None:
        self._waiters: dict[_Waiter, None] = {}
        self._next_look: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def waits(self, choices: int, elsewhere: Elsewhere) -> AsyncGenerator[None]:
        """A request waits within the block, for `choices` slots. Raises SoonerElsewhere from there."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                waiter = _Waiter(choices, elsewhere, patience)
                self._waiters[waiter] = None
                self._look_later()
                try:
                    yield
                finally:
                    del self._waiters[waiter]
                    self._close_if_empty()
        except TimeoutError:
            if patience.expired():
                raise SoonerElsewhere from None
            raise

    def _look_later(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _close_if_empty(self) -> None:
        if not self._waiters and self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self) -> None:
        """Call out whom a peer could answer at once, each idle slot once."""
        now = asyncio.get_running_loop().time()
        taken = Counter[Place]()
        for waiter in islice(self._waiters, MOST_AT_A_LOOK):
            peer = waiter.elsewhere()
            if peer is not None and peer.slots_free - taken[peer.place] >= waiter.choices:
                taken[peer.place] += waiter.choices
                waiter.patience.reschedule(now)
        self._next_look = None
        self._look_later()
