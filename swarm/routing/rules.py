"""Weights and pins: what the user decided of who is asked, in the configuration file's `[routing]`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StrictStr, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from federation.advertisement import MAX_MODEL_ID_CHARS, MAX_NAME_CHARS
from swarm.errors import MOST_LISTED, BadRequest, SetupError
from swarm.routing.replicas import Replica

MAX_WEIGHT = 100.0  # a hundred times as eager; more is a typing error
MAX_RULES = 256  # entries of a table: twice the peers that a node knows
MAX_SHOWN_CHARS = 40  # of a name that is too long

Weight = Annotated[float, Field(strict=True, ge=0, le=MAX_WEIGHT, allow_inf_nan=False)]
NodeName = Annotated[StrictStr, Field(min_length=1, max_length=MAX_NAME_CHARS)]
PinnedModel = Annotated[StrictStr, Field(min_length=1, max_length=MAX_MODEL_ID_CHARS)]
Nodes = Annotated[
    tuple[NodeName, ...],
    Field(min_length=1, max_length=MAX_RULES),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """`weights` by node (its name or id); `pins`: the nodes that are asked for a model as long as one of them can be.

    A model's answer is expected sooner by as much as a node's weight is above 1, and later below it; one with weight 0
    is asked only where nobody else can answer.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    weights: Annotated[Mapping[NodeName, Weight], Field(max_length=MAX_RULES)] = field(default_factory=dict[str, float])
    pins: Annotated[Mapping[PinnedModel, Nodes], Field(max_length=MAX_RULES)] = field(
        default_factory=dict[str, tuple[str, ...]]
    )

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node that is named."""
        pinned = (node for nodes in self.pins.values() for node in nodes)
        return tuple(dict.fromkeys((*self.weights, *pinned)))


_checker: TypeAdapter[RoutingRules] = TypeAdapter(RoutingRules)


def read_rules(value: object) -> RoutingRules:
    """`[routing]` of a configuration file. Raises SetupError naming the bad value and what to write instead."""
    try:
        return _checker.validate_python(value)
    except ValidationError as error:
        raise SetupError(_refusal(error.errors(include_url=False)[0], value)) from None


def _refusal(problem: ErrorDetails, routing: Any) -> str:
    """`problem` of what stands in `routing`, with the value and the remedy."""
    kind, place, value = problem["type"], [str(part) for part in problem["loc"]], problem["input"]
    table = ".".join(["routing", *place[:1]])
    if kind == "unexpected_keyword_argument":
        return f"[routing]: unknown setting {place[0]!r}; there are: weights, pins"
    if len(place) < 2:
        if kind == "too_long":
            return f"[{table}] has {len(value)} entries; at most {MAX_RULES} are taken"
        return f"[{table}] is a table, not {value!r}: write [{table}] on a line of its own, and entries below"
    name = place[1]
    if place[-1] == "[key]" or kind == "string_too_long":
        most = MAX_MODEL_ID_CHARS if place[0] == "pins" and place[-1] == "[key]" else MAX_NAME_CHARS
        return f"[{table}]: {value[:MAX_SHOWN_CHARS]!r} has {len(value)} characters: names have 1 to {most}"
    if place[0] == "weights":
        return f"[{table}] {name} = {value!r}: use 0 (only if nobody else can) to {MAX_WEIGHT:.0f}; 1 is usual"
    return f'[{table}] "{name}" = {routing["pins"][name]!r}: use a list of node names such as ["kitchen"]'


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
    nodes = rules.pins.get(replica.model) or rules.pins.get(replica.model_there)
    return None if nodes is None else any(node in names_of(replica) for node in nodes)


def names_of(replica: Replica) -> tuple[str, ...]:
    """By what a rule may mean it: its id, the name it is shown by, and its own name where two nodes share one."""
    return tuple(dict.fromkeys((replica.node_id, replica.node, replica.name or replica.node)))


def on_node(node: str | None, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    """Those on the node with this id; all, where a request names none."""
    return replicas if node is None else tuple(replica for replica in replicas if replica.node_id == node)


def node_called(name: str, known: Mapping[str, Collection[str]]) -> str:
    """The id of the node that a request means by `name`, its id or one of its names; `known` has those of each id.

    Raises BadRequest for a name that nobody has, or several, with what there is.
    """
    if name in known:
        return name
    found = sorted(node_id for node_id, names in known.items() if name in names)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadRequest(f"{len(found)} nodes are called {name!r}: use an id ({', '.join(found)})", param="swarm.node")
    there = sorted({next(iter(names), node_id) for node_id, names in known.items()})
    listing = ", ".join(there[:MOST_LISTED])
    if len(there) > MOST_LISTED:
        listing += f" and {len(there) - MOST_LISTED} more"
    raise BadRequest(
        f"no node is called {name[:MAX_SHOWN_CHARS]!r} (a name, or an id); there are: {listing}", param="swarm.node"
    )


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
