"""What strangers on an open network can do to a peer table: fill it, say goodbye for others, take an id over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.hostport import Address, neighbourhood, same_host
from federation.peer import AddressRejected, PeerJoined, PeerLeft, PeerState, Source, Why
from federation.peer_table import PeerTable
from federation.probing import News, NewsKind
from federation.timing import (
    MAX_ADDRESSES_PER_PEER,
    MAX_PEERS,
    MAX_PEERS_PER_ADDRESS,
    MAX_UNPROVEN,
    MAX_UNPROVEN_PER_ADDRESS,
    Timing,
)
from tests.doubles.peer_tables import ATTIC, KITCHEN, KITCHEN_WIFI, answer, fail, make_table, node, states, with_kitchen

TIMING = Timing()


def paired_table() -> PeerTable:
    return make_table(is_open=lambda: False)


def settle(table: PeerTable, hosts: list[str], now: float = 0.0, source: Source = Source.MDNS) -> list[object]:
    """Nodes that answer at these hosts, each at a port and with an id of its own; what each changed last."""
    last: list[object] = []
    for number, host in enumerate(hosts):
        address = Address(host, 1000 + 200 * int(now) + number)
        table.proposed(address, source, now)
        changes = answer(table, address, node(f"{host}-{number}", id=f"n-{now:.0f}-{number}"), now)
        last.append(changes[-1] if changes else None)
    return last


@pytest.mark.parametrize(
    ("hosts", "place"),
    [
        (["10.0.0.9"], "10.0.0.9"),
        (["::ffff:10.0.0.9"], "10.0.0.9"),
        (["fd00::1", "10.0.0.9"], "10.0.0.9"),
        (["10.0.0.9", "10.0.0.1"], "10.0.0.9"),
        (["fd00:1:2:3:4::9"], "fd00:1:2:3::/64"),
        (["fe80::1"], "fe80::/64"),
        (["127.0.0.1"], None),
        (["::1"], None),
        (["10.0.0.9", "127.0.0.1"], None),
        (["kitchen.local"], None),
        ([], None),
    ],
)
def test_whom_an_address_is_taken_for(hosts: list[str], place: str | None) -> None:
    assert neighbourhood(Address(host, 1) for host in hosts) == place


def test_a_host_is_the_same_however_it_is_written() -> None:
    assert same_host("::ffff:10.0.0.9") == same_host("10.0.0.9")
    assert same_host("fe80::1%eth0") == same_host("fe80:0::1")
    assert same_host("not an address") == "not an address"


def test_one_address_has_the_room_of_a_few_nodes_and_its_dead_make_way_for_its_own() -> None:
    table = make_table()
    last = settle(table, ["10.6.6.6"] * (MAX_PEERS_PER_ADDRESS + 1))
    assert [type(change) for change in last] == [PeerJoined] * MAX_PEERS_PER_ADDRESS + [AddressRejected]
    refused = last[-1]
    assert isinstance(refused, AddressRejected)
    assert (refused.why, "8 peers at 10.6.6.6" in refused.reason) == (Why.FULL, True)
    table.goodbye("n-0-3", 1.0)
    assert isinstance(settle(table, ["10.6.6.6"], now=2.0)[0], PeerJoined)
    assert table.get("n-0-3") is None


def test_members_behind_one_address_are_not_counted_and_neither_are_processes_of_this_machine() -> None:
    for table, host in ((paired_table(), "10.6.6.6"), (make_table(), "127.0.0.1")):
        assert all(isinstance(change, PeerJoined) for change in settle(table, [host] * 20))


def test_what_a_person_named_is_admitted_at_a_full_address_and_to_a_full_table() -> None:
    table = make_table()
    settle(table, ["10.6.6.6"] * MAX_PEERS_PER_ADDRESS)
    assert isinstance(settle(table, ["10.6.6.6"], now=1.0, source=Source.STATIC)[0], PeerJoined)
    table = make_table()
    settle(table, [f"10.7.{number}.1" for number in range(MAX_PEERS)])
    last = settle(table, ["10.8.0.1"], now=1.0)[0]
    assert isinstance(last, AddressRejected)
    assert isinstance(settle(table, ["10.8.0.2"], now=2.0, source=Source.STATIC)[0], PeerJoined)
    assert len(table.peers()) == MAX_PEERS


def test_sybils_that_fill_the_table_do_not_keep_a_node_out_that_comes_back() -> None:
    """Sixteen addresses, eight identities at each; the honest one is the last that was lost, and the first to go."""
    table = with_kitchen()
    table.goodbye("id-kitchen", 0.5)
    settle(table, [f"10.6.6.{number // MAX_PEERS_PER_ADDRESS}" for number in range(MAX_PEERS)], now=1.0)
    assert table.get("id-kitchen") is None, "its dead record made way"
    table.proposed(KITCHEN, Source.MDNS, 2.0)
    changes = answer(table, KITCHEN, node("kitchen"), 2.0)
    assert [type(change) for change in changes] == [PeerLeft, PeerJoined]
    assert "makes room" in changes[0].reason
    assert len(table.peers()) == MAX_PEERS
    for turn in range(20):  # and those who had to go do not push it out again
        settle(table, ["10.6.6.0"], now=3.0 + turn)
    assert states(table)["kitchen"] == "alive"


def test_one_caller_cannot_fill_the_list_of_addresses_to_try() -> None:
    table = make_table()
    for port in range(1, 1000):
        table.proposed(Address("10.6.6.6", port), Source.EXCHANGE, 0.0)
    assert len(table.addresses()) == MAX_UNPROVEN_PER_ADDRESS
    for number in range(MAX_UNPROVEN - MAX_UNPROVEN_PER_ADDRESS):
        table.proposed(Address(f"10.1.0.{number}", 1), Source.EXCHANGE, 0.0)
    assert len(table.addresses()) == MAX_UNPROVEN


# Goodbyes


@pytest.mark.parametrize(
    ("instance", "remote", "state"),
    [
        ("run-1", "10.0.0.2", "dead"),
        ("run-1", "::ffff:10.0.0.2", "dead"),
        ("run-1", None, "dead"),
        (None, None, "dead"),
        ("run-1", "10.0.0.66", "alive"),
        (None, "10.0.0.2", "alive"),
        (None, "10.0.0.66", "alive"),
        ("run-2", "10.0.0.2", "alive"),
        ("run-2", None, "alive"),
        ("run-1", "", "alive"),
    ],
)
def test_a_goodbye_is_believed_with_the_run_and_from_the_address_or_with_a_certificate(
    instance: str | None, remote: str | None, state: str
) -> None:
    table = with_kitchen()
    table.goodbye("id-kitchen", 0.5, instance, remote)
    assert states(table) == {"kitchen": state}


def test_a_goodbye_in_doubt_is_a_probe_and_no_more() -> None:
    table = with_kitchen()
    assert table.goodbye("id-kitchen", 0.5, "run-1", "10.0.0.66") == ()
    assert table.next_due() == TIMING.probe_interval_s, "sooner than that it is asked anyway"
    fail(table, KITCHEN, 1.0, refused=True)
    fail(table, KITCHEN, 1.3, refused=True)
    assert states(table) == {"kitchen": "dead"}, "a true one from elsewhere is found true at once"


words = st.sampled_from(["goodbye", "doubt", "call", "news"])
forgeries = st.lists(
    st.tuples(
        st.floats(0.0, 30.0),
        words,
        st.sampled_from([None, "run-1", "run-2"]),
        st.sampled_from(["10.0.0.66", "127.0.0.1", "::ffff:10.0.0.66", "fe80::2"]),
    ),
    max_size=80,
)


@given(forged=forgeries)
@settings(deadline=None)
def test_nothing_that_an_outsider_says_takes_a_node_that_answers_out_of_routing(
    forged: list[tuple[float, str, str | None, str]],
) -> None:
    """Whatever is forged in its name or about it, from anywhere but its own address; it answers each probe."""
    table = with_kitchen()
    now, probes = 0.0, 0
    for at, what, run, remote in sorted(forged, key=lambda word: word[0]):
        while now < at:
            now = min(at, now + 0.25)
            table.tick(now)
            for address in table.due_probes(now):
                probes += 1
                answer(table, address, node("kitchen"), now)
        match what:
            case "goodbye":
                table.goodbye("id-kitchen", now, run, remote)
            case "doubt":
                table.doubted("id-kitchen", now)
            case "call":
                table.called("id-kitchen", now, remote)
            case _:
                news = News(id="id-kitchen", what=NewsKind.LEFT, host="10.0.0.2", port=17615, run=run)
                table.news_received([news], "id-kitchen", now, remote)
        assert states(table) == {"kitchen": "alive"}
        assert table.addresses() == (KITCHEN,)
    assert probes <= 1 + now / TIMING.probe_interval_s * 2, "and it costs no more probes than twice the usual"


def test_news_are_heard_from_where_the_informant_answers_only() -> None:
    """Else anybody could send this node to any host and port, in a peer's name."""
    item = News(id="id-attic", what=NewsKind.JOINED, host=ATTIC.host, port=ATTIC.port)
    for remote, heard in (("10.0.0.66", False), ("10.0.0.2", True), (None, True)):
        table = with_kitchen()
        table.news_received([item], "id-kitchen", 1.0, remote)
        assert (ATTIC in table.addresses()) is heard


def test_a_call_in_a_dead_nodes_name_from_elsewhere_does_not_keep_it() -> None:
    table = with_kitchen()
    table.goodbye("id-kitchen", 1.0)
    for now in range(2, 600, 10):
        table.called("id-kitchen", float(now), "10.0.0.66")
    table.tick(1.0 + TIMING.forget_lost_s)
    assert states(table) == {}


# Ids


def frozen_kitchen_taken_over(run: str) -> PeerTable:
    """Kitchen stopped answering, and something at the attic's address says it is kitchen, in run `run`."""
    table = with_kitchen()
    fail(table, KITCHEN, 1.0)
    table.proposed(ATTIC, Source.MDNS, 1.2)
    answer(table, ATTIC, node("kitchen", instance=run), 1.2)
    (peer,) = table.alive()
    assert peer.address == ATTIC
    return table


@pytest.mark.parametrize("later_s", [2.0, 60.0, 1000.0])
@pytest.mark.parametrize("run", ["run-1", "run-of-the-clone"])
@pytest.mark.parametrize("back_as", ["run-1", "run-2"])
def test_the_first_owner_of_an_id_wins_when_it_is_back(run: str, back_as: str, later_s: float) -> None:
    table = frozen_kitchen_taken_over(run)
    now = 1.2
    while now < later_s:
        answer(table, ATTIC, node("kitchen", instance=run), now)
        table.tick(now)
        now += 1.0
    table.proposed(KITCHEN, Source.MDNS, now)
    answer(table, KITCHEN, node("kitchen", instance=back_as), now)
    (peer,) = table.alive()
    assert (peer.address, peer.description.instance) == (KITCHEN, back_as)
    if run != back_as and run != "run-1":
        (rejected,) = table.rejected()
        assert (rejected.address, rejected.why) == (ATTIC, Why.COPY)
    for turn in range(5):  # and the clone does not come back while the owner answers
        answer(table, KITCHEN, node("kitchen", instance=back_as), now + turn)
        answer(table, ATTIC, node("kitchen", instance=run), now + turn + 0.5)
        assert table.alive()[0].address == KITCHEN


def test_a_node_that_moved_keeps_its_id_and_comes_before_whoever_takes_it_over_later() -> None:
    table = frozen_kitchen_taken_over("run-2")  # it did move
    for now in (3.0, 4.0, 5.0):
        answer(table, ATTIC, node("kitchen", instance="run-2"), now)
    fail(table, ATTIC, 6.0)
    table.proposed(KITCHEN_WIFI, Source.MDNS, 6.1)
    answer(table, KITCHEN_WIFI, node("kitchen", instance="run-of-the-clone"), 6.2)
    assert table.alive()[0].address == KITCHEN_WIFI
    answer(table, ATTIC, node("kitchen", instance="run-2"), 8.0)
    assert table.alive()[0].address == ATTIC


def test_owners_are_bounded_and_the_earliest_stay() -> None:
    table = with_kitchen()
    route = KITCHEN
    for number in range(3 * MAX_ADDRESSES_PER_PEER):
        now = 10.0 * (number + 1)
        fail(table, route, now)
        route = Address(f"10.9.0.{number}", 1)
        table.proposed(route, Source.MDNS, now)
        answer(table, route, node("kitchen", instance=f"run-{number + 5}"), now + 0.1)
        assert [peer.state for peer in table.alive()] == [PeerState.ALIVE]
    table.proposed(KITCHEN, Source.MDNS, 500.0)
    answer(table, KITCHEN, node("kitchen"), 500.0)
    assert table.alive()[0].address == KITCHEN
