"""What `validate` finds: each invariant of a peer table, broken on purpose, is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from federation.hostport import Address
from federation.peer import Source
from federation.peer_records import Contact, PeerRecords, Record
from tests.doubles.peer_tables import ATTIC, HERE, KITCHEN, KITCHEN_WIFI, make_table, node, with_kitchen

ID = "id-kitchen"


def two_nodes() -> PeerRecords:
    """Kitchen at two addresses, attic at one."""
    held = PeerRecords("here")
    for name, addresses in (("kitchen", (KITCHEN, KITCHEN_WIFI)), ("attic", (ATTIC,))):
        held.records[f"id-{name}"] = Record(node(name), addresses[0], last_answer_at=0.0)
        for address in addresses:
            held.contacts[address] = contact = Contact(address, Source.MDNS, due_at=0.0, since=0.0)
            held.attach(contact, f"id-{name}")
    held.validate()
    return held


def lead_nowhere(held: PeerRecords) -> None:
    held.contacts[ATTIC].node_id = "id-nobody"


def lead_elsewhere(held: PeerRecords) -> None:
    held.contacts[KITCHEN].node_id = "id-attic"


def lose_an_address(held: PeerRecords) -> None:
    held.records[ID].addresses.remove(KITCHEN_WIFI)


def lose_a_contact(held: PeerRecords) -> None:
    del held.contacts[KITCHEN_WIFI]


def lose_all_addresses(held: PeerRecords) -> None:
    held.contacts[ATTIC].node_id = None
    held.records["id-attic"].addresses.clear()


def double_an_address(held: PeerRecords) -> None:
    held.records[ID].addresses.append(KITCHEN)


def go_astray(held: PeerRecords) -> None:
    held.records[ID].route = HERE


def be_somebody_else(held: PeerRecords) -> None:
    held.records[ID].description = node("study")


def refuse_without_failing(held: PeerRecords) -> None:
    held.contacts[ATTIC].refusals = 1


def probe_since_never(held: PeerRecords) -> None:
    held.contacts[ATTIC].in_flight = 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lead_nowhere, "leads to id-nobody, which is not a peer"),
        (lead_elsewhere, "is none of the addresses of id-attic"),
        (lose_an_address, "is none of the addresses of id-kitchen"),
        (lose_a_contact, "of id-kitchen leads to None"),
        (lose_all_addresses, "id-attic has 0 addresses"),
        (double_an_address, "id-kitchen has an address twice"),
        (go_astray, "the route of id-kitchen"),
        (be_somebody_else, "is the record of id-study"),
        (refuse_without_failing, "refused more often than it failed"),
        (probe_since_never, "nothing says since when"),
    ],
)
def test_what_is_broken_is_named(spoil: Callable[[PeerRecords], None], words: str) -> None:
    held = two_nodes()
    spoil(held)
    with pytest.raises(AssertionError, match=words):
        held.validate()


def test_too_many_probes_of_one_address_are_named() -> None:
    contact = Contact(Address("10.0.0.9", 1), Source.MDNS, due_at=0.0, since=0.0)
    for _ in range(7):
        contact.start(0.0)
    with pytest.raises(AssertionError, match="7 probes are under way"):
        contact.validate()


def test_a_table_in_use_is_valid() -> None:
    make_table().validate()
    with_kitchen().validate()
