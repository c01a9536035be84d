"""The checker passes what the matrix allows and flags every kind of history that it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.checker import (
    DESCRIPTORS_SLACK,
    RSS_SLACK_BYTES,
    THREADS_SLACK,
    Disturbance,
    agreed_at,
    answered_share,
    broken_promises,
    flaps,
    late_agreement,
    of_survivors,
    outgrown,
    p99_s,
    slow_pulse,
)
from tests.faults.history import CAPITAL, Account, End, Footprint, Mark, Ping, View
from tests.faults.schedule import Fault

WORDS = "The capital of France is Paris."
REFERENCE = {CAPITAL: WORDS}
COMPLETE = (Mark.CONTENT, Mark.FINISH, Mark.DONE)
BEFORE, LATER = (0.0, 5.0), (50.0, 55.0)

STREAM = Account(
    number=1, node="kitchen", question=CAPITAL, stream=True, strategy="single", deadline_s=10.0,
    started_at=1.0, first_byte_at=1.1, ended_at=2.0, end=End.COMPLETE,
    pieces=((1.1, "The capital of "), (1.2, "France is Paris.")), marks=COMPLETE, ids=frozenset({"a"}),
)  # fmt: skip
WHOLE = replace(STREAM, number=2, stream=False, pieces=((2.0, WORDS),), marks=())
REFUSED = replace(STREAM, number=3, end=End.ERROR, pieces=(), marks=(), ids=frozenset(), first_byte_at=None, code="x")
BROKEN_OFF = replace(STREAM, end=End.ERROR, pieces=STREAM.pieces[:1], marks=(Mark.CONTENT, Mark.ERROR), code="x")
UNREACHED = replace(REFUSED, end=End.NO_ANSWER, code=None)
CUT = replace(STREAM, end=End.CUT, pieces=STREAM.pieces[:1], marks=(Mark.CONTENT,))


def disturbed(fault: Fault, *victims: str, when: tuple[float, float] = BEFORE) -> Disturbance:
    return Disturbance(fault, victims, *when)


@pytest.mark.parametrize(
    ("account", "disturbances"),
    [
        (STREAM, []),
        (WHOLE, []),
        (BROKEN_OFF, [disturbed(Fault.KILL, "study")]),
        (BROKEN_OFF, [disturbed(Fault.LOSS)]),
        (UNREACHED, [disturbed(Fault.KILL, "kitchen")]),
        (CUT, [disturbed(Fault.KILL, "kitchen")]),
        (replace(STREAM, end=End.CUT), [disturbed(Fault.KILL, "kitchen")]),
        (REFUSED, [disturbed(Fault.STOP, "kitchen")]),
        (replace(UNREACHED, end=End.LATE, ended_at=90.0), [disturbed(Fault.FREEZE, "kitchen")]),
        (replace(STREAM, ended_at=40.0), [disturbed(Fault.FREEZE, "kitchen")]),
    ],
)
def test_what_the_matrix_allows(account: Account, disturbances: list[Disturbance]) -> None:
    assert broken_promises([account], REFERENCE, disturbances) == []


@pytest.mark.parametrize(
    ("account", "disturbances", "promise"),
    [
        (replace(STREAM, marks=(*COMPLETE, Mark.DONE)), [], "a request ends exactly once"),
        (replace(STREAM, marks=(*COMPLETE, Mark.ERROR)), [], "a request ends exactly once"),
        (replace(STREAM, marks=(Mark.CONTENT, Mark.DONE)), [], "a request ends exactly once"),
        (replace(STREAM, marks=(Mark.FINISH, Mark.CONTENT, Mark.DONE)), [], "a request ends exactly once"),
        (
            replace(BROKEN_OFF, marks=(Mark.CONTENT, Mark.ERROR, Mark.ERROR)),
            [disturbed(Fault.LOSS)],
            "an error ends a stream, and no [DONE]",
        ),
        (
            replace(BROKEN_OFF, marks=(Mark.CONTENT, Mark.FINISH, Mark.ERROR)),
            [disturbed(Fault.LOSS)],
            "an error ends a stream, and no [DONE]",
        ),
        (replace(BROKEN_OFF, code=None), [disturbed(Fault.LOSS)], "an error is explicit"),
        (replace(STREAM, ended_at=14.0), [], "a request ends by its deadline"),
        (replace(STREAM, ended_at=14.0), [disturbed(Fault.FREEZE, "study")], "a request ends by its deadline"),
        (
            replace(UNREACHED, end=End.LATE),
            [disturbed(Fault.KILL, "kitchen")],
            "a request ends by its deadline",
        ),
        (replace(STREAM, pieces=((1.1, WORDS[:-4]),)), [], "no token is lost or doubled"),
        (replace(STREAM, pieces=(*STREAM.pieces, (1.3, " is Paris."))), [], "no token is lost or doubled"),
        (replace(WHOLE, pieces=((2.0, WORDS + WORDS),)), [], "no token is lost or doubled"),
        (
            replace(BROKEN_OFF, pieces=((1.1, "The capital"), (1.3, "The capital"))),
            [disturbed(Fault.KILL, "study")],
            "no splice after the first byte",
        ),
        (replace(STREAM, ids=frozenset({"a", "b"})), [], "no splice after the first byte"),
        (BROKEN_OFF, [], "nodes that are well answer"),
        (BROKEN_OFF, [disturbed(Fault.KILL, "study", when=LATER)], "nodes that are well answer"),
        (REFUSED, [disturbed(Fault.KILL, "study")], "nodes that are well answer"),
        (UNREACHED, [disturbed(Fault.KILL, "study")], "nodes that are well answer"),
        (UNREACHED, [disturbed(Fault.CUT, "kitchen")], "nodes that are well answer"),
        (CUT, [disturbed(Fault.KILL, "study")], "nodes that are well answer"),
        (CUT, [disturbed(Fault.STOP, "kitchen")], "nodes that are well answer"),
    ],
)
def test_what_it_does_not_allow(account: Account, disturbances: list[Disturbance], promise: str) -> None:
    assert [broken.promise for broken in broken_promises([account], REFERENCE, disturbances)] == [promise]


def test_only_a_node_that_is_gone_leaves_out_the_end_after_its_mark() -> None:
    cut = replace(STREAM, end=End.CUT)
    broken = broken_promises([cut], REFERENCE, [disturbed(Fault.KILL, "study")])
    assert [each.promise for each in broken] == ["a request ends exactly once", "nodes that are well answer"]


def test_a_request_that_ends_twice_is_flagged() -> None:
    assert [broken.promise for broken in broken_promises([STREAM, STREAM], REFERENCE, [])] == [
        "each request is one request"
    ]


def test_the_share_of_answers() -> None:
    assert answered_share([STREAM, WHOLE, REFUSED, CUT]) == 0.5


def views(*seen: tuple[str, float, str | None]) -> list[View]:
    return [View(node, at, None if names is None else frozenset(names)) for node, at, names in seen]


@pytest.mark.parametrize(
    ("seen", "since", "agreed"),
    [
        (views(("a", 1.0, "ab"), ("b", 1.5, "ab")), 0.0, 1.5),
        (views(("a", 1.0, "ab"), ("b", 1.5, "ab"), ("a", 4.0, "ab")), 3.0, 4.0),
        (views(("a", 1.0, "ab"), ("b", 1.5, "b"), ("b", 6.0, "ab")), 0.0, 6.0),
        (views(("a", 1.0, "ab"), ("b", 1.5, "b")), 0.0, None),
        (views(("a", 1.0, "ab")), 0.0, None),
        (views(("a", 1.0, "ab"), ("b", 1.5, "ab"), ("b", 2.0, "b")), 0.0, None),
        (views(("a", 1.0, "ab"), ("b", 1.5, "ab"), ("b", 2.0, None), ("b", 3.0, "ab")), 0.0, 3.0),
        (views(("a", 1.0, "abc"), ("b", 1.5, "abc")), 0.0, None),
    ],
)
def test_when_all_agree(seen: list[View], since: float, agreed: float | None) -> None:
    assert agreed_at(seen, "ab", since) == agreed
    in_time = agreed is not None and agreed - since <= 3.0
    assert [broken.promise for broken in late_agreement(seen, "ab", since, 3.0)] == (
        [] if in_time else ["views agree after healing"]
    )


def test_flaps_are_counted_each_way_and_silence_is_none() -> None:
    seen = views(("a", 1.0, "ab"), ("a", 2.0, "a"), ("b", 2.5, "b"), ("a", 3.0, None), ("a", 4.0, "ab"))
    assert flaps(seen, "a", "b") == 2
    assert flaps(seen, "b", "b") == 0


def pings(*took_s: float | None, node: str = "a") -> list[Ping]:
    return [Ping(node, float(at), took) for at, took in enumerate(took_s)]


def test_a_pulse_is_slow_by_the_clock_or_by_what_is_usual() -> None:
    calm = pings(*[0.01] * 100)
    assert slow_pulse(pings(*[0.01] * 99, 0.9), calm) == []
    assert [broken.promise for broken in slow_pulse(pings(*[0.01] * 98, 0.9, 0.9), calm)] == ["survivors' /livez"]
    assert slow_pulse(pings(*[0.9] * 100), pings(*[0.3] * 100)) == [], "this machine never was in time"
    assert slow_pulse(pings(*[0.01] * 9, None), calm), "no answer is the slowest"


def test_only_survivors_have_to_answer() -> None:
    seen = [*pings(None, None), *pings(0.1, 0.1, node="b")]
    assert of_survivors(seen, [disturbed(Fault.KILL, "a")]) == pings(0.1, 0.1, node="b")
    assert of_survivors(seen, [disturbed(Fault.DELAY, "a")]) == pings(0.1, 0.1, node="b")
    assert of_survivors(seen, [disturbed(Fault.CUT, "a")]) == seen, "a node that is cut off still lives"
    assert p99_s(pings(0.2)) == 0.2


@pytest.mark.parametrize(
    ("rss", "descriptors", "threads", "flagged"),
    [
        (0, 0, 0, []),
        (RSS_SLACK_BYTES, DESCRIPTORS_SLACK, THREADS_SLACK, []),
        (RSS_SLACK_BYTES + 1, 0, 0, ["memory"]),
        (0, DESCRIPTORS_SLACK + 1, THREADS_SLACK + 1, ["descriptors", "threads"]),
        (-1, -1, -1, []),
    ],
)
def test_what_is_held_in_the_end(rss: int, descriptors: int, threads: int, flagged: list[str]) -> None:
    before = Footprint(10**8, 100, 20)
    after = Footprint(10**8 + rss, 100 + descriptors, 20 + threads)
    assert [broken.promise.split(" ")[0] for broken in outgrown("a", before, after)] == flagged
