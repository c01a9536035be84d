"""The peer table's transitions, one by one, on a clock that the test holds."""

from itertools import pairwise

import pytest

from federation.advertisement import LoadableModel, Loadables, ServedModel
from federation.hostport import Address
from federation.peer import AddressRejected, Peer, PeerChanged, PeerJoined, PeerLeft, PeerState, Source, Why
from federation.probing import ProbeAnswer
from federation.timing import LISTS_AT_ONCE
from tests.doubles.peer_tables import (
    ATTIC,
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


def test_only_an_answer_makes_a_peer() -> None:
    table = make_table()
    assert table.proposed(KITCHEN, Source.MDNS, 0.0) == ()
    assert table.peers() == ()
    assert table.due_probes(0.0) == (KITCHEN,)
    assert table.due_probes(9.0) == (), "one probe at a time"
    assert table.next_due() is None
    table.probe_answered(KITCHEN, ProbeAnswer(node("kitchen")), 4.0, 0.1)
    (peer,) = table.alive()
    assert (peer.name, peer.address, peer.source, peer.rtt_ms) == ("kitchen", KITCHEN, Source.MDNS, 4.0)
    assert peer.url == "http://10.0.0.2:17615"
    assert peer.silent_s(2.1) == 2.0
    assert table.next_due() == pytest.approx(0.1 + TIMING.probe_interval_s)


@pytest.mark.parametrize("source", Source)
def test_a_name_is_never_probed_whoever_tells_it(source: Source) -> None:
    """Looking up what a peer makes up would keep the system's resolver busy, and take GETs to any host inside."""
    table = make_table()
    assert table.proposed(Address("h1.slow.example", 17615), source, 0.0) == ()
    assert table.due_probes(0.0) == ()


def test_one_miss_is_a_suspicion_that_an_answer_lifts() -> None:
    table = with_kitchen()
    (change,) = fail(table, KITCHEN, 1.0)
    assert isinstance(change, PeerChanged)
    assert states(table) == {"kitchen": "suspect"}
    assert table.alive(), "a suspect may still be routed to"
    (change,) = answer(table, KITCHEN, node("kitchen"), 2.5)
    assert isinstance(change, PeerChanged)
    assert (change.was, change.reason) == (PeerState.SUSPECT, "answers again")


def test_silence_is_the_end_and_an_answer_the_return() -> None:
    table = with_kitchen()
    starts = [now / 100 for now in range(100, 545) if table.due_probes(now / 100)]
    assert starts == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.5], abs=0.06), (
        "beside the late one, on other connections"
    )
    assert states(table) == {"kitchen": "alive"}, "nobody has looked at the clock"
    (suspected,) = table.tick(2.6)
    assert isinstance(suspected, PeerChanged)
    assert [table.tick(now) for now in (3.5, 4.5, 5.3)] == [(), (), ()]
    (left,) = table.tick(1.0 + TIMING.give_up_s + 0.01)
    assert isinstance(left, PeerLeft)
    assert left.reason == f"{KITCHEN} did not answer in time"
    assert table.alive() == ()
    assert states(table) == {"kitchen": "dead"}
    (change,) = answer(table, KITCHEN, node("kitchen"), 9.0)
    assert change == PeerJoined(table.peers()[0], returned=True)


def test_time_in_which_this_process_did_not_run_is_nobodys_silence() -> None:
    table = with_kitchen()
    table.tick(0.9)
    table.due_probes(1.0)
    table.due_probes(1.5)
    table.due_probes(2.0)
    assert table.tick(60.0) == ()
    assert table.probe_failed(KITCHEN, "timed out", False, 60.0)[0].peer.state is PeerState.SUSPECT
    (back,) = answer(table, KITCHEN, node("kitchen"), 60.1)
    assert back.reason == "answers again"


def test_a_peer_that_is_always_slow_is_waited_for() -> None:
    table = with_kitchen()
    now = 0.0
    for _ in range(20):
        now = table.next_due()
        table.due_probes(now)
        table.probe_answered(KITCHEN, ProbeAnswer(node("kitchen")), 2000.0, now + 2.0)
    now = table.next_due()
    table.due_probes(now)
    assert table.tick(now + 1.9) == (), "no suspicion while it is only as slow as usual"
    assert table.question(KITCHEN, now).timeout_s == pytest.approx(TIMING.give_up_s)


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
    assert (
        table.probe_answered(ATTIC, ProbeAnswer(node("attic")), 1.0, 0.0)
        == table.probe_failed(ATTIC, "x", False, 0.0)
        == ()
    )
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


def test_what_a_peer_serves_is_a_change_and_its_load_is_not() -> None:
    table = with_kitchen()
    assert answer(table, KITCHEN, node("kitchen", slots_free=3, hardware={"ram_free": 1}), 1.0) == ()
    assert table.alive()[0].description.slots_free == 3
    (change,) = answer(
        table, KITCHEN, node("kitchen", models=(ServedModel(id="a"), ServedModel(id="b")), mode="paired"), 2.0
    )
    assert isinstance(change, PeerChanged)
    assert change.reason == "is now paired; now serves a, b"


# What peers could load

QWEN = Loadables("digest-1", (LoadableModel(id="qwen3:4b"),))
EMPTY = Loadables("digest-2", ())


def labels(peers: tuple[Peer, ...]) -> list[str]:
    return [peer.label for peer in peers]


def test_a_list_is_asked_for_once_where_its_digest_is_new_and_kept_as_long_as_the_peer() -> None:
    table = with_kitchen()
    assert table.due_lists(0.0) == (), "it names none"
    answer(table, KITCHEN, node("kitchen", loadable="digest-1"), 1.0)
    assert labels(table.due_lists(1.0)) == ["kitchen"]
    assert table.due_lists(100.0) == (), "it is being asked"
    table.list_received("id-kitchen", QWEN, 101.0)
    assert table.alive()[0].loadable == QWEN.models
    assert table.due_lists(1000.0) == ()
    answer(table, KITCHEN, node("kitchen", loadable="digest-2"), 1001.0)
    assert labels(table.due_lists(1001.0)) == ["kitchen"]
    table.list_received("id-kitchen", EMPTY, 1001.5)
    assert table.alive()[0].loadable == ()
    answer(table, KITCHEN, node("kitchen", loadable="digest-1"), 1001.6)
    assert table.due_lists(1001.6) == (), "not twice within its interval"
    assert labels(table.due_lists(1001.0 + TIMING.list_interval_s)) == ["kitchen"]
    table.list_received("id-kitchen", QWEN, 1002.0)
    answer(table, KITCHEN, node("kitchen"), 1003.0)
    assert table.alive()[0].loadable == (), "one of an older version took its place"


def test_a_list_that_cannot_be_had_is_asked_for_ever_more_rarely_and_what_was_known_stays() -> None:
    table = with_kitchen()
    answer(table, KITCHEN, node("kitchen", loadable="digest-1"), 1.0)
    table.due_lists(1.0)
    table.list_received("id-kitchen", QWEN, 1.0)
    answer(table, KITCHEN, node("kitchen", loadable="digest-3"), 2.0)
    asked: list[float] = []
    for tick in range(2, 400):
        if table.due_lists(float(tick)):
            asked.append(tick)
            table.list_received("id-kitchen", None if len(asked) % 2 else EMPTY, float(tick))
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert set(pauses[6:]) == {TIMING.list_retry_cap_s}
    assert states(table) == {"kitchen": "alive"}


def test_the_dead_are_not_asked_and_the_forgotten_have_no_list() -> None:
    table = with_kitchen()
    answer(table, KITCHEN, node("kitchen", loadable="digest-1"), 1.0)
    table.goodbye("id-kitchen", 1.5, "run-1")
    assert table.due_lists(2.0) == ()
    answer(table, KITCHEN, node("kitchen", loadable="digest-1"), 3.0)
    assert table.due_lists(3.0)
    table.expelled("id-kitchen", "revoked", 3.5)
    table.list_received("id-kitchen", QWEN, 4.0)
    assert table.peers() == ()


def test_a_swarm_whose_lists_all_change_is_asked_a_few_at_a_time() -> None:
    table = make_table()
    for number in range(20):
        address = Address(f"10.0.1.{number + 1}", 17615)
        table.proposed(address, Source.MDNS, 0.0)
        answer(table, address, node(f"n{number}", loadable="digest-1"), 0.0)
    first = table.due_lists(1.0)
    assert len(first) == LISTS_AT_ONCE
    assert table.due_lists(1.0) == ()
    table.list_received(first[0].id, QWEN, 1.0)
    (next_one,) = table.due_lists(1.0)
    assert next_one.id not in {peer.id for peer in first}


def test_the_least_of_the_last_round_trips_is_what_the_way_takes() -> None:
    """A node that was busy for a while is no further away; one that moved is, once its old answers are out of sight."""
    table = make_table()
    table.proposed(KITCHEN, Source.MDNS, 0.0)
    for rtt_ms in (4.0, 90.0, 1.5, 60.0):
        answer(table, KITCHEN, node("kitchen"), 0.0, rtt_ms=rtt_ms)
    (peer,) = table.peers()
    assert (peer.least_rtt_ms, (peer.rtt_ms or 0) > 4) == (1.5, True)
    for _ in range(16):
        answer(table, KITCHEN, node("kitchen"), 1.0, rtt_ms=40.0)
    assert table.peers()[0].least_rtt_ms == 40.0
