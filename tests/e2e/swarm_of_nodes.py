"""Several node processes that are to become one swarm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.e2e.asking import replicas_seen
from tests.e2e.network import Machine
from tests.e2e.node_process import NodeProcess
from tests.e2e.waiting import eventually

JOIN_S: Final = 10.0  # mDNS checks a name for a second before it announces it; asking again takes it three


class Swarm:
    """Nodes that start and end together, as a `with` block. They are one swarm once `whole` returns."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self.nodes = tuple(nodes)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            for node in self.nodes:
                starting.enter_context(node)
            self._stack = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[NodeProcess]:
        return iter(self.nodes)

    async def whole(self) -> None:
        """Return when every node is ready and would ask every other one."""
        for node in self.nodes:
            await node.ready()
        await all_see(self.nodes, self.nodes, JOIN_S)


async def all_see(watching: Sequence[NodeProcess], members: Sequence[NodeProcess], timeout_s: float) -> None:
    """Return when each of `watching` would ask exactly `members`."""
    names = sorted(node.name for node in members)
    wanted = {node.name: names for node in watching}

    async def seen() -> dict[str, list[str]]:
        return {node.name: await replicas_seen(node) for node in watching}

    await eventually(seen, timeout_s, f"{', '.join(wanted)} would ask {', '.join(names)}", until=wanted.__eq__)


def federated(machines: Sequence[Machine], folder: Path, *arguments: str) -> Swarm:
    """One node on each machine, with the same `arguments`, named like it."""
    return Swarm([NodeProcess(machine.name, folder / machine.name, machine, arguments) for machine in machines])
