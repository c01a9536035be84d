"""Noticing that this machine's addresses changed, or that it slept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from federation.addresses import AnnouncedAddresses
from federation.errors import AddressError

LOOK_EVERY_S: Final = 2.0  # reading the interfaces takes under a millisecond; peers find a new address soon enough
SLEPT_S: Final = 15.0  # more than a busy machine holds a task up, less than any nap of a laptop

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Moment:
    """The same instant on both clocks. During sleep the wall clock goes on and, on most systems, the other stops."""

    wall_s: float
    steady_s: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.time(), time.monotonic())


def has_slept(before: Moment, after: Moment, expected_s: float = LOOK_EVERY_S) -> bool:
    """Whether so much time passed between two looks that this machine, or this process, must have been stopped.

    A clock that is set forward looks the same: what follows costs little and harms nobody.
    """
    passed_s = max(after.wall_s - before.wall_s, after.steady_s - before.steady_s)
    return passed_s > expected_s + SLEPT_S


class AddressWatch:
    """Looks every `every_s` seconds, as long as `run` runs.

    `choose` reads the interfaces and decides; `seen` is told of every look: what to announce, and whether the machine
    slept before it. An address that was asked for and is gone changes nothing until something else can be announced.
    """

    def __init__(
        self,
        choose: Callable[[], AnnouncedAddresses],
        seen: Callable[[AnnouncedAddresses, bool], Awaitable[None]],
        every_s: float = LOOK_EVERY_S,
        now: Callable[[], Moment] = Moment.now,
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
