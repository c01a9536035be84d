"""Which peers lend for a model of this node, and in which words the others do not. Nothing is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.peer import Peer
from swarm.node.lenders import UNKNOWN_RTT_S, Doubt, lenders_among, offers_key, whom_it_waits_for
from tests.doubles.lending_peers import LocalLender

BUILD, NOW = "b11434", 100.0


def peer(name: str = "attic", mib: int = 300, build: str = BUILD, **changed: object) -> Peer:
    return replace(LocalLender(name, Path("/none"), build, mib).peer(), **changed)  # type: ignore[arg-type]


def test_a_peer_that_lends_is_usable_with_what_it_offers_and_how_far_it_is() -> None:
    (lender,) = lenders_among([peer(rtt_ms=9.0, least_rtt_ms=2.0)], BUILD, None, {}, NOW).usable
    assert (lender.name, lender.offer.bytes_free, lender.rtt_s) == ("attic", 300 << 20, 0.002)
    machine = lender.machine(1e8, named=True)
    assert (machine.node, machine.free_bytes, machine.rtt_s, machine.link_bytes_per_s) == (
        "attic", 300 << 20, 0.002, 1e8,
    )  # fmt: skip
    assert machine.named
    (unknown,) = lenders_among([peer(rtt_ms=None)], BUILD, None, {}, NOW).usable
    assert unknown.rtt_s == UNKNOWN_RTT_S


def test_one_that_lends_nothing_is_no_lender() -> None:
    silent = peer()
    silent = replace(silent, description=silent.description.model_copy(update={"lends": None}))
    assert lenders_among([silent], BUILD, None, {}, NOW) == lenders_among([], BUILD, None, {}, NOW)


@pytest.mark.parametrize(
    ("build", "rpc", "why"),
    [
        ("b9000", None, f"its llama.cpp is b9000 (RPC 7.0.0) and this node's {BUILD}: make both the same build"),
        (BUILD, "8.1.0", f"its llama.cpp is {BUILD} (RPC 7.0.0) and this node's {BUILD} (RPC 8.1.0)"),
        (BUILD, "7.3.2", None),
    ],
)
def test_both_ends_are_one_build(build: str, rpc: str | None, why: str | None) -> None:
    found = lenders_among([peer(build=build)], BUILD, rpc, {}, NOW)
    assert bool(found.usable) == (why is None)
    assert why is None or found.refused[0][1].startswith(why)


def test_a_lender_that_takes_its_memory_back_or_leaves_is_named() -> None:
    offer = peer().description.lends
    assert offer is not None
    for changed in ({"lends": offer.model_copy(update={"draining": True})}, {"draining": True}):
        drained = peer()
        drained = replace(drained, description=drained.description.model_copy(update=changed))
        found = lenders_among([drained], BUILD, None, {}, NOW)
        assert found.refused == (("attic", "it takes its memory back"),)
        assert found.refusals == "; attic: it takes its memory back"


@pytest.mark.parametrize(
    ("answers", "last_answer_at", "now", "usable"),
    [
        (False, 99.0, 100.0, False),  # it lied, and answers all the while
        (False, 99.0, 600.0, True),  # ten minutes later
        (True, 80.0, 100.0, False),  # it was taken for gone, and has said nothing since
        (True, 91.0, 100.0, True),  # it is back
    ],
)
def test_a_doubt_holds_until_its_time_or_until_it_answers(
    answers: bool, last_answer_at: float, now: float, usable: bool
) -> None:
    doubted = peer(last_answer_at=last_answer_at)
    doubts = {doubted.id: Doubt("it was lost", 90.0, 600.0, answers)}
    found = lenders_among([doubted], BUILD, None, doubts, now)
    assert bool(found.usable) == usable
    assert found.refused == (() if usable else (("attic", "it was lost"),))


def test_those_that_were_asked_and_refused_are_left_out_of_the_next_plan() -> None:
    both = lenders_among([peer("attic"), peer("hall")], BUILD, None, {}, NOW)
    attic = both.usable[0]
    left = both.without({attic.node_id: "it lends nothing"})
    assert [one.name for one in left.usable] == ["hall"]
    assert left.refusals == "; attic: it lends nothing"


def test_whom_a_model_waits_for() -> None:
    here = lenders_among([peer("hall")], BUILD, None, {}, NOW)
    assert whom_it_waits_for(["attic", "hall"], here) == "attic"
    assert whom_it_waits_for([], here) == "lenders"
    assert whom_it_waits_for([], lenders_among([peer("loft", build="b1")], BUILD, None, {}, NOW)) == "loft"


@pytest.mark.parametrize(
    ("after", "is_news"),
    [
        (peer(rtt_ms=9.0), False),
        (peer(rtt_ms=124.0), True),  # too far to be taken unasked
        (peer(rtt_ms=124.0, least_rtt_ms=4.0), False),
        (peer(mib=303), False),
        (peer(mib=340), True),
        (peer(build="b2"), True),
    ],
)
def test_offers_differ_where_something_is_to_be_tried_again(after: Peer, is_news: bool) -> None:
    """And not each time that memory wavers, or a machine is busy."""
    assert (offers_key([after]) != offers_key([peer()])) is is_news
    assert offers_key([]) != offers_key([after])
