"""Plays faults on real nodes and lines, and notes when each really began and was over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from tests.e2e.node_process import NodeProcess
from tests.faults.checker import Disturbance
from tests.faults.schedule import Event, Fault
from tests.faults.switch import FaultySwitch, cut, lossy, one_way

DELAY_ONE_WAY_S: Final = 0.1
DRAIN_S: Final = 35.0  # a stopped node gives running answers 30 s


class Director:
    """Disturbs `nodes` and the lines between them."""

    def __init__(self, nodes: Sequence[NodeProcess], switch: FaultySwitch) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._switch = switch
        self._one_at_a_time = {node.name: asyncio.Lock() for node in nodes}
        self.disturbances: list[Disturbance] = []

    async def play(self, schedule: Sequence[Event]) -> None:
        """All of it, from now on."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for event in schedule:
                tasks.create_task(self._play_one(event, start))

    async def _play_one(self, event: Event, start: float) -> None:
        await _until(start + event.at_s)
        async with self.disturbing(event.fault, *event.victims, percent=event.percent):
            await _until(start + event.ends_s)

    @asynccontextmanager
    async def disturbing(self, fault: Fault, *victims: str, percent: int = 0) -> AsyncGenerator[None]:
        """The fault lasts as long as the block; healed means that a node that was ended is ready again.

        A victim that has not recovered from the fault before is waited for.
        """
        reason = f"{fault.name} {' '.join(victims)}"
        async with AsyncExitStack() as stack:
            for name in sorted(victims):
                await stack.enter_async_context(self._one_at_a_time[name])
            began_at = time.monotonic()
            await self._begin(fault, victims, percent, reason)
            try:
                yield
            finally:
                await self._heal(fault, victims, reason)
                self.disturbances.append(Disturbance(fault, victims, began_at, time.monotonic()))

    async def _begin(self, fault: Fault, victims: Sequence[str], percent: int, reason: str) -> None:
        others = [name for name in self._nodes if name not in victims]
        switch = self._switch
        match fault:
            case Fault.KILL | Fault.FREEZE | Fault.STOP:
                for name in victims:
                    await self._end(self._nodes[name], fault)
            case Fault.CUT:
                await asyncio.to_thread(switch.lose, reason, cut(victims, others))
            case Fault.DEAF:
                await asyncio.to_thread(switch.lose, reason, one_way(others, victims))
            case Fault.MUTE:
                await asyncio.to_thread(switch.lose, reason, one_way(victims, others))
            case Fault.LOSS:
                await asyncio.to_thread(switch.lose, reason, lossy(self._nodes.keys(), percent))
            case Fault.DELAY:
                for name in victims:
                    await asyncio.to_thread(switch.delay, name, DELAY_ONE_WAY_S)

    async def _end(self, node: NodeProcess, fault: Fault) -> None:
        if fault is Fault.KILL:
            await asyncio.to_thread(node.kill)
        elif fault is Fault.FREEZE:
            node.send(signal.SIGSTOP)
        else:
            node.send(signal.SIGTERM)
            assert await node.ended(DRAIN_S) == 0, node.logs()

    async def _heal(self, fault: Fault, victims: Sequence[str], reason: str) -> None:
        if fault is Fault.DELAY:
            for name in victims:
                await asyncio.to_thread(self._switch.at_once, name)
        elif fault is Fault.FREEZE:
            for name in victims:
                self._nodes[name].send(signal.SIGCONT)
        elif fault in (Fault.KILL, Fault.STOP):
            for name in victims:
                await asyncio.to_thread(self._nodes[name].start)
                await self._nodes[name].ready()
        else:
            await asyncio.to_thread(self._switch.heal, reason)


async def _until(instant: float) -> None:
    """The clock of a schedule."""
    await asyncio.sleep(max(0.0, instant - time.monotonic()))
