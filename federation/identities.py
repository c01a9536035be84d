"""Telling a restart from a copy: one node id, one process. Two at once mean a copied data directory. Pure."""

from __future__ import annotations

from federation.advertisement import NodeDescription
from federation.contact import Contact
from federation.hostport import Address
from federation.peer import Why
from federation.peer_records import Record
from federation.timing import Timing

_REMEDY = "one data directory is a copy of the other; delete node.pem in the copy"


def differ(one: str | None, other: str | None) -> bool:
    """Whether two marks of a run are of different runs; unknown ones are given the benefit of the doubt."""
    return one is not None and other is not None and one != other


def why_self(description: NodeDescription, self_instance: str | None) -> tuple[Why, str]:
    """What answers with this node's own id: itself, or a copy of it."""
    if not differ(description.instance, self_instance):
        return Why.ITSELF, "is this node itself"
    return Why.COPY, f"another node ({description.name}) uses this node's id {description.id}: {_REMEDY}"


def double_words(record: Record) -> str:
    """Why a second process with the id of `record` is no peer."""
    return f"uses the id of {record.description.name} at {record.route}: {_REMEDY}"


def is_double(
    contact: Contact, route: Contact, record: Record, description: NodeDescription, now: float, timing: Timing
) -> bool:
    """Whether two processes answer as one id at the same time, each at its own address."""
    known = record.description.instance
    if record.is_dead or contact is route or route.failures or None in (known, description.instance):
        return False
    return known != description.instance and now - route.since <= timing.conflict_window_s


def is_first_again(address: Address, record: Record, description: NodeDescription) -> bool:
    """Whether a process at `address` had the id before the one in use, which took it over while that one was silent."""
    if not differ(record.description.instance, description.instance) or address not in record.owners:
        return False
    return record.route not in record.owners[: record.owners.index(address)]


def is_successor(address: Address, record: Record, description: NodeDescription) -> bool:
    """Whether another process takes the id over at an address of its own: a node that moved, or a copy of it."""
    return differ(record.description.instance, description.instance) and address not in record.addresses
