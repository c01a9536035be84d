"""What a node's event stream has told so far, typed: the swarm as `swarm top` shows it. Pure.

`GET /v1/events` tells entries by part and key (`swarm/gateway/page/static/js/types.d.ts` has their shapes). An entry in
a form that this version does not read, of a newer or an older node, is left out and counted.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from pydantic import TypeAdapter, ValidationError

from swarm.errors import SwarmError
from swarm.gateway.observing.findings import FindingEntry
from swarm.gateway.observing.node_states import NodeState
from swarm.gateway.observing.view import FederationView, RequestEntry, parse_view
from swarm.gateway.observing.vote_history import VoteEntry

OPEN_PARTS: Final = ("view", "node", "vote", "finding")
MANAGED_PARTS: Final = ("request",)  # which only those who manage the node are told

EventKind = Literal["snapshot", "changes"]
Entries = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmState:
    """`told` has the entries as they came: {part: {key: value}}. `view` None: nothing was told yet.

    `nodes`, `votes`, `findings` and `requests` are by their ids; `requests` None where they are not for the asker.
    """

    told: Entries = field(default_factory=dict[str, dict[str, object]])
    view: FederationView | None = None
    nodes: Mapping[str, NodeState] = field(default_factory=dict[str, NodeState])
    votes: Mapping[str, VoteEntry] = field(default_factory=dict[str, VoteEntry])
    findings: Mapping[str, FindingEntry] = field(default_factory=dict[str, FindingEntry])
    requests: Mapping[str, RequestEntry] | None = None
    unread: frozenset[tuple[str, str]] = frozenset()

    @property
    def own(self) -> NodeState | None:
        """The node that tells all this; None while it has not told of itself."""
        return None if self.view is None else self.nodes.get(self.view.node.id)

    @property
    def is_settled(self) -> bool:
        """Whether each node that is there has told of itself."""
        silent = (node.source == "unknown" and node.state in ("alive", "suspect") for node in self.nodes.values())
        return self.own is not None and not any(silent)


def after(state: SwarmState, kind: EventKind, changed: Mapping[str, Any]) -> SwarmState:
    """The state after an event: a snapshot replaces all that was known; null in changes is an entry that has gone."""
    told = {} if kind == "snapshot" else {part: dict(entries) for part, entries in state.told.items()}
    unread = set[tuple[str, str]]() if kind == "snapshot" else set(state.unread)
    new = SwarmState(requests=None if state.requests is None else {}) if kind == "snapshot" else state
    for part, entries in changed.items():
        if not isinstance(entries, dict):
            continue
        of_part = told.setdefault(part, {})
        typed = _table(new, part)
        for key, value in cast("dict[str, object]", entries).items():
            unread.discard((part, key))
            typed.pop(key, None)
            of_part.pop(key, None)
            if value is None:
                continue
            of_part[key] = value
            if (entry := _read(part, value)) is not None:
                typed[key] = entry
            elif part in _KINDS or part == "view":
                unread.add((part, key))
        new = _with_table(new, part, typed)
    return replace(new, told=told, unread=frozenset(unread))


_KINDS: Final[Mapping[str, type[object]]] = {
    "node": NodeState, "vote": VoteEntry, "finding": FindingEntry, "request": RequestEntry,
}  # fmt: skip
_FIELDS: Final = {"node": "nodes", "vote": "votes", "finding": "findings", "request": "requests"}


@functools.cache
def _adapter(kind: type[object]) -> TypeAdapter[object]:
    return TypeAdapter(kind)


def _read(part: str, value: object) -> object | None:
    try:
        if part == "view":
            return parse_view(cast("Mapping[str, Any]", value)) if isinstance(value, dict) else None
        return _adapter(_KINDS[part]).validate_python(value) if part in _KINDS else None
    except (ValidationError, SwarmError):
        return None


def _table(state: SwarmState, part: str) -> dict[str, object]:
    if part == "view":
        return {} if state.view is None else {"": state.view}
    return dict(getattr(state, _FIELDS[part]) or {}) if part in _FIELDS else {}


def _with_table(state: SwarmState, part: str, typed: dict[str, object]) -> SwarmState:
    if part == "view":
        return replace(state, view=cast("FederationView | None", typed.get("")))
    return replace(state, **{_FIELDS[part]: typed}) if part in _FIELDS else state
