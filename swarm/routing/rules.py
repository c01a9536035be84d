"""Weights and pins: what the user decided of who is asked, in the configuration file's `[routing]`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from federation.advertisement import MAX_MODEL_ID_CHARS, MAX_NAME_CHARS
from swarm.errors import SetupError
from swarm.routing.replicas import Replica

MAX_WEIGHT = 100.0  # a hundred times as eager; more is a typing error
MAX_RULES = 256  # entries of a table: twice the peers that a node knows


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """`weights` by node (its name or id); `pins`: the nodes that are asked for a model as long as one of them can be.

    A model's answer is expected sooner by as much as a node's weight is above 1, and later below it; one with weight 0
    is asked only where nobody else can answer.
    """

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    pins: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node that is named."""
        pinned = (node for nodes in self.pins.values() for node in nodes)
        return tuple(dict.fromkeys((*self.weights, *pinned)))


def read_rules(value: object) -> RoutingRules:
    """`[routing]` of a configuration file. Raises SetupError naming the bad value and what to write instead."""
    tables = _table("routing", value)
    unknown = sorted(tables.keys() - {"weights", "pins"})
    if unknown:
        raise SetupError(f"[routing]: unknown setting {unknown[0]!r}; there are: weights, pins")
    weights = {
        _name("weights", node): _weight(node, weight)
        for node, weight in _table("routing.weights", tables.get("weights", {})).items()
    }
    pins = {
        _name("pins", model, MAX_MODEL_ID_CHARS): _nodes(model, nodes)
        for model, nodes in _table("routing.pins", tables.get("pins", {})).items()
    }
    return RoutingRules(weights, pins)


def _table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SetupError(f"[{name}] is a table, not {value!r}: write [{name}] on a line of its own, and entries below")
    found = cast("Mapping[str, object]", value)
    if len(found) > MAX_RULES:
        raise SetupError(f"[{name}] has {len(found)} entries; at most {MAX_RULES} are taken")
    return found


def _name(table: str, name: str, most: int = MAX_NAME_CHARS) -> str:
    if not 1 <= len(name) <= most:
        raise SetupError(f"[routing.{table}]: {name[:40]!r} has {len(name)} characters: names have 1 to {most}")
    return name


def _weight(node: str, weight: object) -> float:
    number = float(weight) if isinstance(weight, int | float) and not isinstance(weight, bool) else math.nan
    if not 0 <= number <= MAX_WEIGHT:  # NaN is in no range
        raise SetupError(
            f"[routing.weights] {node} = {weight!r}: use 0 (only if nobody else can) to {MAX_WEIGHT:.0f}; 1 is usual"
        )
    return number


def _nodes(model: str, nodes: object) -> tuple[str, ...]:
    listed = cast("list[object]", nodes) if isinstance(nodes, list) else [nodes]
    if not listed or len(listed) > MAX_RULES or not all(isinstance(node, str) and node for node in listed):
        raise SetupError(f'[routing.pins] "{model}" = {nodes!r}: use a list of node names such as ["kitchen"]')
    return tuple(_name("pins", cast("str", node)) for node in listed)


def ruled(replicas: Iterable[Replica], rules: RoutingRules) -> tuple[Replica, ...]:
    """The replicas with their weights and pins. An id goes before a name; a name counts for every node that has it."""
    if not rules.nodes:
        return tuple(replicas)
    return tuple(
        replace(
            replica,
            weight=next((rules.weights[name] for name in names_of(replica) if name in rules.weights), 1.0),
            pinned=_is_pinned(replica, rules),
        )
        for replica in replicas
    )


def _is_pinned(replica: Replica, rules: RoutingRules) -> bool | None:
    nodes = rules.pins.get(replica.model)
    return None if nodes is None else any(node in names_of(replica) for node in nodes)


def names_of(replica: Replica) -> tuple[str, ...]:
    """By what a rule may mean it: its id, the name it is shown by, and its own name where two nodes share one."""
    return tuple(dict.fromkeys((replica.node_id, replica.node, replica.name or replica.node)))


def unheard_of(rules: RoutingRules, replicas: Sequence[Replica]) -> tuple[str, ...]:
    """What to warn of: rules for nodes that nobody is, and names that several are."""
    holders: dict[str, set[str]] = {}
    for replica in replicas:
        for name in names_of(replica):
            holders.setdefault(name, set()).add(replica.node_id)
    problems: list[str] = []
    for node in rules.nodes:
        ids = sorted(holders.get(node, ()))
        if not ids:
            problems.append(
                f"[routing] names {node!r}, and no node that serves a model is called so: is it spelled right?"
            )
        elif len(ids) > 1:
            problems.append(f"[routing] names {node!r}, and {len(ids)} nodes are called so: use ids ({', '.join(ids)})")
    return tuple(problems)
