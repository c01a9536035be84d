"""Whose address is whose: several addresses, restarts, copies, equal names."""

from federation.hostport import Address
from federation.peer import AddressRejected, PeerChanged, PeerJoined, PeerLeft, PeerState, Source, Why
from federation.probing import ProbeAnswer
from tests.doubles.peer_tables import (
    ATTIC,
    HERE,
    KITCHEN,
    KITCHEN_WIFI,
    answer,
    fail,
    make_table,
    node,
    states,
    with_kitchen,
)


def test_this_node_is_recognised_and_said_once() -> None:
    table = make_table()
    table.proposed(HERE, Source.STATIC, 0.0)
    (change,) = answer(table, HERE, node("here"), 0.0)
    assert change == AddressRejected(HERE, Source.STATIC, "is this node itself", Why.ITSELF)
    assert answer(table, HERE, node("here"), 5.0) == ()
    assert table.peers() == ()


def test_a_copied_data_directory_is_named_and_the_old_peer_unaffected() -> None:
    table = with_kitchen()
    table.proposed(ATTIC, Source.MDNS, 0.5)
    copy = node("kitchen", instance="run-of-the-copy", url="http://copy:1")
    assert answer(table, ATTIC, copy, 0.6) == ()
    answer(table, KITCHEN, node("kitchen"), 1.0)
    (change,) = answer(table, ATTIC, copy, 1.6)
    assert isinstance(change, AddressRejected)
    assert "uses the id of kitchen at 10.0.0.2:17615" in change.reason
    assert "delete node.pem in the copy" in change.reason
    (peer,) = table.alive()
    assert (peer.addresses, peer.description) == ((KITCHEN,), node("kitchen"))


def test_a_copy_of_this_node_is_named() -> None:
    table = make_table()
    table.proposed(ATTIC, Source.MDNS, 0.0)
    (change,) = answer(table, ATTIC, node("here", instance="run-of-the-copy"), 0.0)
    assert isinstance(change, AddressRejected)
    assert "uses this node's id" in change.reason


def test_a_restart_seen_first_through_the_second_address_is_no_copy() -> None:
    table = with_kitchen()
    table.proposed(KITCHEN_WIFI, Source.MDNS, 0.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 0.0)
    answer(table, KITCHEN, node("kitchen"), 1.0)
    restarted = node("kitchen", instance="run-2")
    assert answer(table, KITCHEN_WIFI, restarted, 1.5) == ()
    (change,) = answer(table, KITCHEN, restarted, 2.0)
    assert isinstance(change, PeerChanged)
    assert change.reason == "restarted"
    assert answer(table, KITCHEN_WIFI, restarted, 2.5) == ()
    assert set(table.alive()[0].addresses) == {KITCHEN, KITCHEN_WIFI}


def test_two_interfaces_are_one_peer_and_the_faster_is_used() -> None:
    table = make_table()
    for address in (KITCHEN_WIFI, KITCHEN):
        table.proposed(address, Source.MDNS, 0.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 0.0, rtt_ms=40.0)
    assert answer(table, KITCHEN, node("kitchen"), 0.0, rtt_ms=1.0) == ()
    (peer,) = table.alive()
    assert (peer.address, peer.rtt_ms) == (KITCHEN, 1.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 1.0, rtt_ms=0.6)
    assert table.alive()[0].address == KITCHEN, "no flapping between equals"


def test_the_second_interface_saves_a_peer_whose_first_fails() -> None:
    table = with_kitchen()
    table.proposed(KITCHEN_WIFI, Source.MDNS, 0.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 0.0)
    fail(table, KITCHEN, 1.0)
    assert KITCHEN_WIFI in table.due_probes(1.0), "asked at once, not at its next turn"
    table.probe_answered(KITCHEN_WIFI, ProbeAnswer(node("kitchen")), 5.0, 1.1)
    for now in (2.5, 4.0, 6.0):
        assert not any(isinstance(change, PeerLeft) for change in fail(table, KITCHEN, now))
    assert (table.alive()[0].state, table.alive()[0].address) == (PeerState.ALIVE, KITCHEN_WIFI)


def test_while_the_first_interface_fails_the_second_is_asked_in_step() -> None:
    table = with_kitchen()
    table.proposed(KITCHEN_WIFI, Source.MDNS, 0.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 0.0)
    fail(table, KITCHEN, 1.0)
    assert table.due_probes(1.0) == (KITCHEN_WIFI,)
    table.probe_failed(KITCHEN_WIFI, "timed out", False, 2.5)
    assert KITCHEN_WIFI in table.due_probes(2.5)


def test_a_node_that_restarts_at_another_address_is_no_copy() -> None:
    table = with_kitchen()
    fail(table, KITCHEN, 1.0)
    table.proposed(ATTIC, Source.MDNS, 1.2)
    (change,) = answer(table, ATTIC, node("kitchen", instance="run-2"), 1.2)
    assert isinstance(change, PeerChanged)
    assert change.reason == "answers again; restarted"
    assert table.alive()[0].address == ATTIC


def test_an_address_that_answers_as_another_node_moves() -> None:
    table = with_kitchen()
    changes = answer(table, KITCHEN, node("attic"), 1.0)
    assert [type(change) for change in changes] == [PeerLeft, PeerJoined]
    assert [peer.name for peer in table.peers()] == ["attic"]


def test_an_address_lost_to_another_node_leaves_the_other_address() -> None:
    table = with_kitchen()
    table.proposed(KITCHEN_WIFI, Source.MDNS, 0.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 0.0)
    answer(table, KITCHEN, node("attic"), 1.0)
    assert states(table) == {"attic": "alive", "kitchen": "suspect"}
    kitchen = table.get("id-kitchen")
    assert (kitchen.address, kitchen.addresses) == (KITCHEN_WIFI, (KITCHEN_WIFI,))


def test_equal_names_are_kept_apart_by_id() -> None:
    table = make_table()
    for address, node_id in ((KITCHEN, "aaaa1"), (ATTIC, "bbbb1")):
        table.proposed(address, Source.MDNS, 0.0)
        answer(table, address, node("kitchen", id=node_id), 0.0)
    assert [peer.label for peer in table.alive()] == ["kitchen-aaaa", "kitchen-bbbb"]
    assert [peer.name for peer in table.alive()] == ["kitchen", "kitchen"]


def test_a_peer_named_like_this_node_is_told_apart() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.MDNS, 0.0)
    answer(table, KITCHEN, node("here", id="cccc1"), 0.0)
    assert table.alive()[0].label == "here-cccc"


def test_hints_tell_only_of_the_living_and_at_addresses_others_can_use() -> None:
    table = make_table()
    loopback = Address("127.0.0.1", 17616)
    for address in (loopback, KITCHEN):
        table.proposed(address, Source.MDNS, 0.0)
        answer(table, address, node("kitchen"), 0.0)
    assert table.alive()[0].address == loopback
    (hint,) = table.hints()
    assert (hint.id, hint.address) == ("id-kitchen", KITCHEN)
    fail(table, loopback, 1.0)
    assert table.hints() == ()


def test_the_goodbye_of_a_copy_is_not_the_originals() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.MDNS, 0.0)
    answer(table, KITCHEN, node("kitchen", instance="first"), 0.0)
    assert table.goodbye("id-kitchen", 1.0, "copy") == ()
    (left,) = table.goodbye("id-kitchen", 1.0, "first")
    assert isinstance(left, PeerLeft)
