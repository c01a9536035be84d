"""Requests to peers accounted for: what each end of one means for the peer, and what is known of a replica then."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress

import pytest

from swarm.errors import BadRequest, EngineDied, LenderLost, PeerFailed, PeerMalformed, Unavailable
from swarm.generation import Usage
from swarm.routing.observations import MAX_PACES, PACE_LIFETIME_S, MeasuredSpeeds
from swarm.routing.preference import ASSUMED_TOKENS_PER_S
from swarm.routing.router import FAILURES_TO_OPEN, FIRST_PAUSE_S, WARN_AFTER_S, Router
from swarm.routing.rules import RoutingRules
from tests.doubles.replicas import Clock, replica

ATTIC = replica("attic", reported_at=99.0)
FAILED = PeerFailed("attic", "broke off")
FAR = 1_000_000.0


class Heard:
    """What a listener hears."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def failed_over(self) -> None:
        self.of["failed over"] += 1

    def retry_refused(self) -> None:
        self.of["refused"] += 1

    def circuit_opened(self) -> None:
        self.of["opened"] += 1

    def prefix_followed(self) -> None:
        self.of["followed"] += 1

    def moved(self) -> None:
        self.of["moved"] += 1

    def resumed(self) -> None:
        self.of["resumed"] += 1

    def not_resumed(self) -> None:
        self.of["not resumed"] += 1


class Asked:
    """A router, with what it reported of peers."""

    def __init__(self, rules: RoutingRules | None = None) -> None:
        self.clock, self.reports, self.heard = Clock(), list[tuple[str, bool]](), Heard()
        self.router = Router(lambda node, ok: self.reports.append((node, ok)), rules, self.clock)
        self.router.listeners.append(self.heard)

    def ask(self, error: BaseException | None = None, deadline: float = FAR) -> None:
        with suppress(BaseException), self.router.asking(ATTIC, deadline):
            if error is not None:
                raise error

    @property
    def circuit(self) -> str:
        return self.router.with_local_knowledge([ATTIC])[0].circuit


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_an_answer_is_reported(asked: Asked) -> None:
    asked.ask()
    assert asked.reports == [("attic", True)]


@pytest.mark.parametrize("refusal", [BadRequest("no"), Unavailable("busy"), GeneratorExit(), asyncio.CancelledError()])
def test_refusals_and_clients_that_leave_say_nothing_against_a_peer(asked: Asked, refusal: BaseException) -> None:
    for _ in range(2 * FAILURES_TO_OPEN):
        asked.ask(refusal)
    assert (asked.reports, asked.circuit) == ([], "closed")


def test_a_failure_after_the_requests_own_time_is_not_the_peers(asked: Asked) -> None:
    for _ in range(2 * FAILURES_TO_OPEN):
        asked.ask(FAILED, deadline=asked.clock.now)
    assert (asked.reports, asked.circuit) == ([], "closed")


def test_failures_are_reported_and_open_the_circuit_which_a_trial_closes(asked: Asked) -> None:
    for _ in range(FAILURES_TO_OPEN):
        asked.ask(FAILED)
    assert asked.reports == [("attic", False)] * FAILURES_TO_OPEN
    assert (asked.circuit, asked.heard.of["opened"]) == ("open", 1)
    assert asked.router.circuits() == {"attic": "open"}
    asked.clock.now += FIRST_PAUSE_S
    asked.ask(GeneratorExit())
    assert asked.circuit == "half_open", "the client of the trial left"
    with asked.router.asking(ATTIC, FAR):
        assert asked.circuit == "open", "one trial at a time"
    assert (asked.circuit, asked.router.circuits()) == ("closed", {})


@pytest.mark.parametrize("left", [GeneratorExit(), asyncio.CancelledError(), BadRequest("late"), FAILED])
def test_a_trial_that_was_answered_closes_the_circuit_whatever_comes_after(asked: Asked, left: BaseException) -> None:
    for _ in range(FAILURES_TO_OPEN):
        asked.ask(FAILED)
    asked.clock.now += FIRST_PAUSE_S
    with suppress(BaseException), asked.router.asking(ATTIC, FAR) as trial:
        trial.answered()
        trial.answered()
        raise left
    assert asked.circuit == "closed"
    assert asked.reports[FAILURES_TO_OPEN:][0] == ("attic", True)
    assert asked.reports.count(("attic", True)) == 1


def test_a_failed_trial_opens_it_again(asked: Asked) -> None:
    for _ in range(FAILURES_TO_OPEN):
        asked.ask(FAILED)
    asked.clock.now += FIRST_PAUSE_S
    asked.ask(FAILED)
    assert (asked.circuit, asked.heard.of["opened"]) == ("open", 2)


def test_an_engine_that_died_there_opens_the_circuit_of_a_peer_that_is_well(asked: Asked) -> None:
    """It answers, so that nobody doubts that it is there; and who says so of everything is left alone."""
    for _ in range(FAILURES_TO_OPEN):
        asked.ask(EngineDied("attic: ended"))
    assert asked.reports == [("attic", True)] * FAILURES_TO_OPEN
    assert (asked.circuit, asked.heard.of["opened"]) == ("open", 1)
    asked.clock.now += FIRST_PAUSE_S
    asked.ask(EngineDied("attic: ended"))
    assert (asked.circuit, asked.heard.of["opened"]) == ("open", 2), "its trial failed"


def test_a_peer_whose_lender_is_lost_is_well(asked: Asked) -> None:
    for _ in range(FAILURES_TO_OPEN):
        asked.ask(LenderLost("hall", "attic: hall is gone"))
    assert asked.circuit == "closed"
    assert ("attic", False) not in asked.reports


def test_what_is_asked_of_a_peer_counts_at_once(asked: Asked) -> None:
    with asked.router.asking(ATTIC, FAR, slots=3):
        assert asked.router.with_local_knowledge([ATTIC])[0].slots_free == 1
    assert asked.router.with_local_knowledge([ATTIC])[0].slots_free == 4


def test_names_in_rules_are_warned_of_once_and_not_before_nodes_had_time_to_join(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Asked(RoutingRules({"atic": 0.5}))
    asked.router.with_local_knowledge([ATTIC])
    assert not caplog.records
    asked.clock.now += WARN_AFTER_S
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            asked.router.with_local_knowledge([ATTIC])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'atic'" in caplog.text


def wrote(tokens: int, read_tokens: int = 20) -> Usage:
    return Usage(prompt_tokens=read_tokens + 100, completion_tokens=tokens, cached_tokens=100)


def test_a_long_prompt_says_nothing_of_the_next_ones_first_word() -> None:
    paces = MeasuredSpeeds(Clock())
    paces.note(ATTIC, 20.0, 2.0, wrote(100, read_tokens=9_000))
    pace = paces.of(ATTIC.key)
    assert pace is not None
    assert (pace.first_s, pace.tokens_per_s) == (None, 50)


def test_speeds_are_measured_as_of_a_lone_answer() -> None:
    clock = Clock()
    paces = MeasuredSpeeds(clock)
    paces.note(ATTIC, 0.5, 2.0, wrote(100))
    pace = paces.of(ATTIC.key)
    assert pace is not None
    assert (pace.first_s, pace.tokens_per_s) == (0.5, 50)
    paces.note(ATTIC, 0.5, 2.0, wrote(3))
    assert paces.of(ATTIC.key) == pace, "three tokens tell nothing of the speed"
    busy = replica("busy", slots=1, free=0, waiting=2)
    paces.note(busy, 30.0, 2.0, wrote(100))
    there = paces.of(busy.key)
    assert there is not None
    assert there.first_s is None, "it waited for others"
    half = replica("half", slots=4, free=2)
    paces.note(half, 0.1, 2.0, wrote(100))
    alone = paces.of(half.key)
    assert alone is not None
    assert (alone.tokens_per_s or 0) > 50, "two others were at work there"
    clock.now += PACE_LIFETIME_S + 1
    assert paces.of(ATTIC.key) is None


def test_measured_speeds_stand_in_the_replica_and_are_bounded() -> None:
    asked = Asked()
    asked.router.note_pace(ATTIC, 0.25, 1.0, wrote(40))
    seen = asked.router.with_local_knowledge([ATTIC])[0]
    assert (seen.first_s, seen.own_tokens_per_s) == (0.25, 40)
    paces = MeasuredSpeeds(Clock())
    for number in range(MAX_PACES + 1):
        paces.note(replica(f"n{number}"), 0.1, 1.0, wrote(40))
    assert paces.of(("n0", "m")) is None
    assert paces.of(("n1", "m")) is not None


def test_rubbish_is_counted_and_a_connection_that_breaks_is_not(asked: Asked) -> None:
    for error in (PeerMalformed("attic", "sent rubbish"), FAILED, BadRequest("no"), None):
        asked.ask(error)
    assert asked.router.conduct.of("attic").malformed == 1


def test_more_tokens_than_bytes_are_neither_believed_nor_forgotten(asked: Asked) -> None:
    told = Usage(prompt_tokens=3, completion_tokens=2**31)
    assert asked.router.believed(ATTIC, told, 100).completion_tokens == 164
    assert asked.router.believed(ATTIC, Usage(completion_tokens=30), 100) == Usage(completion_tokens=30)
    assert asked.router.believed(replica("here"), told, 100) is told
    account = asked.router.conduct.of("attic")
    assert (account.answers, account.overstated) == (2, 1)


def test_a_boast_is_cut_to_what_an_unmeasured_node_is_taken_for_and_gone_with_the_first_answer(asked: Asked) -> None:
    boaster = replica("attic", tokens_per_s=1e7, reported_tokens_per_s=1e7, reported_at=99.0)
    here = replica("here", tokens_per_s=40.0)
    assert [r.tokens_per_s for r in asked.router.with_local_knowledge([here, boaster])] == [40.0, 60.0]
    asked.router.note_pace(boaster, 0.1, 0.01, Usage(completion_tokens=2))  # too short to be measured
    assert [r.tokens_per_s for r in asked.router.with_local_knowledge([here, boaster])] == [40.0, 40.0]
    asked.router.note_pace(boaster, 0.1, 10.0, Usage(completion_tokens=50))
    (_, known) = asked.router.with_local_knowledge([here, boaster])
    assert known.own_tokens_per_s == 5.0
    account = asked.router.conduct.of("attic")
    assert (account.paced, account.refuted) == (1, 1)


def test_where_nothing_was_measured_claims_order_the_first_answers_only(asked: Asked) -> None:
    boaster, modest = (
        replica("a", tokens_per_s=1e7, reported_at=99.0),
        replica("b", tokens_per_s=50.0, reported_at=99.0),
    )
    assert [r.tokens_per_s for r in asked.router.with_local_knowledge([boaster, modest])] == [1e7, 50.0]
    asked.router.note_pace(boaster, 0.1, 0.01, Usage(completion_tokens=2))
    assert [r.tokens_per_s for r in asked.router.with_local_knowledge([boaster, modest])] == [
        ASSUMED_TOKENS_PER_S,
        50.0,
    ]
