"""Replicas as plain facts, and a clock that stands still."""

from __future__ import annotations

from typing import Any

from swarm.routing.replicas import Replica


def replica(node: str, *, model: str = "m", slots: int = 4, free: int | None = None, **facts: Any) -> Replica:
    """One on node `node`; "here" is this one."""
    return Replica(
        node_id=node,
        node=node,
        model=model,
        slots=slots,
        slots_free=slots if free is None else free,
        url=None if node == "here" else f"http://{node}",
        **facts,
    )


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
