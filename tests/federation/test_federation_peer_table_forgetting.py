"""How often the silent are asked, when they are forgotten, and what is bounded."""

from federation.hostport import Address
from federation.peer import AddressRejected, PeerJoined, Source, Why
from federation.timing import MAX_ADDRESSES_PER_PEER, MAX_PEERS, MAX_STATIC, MAX_UNPROVEN
from tests.doubles.peer_tables import (
    ATTIC,
    HERE,
    KITCHEN,
    KITCHEN_WIFI,
    TIMING,
    answer,
    fail,
    make_table,
    node,
    states,
    with_kitchen,
)


def test_an_address_given_by_a_person_is_retried_for_ever_and_complained_of_once_per_reason() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.STATIC, 0.0)
    gaps, now = [], 0.0
    for attempt in range(12):
        changes = fail(table, KITCHEN, now)
        assert len(changes) == (1 if attempt == 0 else 0)
        due = table.next_due()
        gaps.append(due - now)
        now = due
        table.tick(now)
    assert gaps[:6] == [1, 2, 4, 8, 16, 30]
    assert set(gaps[6:]) == {30}
    table.due_probes(now)
    (change,) = table.probe_failed(KITCHEN, "nobody listens", True, now)
    assert change == AddressRejected(KITCHEN, Source.STATIC, "nobody listens")


def test_a_lost_peer_is_asked_often_enough_to_be_back_in_5_s() -> None:
    table = with_kitchen()
    now = 1.0
    for _ in range(20):
        fail(table, KITCHEN, now)
        gap = table.next_due() - now
        assert gap * (1 + TIMING.jitter) + TIMING.probe_timeout_s < 5.0
        now = table.next_due()


def test_a_proposal_hastens_the_probe_of_a_lost_peer_but_not_beyond_the_pace() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.STATIC, 0.0)
    now = 0.0
    for _ in range(6):
        fail(table, KITCHEN, now)
        now = table.next_due()
    fail(table, KITCHEN, now)
    table.proposed(KITCHEN, Source.EXCHANGE, now + 0.2)
    assert table.next_due() == now + TIMING.probe_interval_s
    assert table.addresses(Source.STATIC) == (KITCHEN,), "the stronger source stays"


def test_what_stays_silent_is_forgotten_except_what_a_person_gave() -> None:
    table = with_kitchen()
    table.proposed(ATTIC, Source.STATIC, 0.0)
    answer(table, ATTIC, node("attic"), 0.0)
    table.proposed(HERE, Source.EXCHANGE, 0.0)
    for name in ("kitchen", "attic"):
        table.goodbye(f"id-{name}", 1.0)
    table.tick(TIMING.forget_unproven_s)
    assert HERE not in table.addresses()
    assert states(table) == {"kitchen": "dead", "attic": "dead"}
    table.tick(1.0 + TIMING.forget_lost_s)
    assert states(table) == {"attic": "dead"}
    assert table.addresses() == (ATTIC,)
    assert table.probe_failed(KITCHEN, "late", False, 700.0) == ()


def test_a_useless_second_address_is_forgotten_and_the_peer_is_not() -> None:
    table = with_kitchen()
    table.proposed(KITCHEN_WIFI, Source.MDNS, 0.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 0.0)
    for now in range(1, 130):
        answer(table, KITCHEN, node("kitchen"), float(now))
        table.probe_failed(KITCHEN_WIFI, "no route", False, float(now))
        table.tick(float(now))
    assert table.alive()[0].addresses == (KITCHEN,)


def test_proposals_are_bounded_and_a_failing_one_makes_way() -> None:
    table = make_table()
    for number in range(MAX_UNPROVEN + 10):
        table.proposed(Address(f"10.1.0.{number}", 1), Source.EXCHANGE, 0.0)
    assert set(table.addresses()) == {Address(f"10.1.0.{number}", 1) for number in range(MAX_UNPROVEN)}
    fail(table, Address("10.1.0.7", 1), 0.0)
    table.proposed(KITCHEN, Source.MDNS, 1.0)
    assert KITCHEN in table.addresses()
    assert Address("10.1.0.7", 1) not in table.addresses()
    assert len(table.addresses()) == MAX_UNPROVEN
    for number in range(MAX_STATIC + 10):
        table.proposed(Address(f"10.2.0.{number}", 1), Source.STATIC, 0.0)
    assert len(table.addresses()) == MAX_UNPROVEN + MAX_STATIC


def test_peers_are_bounded_and_the_longest_lost_makes_way() -> None:
    table = make_table()
    for number in range(MAX_PEERS):
        address = Address(f"10.3.0.{number}", 1)
        table.proposed(address, Source.MDNS, 0.0)
        answer(table, address, node(f"n{number}"), 0.0)
    table.proposed(ATTIC, Source.MDNS, 0.0)
    (change,) = answer(table, ATTIC, node("attic"), 0.0)
    assert change == AddressRejected(ATTIC, Source.MDNS, f"this node already knows {MAX_PEERS} peers", Why.FULL)
    table.goodbye("id-n5", 1.0)
    table.goodbye("id-n6", 0.5)
    (change,) = answer(table, ATTIC, node("attic"), 2.0)
    assert isinstance(change, PeerJoined)
    assert table.get("id-n6") is None
    assert len(table.peers()) == MAX_PEERS


def test_a_full_table_survives_an_address_that_changes_hands() -> None:
    table = make_table()
    addresses = [Address(f"10.3.0.{number}", 1) for number in range(MAX_PEERS)]
    for address in addresses:
        table.proposed(address, Source.MDNS, 0.0)
        answer(table, address, node(f"n{address.host.rpartition('.')[2]}"), 0.0)
    table.goodbye("id-n5", 1.0)
    changes = answer(table, addresses[5], node("attic"), 2.0)
    assert [type(change) for change in changes] == [PeerJoined]
    assert table.get("id-attic").addresses == (addresses[5],)


def test_addresses_of_one_peer_are_bounded_and_the_failing_one_makes_way() -> None:
    table = make_table()
    addresses = [Address(f"10.4.0.{number}", 1) for number in range(MAX_ADDRESSES_PER_PEER + 1)]
    for address in addresses[:-1]:
        table.proposed(address, Source.MDNS, 0.0)
        answer(table, address, node("kitchen"), 0.0)
    fail(table, addresses[2], 1.0)
    table.proposed(addresses[-1], Source.MDNS, 1.0)
    answer(table, addresses[-1], node("kitchen"), 1.0)
    assert set(table.alive()[0].addresses) == set(addresses) - {addresses[2]}


def test_after_sleep_everything_is_probed_at_once() -> None:
    table = make_table()
    for address in (KITCHEN, ATTIC):
        table.proposed(address, Source.STATIC, 0.0)
    assert set(table.due_probes(0.0)) == {KITCHEN, ATTIC}
    answer(table, KITCHEN, node("kitchen"), 0.0)
    table.probe_failed(ATTIC, "no route", False, 0.0)
    assert table.due_probes(0.1) == ()
    table.woke(0.2)
    assert set(table.due_probes(0.2)) == {KITCHEN, ATTIC}


def test_what_leads_to_no_peer_can_be_asked_for_until_it_does() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.STATIC, 0.0)
    assert table.rejected() == ()
    table.probe_failed(KITCHEN, "speaks 2", False, 0.0, Why.VERSION)
    assert table.rejected() == (AddressRejected(KITCHEN, Source.STATIC, "speaks 2", Why.VERSION),)
    answer(table, KITCHEN, node("kitchen"), 1.0)
    assert table.rejected() == ()


def test_what_a_list_no_longer_names_is_forgotten_like_any_other() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.STATIC, 0.0)
    table.withdrawn(KITCHEN)
    table.tick(10_000.0)
    assert table.addresses() == ()


def test_an_address_that_is_still_proposed_is_not_forgotten() -> None:
    table = make_table()
    for now in range(0, 1000, 15):
        table.proposed(KITCHEN, Source.DNS, float(now))
        table.tick(float(now))
        assert table.addresses() == (KITCHEN,)
