"""A peer table on a clock that the test holds, and the steps that tests of it share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any

from federation.advertisement import NodeDescription
from federation.hostport import Address
from federation.peer import Change, PeerJoined, Source
from federation.peer_table import PeerTable
from federation.probing import ProbeAnswer
from federation.timing import Timing

TIMING = Timing()
HERE = Address("10.0.0.1", 17615)
KITCHEN = Address("10.0.0.2", 17615)
KITCHEN_WIFI = Address("10.0.1.2", 17615)
ATTIC = Address("10.0.0.3", 17615)


def node(name: str, **changed: object) -> NodeDescription:
    fields = {"id": f"id-{name}", "name": name, "version": "0", "url": "http://x:1", "instance": "run-1", **changed}
    return NodeDescription.model_validate(fields)


class OpenTable(PeerTable):
    """A peer table that shows what it holds."""

    def addresses(self, source: Source | None = None) -> tuple[Address, ...]:
        """Every address held, proven or not; or those of one source."""
        held = self._held.contacts.values()
        return tuple(contact.address for contact in held if source is None or contact.source is source)


class CheckedTable(OpenTable):
    """One whose invariants are checked after each event, too."""


def _checked(name: str) -> Callable[..., object]:
    event = getattr(PeerTable, name)

    @wraps(event)
    def checked(table: PeerTable, *arguments: object, **options: object) -> object:
        table.alive()  # what was shown before
        result = event(table, *arguments, **options)
        table.validate()
        return result

    return checked


for name, member in vars(PeerTable).items():
    if isinstance(member, FunctionType) and member.__annotations__.get("return") == "Changes" and name[0] != "_":
        setattr(CheckedTable, name, _checked(name))
CheckedTable.due_probes = _checked("due_probes")


def make_table(**options: Any) -> CheckedTable:
    return CheckedTable("id-here", self_name="here", self_instance="run-1", random=lambda: 0.5, **options)


def answer(
    table: PeerTable, address: Address, description: NodeDescription, now: float, rtt_ms: float = 1.0
) -> tuple[Change, ...]:
    table.due_probes(now)
    return table.probe_answered(address, ProbeAnswer(description), rtt_ms, now)


def fail(table: PeerTable, address: Address, now: float, refused: bool = False) -> tuple[Change, ...]:
    table.due_probes(now)
    return table.probe_failed(address, "timed out", refused, now)


def with_kitchen(source: Source = Source.MDNS) -> CheckedTable:
    """A table that has had kitchen as an alive peer since time 0."""
    table = make_table()
    table.proposed(KITCHEN, source, 0.0)
    (change,) = answer(table, KITCHEN, node("kitchen"), 0.0)
    assert isinstance(change, PeerJoined)
    assert not change.returned
    return table


def states(table: PeerTable) -> dict[str, str]:
    return {peer.name: peer.state.value for peer in table.peers()}
