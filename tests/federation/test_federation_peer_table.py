"""The peer table's transitions, one by one, on a clock that the test holds."""

import pytest

from federation.advertisement import NodeDescription, ServedModel
from federation.hostport import Address
from federation.peer import AddressRejected, Change, PeerChanged, PeerJoined, PeerLeft, PeerState, Source, Why
from federation.peer_table import PeerTable
from federation.timing import MAX_ADDRESSES_PER_PEER, MAX_PEERS, MAX_STATIC, MAX_UNPROVEN, Timing

TIMING = Timing()
HERE = Address("10.0.0.1", 17615)
KITCHEN = Address("10.0.0.2", 17615)
KITCHEN_WIFI = Address("10.0.1.2", 17615)
ATTIC = Address("10.0.0.3", 17615)


def node(name: str, **changed: object) -> NodeDescription:
    fields = {"id": f"id-{name}", "name": name, "version": "0", "url": "http://x:1", "instance": "run-1", **changed}
    return NodeDescription.model_validate(fields)


def make_table(**options: str) -> PeerTable:
    return PeerTable("id-here", self_name="here", self_instance="run-1", random=lambda: 0.5, **options)


def answer(
    table: PeerTable, address: Address, description: NodeDescription, now: float, rtt_ms: float = 1.0
) -> tuple[Change, ...]:
    table.due_probes(now)
    return table.probe_answered(address, description, rtt_ms, now)


def fail(table: PeerTable, address: Address, now: float, refused: bool = False) -> tuple[Change, ...]:
    table.due_probes(now)
    return table.probe_failed(address, "timed out", refused, now)


def with_kitchen(source: Source = Source.MDNS) -> PeerTable:
    """A table that has had kitchen as an alive peer since time 0."""
    table = make_table()
    table.proposed(KITCHEN, source, 0.0)
    (change,) = answer(table, KITCHEN, node("kitchen"), 0.0)
    assert isinstance(change, PeerJoined)
    assert not change.returned
    return table


def states(table: PeerTable) -> dict[str, str]:
    return {peer.name: peer.state.value for peer in table.peers()}


def test_only_an_answer_makes_a_peer() -> None:
    table = make_table()
    assert table.proposed(KITCHEN, Source.MDNS, 0.0) == ()
    assert table.peers() == ()
    assert table.due_probes(0.0) == (KITCHEN,)
    assert table.due_probes(9.0) == (), "one probe at a time"
    assert table.next_due() is None
    table.probe_answered(KITCHEN, node("kitchen"), 4.0, 0.1)
    (peer,) = table.alive()
    assert (peer.name, peer.address, peer.source, peer.rtt_ms) == ("kitchen", KITCHEN, Source.MDNS, 4.0)
    assert peer.url == "http://10.0.0.2:17615"
    assert peer.silent_s(2.1) == 2.0
    assert table.next_due() == pytest.approx(0.1 + TIMING.probe_interval_s)


def test_one_miss_is_a_suspicion_that_an_answer_lifts() -> None:
    table = with_kitchen()
    (change,) = fail(table, KITCHEN, 1.0)
    assert isinstance(change, PeerChanged)
    assert states(table) == {"kitchen": "suspect"}
    assert table.alive(), "a suspect may still be routed to"
    (change,) = answer(table, KITCHEN, node("kitchen"), 2.5)
    assert isinstance(change, PeerChanged)
    assert (change.was, change.reason) == (PeerState.SUSPECT, "answers again")


def test_three_misses_are_the_end_and_an_answer_the_return() -> None:
    table = with_kitchen()
    fail(table, KITCHEN, 1.0)
    assert fail(table, KITCHEN, 2.5) == ()
    (left,) = fail(table, KITCHEN, 4.0)
    assert isinstance(left, PeerLeft)
    assert left.reason == "timed out"
    assert table.alive() == ()
    assert states(table) == {"kitchen": "dead"}
    (change,) = answer(table, KITCHEN, node("kitchen"), 9.0)
    assert change == PeerJoined(table.peers()[0], returned=True)


def test_two_refusals_are_the_end() -> None:
    table = with_kitchen()
    fail(table, KITCHEN, 1.0, refused=True)
    assert table.next_due() == pytest.approx(1.0 + TIMING.refused_retry_s)
    (left,) = fail(table, KITCHEN, 1.25, refused=True)
    assert isinstance(left, PeerLeft)


def test_a_refusal_and_a_miss_are_not_two_refusals() -> None:
    table = with_kitchen()
    fail(table, KITCHEN, 1.0, refused=True)
    assert fail(table, KITCHEN, 2.75) == ()
    assert states(table) == {"kitchen": "suspect"}


def test_real_traffic_is_proof_of_life() -> None:
    table = with_kitchen()
    fail(table, KITCHEN, 1.0)
    fail(table, KITCHEN, 2.5)
    (change,) = table.traffic_ok("id-kitchen", 3.0)
    assert isinstance(change, PeerChanged)
    assert fail(table, KITCHEN, 4.0) == (PeerChanged(table.peers()[0], PeerState.ALIVE, "timed out"),)
    assert states(table) == {"kitchen": "suspect"}


def test_failed_traffic_is_a_suspicion_probed_at_once_and_never_the_end() -> None:
    table = with_kitchen()
    changes = [table.traffic_failed("id-kitchen", 0.3) for _ in range(50)]
    assert [len(change) for change in changes] == [1] + [0] * 49
    assert states(table) == {"kitchen": "suspect"}
    assert table.due_probes(0.3) == (KITCHEN,)


def test_a_flood_of_failed_traffic_does_not_hasten_the_second_refusal() -> None:
    table = with_kitchen()
    table.traffic_failed("id-kitchen", 0.3)
    fail(table, KITCHEN, 0.3, refused=True)
    table.traffic_failed("id-kitchen", 0.31)
    assert table.due_probes(0.31) == ()


def test_late_traffic_of_a_dead_peer_does_not_revive_it_but_has_it_probed() -> None:
    table = with_kitchen()
    table.goodbye("id-kitchen", 1.0)
    fail(table, KITCHEN, 2.0, refused=True)
    fail(table, KITCHEN, 4.0, refused=True)
    assert table.traffic_ok("id-kitchen", 5.0) == ()
    assert table.alive() == ()
    assert table.due_probes(5.0) == (KITCHEN,)


def test_traffic_of_strangers_is_nothing() -> None:
    table = make_table()
    assert table.traffic_ok("who", 0.0) == table.traffic_failed("who", 0.0) == table.goodbye("who", 0.0) == ()
    assert table.doubted("who", 0.0) == ()
    assert table.probe_answered(ATTIC, node("attic"), 1.0, 0.0) == table.probe_failed(ATTIC, "x", False, 0.0) == ()
    assert table.peers() == ()


def test_a_goodbye_is_believed_until_the_node_answers_again() -> None:
    table = with_kitchen()
    (left,) = table.goodbye("id-kitchen", 0.5)
    assert isinstance(left, PeerLeft)
    assert table.goodbye("id-kitchen", 0.6) == ()
    assert answer(table, KITCHEN, node("kitchen", draining=True), 1.5) == ()
    assert table.alive() == ()
    (back,) = answer(table, KITCHEN, node("kitchen", instance="run-2"), 2.5)
    assert isinstance(back, PeerJoined)


def test_a_draining_node_leaves_and_one_never_seen_does_not_join() -> None:
    table = with_kitchen()
    (left,) = answer(table, KITCHEN, node("kitchen", draining=True), 1.0)
    assert isinstance(left, PeerLeft)
    assert left.reason == "is shutting down"
    table.proposed(ATTIC, Source.STATIC, 1.0)
    (rejected,) = answer(table, ATTIC, node("attic", draining=True), 1.0)
    assert rejected == AddressRejected(ATTIC, Source.STATIC, "attic is shutting down", Why.LEAVING)


def test_an_mdns_goodbye_only_hastens_the_next_probe() -> None:
    table = with_kitchen()
    answer(table, KITCHEN, node("kitchen"), 1.0)
    table.proposed(KITCHEN_WIFI, Source.MDNS, 1.0)
    answer(table, KITCHEN_WIFI, node("kitchen"), 1.0)
    assert KITCHEN_WIFI not in table.due_probes(3.0)
    table.doubted("id-kitchen", 3.0)
    assert KITCHEN_WIFI in table.due_probes(3.0)
    assert states(table) == {"kitchen": "alive"}


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
    table.probe_answered(KITCHEN_WIFI, node("kitchen"), 5.0, 1.1)
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


def test_what_a_peer_serves_is_a_change_and_its_load_is_not() -> None:
    table = with_kitchen()
    assert answer(table, KITCHEN, node("kitchen", slots_free=3, hardware={"ram_free": 1}), 1.0) == ()
    assert table.alive()[0].description.slots_free == 3
    (change,) = answer(
        table, KITCHEN, node("kitchen", models=(ServedModel(id="a"), ServedModel(id="b")), mode="paired"), 2.0
    )
    assert isinstance(change, PeerChanged)
    assert change.reason == "is now paired; now serves a, b"


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


def test_the_goodbye_of_a_copy_is_not_the_originals() -> None:
    table = make_table()
    table.proposed(KITCHEN, Source.MDNS, 0.0)
    answer(table, KITCHEN, node("kitchen", instance="first"), 0.0)
    assert table.goodbye("id-kitchen", 1.0, "copy") == ()
    (left,) = table.goodbye("id-kitchen", 1.0, "first")
    assert isinstance(left, PeerLeft)


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
