"""Where a model fits that this machine does not hold: alone on another node, or over memory that several lend. Pure.

One machine comes first: over several a token waits for each of them in turn. What other nodes tell of their memory is
said to a person, who then asks that node or starts this one with --pool; nothing is placed by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import PooledMisfit
from swarm.registry.layer_sizes import LayerSizes
from swarm.registry.model_memory import Load
from swarm.registry.pooled_fit import PooledPlan, PoolMachine, pooled_plan, too_far


@dataclass(frozen=True, slots=True)
class OtherNode:
    """A node of the swarm: what is free in the memory that its models use, and what it lends; None: not told."""

    node: str
    free_bytes: int | None = None
    lends: PoolMachine | None = None


@dataclass(frozen=True, slots=True)
class SwarmMemory:
    """What this node, `host`, and the others have for a model that is too large for one."""

    host: PoolMachine
    others: tuple[OtherNode, ...] = ()

    @property
    def machines(self) -> tuple[PoolMachine, ...]:
        """The host, and all that lend."""
        return (self.host, *(other.lends for other in self.others if other.lends is not None))


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a model fits: alone `on` nodes, else over the machines of `plan`; `refused` says why not over any.

    `warnings` are of the plan, or of lenders that are too far away for one.
    """

    on: tuple[str, ...] = ()
    plan: PooledPlan | None = None
    refused: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """`fits on attic`, `only over here + attic (about 4 tokens/s)`; "" where nowhere."""
        if self.on:
            return f"fits on {' and '.join(self.on)}"
        return "" if self.plan is None else f"only over {self.plan.over}"


NOWHERE = Whereabouts()
SHOWN_NODES = 3  # that would hold a model, in one line


def where_else(
    need_bytes: int, layers: Callable[[], LayerSizes], load: Load, memory: SwarmMemory, *, gguf: bool = True
) -> Whereabouts:
    """Where a model that needs `need_bytes` here fits; `layers` are asked for where no other node holds it alone.

    Only a model in GGUF is put over several machines.
    """
    roomy = sorted(
        (other for other in memory.others if other.free_bytes is not None and other.free_bytes >= need_bytes),
        key=lambda other: (-(other.free_bytes or 0), other.node),
    )
    if roomy:
        return Whereabouts(on=tuple(other.node for other in roomy[:SHOWN_NODES]))
    if not gguf or len(memory.machines) < 2:
        return NOWHERE
    try:
        plan = pooled_plan(layers(), load, memory.machines)
    except PooledMisfit as error:
        return Whereabouts(refused=str(error), warnings=too_far(memory.machines))
    return Whereabouts(plan=plan, warnings=plan.warnings) if len(plan.nodes) > 1 else NOWHERE
