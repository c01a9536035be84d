"""When an engine is stalled and when it is wedged: histories of seconds, and what was made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.tasks import cancel_and_wait
from swarm.engines.llama_cpp.progress import (
    ALIVE,
    EngineHealth,
    EnginePace,
    EngineProgress,
    Limits,
    LoopCounts,
    SilentCall,
    until_wedged,
)
from swarm.errors import EngineFailed

FAST = EnginePace(token_s=0.0001, step_s=0.05)
OFTEN = Limits(ask_every_s=0.001)
SLOW = EnginePace(token_s=0.2, step_s=100.0)  # 70 B on a CPU: a batch of 512 takes a minute and a half


def states(progress: EngineProgress, history: Iterable[tuple[float, int | None, int]]) -> list[str]:
    """The state after each of `history`: seconds that passed, then steps so far (None: no answer), busy requests."""
    seen = []
    for seconds, steps, busy in history:
        progress.passed(seconds, asking=True)
        if steps is not None:
            progress.answered(steps, busy)
        seen.append(progress.judge().state)
    return seen


@pytest.mark.parametrize(
    ("pace", "history", "expected"),
    [
        (FAST, [(1, n, 1) for n in range(100)], ["alive"] * 100),
        (FAST, [(1, 7, 0)] * 100, ["alive"] * 100),  # idle: no step, and none is due
        (FAST, [(1, None, 0)] * 21, ["alive"] * 4 + ["stalled"] * 15 + ["wedged"] * 2),
        (FAST, [(1, 7, 1)] * 22, ["alive"] * 5 + ["stalled"] * 15 + ["wedged"] * 2),  # it answers, and computes nothing
        (FAST, [(19, None, 1), (0.5, 8, 1), (19, None, 1)], ["stalled", "alive", "stalled"]),
        (FAST, [(19.9, 1, 1), (19.9, 2, 1), (20, None, 1)], ["alive", "alive", "wedged"]),  # taught by nobody
        (SLOW, [(60, n, 1) for n in range(3)] + [(149, None, 1), (2, None, 1)], ["alive"] * 4 + ["stalled"]),
        (SLOW, [(299, None, 1), (2, None, 1)], ["stalled", "wedged"]),
        (SLOW, [(150, 1, 1), (1490, None, 1), (11, None, 1)], ["alive", "stalled", "wedged"]),  # a slow step was seen
        (SLOW, [(299, 1, 1), (1990, None, 1), (11, None, 1)], ["alive", "stalled", "wedged"]),  # twice what is expected
    ],
    ids=[
        "works",
        "idle",
        "hangs",
        "turns in place",
        "goes on",
        "no lesson",
        "slow",
        "slow and hung",
        "slower",
        "slowest",
    ],
)
def test_a_history_is_judged(
    pace: EnginePace, history: list[tuple[float, int | None, int]], expected: list[str]
) -> None:
    assert states(EngineProgress(pace), history) == expected


def test_the_words_name_the_time_and_the_limit() -> None:
    progress = EngineProgress(FAST)
    progress.passed(21, asking=True)
    assert progress.judge() == EngineHealth("wedged", "made no step for 21 s (its limit is 20 s)")


@pytest.mark.parametrize(
    ("pace", "call", "state"),
    [
        (FAST, SilentCall(300, silent_s=59), "alive"),
        (FAST, SilentCall(300, silent_s=61), "wedged"),
        (FAST, SilentCall(100_000, silent_s=120), "alive"),  # a long prompt takes its time
        (SLOW, SilentCall(300, silent_s=1499), "alive"),
        (SLOW, SilentCall(300, silent_s=1501), "wedged"),
    ],
)
def test_a_request_that_hangs_before_the_loop_is_a_wedge_too(pace: EnginePace, call: SilentCall, state: str) -> None:
    progress = EngineProgress(pace)
    for step in range(100):
        progress.passed(1, asking=True)
        progress.answered(step, 1)
    assert progress.judge([SilentCall(1, silent_s=0), call]).state == state


@given(st.floats(1e-6, 10.0), st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 4)), max_size=60))
def test_no_engine_is_ended_whose_steps_are_as_it_was_measured(step_s: float, steps: list[tuple[float, int]]) -> None:
    """However slow: each step lasts at most three times what was measured, and is looked at ever so often."""
    progress = EngineProgress(EnginePace(step_s / 512, step_s))
    for number, (share, busy) in enumerate(steps):
        for _ in range(5):
            progress.passed(share * 2.9 * step_s / 5, asking=True)
            assert progress.judge().state != "wedged"
        progress.answered(number, busy)


@given(st.lists(st.floats(0.0, 19.0), max_size=60))
def test_whoever_makes_steps_slow_does_not_stretch_the_limit(steps_s: list[float]) -> None:
    progress = EngineProgress(FAST)
    for number, step_s in enumerate(steps_s):
        progress.passed(step_s, asking=True)
        progress.answered(number, 1)
    assert progress.limit_s == 20.0


def test_a_stream_may_be_silent_while_anything_is_computed_and_not_for_long_after() -> None:
    progress, call = EngineProgress(FAST), SilentCall(0, begun=True)
    for step in range(200):
        progress.passed(1, asking=True)
        progress.age([call], 1)
        progress.answered(step, 1)
    assert progress.judge([call]) == ALIVE
    for _ in range(62):
        progress.passed(1, asking=True)
        progress.age([call], 1)
        progress.answered(200, 0)
    assert progress.judge([call]).words == "has kept a request without an answer for 62 s"


class Scripted:
    """A loop that answers at once with one more step until it `hangs`, and a clock that each look moves."""

    def __init__(self, look_s: float) -> None:
        self.now = 0.0
        self.look_s = look_s
        self.steps = 0
        self.hangs = False
        self.told: list[EngineHealth] = []

    async def ask(self) -> LoopCounts:
        if self.hangs:
            await asyncio.Event().wait()
        self.steps += 1
        return LoopCounts(self.steps, 1)

    def clock(self) -> float:
        self.now += self.look_s
        return self.now


async def test_what_this_process_slept_is_nobodys_silence() -> None:
    """An hour between two looks is a machine that was asleep, not an engine that was silent for as long."""
    limits = Limits(least_s=0.2, doubt_least_s=0.05, ask_every_s=0.001, look_s=0.01)
    loop = Scripted(3600.0)
    loop.hangs = True
    words = await until_wedged(loop.ask, set, EngineProgress(FAST, limits), loop.told.append, loop.clock)
    assert "made no step" in words
    assert loop.now >= 10 * 3600, "each look counts as two at most, so it took ten of them"
    assert [verdict.state for verdict in loop.told[-2:]] == ["stalled", "stalled"]


async def test_a_loop_that_steps_is_asked_for_ever() -> None:
    loop = Scripted(0.5)
    watching = asyncio.create_task(
        until_wedged(loop.ask, set, EngineProgress(FAST, OFTEN), loop.told.append, loop.clock)
    )
    while loop.steps < 100:  # noqa: ASYNC110 - there is no event for a question
        await asyncio.sleep(0)
    await cancel_and_wait(watching)
    assert set(loop.told) == {ALIVE}


async def test_a_listener_that_refuses_is_no_sign_of_life() -> None:
    loop = Scripted(0.5)

    async def refused() -> LoopCounts:
        raise EngineFailed("the engine's listener does not answer")

    words = await until_wedged(refused, set, EngineProgress(FAST, OFTEN), loop.told.append, loop.clock)
    assert "made no step for 20 s" in words


async def test_requests_that_are_silent_grow_older_while_the_loop_steps() -> None:
    loop, call = Scripted(0.5), SilentCall(10)
    words = await until_wedged(loop.ask, lambda: {call}, EngineProgress(FAST, OFTEN), loop.told.append, loop.clock)
    assert words == "has kept a request without an answer for 60 s"
