"""What is told of the last hour: which numbers, for whom, and that it stays small."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.gateway.observing.performance import MAX_MINUTES, MAX_TIMES, OTHERS, Performance
from swarm.generation import GAVE_WAY, Candidate, Usage
from tests.doubles.clients import chat_body, connect
from tests.doubles.replicas import replica
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

CHAT = "/v1/chat/completions"
ATTIC, STUDY = replica("attic"), replica("study")


@dataclass
class FakeClock:
    """Unix seconds, as a test sets them."""

    at: float = 6000.0

    def __call__(self) -> float:
        return self.at


def test_minutes_are_told_oldest_first_and_an_hour_of_them() -> None:
    clock = FakeClock()
    kept = Performance(clock)
    kept.answered(ATTIC, 0.1, 2.0, 20)
    clock.at += 60
    kept.answered(ATTIC, 0.3, 1.0, 5)
    kept.answered(ATTIC, 0.2, 1.0, 15)
    kept.answered(ATTIC, 9.0, 0.0, 1)
    kept.failed(ATTIC)
    kept.queued(3)
    kept.queued(1)
    clock.at += 120
    told = kept.look()
    assert told.minutes == (6000, 6060, 6120, 6180)
    assert told.waiting == (0, 3, 0, 0)
    (series,) = told.series
    assert (series.node, series.model) == (ATTIC.node, ATTIC.model)
    assert series.requests == (1, 4, 0, 0)
    assert series.errors == (0, 1, 0, 0)
    assert series.first_token_ms == (100.0, 300.0, None, None)
    assert series.tokens_per_s == (10.0, 10.0, None, None)
    clock.at += 60 * MAX_MINUTES
    told = kept.look()
    assert (len(told.minutes), told.series) == (1, ())


def test_a_clock_that_is_set_back_counts_in_the_newest_minute() -> None:
    clock = FakeClock()
    kept = Performance(clock)
    kept.answered(ATTIC, 0.1, 1.0, 1)
    clock.at -= 600
    kept.answered(ATTIC, 0.1, 1.0, 1)
    assert [series.requests for series in kept.look().series] == [(2,)]


def test_every_voter_counts_but_the_one_that_gave_way() -> None:
    kept = Performance(FakeClock())
    kept.voted(
        [
            Candidate(voter="a@attic", node="attic", model="m", usage=Usage(completion_tokens=30), elapsed_ms=1500),
            Candidate(voter="b@attic", node="attic", model="m", error="broke"),
            Candidate(voter="c@study", node="study", model="m", error=GAVE_WAY),
        ]
    )
    (series,) = kept.look().series
    assert (series.node, series.requests, series.errors, series.tokens_per_s) == ("attic", (2,), (1,), (20.0,))
    assert series.first_token_ms == (None,)


def test_what_comes_beyond_the_bound_is_told_together() -> None:
    kept = Performance(FakeClock(), most_series=2)
    for name in ("b", "a", "d", "c", "a"):
        kept.answered(replica(name), 0.1, 1.0, 1)
    assert [(one.node, one.requests) for one in kept.look().series] == [("a", (2,)), ("b", (1,)), (OTHERS, (2,))]


def test_a_minute_keeps_so_many_times_and_then_their_median_alone() -> None:
    clock = FakeClock()
    kept = Performance(clock)
    for _ in range(3 * MAX_TIMES):
        kept.answered(ATTIC, 0.25, 1.0, 1)
    minutes = kept._minutes  # pyright: ignore[reportPrivateUsage]
    assert [len(place.times_ms) for place in minutes[0].places.values()] == [MAX_TIMES]
    clock.at += 60
    kept.queued(0)
    assert [place.times_ms for place in minutes[0].places.values()] == [[]]
    assert kept.look().series[0].first_token_ms == (250.0, None)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 400)), max_size=60))
def test_every_request_is_told_once_within_the_hour(events: list[tuple[int, bool, int]]) -> None:
    clock = FakeClock()
    kept = Performance(clock, most_series=3)
    counted: list[tuple[float, bool]] = []
    for place, fails, passed_s in events:
        clock.at += passed_s
        counted.append((clock.at // 60, fails))
        if fails:
            kept.failed(replica(f"n{place}"))
        else:
            kept.answered(replica(f"n{place}"), 0.1, 1.0, 1)
    told = kept.look()
    within = [fails for minute, fails in counted if minute > clock.at // 60 - MAX_MINUTES]
    assert sum(sum(one.requests) for one in told.series) == len(within)
    assert sum(sum(one.errors) for one in told.series) == sum(within)
    assert len(told.minutes) <= MAX_MINUTES
    for one in told.series:
        lengths = {len(one.requests), len(one.errors), len(one.first_token_ms), len(one.tokens_per_s)}
        assert lengths == {len(told.minutes)}


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_told_of_who_answered_and_only_where_the_client_asked(stream: bool) -> None:
    study = RunningNode("study", ready(ScriptedEngine(saying("a", "word"))))
    async with study:
        kitchen = RunningNode("kitchen", options=NodeOptions(peers=[study.address]))
        async with kitchen, connect(kitchen.url) as asked, connect(study.url) as peer:
            await asked.post(CHAT, chat_body(stream=stream, swarm={"strategy": "single"}))
            (series,) = (await asked.get("/swarm/v1/performance")).json["series"]
            assert (series["node"], series["model"], sum(series["requests"])) == ("study", "scripted", 1)
            assert any(series["first_token_ms"])
            assert any(series["tokens_per_s"])
            assert (await peer.get("/swarm/v1/performance")).json["series"] == []
