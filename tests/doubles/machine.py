"""A machine with so much memory, and models on its disk whose engines say their own names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swarm.engines.engine import Engine
from swarm.errors import EngineFailed
from swarm.registry.model_memory import MIB
from swarm.workers.loadable import Loadable, LoadOption, MemoryRules
from swarm.workers.pool import PoolPace, WorkerPool
from tests.doubles.scripted_engine import ScriptedEngine, saying

QUICK = PoolPace(look_s=0.002, tick_s=0.01, memory_back_s=1.0, peer_load_s=60.0)


class SizedEngine(ScriptedEngine):
    """One that takes memory of a machine from its load to its end."""

    def __init__(self, machine: Machine, model_id: str, taken_bytes: int, slots: int) -> None:
        super().__init__(saying(f"I am {model_id}"), model_id=model_id, slots=slots)
        self._machine = machine
        self.taken_bytes: int | None = taken_bytes
        machine.taken += taken_bytes // MIB
        machine.most = max(machine.most, machine.taken)

    async def aclose(self) -> None:
        if not self.closed:
            self._machine.taken -= (self.taken_bytes or 0) // MIB
        await super().aclose()


@dataclass
class Machine:
    """`total` MiB of RAM, of which other programs have `others`. Engines took `most` of it at once.

    A load waits for `gate`, and fails with the next of `failures` of its model.
    """

    total: int = 1000
    others: int = 0
    taken: int = 0
    most: int = 0
    models: dict[str, Loadable] = field(default_factory=dict[str, Loadable])
    engines: list[SizedEngine] = field(default_factory=list[SizedEngine])
    failures: dict[str, list[Exception]] = field(default_factory=dict[str, list[Exception]])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    loads: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.gate.set()

    def add(
        self, model_id: str, *sizes: int, slots: int = 2, load_s: float | None = 1.0, ttl_s: float | None = None
    ) -> Loadable:
        """A model on the disk, with one way to load it for each of `sizes`, in MiB."""
        options = tuple(LoadOption(1024 >> turn, slots, {"ram": size * MIB}) for turn, size in enumerate(sizes))

        async def load(option: LoadOption) -> Engine:
            self.loads.append(model_id)
            await self.gate.wait()
            if failures := self.failures.get(model_id):
                raise failures.pop(0)
            if (await self.free())["ram"] < option.need["ram"]:
                raise EngineFailed(f"no memory for {model_id}")
            engine = SizedEngine(self, model_id, option.need["ram"], option.slots)
            self.engines.append(engine)
            return engine

        found = Loadable(
            model_id=model_id,
            usual=options[0],
            options=lambda _: options,
            load=load,
            engine="scripted",
            expected_load_s=load_s,
            ttl_s=ttl_s,
        )
        self.models[model_id] = found
        return found

    async def free(self) -> dict[str, int]:
        return {"ram": (self.total - self.others - self.taken) * MIB}

    def find(self, model_id: str) -> Loadable | None:
        return self.models.get(model_id)

    def all(self) -> Sequence[Loadable]:
        return tuple(self.models.values())

    def rules(self, reserve: int = 0, most_models: int | None = None) -> MemoryRules:
        """What a pool may take of it, with so many MiB left free."""
        return MemoryRules(self.free, reserve={"ram": reserve * MIB}, most_models=most_models)

    def pool(
        self,
        reserve: int = 0,
        most_models: int | None = None,
        clock: Callable[[], float] | None = None,
        pace: PoolPace = QUICK,
    ) -> WorkerPool:
        memory = self.rules(reserve, most_models)
        if clock is None:
            return WorkerPool("node", source=self, memory=memory, pace=pace)
        return WorkerPool("node", source=self, memory=memory, pace=pace, clock=clock)
