"""How long an event loop stood still, for guards that must hold on a busy machine and late in a run, too."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from federation.tasks import cancel_and_wait
from swarm.engines import free_memory

HEARTBEAT_S: Final = 0.02


class _GarbageClock:
    """How long looking for garbage has kept the loop from running so far: what thousands of tests made is looked at.

    On the loop's own thread its processor time counts, since `_waited_for_cpu_s` has the rest; on another one, which
    holds the interpreter all the while, everything.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._clock = time.thread_time
        self._began_s = 0.0
        gc.callbacks.append(self._collecting)

    def _collecting(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            own = threading.current_thread() is threading.main_thread()
            self._clock = time.thread_time if own else time.perf_counter
            self._began_s = self._clock()
        else:
            self.spent_s += self._clock() - self._began_s


_garbage = _GarbageClock()


class _TrimClock:
    """How long threads have given free memory back so far: whoever wants some waits for them, and these processes of
    thousands of tests have more pieces of it than any node.
    """

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._from_glibc = free_memory.from_glibc
        free_memory.from_glibc = self._timed

    def _timed(self, name: str) -> Callable[..., int] | None:
        found = self._from_glibc(name)

        def call(*values: int) -> int:
            began_s = time.perf_counter()
            try:
                return 0 if found is None else found(*values)
            finally:
                self.spent_s += time.perf_counter() - began_s

        return call


_trims = _TrimClock()


def _waited_for_cpu_s() -> float:
    """How long this thread has waited for a processor so far (Linux; 0 elsewhere)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def _excused_s() -> float:
    return _waited_for_cpu_s() + _garbage.spent_s + _trims.spent_s


@dataclass(slots=True)
class LoopWatch:
    """`worst_s`: the longest time that the loop of the main thread took for one turn, by its own doing."""

    worst_s: float = 0.0
    _last_s: float = field(default_factory=time.perf_counter)
    _excused_s: float = field(default_factory=_excused_s)

    def look(self, expected_s: float) -> None:
        """A turn ends, which was to take `expected_s`."""
        now_s, excused_s = time.perf_counter(), _excused_s()
        self.worst_s = max(self.worst_s, now_s - self._last_s - expected_s - (excused_s - self._excused_s))
        self._last_s, self._excused_s = now_s, excused_s

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.look(HEARTBEAT_S)


@asynccontextmanager
async def watching_the_loop() -> AsyncGenerator[LoopWatch]:
    """The watch over this loop, until the block ends."""
    watch = LoopWatch()
    pulse = asyncio.create_task(watch.beat(), name="pulse")
    try:
        yield watch
    finally:
        watch.look(0.0)  # the last turn may have been the long one, and a short block has no other
        await cancel_and_wait(pulse)
