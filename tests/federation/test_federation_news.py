"""Word of others: bounded, only a reason to probe, and never passed on unseen; what a probe's answer leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.advertisement import ServedModel
from federation.errors import AdvertisementError
from federation.hostport import Address
from federation.membership import MAX_CHANGES, ChangeLog
from federation.peer import PeerJoined, PeerLeft, PeerState
from federation.probing import (
    HINTED_PROBES_AT_ONCE,
    MAX_NEWS_KEPT,
    MAX_NEWS_TOLD,
    NEWS_LIFE_S,
    News,
    NewsBoard,
    NewsKind,
    ProbeAnswer,
    Sight,
    news_header,
    parse_news,
    read_reply,
    reply_to,
)
from tests.doubles.peer_tables import ATTIC, KITCHEN, answer, make_table, node, states, with_kitchen


def news_of(node_id: str, what: NewsKind, host: str = "10.0.0.9", **more: object) -> News:
    return News.model_validate({"id": node_id, "what": what, "host": host, "port": 1, **more})


def test_a_liar_evicts_nobody_and_costs_a_bounded_number_of_probes() -> None:
    table = with_kitchen()
    table.proposed(ATTIC, table.peers()[0].source, 0.0)
    answer(table, ATTIC, node("attic"), 0.0)
    lies = [
        news_of("id-kitchen", NewsKind.LEFT),
        *(news_of(f"n{n}", NewsKind.JOINED, f"10.1.0.{n}") for n in range(99)),
    ]
    for _ in range(50):
        assert table.news_received(lies, "id-attic", 0.5) == ()
    assert states(table) == {"attic": "alive", "kitchen": "alive"}
    assert len(table.addresses()) <= 2 + HINTED_PROBES_AT_ONCE
    assert table.news(0.5)[-1].id in ("id-attic", "id-kitchen"), "only what this node has seen itself"


def test_strangers_and_the_dead_are_not_listened_to() -> None:
    table = with_kitchen()
    joined = [news_of("new", NewsKind.JOINED)]
    table.news_received(joined, "who", 0.5)
    table.goodbye("id-kitchen", 0.6)
    table.news_received(joined, "id-kitchen", 0.7)
    assert table.addresses() == (KITCHEN,)


def test_a_doubt_has_it_probed_at_once_in_a_large_swarm() -> None:
    table = make_table()
    for number in range(40):
        table.proposed(Address(f"10.0.1.{number}", 1), 1, 0.0)
        answer(table, Address(f"10.0.1.{number}", 1), node(f"n{number}"), 0.0)
    for number in range(40):  # once more, now that it is a large swarm
        answer(table, Address(f"10.0.1.{number}", 1), node(f"n{number}"), 1.2)
    table.news_received([news_of("id-n7", NewsKind.DOUBTED, age_s=1.0)], "id-n8", 2.5)
    assert table.due_probes(2.5) == (Address("10.0.1.7", 1),)
    table.news_received([news_of("id-n9", NewsKind.DOUBTED, age_s=4.0)], "id-n8", 2.6)
    assert table.due_probes(2.6) == (), "this node has heard from it since"


def test_the_board_is_bounded_and_forgets() -> None:
    board = NewsBoard()
    for number in range(100):
        board.post(f"n{number}", NewsKind.LEFT, KITCHEN, None, 1.0)
    assert len(board.items(1.0)) == MAX_NEWS_TOLD <= MAX_NEWS_KEPT
    assert board.items(1.0, to="n99")[-1].id == "n98"
    assert board.items(1.1 + NEWS_LIFE_S) == ()


@given(st.text(max_size=300))
def test_any_header_is_news_or_nothing(text: str) -> None:
    assert isinstance(parse_news(text), tuple)


def test_news_survive_the_wire() -> None:
    sent = (news_of("id-kitchen", NewsKind.DOUBTED, run="run-1", age_s=1.5),)
    assert parse_news(news_header(sent)) == sent


def test_only_what_has_changed_is_sent_again() -> None:
    idle = node("kitchen", models=(ServedModel(id="m", slots=2, slots_free=2),), slots_free=2)
    first = reply_to(idle, "v1", Sight.UNKNOWN, (), None)
    known = read_reply(first.body, first.tag, None)
    assert (known.description, known.view, known.sight) == (idle, "v1", Sight.UNKNOWN)
    same = reply_to(idle, "v1", Sight.UNKNOWN, (), known.tag)
    assert (same.status, same.body) == (304, b"")
    assert read_reply(None, same.tag, known) == known
    busy = node("kitchen", models=(ServedModel(id="m", slots=2, slots_free=0),), slots_free=0)
    slim = reply_to(busy, "v2", Sight.HERE, (), known.tag)
    assert len(slim.body) < len(first.body) / 2
    after = read_reply(slim.body, slim.tag, known)
    assert (after.description, after.view, after.sight) == (busy, "v2", Sight.HERE)
    other = node("kitchen", models=(ServedModel(id="other"),))
    assert read_reply(reply_to(other, "v2", Sight.HERE, (), after.tag).body, None, after).description == other


@pytest.mark.parametrize(
    "raw", [None, b'{"same": "123456789abc", "load": {"slots_free": 1, "models": []}}', b"[]", b"{}"]
)
def test_a_saving_answer_to_what_was_not_known_is_refused(raw: bytes | None) -> None:
    with pytest.raises(AdvertisementError):
        read_reply(raw, None, None)


def test_who_answers_and_cannot_reach_this_node_is_out_here_too_until_it_can() -> None:
    table = with_kitchen()
    now = 1.0
    left = []
    while now < 20.0:
        table.due_probes(now)
        left += table.probe_answered(KITCHEN, ProbeAnswer(node("kitchen"), sight=Sight.UNREACHABLE), 1.0, now)
        now += 1.0
    (change,) = left
    assert isinstance(change, PeerLeft)
    assert "cannot reach this node" in change.reason
    table.due_probes(now)
    (back,) = table.probe_answered(KITCHEN, ProbeAnswer(node("kitchen"), sight=Sight.HERE), 1.0, now)
    assert isinstance(back, PeerJoined)


def test_a_peer_whose_probes_fail_while_it_calls_is_told_so() -> None:
    table = with_kitchen()
    assert table.sight_of("id-kitchen") is Sight.HERE
    for now in (1.0, 1.25):
        table.due_probes(now)
        table.probe_failed(KITCHEN, "nobody listens", True, now)
        table.called("id-kitchen", now)
    assert table.sight_of("id-kitchen") is Sight.UNREACHABLE
    assert table.sight_of("who") is Sight.UNKNOWN


def test_flapping_is_counted_and_not_a_storm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "federation.membership")
    table, log = with_kitchen(), ChangeLog()
    peer = table.peers()[0]
    lost = replace(peer, state=PeerState.DEAD)
    for number in range(50):
        log.note(PeerLeft(lost, "nobody listens"), number * 0.5)
        log.note(PeerJoined(peer, returned=True), number * 0.5)
    assert len(caplog.records) <= 4
    assert [change.times for change in log.recent()] == [50, 50]
    for number in range(500):
        log.note(PeerLeft(lost, "nobody listens"), 100.0 + 61.0 * number)
    assert len(log.recent()) == MAX_CHANGES
    assert set(log.counts) == set(PeerState)
